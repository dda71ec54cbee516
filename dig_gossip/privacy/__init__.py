"""Hiding who is who, and where a transaction comes from."""
