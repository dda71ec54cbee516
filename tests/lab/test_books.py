"""Address books in the lab: nodes that find each other, and an attacker among them."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.effects import Effect, Send
from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.address_plan import AddressPlan, networks
from dig_gossip.lab.books import (
    BookMachine,
    Call,
    EclipseMachine,
    Saved,
    UniformAddressManager,
)
from dig_gossip.lab.engine_options import Addresses
from dig_gossip.lab.machine import as_peer
from dig_gossip.lab.run import run
from dig_gossip.lab.scenario import parse
from dig_gossip.lab.values import RunResult
from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.peers import parse_peers
from tests.lab.test_run import digest_of

MEETING = """
sample_secs = 60
[overlay]
nodes = 40
links = 5
[addresses]
networks = 40
attacker_networks = 3
[[phase]]
name = "warmup"
messages = 0
quiet_secs = 300
[[phase]]
name = "attack"
messages = 0
quiet_secs = 600
"""
ATTACK = '[[adversary]]\nkind = "eclipse"\nshare = 0.5\n'
CHURN = "[churn]\nper_minute = 0.2\nsilent = 0.5\ndetect_secs = 30\naway_secs = 30\n"


def simulate(extra: str = "", protocol: str = "address-books") -> RunResult:
    """Run the scenario."""
    return run(parse(MEETING + extra), protocol, 1)


def digest() -> str:
    """Name everything that a run with an attack and churn gives."""
    return digest_of(simulate(ATTACK + CHURN))


class RunTests(SynchronousTestCase):
    """Whole runs."""

    def test_nodes_find_each_other(self) -> None:
        """From what an introducer names and what peers tell.  DSC-006"""
        result = simulate()
        self.assertGreaterEqual(result.facts["books.outbound"], 5.0)
        self.assertEqual(result.facts["books.outbound_captured"], 0.0)
        self.assertGreater(result.facts["books.entries"], 20.0)
        self.assertEqual(result.series[-1]["live"], 40.0)

    def test_an_attacker_takes_sessions_and_no_node(self) -> None:
        """He has three networks, and so three of the sessions at most.  DSC-010"""
        facts = simulate(ATTACK + CHURN).facts
        self.assertGreater(facts["books.outbound_captured"], 0.0)
        self.assertGreater(facts["books.new_captured"], facts["books.tried_captured"])
        self.assertEqual(facts["books.most_nodes_captured"], 0.0)

    def test_only_what_means_something_is_simulated(self) -> None:
        """Books spread nothing, and know one adversary; no other protocol knows it.  design §6"""
        for text, protocol in (
            (MEETING.replace("messages = 0", "messages = 1"), "address-books"),
            (MEETING + '[[adversary]]\nkind = "spy"\n', "address-books"),
            ('[[adversary]]\nkind = "eclipse"\n', "flood"),
        ):
            with self.assertRaises(InvalidConfig):
                run(parse(text), protocol, 1)


class NodeTests(SynchronousTestCase):
    """One honest node."""

    def setUp(self) -> None:
        self.now = 0.0
        plan = AddressPlan(Addresses(), 30, (), Random(1))
        self.own, *self.others = plan.of

    def make(self, inbound: int = 40, saved: Saved | None = None, told: int = 10) -> BookMachine:
        """A node that an introducer tells of others."""
        return BookMachine(
            parse(f"[overlay]\nlinks = 4\n[addresses]\ninbound = {inbound}\n"),
            AddressManager,
            own=self.own,
            ask=lambda: self.others[:told],
            saved=saved,
            now=lambda: self.now,
            rng=Random(1),
        )

    def calls(self, effects: list[Effect]) -> list[Call]:
        """Whom it wants to dial."""
        found: list[object] = [*effects]
        return [effect for effect in found if isinstance(effect, Call)]

    def look_around(self, machine: BookMachine) -> list[Call]:
        """Let it look twice: first it asks the introducer."""
        calls = self.calls(machine.timer_fired(("books.round", b"")))
        self.now += 1
        return calls + self.calls(machine.timer_fired(("books.round", b"")))

    def join(self, machine: BookMachine, peer: int, *, dialed: bool) -> None:
        """Open a session with one of the others."""
        machine.expect(as_peer(peer), self.others[peer])
        machine.peer_up(as_peer(peer), dialed=dialed, rtt=0.1)

    def test_it_dials_as_many_as_it_wants_and_no_more(self) -> None:
        """While calls are under way nothing more is dialed.  DSC-006"""
        machine = self.make()
        calls = self.look_around(machine)
        self.assertEqual(len(calls), 4)
        self.assertEqual(self.look_around(machine), [])

    def test_a_call_that_fails_makes_room_for_another(self) -> None:
        """And the book hears of it.  CON-001.7"""
        machine = self.make()
        call = self.look_around(machine)[0]
        machine.called(call, was_there=False)
        info = machine.book.get(call.address)
        assert info is not None
        self.assertEqual(info.num_attempts, 1)
        again = self.look_around(machine)
        self.assertEqual(len(again), 1)
        self.assertNotEqual(again[0].address, call.address)

    def test_a_probe_that_succeeds_makes_an_entry_tried(self) -> None:
        """It is not dialed for a session.  FEE-101-X"""
        machine = self.make()
        self.look_around(machine)
        address = self.others[0]
        machine.called(Call(address, is_probe=True), was_there=True)
        info = machine.book.get(address)
        assert info is not None
        self.assertTrue(info.is_tried)

    def test_full_slots_are_fought_for(self) -> None:
        """A newcomer of another network takes the place of the crowd's youngest.  CON-114-X"""
        machine = self.make(inbound=3)
        for peer in range(2):
            self.join(machine, peer, dialed=False)
        self.assertIs(machine.make_room(self.others[9]), True)
        self.join(machine, 2, dialed=False)
        leaver, refused = [machine.make_room(self.others[9]) for _ in range(2)]
        self.assertIsNot(leaver, True)
        self.assertIn(leaver, range(3))
        self.assertIs(refused, False)  # one eviction a minute

    def test_a_restart_keeps_book_and_anchors(self) -> None:
        """It dials the anchors first.  DSC-002.1"""
        machine = self.make()
        self.look_around(machine)
        for peer in (3, 4):
            self.join(machine, peer, dialed=True)
            self.now += 100
        self.join(machine, 5, dialed=True)
        saved = machine.save()
        self.assertEqual(saved.anchors, (self.others[3], self.others[4]))
        again = self.make(saved=saved)
        calls = self.calls(again.timer_fired(("books.round", b"")))
        self.assertEqual([call.address for call in calls[:2]], list(saved.anchors))
        self.assertEqual(again.book.size(), machine.book.size())


class PartTests(SynchronousTestCase):
    """Addresses, the attacker, the counterpart."""

    def test_addresses_differ_and_are_in_their_networks(self) -> None:
        """The attacker's are in few.  ADR-001"""
        plan = AddressPlan(Addresses(networks=30, attacker_networks=2), 100, range(50), Random(3))
        self.assertEqual(len(set(plan.of)), 100)
        self.assertEqual(len({address.get_group() for address in plan.hostile}), 2)
        honest = set(plan.of) - plan.hostile
        groups = {address.get_group() for address in honest}
        self.assertFalse(groups & {address.get_group() for address in plan.hostile})
        self.assertEqual(plan.owner[plan.of[7]], 7)
        self.assertEqual(len(set(networks(Random(1)))), len(list(networks(Random(2)))))

    def test_the_attacker_tells_of_nobody_else(self) -> None:
        """As much as is looked at, and dials those that are missing.  PEX-004"""
        plan = AddressPlan(Addresses(), 40, range(20), Random(1))
        victims = [address for address in plan.of if address not in plan.hostile]
        machine = EclipseMachine(
            kind=sorted(plan.hostile, key=str),
            victims=victims,
            dials=3,
            now=lambda: 0.0,
            rng=Random(1),
        )
        self.assertIs(machine.make_room(victims[0]), False)
        machine.start()
        self.assertIs(machine.make_room(victims[0]), True)
        machine.peer_up(as_peer(30), dialed=True, rtt=0.1)
        effects: list[object] = [*machine.timer_fired(("books.round", b""))]
        calls = [effect for effect in effects if isinstance(effect, Call)]
        self.assertEqual(len(calls), 2)
        self.assertTrue(all(call.address in victims for call in calls))
        request = Message(ChiaMessageType.REQUEST_PEERS, None, b"")
        (answer,) = machine.received(as_peer(30), request)
        assert isinstance(answer, Send)
        rows, _ = parse_peers(answer.message.data, 1000)
        told = {PeerAddress(host.decode(), port) for host, port, _ in rows}
        self.assertEqual(told, plan.hostile)

    def test_the_counterpart_draws_addresses_alike(self) -> None:
        """Ours draws the network first: one address of 1 against 30 of another.  ADR-006"""
        plan = AddressPlan(Addresses(networks=1, attacker_networks=1), 31, range(1), Random(1))
        (lonely,) = plan.hostile
        shares = []
        for manager in (AddressManager, UniformAddressManager):
            book = manager(rng=Random(1), unix=lambda: 1_700_000_000.0)
            for address in plan.of:
                book.add_to_new_table([KnownAddress(address, 1_700_000_000)], address)
            drawn = [book.select_peer() for _ in range(500)]
            shares.append(sum(info is not None and info.address == lonely for info in drawn) / 500)
        self.assertGreater(shares[0], 0.4)
        self.assertLess(shares[1], 0.2)
