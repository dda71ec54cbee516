"""The ``dig-gossip`` command."""
