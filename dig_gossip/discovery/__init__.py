"""Finding peers."""
