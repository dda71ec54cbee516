"""The same two services under each reactor that the package promises to work with."""

from __future__ import annotations

import sys
from unittest import SkipTest

from tests.interop.processes import ProcessCase


class ReactorTests(ProcessCase):
    """Connect, gossip, ask, stop, and leave nothing; each in a process of its own."""

    async def gossip_under(self, reactor: str, class_name: str) -> None:
        """Run the program; it checks everything but its reactor."""
        program = self.python(reactor, "-m", "tests.interop.two_services", "--reactor", reactor)
        self.assertEqual(await program.when_ended(), 0)
        self.assertIn(f'"reactor": "{class_name}"', program.lines[-1])
        self.assertEqual(len(program.lines), 1)  # no warning, nothing unhandled

    async def test_epoll_reactor(self) -> None:
        """Linux's own.  style §1.1"""
        if sys.platform != "linux":
            raise SkipTest("epoll is Linux's")
        await self.gossip_under("epoll", "EPollReactor")

    async def test_select_reactor(self) -> None:
        """The one that runs everywhere.  style §1.1"""
        await self.gossip_under("select", "SelectReactor")

    async def test_asyncio_reactor(self) -> None:
        """The one that shares a program with asyncio.  style §1.1"""
        await self.gossip_under("asyncio", "AsyncioSelectorReactor")
