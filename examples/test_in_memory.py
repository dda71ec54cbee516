"""A test of an application: three nodes, real TLS, no sockets, no waiting.

Run it with ``python -m twisted.trial examples/test_in_memory.py``.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import DigMessageType, Message
from dig_gossip.testing.network import MemoryNetwork

ATTESTATION = DigMessageType.NEW_ATTESTATION


class ChainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = MemoryNetwork(seed=1, latency=0.05)
        self.alice, self.bob, self.carol = (self.network.node() for _ in range(3))
        self.network.start()
        self.addCleanup(self.network.stop)
        self.network.run(self.bob.handle.connect_to(self.alice.address))
        self.network.run(self.carol.handle.connect_to(self.bob.address))

    def test_message_travels_two_hops(self) -> None:
        inbound = self.carol.handle.inbound_receiver()
        started = self.network.clock.seconds()
        self.network.run(self.alice.handle.broadcast(Message(ATTESTATION, None, b"hello")))
        peer_id, message = self.network.run(inbound.get())
        self.assertEqual((peer_id, message.data), (self.bob.peer_id, b"hello"))
        self.assertAlmostEqual(self.network.clock.seconds() - started, 0.1, places=2)

    def test_silent_death_is_noticed(self) -> None:
        self.network.kill(self.bob)
        self.network.advance(120)
        self.assertEqual(self.network.run(self.carol.handle.peer_count()), 0)
