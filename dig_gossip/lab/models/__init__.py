"""Counterparts in the lab: other protocols, modeled after their specifications."""
