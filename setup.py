"""The compiled parts of the package; everything else is in setup.cfg.

Each is optional: where it cannot be built, the package does the same in Python.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension("dig_gossip.gossip._sketch", ["dig_gossip/gossip/_sketch.c"], optional=True),
        Extension("dig_gossip.gossip._seen", ["dig_gossip/gossip/_seen.c"], optional=True),
        Extension("dig_gossip.wire._frames", ["dig_gossip/wire/_frames.c"], optional=True),
    ],
)
