"""The gossip engines: pure, events in, effects out."""
