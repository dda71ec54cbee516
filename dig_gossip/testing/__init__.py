"""Public test kit: networks of whole nodes in memory, hostile peers, throw-away certificates."""
