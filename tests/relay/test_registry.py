"""The relay without sockets: registrations, isolation, forwarding, limits."""

from __future__ import annotations

from random import Random

from chia_rs.sized_bytes import bytes32
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.relay.limits import MAX_TRACKED_HOSTS, Bucket, Hosts
from dig_gossip.relay.registry import HangUp, Registry, RelayEffect, Transmit, published
from dig_gossip.types.peer import PeerAddress
from dig_gossip.types.relay import RelayLimits
from dig_gossip.wire import relay


class Desk:
    """A registry, a clock, and what every connection got."""

    def __init__(self, limits: RelayLimits | None = None) -> None:
        self.time = 1000.0
        self.registry = Registry(
            limits or RelayLimits(), now=lambda: self.time, unix=lambda: 1_700_000_000 + self.time
        )
        self.got: dict[int, list[relay.RelayFrame | bytes]] = {}
        self.closed: dict[int, tuple[int, str]] = {}
        self._next = 0

    def connect(self, host: str = "198.51.100.1", port: int = 4000) -> int:
        """Let a connection in."""
        self._next += 1
        self.registry.connected(self._next, PeerAddress(host, port))
        self.got[self._next] = []
        return self._next

    def perform(self, effects: list[RelayEffect]) -> None:
        """Note what the server would do."""
        for effect in effects:
            if isinstance(effect, HangUp):
                self.closed[effect.connection] = (effect.code, effect.reason)
                continue
            assert isinstance(effect, Transmit)
            for number in effect.connections:
                if isinstance(effect.data, bytes):
                    self.got[number].append(effect.data)
                else:
                    frame = relay.decode(effect.data.encode())
                    assert not isinstance(frame, relay.Unsupported)
                    self.got[number].append(frame)

    def say(self, number: int, frame: relay.RelayFrame | bytes, is_binary: bool = False) -> None:
        """A client sends a frame."""
        data = frame if isinstance(frame, bytes) else frame.encode().encode()
        self.perform(self.registry.received(number, data, is_binary))

    def register(
        self,
        peer_id: str,
        network: str = "N",
        host: str = "198.51.100.1",
        addrs: tuple[PeerAddress, ...] = (),
        binary: bool = False,
    ) -> int:
        """Connect and register."""
        number = self.connect(host)
        self.say(
            number,
            relay.Register(peer_id=peer_id, network_id=network, listen_addrs=addrs, binary=binary),
        )
        return number

    def take(self, number: int) -> list[relay.RelayFrame | bytes]:
        """What a connection got since the last call."""
        got, self.got[number] = self.got[number], []
        return got

    def fault(self, number: int) -> int:
        """The code of the last error that a connection got."""
        return [frame.code for frame in self.take(number) if isinstance(frame, relay.RelayFault)][
            -1
        ]


def message(to: str, payload: bytes = b"x", seq: int = 1) -> relay.RelayMessage:
    """A relay message that claims to be somebody else's."""
    return relay.RelayMessage(sender="forged", recipient=to, payload=payload, seq=seq)


class RegistrationTests(SynchronousTestCase):
    """Who may come in, under which name."""

    def test_a_newcomer_is_acknowledged_and_announced(self) -> None:
        """The count includes it; others of its network hear of it, nobody else.  RSV-105-X"""
        desk = Desk()
        a = desk.register("aa")
        other = desk.register("zz", network="M")
        desk.take(a), desk.take(other)
        b = desk.register("bb")
        ack = desk.take(b)[0]
        assert isinstance(ack, relay.RegisterAck)
        self.assertEqual((ack.success, ack.connected_peers, ack.binary), (True, 3, False))
        self.assertEqual(ack.observed, PeerAddress("198.51.100.1", 4000))
        arrived = desk.take(a)
        self.assertEqual([type(frame) for frame in arrived], [relay.PeerConnected])
        self.assertEqual(desk.take(other), [])
        desk.perform(desk.registry.disconnected(b))
        self.assertEqual(desk.take(a), [relay.PeerDisconnected(peer_id="bb")])
        self.assertEqual(desk.take(other), [])

    def test_registration_comes_first(self) -> None:
        """Anything that needs it is answered with error 1; garbage with error 2.  RSV-101-X"""
        desk = Desk()
        a = desk.connect()
        for frame in (
            message("bb"),
            relay.Broadcast(sender="a", payload=b""),
            relay.Unregister(peer_id="a"),
        ):
            desk.say(a, frame)
            self.assertEqual(desk.fault(a), 1)
        desk.say(a, b"\xff")
        self.assertEqual(desk.fault(a), 2)
        desk.say(a, b'{"type":"nothing"}')
        self.assertEqual(desk.fault(a), 2)
        self.assertEqual(desk.closed, {})

    def test_a_silent_newcomer_is_closed_after_10_s(self) -> None:
        """Registered ones are not.  RSV-101-X"""
        desk = Desk()
        late, quick = desk.connect(), desk.register("aa")
        desk.time += 9.9
        desk.perform(desk.registry.tick())
        self.assertEqual(desk.closed, {})
        desk.time += 0.1
        desk.perform(desk.registry.tick())
        self.assertEqual(list(desk.closed), [late])
        self.assertNotIn(quick, desk.closed)

    def test_an_id_in_use_is_not_taken_over(self) -> None:
        """A second registration is refused while the first is live.  RSV-102-X"""
        desk = Desk()
        a = desk.register("aa")
        thief = desk.register("AA")
        ack, fault = desk.take(thief)
        assert isinstance(ack, relay.RegisterAck)
        assert isinstance(fault, relay.RelayFault)
        self.assertEqual((ack.success, fault.code), (False, 5))
        self.assertIn(thief, desk.closed)
        self.assertNotIn(a, desk.closed)
        desk.perform(desk.registry.disconnected(thief))
        desk.say(a, relay.Ping(timestamp=1))
        self.assertIn(relay.Pong(timestamp=1), desk.take(a))

    def test_a_silent_incumbent_gives_way(self) -> None:
        """After 90 s of silence the id may be taken, at n-1 it may not.  RSV-102-X"""
        for silence, taken in ((89.9, False), (90.0, True)):
            desk = Desk()
            old = desk.register("aa")
            desk.time += silence
            new = desk.register("aa")
            ack = desk.take(new)[0]
            assert isinstance(ack, relay.RegisterAck)
            self.assertEqual((ack.success, old in desk.closed), (taken, taken))
            desk.perform(desk.registry.disconnected(old))
            self.assertEqual(desk.registry.registered, int(taken))

    def test_a_certificate_decides_the_id(self) -> None:
        """With a client certificate no other id can be registered.  RSV-102-X"""
        desk = Desk()
        verified = bytes32(b"\7" * 32)
        a = desk.connect()
        desk.registry.identified(a, verified)
        desk.say(a, relay.Register(peer_id="00" * 32, network_id="N"))
        self.assertEqual(desk.fault(a), 6)
        b = desk.connect()
        desk.registry.identified(b, verified)
        desk.say(b, relay.Register(peer_id=verified.hex(), network_id="N"))
        self.assertEqual(desk.closed.keys(), {a})

    def test_a_registered_peer_registers_once(self) -> None:
        """A second register is a bad message and changes nothing.  RSV-101-X"""
        desk = Desk()
        a = desk.register("aa")
        desk.say(a, relay.Register(peer_id="bb", network_id="N"))
        self.assertEqual(desk.fault(a), 2)
        self.assertEqual(desk.registry.registered, 1)

    def test_leaving_closes_without_a_reply(self) -> None:
        """``unregister`` ends the connection normally.  wire §14.2"""
        desk = Desk()
        a = desk.register("aa")
        desk.take(a)
        desk.say(a, relay.Unregister(peer_id="aa"))
        self.assertEqual((desk.take(a), desk.closed[a][0]), ([], 1000))
        b = desk.register("aa")  # before the transport is gone
        ack = desk.take(b)[0]
        assert isinstance(ack, relay.RegisterAck)
        self.assertTrue(ack.success)

    def test_idle_connections_are_closed(self) -> None:
        """120 s without a frame; any frame counts.  RSV-107-X"""
        desk = Desk()
        a = desk.register("aa")
        desk.time += 119
        desk.say(a, relay.Ping(timestamp=1))
        desk.time += 119.9
        desk.perform(desk.registry.tick())
        self.assertEqual(desk.closed, {})
        desk.time += 0.1
        desk.perform(desk.registry.tick())
        self.assertEqual(list(desk.closed), [a])


class ForwardingTests(SynchronousTestCase):
    """Who gets what, under whose name."""

    def test_the_sender_is_who_registered(self) -> None:
        """A forged ``from`` is overwritten; the number passes untouched.  RSV-104-X"""
        desk = Desk()
        a, b, c = desk.register("aa"), desk.register("bb"), desk.register("cc")
        for number in (a, b, c):
            desk.take(number)
        desk.say(a, message("bb", b"hello", 77))
        expected = relay.RelayMessage(sender="aa", recipient="bb", payload=b"hello", seq=77)
        self.assertEqual((desk.take(b), desk.take(c), desk.take(a)), ([expected], [], []))

    def test_networks_do_not_see_each_other(self) -> None:
        """Messages, broadcasts and lists stay inside.  RSV-104-X, RSV-105-X"""
        desk = Desk()
        a, b = desk.register("aa"), desk.register("bb", network="M")
        desk.take(b)
        desk.say(a, message("bb"))
        self.assertEqual(desk.fault(a), 3)
        desk.say(a, relay.Broadcast(sender="aa", payload=b"x"))
        desk.say(a, relay.GetPeers(network_id="M"))
        self.assertEqual(desk.take(a), [relay.Peers(peers=())])
        self.assertEqual(desk.take(b), [])

    def test_a_broadcast_reaches_all_but_the_excluded(self) -> None:
        """Neither the sender nor whom it names; the list of names is not passed on.  RSV-104-X"""
        desk = Desk()
        a, b, c = desk.register("aa"), desk.register("bb"), desk.register("cc")
        for number in (a, b, c):
            desk.take(number)
        desk.say(a, relay.Broadcast(sender="xx", payload=b"x", exclude=("CC",)))
        self.assertEqual(desk.take(b), [relay.Broadcast(sender="aa", payload=b"x")])
        self.assertEqual((desk.take(a), desk.take(c)), ([], []))

    def test_lists_are_sorted_and_include_the_asker(self) -> None:
        """One record each, in the order of ids.  RSV-105-X"""
        desk = Desk()
        b, _a = desk.register("bb"), desk.register("aa")
        desk.take(b)
        desk.time += 5
        desk.say(b, relay.GetPeers(network_id=None))
        (answer,) = desk.take(b)
        assert isinstance(answer, relay.Peers)
        self.assertEqual([record.peer_id for record in answer.peers], ["aa", "bb"])
        self.assertEqual(
            [record.last_seen for record in answer.peers], [1_700_001_000, 1_700_001_005]
        )

    def test_a_stranger_may_ask_for_all(self) -> None:
        """Before registering, null means every network.  wire §14.3"""
        desk = Desk()
        desk.register("aa"), desk.register("bb", network="M")
        stranger = desk.connect()
        desk.say(stranger, relay.GetPeers(network_id=None))
        (answer,) = desk.take(stranger)
        assert isinstance(answer, relay.Peers)
        self.assertEqual([record.peer_id for record in answer.peers], ["aa", "bb"])

    def test_binary_where_both_agreed(self) -> None:
        """Text and binary clients reach each other, each in its own form.  wire §14.1"""
        one, two, three = "11" * 32, "22" * 32, "33" * 32
        desk = Desk()
        a = desk.register(one, binary=True)
        b = desk.register(two, binary=True)
        c = desk.register(three)
        for number in (a, b, c):
            desk.take(number)
        desk.say(a, relay.binary_message(bytes.fromhex(two), 5, b"fast"), is_binary=True)
        self.assertEqual(desk.take(b), [relay.binary_message(bytes.fromhex(one), 5, b"fast")])
        desk.say(a, relay.binary_message(bytes.fromhex(three), 6, b"slow"), is_binary=True)
        as_text = relay.RelayMessage(sender=one, recipient=three, payload=b"slow", seq=6)
        self.assertEqual(desk.take(c), [as_text])
        desk.say(c, message(two, b"text", 7))
        self.assertEqual(desk.take(b), [relay.binary_message(bytes.fromhex(three), 7, b"text")])
        desk.say(c, relay.binary_message(bytes.fromhex(one), 8, b"no"), is_binary=True)
        self.assertEqual((desk.fault(c), desk.take(a)), (1, []))


class PunchTests(SynchronousTestCase):
    """Two peers are told to dial each other, and nobody else is dialed."""

    def test_both_are_told(self) -> None:
        """The target gets the asker's address, the asker the target's candidate.  RSV-108-X"""
        desk = Desk()
        a = desk.register("aa", host="198.51.100.1")
        b = desk.register("bb", host="203.0.113.9", addrs=(PeerAddress("203.0.113.9", 9444),))
        desk.take(a), desk.take(b)
        ask = relay.HolePunchRequest(
            peer_id="zz", target_peer_id="bb", external_addr=PeerAddress("198.51.100.1", 5)
        )
        desk.say(a, ask)
        told = relay.HolePunchCoordinate(peer_id="aa", external_addr=PeerAddress("198.51.100.1", 5))
        answer = relay.HolePunchCoordinate(
            peer_id="bb", external_addr=PeerAddress("203.0.113.9", 9444)
        )
        self.assertEqual((desk.take(b), desk.take(a)), ([told], [answer]))
        desk.say(a, ask)
        self.assertEqual((desk.take(b), desk.take(a)), ([], []))
        desk.time += 10
        desk.say(a, ask)
        self.assertEqual(desk.take(b), [told])

    def test_nobody_is_sent_to_dial_a_stranger(self) -> None:
        """A third party's address is replaced by the one we see.  RSV-106-X, RSV-108-X"""
        desk = Desk()
        a, b = desk.register("aa"), desk.register("bb")
        desk.take(b)
        victim = PeerAddress("192.0.2.66", 80)
        desk.say(a, relay.HolePunchRequest(peer_id="aa", target_peer_id="bb", external_addr=victim))
        (told,) = desk.take(b)
        assert isinstance(told, relay.HolePunchCoordinate)
        self.assertEqual(told.external_addr, PeerAddress("198.51.100.1", 80))

    def test_results_go_to_the_named_peer(self) -> None:
        """It reads its own id; an unknown name goes nowhere.  RSV-108-X"""
        desk = Desk()
        a, b = desk.register("aa"), desk.register("bb")
        desk.take(a), desk.take(b)
        result = relay.HolePunchResult(peer_id="bb", success=True)
        desk.say(a, result)
        desk.say(a, relay.HolePunchResult(peer_id="nobody", success=True))
        self.assertEqual((desk.take(b), desk.take(a)), ([result], []))

    def test_published_addresses(self) -> None:
        """Eight at most, IPv6 first, doubles once, hosts only as observed.  RSV-106-X"""
        addresses = [
            PeerAddress("0.0.0.0", 1),
            PeerAddress("198.51.100.1", 1),
            PeerAddress("10.0.0.1", 2),
            *[PeerAddress("192.0.2.1", 10 + n) for n in range(10)],
        ]
        found = published(addresses, "198.51.100.1")
        self.assertEqual({address.host for address in found}, {"198.51.100.1"})
        self.assertEqual([address.port for address in found], [1, 2, 10, 11, 12, 13, 14])
        six = [PeerAddress("2001:db8::7", 1), PeerAddress("2001:db9::7", 2)]
        self.assertEqual(
            published(six, "2001:db8::1"),
            [PeerAddress("2001:db8::7", 1), PeerAddress("2001:db8::1", 2)],
        )
        self.assertEqual(published([], "198.51.100.1"), [])


class LimitTests(SynchronousTestCase):
    """Each limit, one below, at, and above it."""

    def test_open_connections(self) -> None:
        """In all, and of one address.  RSV-109-X"""
        desk = Desk(RelayLimits(max_connections=3, connections_per_host=2))
        desk.connect("192.0.2.1"), desk.connect("192.0.2.1")
        self.assertFalse(desk.registry.may_connect("192.0.2.1"))
        self.assertTrue(desk.registry.may_connect("192.0.2.2"))
        last = desk.connect("192.0.2.2")
        self.assertFalse(desk.registry.may_connect("192.0.2.3"))
        desk.perform(desk.registry.disconnected(last))
        self.assertTrue(desk.registry.may_connect("192.0.2.3"))
        self.assertEqual(desk.registry.counters["refused.capacity"], 1)

    def test_one_ipv6_customer_is_one_address(self) -> None:
        """A /64 counts once, and so does a mapped IPv4 address.  RSV-109-X"""
        desk = Desk(RelayLimits(connections_per_host=1))
        desk.connect("2001:db8::1"), desk.connect("192.0.2.1")
        self.assertFalse(desk.registry.may_connect("2001:db8::2"))
        self.assertTrue(desk.registry.may_connect("2001:db8:0:1::2"))
        self.assertFalse(desk.registry.may_connect("::ffff:192.0.2.1"))

    def test_registrations_of_one_address(self) -> None:
        """A number a second, and a number in all.  RSV-103-X, RSV-109-X"""
        desk = Desk(RelayLimits(registrations_per_second=2, registrations_per_host=3))
        for name in ("aa", "bb"):
            desk.register(name)
        third = desk.register("cc")
        self.assertEqual(desk.fault(third), 7)
        desk.time += 1
        desk.register("dd")
        fifth = desk.register("ee")
        self.assertEqual(desk.fault(fifth), 7)
        self.assertEqual(desk.registry.registered, 3)

    def test_frames_and_bytes_a_second(self) -> None:
        """One second's worth at once, then the connection is closed.  RSV-109-X"""
        for limits, frames, size in (
            (RelayLimits(frames_per_second=10), 9, 10),  # registering was one
            (RelayLimits(bytes_per_second=5000), 4, 1000),
        ):
            desk = Desk(limits)
            a, b = desk.register("aa"), desk.register("bb")
            desk.take(b)
            payload = b"\0" * (size // 3)
            for _ in range(frames):
                desk.say(a, message("bb", payload))
            self.assertEqual((len(desk.take(b)), desk.closed), (frames, {}))
            for _ in range(3):
                desk.say(a, message("bb", payload * 9))
            self.assertIn(a, desk.closed)
            self.assertEqual(desk.take(b), [])

    def test_bytes_of_a_life(self) -> None:
        """A connection that has had its gigabyte is asked to come again.  RSV-109-X"""
        desk = Desk(RelayLimits(bytes_per_connection=1000, bytes_per_second=0))
        a, b = desk.register("aa"), desk.register("bb")
        desk.take(b)
        for _ in range(12):
            desk.say(a, message("bb", b"\0" * 30))
        self.assertEqual(desk.closed[a], (1001, "come again"))
        self.assertEqual(desk.registry.counters["tripped.bytes_per_connection"], 0)

    def test_twenty_strikes_keep_an_address_out(self) -> None:
        """For 300 s, and only that address.  RSV-110-X"""
        desk = Desk()
        for _ in range(19):
            number = desk.connect("192.0.2.9")
            desk.registry.too_large(number)
            desk.perform(desk.registry.disconnected(number))
        self.assertTrue(desk.registry.may_connect("192.0.2.9"))
        number = desk.connect("192.0.2.9")
        desk.registry.too_large(number)
        self.assertFalse(desk.registry.may_connect("192.0.2.9"))
        self.assertTrue(desk.registry.may_connect("192.0.2.8"))
        desk.time += 299.9
        self.assertFalse(desk.registry.may_connect("192.0.2.9"))
        desk.time += 0.1
        self.assertTrue(desk.registry.may_connect("192.0.2.9"))

    def test_strikes_far_apart_do_not_add_up(self) -> None:
        """Only those of one minute count.  RSV-110-X"""
        desk = Desk()
        number = desk.connect("192.0.2.9")
        for _ in range(40):
            desk.registry.too_large(number)
            desk.time += 3.2
        self.assertTrue(desk.registry.may_connect("192.0.2.9"))

    def test_zero_lifts_a_limit(self) -> None:
        """Every limit can be switched off.  RSV-109-X"""
        desk = Desk(
            RelayLimits(
                max_connections=0, connections_per_host=0, registrations_per_second=0,
                registrations_per_host=0, frames_per_second=0, bytes_per_second=0,
                bytes_per_connection=0,
            )
        )  # fmt: skip
        numbers = [desk.register(f"{n:02x}") for n in range(200)]
        for _ in range(1000):
            desk.say(numbers[0], message("01", bytes(3000)))
        self.assertEqual((desk.closed, desk.registry.registered), ({}, 200))

    def test_tracked_addresses_are_bounded(self) -> None:
        """Addresses without connections are forgotten.  design D14"""
        now = 0.0
        hosts = Hosts(RelayLimits(), now=lambda: now)
        for number in range(MAX_TRACKED_HOSTS + 10):
            hosts.strike(str(number))
        self.assertLessEqual(len(hosts), MAX_TRACKED_HOSTS)
        now = 60.0
        hosts.expire()
        self.assertEqual(len(hosts), 0)

    def test_a_bucket_gives_its_rate(self) -> None:
        """A burst of one second, then the rate; larger amounts pass alone.  RSV-109-X"""
        bucket = Bucket(10, 0.0)
        self.assertEqual([bucket.take(1, 0.0) for _ in range(11)], [True] * 10 + [False])
        self.assertTrue(bucket.take(1, 0.1))
        self.assertFalse(bucket.take(25, 0.5))
        self.assertTrue(bucket.take(25, 1.5))
        self.assertFalse(bucket.take(1, 2.0))


class RegistryProperties(SynchronousTestCase):
    """Whatever clients do."""

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 4),
                st.sampled_from(["connect", "register", "send", "close", "wait", "raw", "punch"]),
                st.integers(0, 3),
                st.binary(max_size=30),
            ),
            max_size=60,
        )
    )
    def test_books_always_balance(self, steps: list[tuple[int, str, int, bytes]]) -> None:
        """Counts match the connections, and nobody hears of another network.  RSV-104-X"""
        desk = Desk(RelayLimits(max_connections=6, connections_per_host=6))
        rng = Random(1)
        alive: list[int] = []
        for which, what, peer, data in steps:
            number = alive[which % len(alive)] if alive else 0
            if what == "connect" and desk.registry.may_connect("192.0.2.1"):
                alive.append(desk.connect("192.0.2.1"))
            elif what == "register":
                network = "MN"[peer % 2]
                desk.say(number, relay.Register(peer_id=f"{network}{peer}", network_id=network))
            elif what == "send":
                desk.say(number, message(f"{'MN'[peer % 2]}{peer}".lower(), data))
            elif what == "punch":
                address = PeerAddress("192.0.2.1", peer)
                desk.say(
                    number,
                    relay.HolePunchRequest(
                        peer_id="", target_peer_id=f"n{peer}", external_addr=address
                    ),
                )
            elif what == "raw":
                desk.perform(desk.registry.received(number, data, rng.random() < 0.5))
            elif what == "wait":
                desk.time += 7
                desk.perform(desk.registry.tick())
            for gone in [n for n in alive if n in desk.closed or (what == "close" and n == number)]:
                alive.remove(gone)
                desk.perform(desk.registry.disconnected(gone))
            self.assertEqual(len(desk.registry), len(alive))
            self.assertLessEqual(desk.registry.registered, len(alive))
        for number in alive:
            desk.perform(desk.registry.disconnected(number))
        self.assertEqual((len(desk.registry), desk.registry.registered), (0, 0))
