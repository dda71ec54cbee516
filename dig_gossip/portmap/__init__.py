"""Port mapping: asking the gateway for a way in."""
