"""Reaching peers through a relay: server, client, tunnels, and the way to a direct connection."""
