"""Long or heavy runs; ``make stress`` and ``make soak``, and small versions among the tests."""
