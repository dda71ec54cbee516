"""What nodes tell each other about others, and what they believe of it."""

from __future__ import annotations

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.peer_exchange import (
    EXCHANGE_TICK_SECS,
    Neighbor,
    PeerExchange,
    read_address,
    source_key,
)
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.effects import Effect, Penalize, Send
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.peers import build_peers, parse_peers
from tests.discovery.onions import onion

DAY = 86_400
EPOCH = 1_767_225_600.0


def peer_id(number: int) -> PeerId:
    """An id."""
    return PeerId(hashlib.sha256(str(number).encode()).digest())


def address(number: int, port: int = 9444) -> PeerAddress:
    """A routable address; consecutive ones are in different groups."""
    return PeerAddress(f"{20 + number % 100}.{number // 100 % 256}.{number // 25_600}.1", port)


class ExchangeCase(SynchronousTestCase):
    """An exchange with a clock that stands still."""

    def setUp(self) -> None:
        self.time = 0.0
        self.own: PeerAddress | None = None
        self.onion: PeerAddress | None = None
        self.make()

    def make(self, *, allow_private: bool = False, allow_onion: bool = False) -> None:
        """A new book and a new exchange."""
        self.book = AddressManager(
            rng=random.Random(1),
            unix=self.unix,
            key=bytes(32),
            allow_private=allow_private,
            allow_onion=allow_onion,
        )
        self.exchange = PeerExchange(
            self.book,
            now=lambda: self.time,
            unix=self.unix,
            rng=random.Random(1),
            own_address=lambda: self.own,
            own_onion=lambda: self.onion,
            allow_private=allow_private,
            allow_onion=allow_onion,
        )

    def unix(self) -> float:
        """Simulated Unix time."""
        return EPOCH + self.time

    def up(
        self,
        number: int,
        *,
        outbound: bool = True,
        full_node: bool = True,
        host: str | None = None,
        listens: bool = True,
        onions: bool = False,
        anonymous: bool = False,
    ) -> list[Effect]:
        """Begin a session with peer ``number``."""
        where = PeerAddress(host or f"{100 + number}.1.1.1", 9444)
        came_from = where if outbound else PeerAddress(where.host, 50_000)
        return self.exchange.peer_up(
            Neighbor(
                peer_id=peer_id(number),
                address=came_from,
                is_outbound=outbound,
                is_full_node=full_node,
                listens_at=where if listens else None,
                takes_onions=onions,
                is_anonymous=anonymous,
            )
        )

    def rows(self, *numbers: int, age: float = 3600) -> bytes:
        """A list of addresses."""
        stamp = int(self.unix() - age)
        return build_peers((address(n).host, 9444, stamp) for n in numbers)

    def tell(self, number: int, body: bytes) -> list[Effect]:
        """Let a peer send a RespondPeers."""
        return self.exchange.received(peer_id(number), body)

    def sent(self, effects: list[Effect]) -> dict[int, list[str]]:
        """The hosts that RespondPeers among the effects carry, by peer."""
        numbers = {peer_id(n): n for n in range(200)}
        result: dict[int, list[str]] = {}
        for effect in effects:
            assert isinstance(effect, Send)
            if effect.message.type == ChiaMessageType.RESPOND_PEERS:
                self.assertIsNone(effect.message.id)
                hosts = [h.decode() for h, _, _ in parse_peers(effect.message.data, 1000).rows]
                for peer in effect.peers:
                    result.setdefault(numbers[peer], []).extend(hosts)
        return result

    def asks(self, effects: list[Effect]) -> list[PeerId]:
        """Whom RequestPeers among the effects go to."""
        return [
            peer
            for effect in effects
            if isinstance(effect, Send) and effect.message.type == ChiaMessageType.REQUEST_PEERS
            for peer in effect.peers
        ]

    def tick(self, seconds: float = EXCHANGE_TICK_SECS) -> list[Effect]:
        """Let time pass, then tick."""
        self.time += seconds
        return self.exchange.tick()


class AskingTests(ExchangeCase):
    """Whom we ask, and how often."""

    def test_every_peer_that_we_dial_is_asked_once(self) -> None:
        """And none that dialed us.  PEX-001"""
        self.assertEqual(self.asks(self.up(1)), [peer_id(1)])
        self.assertEqual(self.up(2, outbound=False), [])
        self.assertEqual(self.up(3, full_node=False), [])
        self.assertEqual(self.asks(self.tick()), [])

    def test_a_small_book_asks_again_after_ten_minutes(self) -> None:
        """A book of a thousand asks no more.  PEX-001"""
        self.up(1)
        self.assertEqual(self.asks(self.tick(599)), [])
        self.assertEqual(self.asks(self.tick(1)), [peer_id(1)])
        many = [KnownAddress(address(n), int(self.unix())) for n in range(2000)]
        self.book.add_to_new_table(many, "seed")
        self.assertGreaterEqual(self.book.size(), 1000)
        self.assertEqual(self.asks(self.tick(601)), [])

    def test_a_session_that_ends_is_forgotten(self) -> None:
        """Nothing is sent to it, and nothing believed.  PEX-001"""
        self.up(1)
        self.exchange.peer_down(peer_id(1))
        self.assertEqual(self.tick(601), [])
        self.assertEqual(self.tell(1, self.rows(1)), [])
        self.assertEqual(self.book.size(), 0)


class AnsweringTests(ExchangeCase):
    """What we tell."""

    def setUp(self) -> None:
        super().setUp()
        stamp = int(self.unix())
        self.book.add_to_new_table([KnownAddress(address(n), stamp) for n in range(500)], "seed")

    def ask(self, number: int) -> list[str]:
        """The hosts in the answer to a peer."""
        body = self.exchange.requested(peer_id(number))
        return [host.decode() for host, _, _ in parse_peers(body, 1000).rows]

    def test_whoever_dialed_us_gets_one_sample(self) -> None:
        """The second time it is empty, and never missing.  PEX-002, CON-004.2"""
        self.up(1, outbound=False)
        first = self.ask(1)
        self.assertGreater(len(first), 50)
        self.assertEqual([self.ask(1) for _ in range(3)], [[], [], []])

    def test_whom_we_dialed_gets_an_empty_list(self) -> None:
        """Our outbound peers need not know whom else we know.  PEX-002"""
        self.up(1)
        self.assertEqual(self.ask(1), [])
        self.assertEqual(self.ask(99), [])

    def test_a_host_gets_the_same_sample_for_a_day(self) -> None:
        """Reconnecting reads no more of the book; another host gets its own.  PEX-002"""
        self.up(1, outbound=False, host="100.1.1.1")
        first = self.ask(1)
        for number, seconds in ((2, 1), (3, DAY - 2)):
            self.time += seconds
            self.up(number, outbound=False, host="100.1.1.1")
            self.assertEqual(self.ask(number), first)
        self.up(4, outbound=False, host="100.1.1.2")
        self.assertNotEqual(self.ask(4), first)
        self.time += 2
        self.up(5, outbound=False, host="100.1.1.1")
        self.assertNotEqual(self.ask(5), first)

    def test_an_ipv6_64_is_one_host(self) -> None:
        """One customer gets it whole.  PEX-002"""
        self.up(1, outbound=False, host="2001:db9::1")
        self.up(2, outbound=False, host="2001:db9::ffff:1")
        self.up(3, outbound=False, host="2001:db9:0:1::1")
        first = self.ask(1)
        self.assertEqual(self.ask(2), first)
        self.assertNotEqual(self.ask(3), first)

    def test_an_empty_answer_is_not_kept(self) -> None:
        """A node that has just begun will know more soon.  PEX-002"""
        self.make()
        self.up(1, outbound=False, host="100.1.1.1", listens=False)
        self.assertEqual(self.ask(1), [])
        self.book.add_to_new_table([KnownAddress(address(1), int(self.unix()))], "seed")
        self.up(2, outbound=False, host="100.1.1.1", listens=False)
        self.assertEqual(len(self.ask(2)), 1)

    def test_answers_are_kept_for_a_thousand_hosts(self) -> None:
        """The oldest goes.  PEX-002"""
        hosts = [f"100.{n // 250}.{n % 250}.1" for n in range(1001)]
        answers = []
        for number, host in enumerate(hosts):
            self.up(number, outbound=False, host=host, listens=False)
            answers.append(self.ask(number))
        self.up(2001, outbound=False, host=hosts[1], listens=False)
        self.assertEqual(self.ask(2001), answers[1])
        self.up(2002, outbound=False, host=hosts[0], listens=False)
        self.assertNotEqual(self.ask(2002), answers[0])


class BelievingTests(ExchangeCase):
    """What we take into the book."""

    def test_an_answer_fills_the_book(self) -> None:
        """A thousand rows of it, no more.  PEX-003"""
        self.up(1)
        self.tell(1, self.rows(*range(1100)))
        self.assertGreater(self.book.size(), 800)
        self.assertLessEqual(self.book.size(), 1000)

    def test_times_of_others_are_taken_back(self) -> None:
        """By two hours; not that of the sender itself.  PEX-003"""
        self.up(1)
        stamp = int(self.unix()) - 5000
        self.tell(1, build_peers([("101.1.1.1", 9444, stamp), (address(7).host, 9444, stamp)]))
        own, other = self.book.get(PeerAddress("101.1.1.1", 9444)), self.book.get(address(7))
        assert own is not None
        assert other is not None
        self.assertEqual((own.timestamp, other.timestamp), (stamp, stamp - 7200))
        self.assertEqual(other.source, PeerAddress("101.1.1.1", 9444))

    def test_unasked_lists_are_short_and_rare(self) -> None:
        """Ten rows, one list in ten seconds.  PEX-004"""
        self.up(1, outbound=False)
        self.time += 1000  # tokens
        size = self.book.size()
        self.tell(1, self.rows(*range(11)))
        self.assertEqual(self.book.size(), size)
        self.assertEqual(self.exchange.counters["exchange_unsolicited"], 1)
        self.tell(1, self.rows(*range(10)))
        self.assertEqual(self.book.size(), size + 10)
        self.tell(1, self.rows(20))
        self.assertEqual(self.exchange.counters["exchange_too_often"], 1)
        self.time += 10
        self.tell(1, self.rows(20))
        self.assertEqual(self.book.size(), size + 11)

    def test_only_one_list_answers_a_question(self) -> None:
        """And only one that comes soon.  PEX-004"""
        self.up(1)
        self.tell(1, self.rows())
        self.tell(1, self.rows(*range(11)))
        self.assertEqual(self.book.size(), 0)
        self.up(2)
        self.time += 121
        self.tell(2, self.rows(*range(11)))
        self.assertEqual(self.book.size(), 0)

    def test_tokens_drip(self) -> None:
        """One row at once, then one for every ten seconds.  PEX-003"""
        self.up(1, outbound=False)
        self.tell(1, self.rows(1, 2, 3))
        self.assertEqual(self.exchange.counters["exchange_added"], 1)
        self.time += 25
        self.tell(1, self.rows(1, 2, 3, 4, 5))
        self.assertEqual(self.exchange.counters["exchange_over_budget"], 2 + 3)
        self.time += 100 * DAY
        self.exchange.tick()
        state = self.exchange._states[peer_id(1)]
        self.exchange._refill(state)
        self.assertEqual(state.tokens, 1000)

    def test_a_host_has_a_budget_for_the_day(self) -> None:
        """Three thousand rows, whatever ids it has; accepted ones count.  PEX-003"""
        for number in range(5):
            self.up(number, host="100.1.1.1")
            self.tell(number, self.rows(*range(1000 * number, 1000 * number + 1000)))
        self.assertLessEqual(self.book.size(), 3000)
        self.assertEqual(self.exchange.counters["exchange_over_budget"], 2000)
        self.time += DAY
        self.up(9, host="100.1.1.1")
        before = self.book.size()
        self.tell(9, self.rows(*range(9000, 9100)))
        self.assertGreater(self.book.size(), before)

    def test_a_million_addresses_of_one_peer(self) -> None:
        """A thousand lists of a thousand leave no more than the budget.  PEX-003"""
        self.up(1)
        bodies = [self.rows(*range(1000 * n, 1000 * n + 1000)) for n in range(10)]
        for n in range(1000):
            self.exchange.asked(peer_id(1))
            self.tell(1, bodies[n % 10])
        self.assertLessEqual(self.book.size(), 3000)
        self.assertEqual(self.exchange.counters["exchange_over_budget"], 1_000_000 - 3000)

    def test_a_million_addresses_of_a_hundred_peers(self) -> None:
        """Those that we did not ask get a row for every ten seconds.  PEX-003"""
        for number in range(100):
            self.up(number, outbound=False, host=f"101.{number}.1.1", listens=False)
        bodies = [self.rows(*range(10 * n, 10 * n + 10)) for n in range(1000)]
        for second in range(1000):
            self.time = float(second)
            for number in range(100):
                self.tell(number, bodies[(7 * second + number) % 1000])
        # 1000 s: 1 + 100 tokens for each of them
        taken = 1_000_000 - self.exchange.counters["exchange_too_often"] * 10
        taken -= self.exchange.counters["exchange_over_budget"]
        self.assertLessEqual(taken, 100 * 101)
        self.assertGreater(taken, 100 * 99)

    def test_chance_decides_what_a_full_bucket_keeps(self) -> None:
        """Not the sender, by the order of its list.  PEX-003"""
        self.up(1, outbound=False)
        self.time += 90
        self.tell(1, self.rows(*range(10)))
        self.time += 20
        body = self.rows(*range(20, 30))
        self.tell(1, body)
        kept = [n for n in range(20, 30) if self.book.get(address(n)) is not None]
        self.assertEqual(len(kept), 2)
        self.assertNotEqual(kept, [20, 21])

    def test_addresses_where_no_node_can_be_are_dropped(self) -> None:
        """Private, absurd, oversized and our own.  ADR-003"""
        self.own = PeerAddress("50.1.1.1", 9444)
        hosts = [
            "10.1.1.1", "127.0.0.1", "224.0.0.1", "0.0.0.0", "::1", "fe80::1", "localhost",
            "node.example", "", "1.2.3", "1.2.3.4\0", "1.2.3.4 ", "x" * 300, "50.1.1.1",
            onion(1), "00000000000000000000000000000000000000000000001.2.3.4",
        ]  # fmt: skip
        self.up(1)
        self.tell(1, build_peers((host, 9444, int(self.unix())) for host in hosts))
        self.assertEqual(self.book.size(), 0)
        self.exchange.asked(peer_id(1))
        self.tell(1, build_peers([("60.1.1.1", 0, int(self.unix()))]))
        self.assertEqual(self.book.size(), 0)

    def test_private_addresses_and_onions_where_they_are_allowed(self) -> None:
        """A network in a laboratory; a node with Tor.  ADR-003"""
        self.make(allow_private=True, allow_onion=True)
        self.up(1)
        self.tell(1, build_peers([("10.1.1.1", 1, 0), (onion(1), 1, 0), ("224.0.0.1", 1, 0)]))
        self.assertEqual(self.book.size(), 2)

    def test_times_from_the_future_are_old(self) -> None:
        """And so are times from before there was a network.  ADR-007"""
        self.up(1)
        stamps = [2**64 - 1, int(self.unix()) + 700, 0, 5]
        self.tell(1, build_peers((address(n).host, 9444, t) for n, t in enumerate(stamps)))
        for n in range(4):
            entry = self.book.get(address(n))
            assert entry is not None
            self.assertEqual(entry.timestamp, int(self.unix()) - 5 * DAY - 7200)

    @given(st.binary(max_size=100))
    def test_arbitrary_bytes_are_a_list_or_a_charge(self, body: bytes) -> None:
        """Nothing is raised.  style §8.4"""
        self.up(1)
        effects = self.tell(1, body)
        charge = [Penalize(peer_id(1), PenaltyReason.MALFORMED_MESSAGE)]
        self.assertIn(effects, ([], charge))

    def test_seeds_have_the_same_caps(self) -> None:
        """A thousand an answer, three thousand a day, each.  PEX-005"""

        def found(start: int, count: int) -> list[KnownAddress]:
            return [KnownAddress(address(n), 0) for n in range(start, start + count)]

        added = [self.exchange.seeded("dns", found(2000 * n, 1500)) for n in range(4)]
        self.assertTrue(800 < added[0] <= 1000, added)
        self.assertTrue(all(added[1:3]), added)
        self.assertEqual(added[3], 0)
        self.assertGreater(self.exchange.seeded("introducer", found(9000, 10)), 0)
        self.assertEqual(
            self.exchange.seeded("other", [KnownAddress(PeerAddress("10.1.1.1", 1), 0)]), 0
        )


class RelayTests(ExchangeCase):
    """What we pass on."""

    def test_a_new_inbound_peer_is_told_to_one_outbound_peer(self) -> None:
        """And remembered, with the port that it advertises.  PEX-006, CON-002.6"""
        for number in (1, 2, 3):
            self.up(number)
        self.up(4, outbound=False)
        self.up(5, outbound=False, listens=False)
        self.assertIsNotNone(self.book.get(PeerAddress("104.1.1.1", 9444)))
        self.assertEqual(self.book.size(), 1)
        sent = self.sent(self.tick())
        self.assertEqual(list(sent.values()), [["104.1.1.1"]])
        self.assertLess(set(sent), {1, 2, 3})
        self.assertEqual(self.sent(self.tick()), {})

    def test_a_fresh_address_goes_to_two_others(self) -> None:
        """Not back, and not to its owner.  PEX-006"""
        for number in range(1, 6):
            self.up(number, outbound=number > 3)
        self.tick()
        self.tell(1, self.rows(50, age=60))
        sent = self.sent(self.tick())
        self.assertEqual(list(sent.values()), [[address(50).host]] * 2)
        self.assertNotIn(1, sent)

    def test_old_addresses_and_long_lists_stay_here(self) -> None:
        """Ten minutes is old; an answer is for us.  PEX-006"""
        for number in range(1, 4):
            self.up(number)
        self.tell(1, self.rows(*range(11), age=60))
        self.time += 100
        self.tell(2, self.rows(50, age=601))
        self.tell(3, self.rows(51, age=-601))
        self.assertEqual(self.sent(self.tick()), {})

    def test_repeating_an_address_does_not_spread_it(self) -> None:
        """The same neighbors the whole day, and once each.  PEX-006"""
        for number in range(1, 10):
            self.up(number, outbound=False, listens=False)
        reached: set[int] = set()
        for _ in range(20):
            self.tell(1, self.rows(50, age=60))
            sent = self.sent(self.tick(20))
            reached |= set(sent)
        self.assertEqual(len(reached), 2)
        self.tick(DAY)
        self.tell(1, self.rows(50, age=60))
        again = set(self.sent(self.tick()))
        self.assertEqual(len(again), 2)

    def test_others_draw_other_neighbors(self) -> None:
        """The choice depends on a secret.  PEX-006"""
        choices = set()
        for seed in range(12):
            self.exchange = PeerExchange(
                self.book, now=lambda: self.time, unix=self.unix, rng=random.Random(seed),
                own_address=lambda: None,
            )  # fmt: skip
            for number in range(1, 10):
                self.up(number, outbound=False, listens=False)
            self.tell(1, self.rows(50, age=60))
            choices.add(tuple(sorted(self.sent(self.tick()))))
        self.assertGreater(len(choices), 5)

    def test_what_waits_goes_ten_at_a_time(self) -> None:
        """A list of more would be ignored; what waits is bounded.  PEX-004"""
        self.up(0)
        for number in range(1, 111):
            self.up(number, outbound=False, host=address(number).host)
        counts = [len(hosts) for _ in range(12) for hosts in self.sent(self.tick()).values()]
        self.assertEqual(counts, [10] * 10)

    def test_known_addresses_are_bounded_and_forgotten(self) -> None:
        """Five thousand a neighbor, for a day.  PEX-006"""
        self.up(1)
        state = self.exchange._states[peer_id(1)]
        for number in range(5001):
            self.exchange._know(state, address(number))
            self.assertLessEqual(len(state.known), 5000)
        self.assertLess(len(state.known), 5000)
        self.tick(DAY)
        self.assertEqual(len(state.known), 0)

    def test_we_advertise_ourselves_to_outbound_peers(self) -> None:
        """After connecting and once a day, if anybody can dial us.  PEX-007"""
        self.up(1)
        self.up(2, outbound=False)
        self.assertEqual(self.sent(self.tick()), {1: ["102.1.1.1"]})
        self.own = PeerAddress("50.1.1.1", 9444)
        self.assertEqual(self.sent(self.tick()), {1: ["50.1.1.1"]})
        self.up(3)
        self.assertEqual(self.sent(self.tick()), {3: ["50.1.1.1"]})
        self.assertEqual(self.sent(self.tick(DAY - 30)), {})
        self.assertEqual(self.sent(self.tick(40)), {1: ["50.1.1.1"], 3: ["50.1.1.1"]})

    def test_an_address_spreads_through_a_chain(self) -> None:
        """Each hop finds it fresh.  PEX-006"""
        self.up(1, outbound=False, listens=False)
        self.up(2, outbound=True)
        self.tell(1, self.rows(50, age=30))
        effects = self.tick()
        (body,) = [e.message.data for e in effects if isinstance(e, Send)]
        ((_host, _port, stamp),) = parse_peers(body, 10).rows
        self.assertEqual(stamp, int(self.unix()) - 40)


class SourceTests(SynchronousTestCase):
    """What counts as one source, and as an address."""

    def test_sources(self) -> None:
        """IPv4 addresses and IPv6 /64.  PEX-003"""
        keys = [
            source_key(PeerAddress(h, 1)) for h in ("1.2.3.4", "2001:db9::1", "2001:db9::2", "x.y")
        ]
        self.assertEqual(keys, ["1.2.3.4", "2001:db9::/64", "2001:db9::/64", "x.y"])

    def test_the_longest_hosts(self) -> None:
        """45 characters of an IP address, 62 of an onion.  ADR-003"""
        mapped = b"0000:0000:0000:0000:0000:ffff:192.168.100.100"
        self.assertEqual((len(mapped), len(onion(1))), (45, 62))
        self.assertEqual(read_address(mapped, 1), PeerAddress("192.168.100.100", 1))
        self.assertEqual(read_address(onion(1).encode(), 1), PeerAddress(onion(1), 1))
        self.assertIsNone(read_address(mapped + b"%", 1))
        self.assertIsNone(read_address(onion(1).encode() + b"n", 1))
        self.assertIsNone(read_address(b"\xc3\xa9.onion", 1))

    def test_ten_thousand_sources_are_remembered(self) -> None:
        """The least recent goes.  PEX-003"""
        book = AddressManager(rng=random.Random(1), unix=lambda: EPOCH)
        exchange = PeerExchange(
            book,
            now=lambda: 0.0,
            unix=lambda: EPOCH,
            rng=random.Random(1),
            own_address=lambda: None,
        )
        for number in range(10_001):
            exchange.seeded(str(number), [])
        self.assertEqual(len(exchange._sources), 10_000)


class OnionTests(ExchangeCase):
    """Onion services in lists of addresses."""

    def setUp(self) -> None:
        super().setUp()
        self.make(allow_onion=True)
        self.hidden = PeerAddress(onion(1), 9444)

    def teach(self) -> None:
        """Put an onion service and an address into the book."""
        stamp = int(self.unix())
        known = [KnownAddress(self.hidden, stamp)]
        known += [KnownAddress(address(n), stamp) for n in range(1, 20)]
        self.book.add_to_new_table(known, address(50))

    def answer(self, number: int) -> set[str]:
        """The hosts that a peer is told."""
        rows = parse_peers(self.exchange.requested(peer_id(number)), 1000).rows
        return {host.decode() for host, _, _ in rows}

    def test_only_who_takes_them_is_told(self) -> None:
        """Also where both come from one host and answers are kept.  wire §8, ADR-003"""
        self.teach()
        self.patch(self.book, "get_peers", lambda n: [KnownAddress(self.hidden, 1)])
        self.up(1, outbound=False, host="77.7.7.7")
        self.up(2, outbound=False, host="77.7.7.7", onions=True)
        self.assertEqual(self.answer(1), set())
        self.assertEqual(self.answer(2), {self.hidden.host})
        self.up(3, outbound=False, host="77.7.7.7")
        self.assertEqual(self.answer(3), set())

    def test_our_own_is_advertised_to_them(self) -> None:
        """Over a session through Tor it is all that is said of us.  PEX-007, TOR-101-X"""
        self.own, self.onion = address(60), self.hidden
        self.up(1)
        self.up(2, onions=True)
        self.up(3, onions=True, anonymous=True)
        self.up(4, anonymous=True)
        sent = self.sent(self.tick())
        both = [address(60).host, self.hidden.host]
        self.assertEqual(sent, {1: both[:1], 2: both, 3: both[1:]})

    def test_a_service_that_comes_up_later_is_advertised_then(self) -> None:
        """Not a day later.  PEX-007"""
        self.own = address(60)
        self.up(1, onions=True)
        self.tick()
        self.onion = self.hidden
        self.assertEqual(self.sent(self.tick()), {})
        self.exchange.advertise_again()
        self.assertIn(self.hidden.host, self.sent(self.tick())[1])

    def test_a_fresh_one_is_passed_on_only_to_them(self) -> None:
        """PEX-006."""
        for number in range(1, 8):
            self.up(number, onions=number in (5, 6))
        body = build_peers([(self.hidden.host, 9444, int(self.unix()))])
        self.tell(1, body)
        self.assertEqual(self.book.size(), 1)
        self.assertEqual(set(self.sent(self.tick())), {5, 6})

    def test_our_own_is_not_learned(self) -> None:
        """From whomever.  ADR-003"""
        self.onion = self.hidden
        self.up(1, onions=True)
        self.tell(1, build_peers([(self.hidden.host, 9444, int(self.unix()))]))
        self.assertEqual(self.book.size(), 0)
