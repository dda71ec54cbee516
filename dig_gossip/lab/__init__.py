"""The lab: the node's own engines, and models of other protocols, under simulated networks."""
