"""Clocks, tasks, Deferreds, addresses, text: what every layer may use."""
