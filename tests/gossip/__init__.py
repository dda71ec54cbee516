"""Tests of the gossip engines."""
