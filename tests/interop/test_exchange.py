"""Peer exchange with chia-blockchain's own full nodes, in both roles.

Run by ``make interop``.
"""

from __future__ import annotations

from tests.interop.test_chia import ChiaCase

PUBLIC = [f"8.8.{number}.8:8444" for number in range(6)]
"""What Chia's node is told to know. Nobody dials it: our node has the one session it wants."""


class ExchangeTests(ChiaCase):
    """Addresses go from one full node of Chia, through ours, to another."""

    async def test_we_learn_from_one_and_tell_another(self) -> None:
        """We ask whom we dial; who dials us asks us.  PEX-001, PEX-002, PEX-003, wire §8"""
        known = [word for address in PUBLIC for word in ("--know", address)]
        dialed = self.chia("dialed", "--listen", "127.0.0.1:0", *known)
        target = await self.listening(dialed)
        config = self.folder / "node.toml"
        config.write_text('network = "chia-mainnet"\ntarget_outbound_count = 1\n')
        node = await self.node("node", "--config", config, "--peer", target)
        await dialed.when_event("received", message="request_peers")
        await dialed.when_event("sent", message="respond_peers")

        dialing = self.chia("dialing", "--dial", node.address)
        answer = await dialing.when_event("peers_answer")
        rows = {f"{row['host']}:{row['port']}" for row in answer["peers"]}
        self.assertTrue(rows)
        # An answer is a random share of the book, which holds the asking node's address, too.
        self.assertLessEqual(rows, {*PUBLIC, target, await self.listening(dialing)})
        self.assertEqual(dialed.events("banned") + dialing.events("banned"), [])
        self.assertEqual(len(node.events("session_opened")), 2)
