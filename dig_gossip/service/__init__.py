"""The node: life cycle, handle, routing, subscriptions."""
