"""The life of a mapping, with a gateway in memory."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

from twisted.logger import LogEvent
from twisted.logger import capturedLogs as captured_logs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import InvalidConfig
from dig_gossip.portmap import igd, mapper
from dig_gossip.portmap.mapper import CHECK_SECS, FIRST_RETRY_SECS, MAX_HASTE_SECS, PortMapper
from dig_gossip.portmap.values import LIFETIME_SECS, MappingFailed
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock
from tests.portmap.gateway import OURS, GatewayReactor, Row

BOUND = PeerAddress("0.0.0.0", 9444)
EXTERNAL = PeerAddress("77.1.2.3", 9444)


class MapperCase(SynchronousTestCase):
    """Makes a gateway and a mapper; in the end nothing may be left of either."""

    speaks: tuple[str, ...] = ("pcp", "nat-pmp")
    method = "auto"

    def setUp(self) -> None:
        self.reactor = GatewayReactor(*self.speaks)
        self.gateway = self.reactor.gateway
        self.patch(mapper, "find_gateway", lambda: self.gateway.host)
        self.make_upnp = igd._make_upnp
        self.patch(igd, "_make_upnp", lambda: self.fail("no device is looked for"))
        self.changes: list[PeerAddress | None] = []
        self.clock = Clock(self.reactor)
        self.mapper = self.make()

    def make(self, method: str = "", **options: Any) -> PortMapper:
        """A mapper that tells of its changes."""
        return PortMapper(
            method or self.method, self.clock, random.Random(1), self.changes.append, **options
        )

    def start(self, bound: PeerAddress = BOUND, suggested: int = 9444) -> None:
        """Let it begin, and end with the test."""
        self.mapper.start(bound, suggested)
        self.addCleanup(self.stop)
        self.reactor.advance(0.1)

    def stop(self) -> None:
        """Let it end; check that nothing is left."""
        stopping = self.mapper.stop()
        self.reactor.advance(10)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.pending, 0, "timers are left")
        self.assertEqual(self.reactor.sockets, [], "sockets are left")

    def requests(self) -> list[bytes]:
        """What the gateway has been asked since the last time."""
        asked, self.gateway.requests = self.gateway.requests, []
        return asked


class KeptTests:
    """What holds of PCP and NAT-PMP alike."""

    def test_a_port_is_mapped(self: Any) -> None:
        """The one that we listen on, if it is free.  behaviour §29"""
        self.start()
        self.assertEqual(self.gateway.mapped, {9444: (OURS, 9444)})
        self.assertEqual(self.changes, [EXTERNAL])
        self.assertEqual(self.mapper.mapping.method, self.method)
        self.assertEqual(self.mapper.stats()["port_mapping.external_port"], 9444)
        self.assertEqual(self.mapper.stats()["port_mapping.obtained"], 1)

    def test_another_port_will_do(self: Any) -> None:
        """The gateway decides.  behaviour §29"""
        self.gateway.rows[9444] = Row("192.168.1.7", 9444, b"", 1e9)
        self.start()
        self.assertEqual(self.changes, [PeerAddress("77.1.2.3", 9445)])

    def test_it_is_removed_at_the_end(self: Any) -> None:
        """Nobody is led to what is not there.  behaviour §29"""
        self.start()
        stopping = self.mapper.stop()
        self.reactor.advance(0.1)
        self.successResultOf(stopping)
        self.assertEqual(self.gateway.mapped, {})

    def test_it_is_renewed_at_half_of_its_life(self: Any) -> None:
        """It never ends while the node runs, and nobody is told anything new.  behaviour §29"""
        self.start()
        for _ in range(100):
            self.reactor.advance(self.gateway.lifetime / 10)
            self.assertEqual(self.gateway.mapped, {9444: (OURS, 9444)})
        self.assertEqual(self.changes, [EXTERNAL])
        # Half a lifetime, and up to one look more.
        renewed = self.mapper.counters["renewed"]
        self.assertTrue(9 * 2 <= renewed <= 10 * 2, renewed)

    def test_a_short_life_is_renewed_in_time(self: Any) -> None:
        """Even one that is shorter than the time between two looks.  behaviour §29"""
        self.gateway.lifetime = 20
        self.start()
        for _ in range(400):
            self.reactor.advance(1)
            self.assertEqual(self.gateway.mapped, {9444: (OURS, 9444)})
        self.assertEqual(self.changes, [EXTERNAL])

    def test_lost_datagrams_are_repeated(self: Any) -> None:
        """After 0.25, 0.5, 1 and 2 seconds.  behaviour §29; RFC 6886 §3.1"""
        self.gateway.lost = 4
        self.start()
        for at, count in ((0.24, 1), (0.26, 2), (0.74, 2), (0.76, 3), (1.76, 4), (3.74, 4)):
            self.reactor.advance_to(at)
            self.assertEqual(len(self.gateway.requests), count, at)
        self.reactor.advance_to(4)
        self.assertEqual(self.changes, [EXTERNAL])

    def test_a_restart_of_the_gateway_is_noticed_by_its_age(self: Any) -> None:
        """At the next look, a minute later, without any announcement.  behaviour §29"""
        self.start()
        self.reactor.advance(300)
        self.gateway.restart()
        self.reactor.advance(CHECK_SECS + 1)
        self.assertEqual(self.gateway.mapped, {9444: (OURS, 9444)})
        self.assertEqual(self.changes, [EXTERNAL])

    def test_a_restart_that_is_announced_is_noticed_in_seconds(self: Any) -> None:
        """And at another time by each host of the network.  behaviour §29"""
        self.start()
        self.reactor.advance(30)
        self.gateway.restart()
        self.reactor.announce(self.gateway.address_response())
        self.reactor.advance(MAX_HASTE_SECS + 0.1)
        self.assertEqual(self.gateway.mapped, {9444: (OURS, 9444)})

    def test_another_external_address_is_followed(self: Any) -> None:
        """The gateway says that there are news; we look which.  behaviour §29; RFC 6886 §3.2.1"""
        self.start()
        self.reactor.advance(30)
        self.gateway.external = "77.4.5.6"
        self.reactor.announce(self.gateway.address_response())
        self.reactor.advance(MAX_HASTE_SECS + 0.1)
        self.assertEqual(self.changes, [EXTERNAL, PeerAddress("77.4.5.6", 9444)])

    def test_others_announce_nothing(self: Any) -> None:
        """Whoever is not the gateway does not make us ask.  behaviour §29; RFC 6886 §3.2.1"""
        self.start()
        self.requests()
        self.reactor.announce(self.gateway.address_response(), "192.168.1.66")
        self.reactor.advance(MAX_HASTE_SECS + 0.1)
        self.assertEqual(self.requests(), [])

    def test_announcements_do_not_make_us_hurry(self: Any) -> None:
        """A flood of them costs at most a renewal in four seconds.  behaviour §29"""
        self.start()
        self.requests()
        for _ in range(1000):
            self.reactor.announce(b"whatever it says")
            self.reactor.advance(0.1)
        renewals = [request for request in self.requests() if len(request) > 2]
        self.assertTrue(10 <= len(renewals) <= 25, len(renewals))

    def test_a_silent_gateway_is_given_up_after_three_looks(self: Any) -> None:
        """Then the way in is not told to anybody, and soon asked for again.  behaviour §29"""
        self.start()
        speaks, self.gateway.speaks = self.gateway.speaks, set()
        self.reactor.advance(3 * (CHECK_SECS + 8))
        self.assertEqual(self.changes, [EXTERNAL, None])
        self.assertEqual(self.mapper.stats()["port_mapping.external_port"], 0)
        self.gateway.speaks = speaks
        self.reactor.advance(FIRST_RETRY_SECS + 30)
        self.assertEqual(self.changes, [EXTERNAL, None, EXTERNAL])

    def test_one_bad_look_changes_nothing(self: Any) -> None:
        """Datagrams get lost.  behaviour §29"""
        self.start()
        self.gateway.lost = 5
        self.reactor.advance(3 * CHECK_SECS)
        self.assertEqual((self.gateway.lost, self.changes), (0, [EXTERNAL]))

    def test_another_gateway_is_asked_anew(self: Any) -> None:
        """The machine has moved to another network.  behaviour §29"""
        self.start()
        self.gateway.restart()
        self.gateway.host, self.gateway.external = "192.168.7.1", "77.9.9.9"
        self.reactor.advance(2 * CHECK_SECS)
        self.assertEqual(self.changes, [EXTERNAL, None, PeerAddress("77.9.9.9", 9444)])

    def test_answers_of_strangers_are_not_read(self: Any) -> None:
        """Neither another address nor another port is the gateway's.  behaviour §29"""
        for source, believed in (
            (("192.168.1.66", 5351), False),
            ((self.gateway.host, 5350), False),
            ((self.gateway.host, 5351), True),
        ):
            self.gateway.speaks = set()
            self.requests()
            self.mapper = self.make()
            self.mapper.start(BOUND, 9444)
            (request,) = self.requests()
            self.gateway.speaks, self.gateway.external = set(self.speaks), "66.6.6.6"
            self.reactor.socket().say(self.gateway.answer(request, OURS), source)
            self.gateway.external = "77.1.2.3"
            self.reactor.advance(0.3)
            self.assertEqual(self.changes.pop().host, "66.6.6.6" if believed else "77.1.2.3")
            self.stop()

    def test_a_private_external_address_is_none(self: Any) -> None:
        """The gateway is behind a NAT itself.  The mapping is given back.  behaviour §29"""
        for host in ("192.168.178.20", "100.64.3.3", "0.0.0.0", "224.0.0.1"):
            self.gateway.external = host
            self.mapper = self.make()
            with captured_logs() as logs:
                self.mapper.start(BOUND, 9444)
                self.reactor.advance(20)
            self.assertEqual((self.changes, self.gateway.mapped), ([], {}))
            (failed,) = [log for log in logs if log["event"] == "port_mapping_failed"]
            self.assertIn(f"{host} is not a public one", failed["error"])
            self.stop()

    def test_a_private_one_will_do_where_peers_are_private(self: Any) -> None:
        """In a laboratory.  behaviour §29"""
        self.gateway.external = "192.168.178.20"
        self.mapper = self.make(allows_private=True)
        self.start()
        self.assertEqual(self.changes, [PeerAddress("192.168.178.20", 9444)])

    def test_a_refusal_is_told_with_its_reason(self: Any) -> None:
        """And asked for again: after one minute, two, four, up to half an hour.  behaviour §29"""
        self.gateway.refuses = 2
        with captured_logs() as logs:
            self.start()
            self.reactor.advance(3 * 3600)
        failed = [log for log in logs if log["event"] == "port_mapping_failed"]
        self.assertIn(f"{self.method}: refused: not authorized", failed[0]["error"])
        delays = [log["delay"] for log in failed]
        self.assertEqual(delays[:6], [60, 120, 240, 480, 960, 1800])
        self.assertEqual(set(delays[6:]), {1800})
        self.assertEqual(self.changes, [])
        self.assertEqual(self.mapper.stats()["port_mapping.failed"], len(failed))

    def test_no_time_is_no_mapping(self: Any) -> None:
        """A gateway that grants a lifetime of 0 grants nothing.  behaviour §29"""
        self.gateway.lifetime = 0
        self.start()
        self.assertEqual(self.changes, [])

    def test_a_whole_age_is_not_believed(self: Any) -> None:
        """A lifetime of 136 years is taken for a day.  behaviour §29"""
        self.gateway.lifetime = 2**32 - 1
        answer = type(self.gateway)._map
        self.patch(
            type(self.gateway), "_map", lambda *args: answer(*args[:-1], min(args[-1], 7200))
        )
        self.start()
        self.assertTrue(0 < self.mapper.mapping.lifetime <= 86400)

    def test_stopping_does_not_wait_for_a_silent_gateway(self: Any) -> None:
        """Three seconds at most.  CNC-101-X"""
        self.start()
        self.gateway.speaks = set()
        stopping = self.mapper.stop()
        self.reactor.advance(mapper.STOP_SECS)
        self.successResultOf(stopping)

    def test_stopping_in_the_middle_leaves_nothing(self: Any) -> None:
        """While it is asked for the first time, and at every moment after.  CNC-101-X"""
        for at in (0.0, 0.0005, 0.0015, 0.0025, 0.1, 1.0, CHECK_SECS, CHECK_SECS + 0.0015):
            self.mapper = self.make()
            self.mapper.start(BOUND, 9444)
            self.reactor.advance(at)
            self.stop()
            self.assertEqual(self.gateway.mapped, {}, at)

    def test_nothing_is_left_when_the_end_comes_before_the_answer(self: Any) -> None:
        """A request that the gateway has taken is taken back.  behaviour §29"""
        self.mapper.start(BOUND, 9444)
        self.reactor.advance(0.0012)
        self.stop()
        self.assertEqual(self.gateway.mapped, {})


class PcpTests(KeptTests, MapperCase):
    """A gateway that speaks PCP."""

    method = "pcp"
    speaks = ("pcp",)

    def test_another_nonce_is_not_ours(self) -> None:
        """An answer that shows another one is ignored.  behaviour §29; RFC 6887 §11.4"""
        self.gateway.lost = 1
        self.start()
        (request,) = self.requests()
        forged = self.gateway.pcp_response(request, 0, 3600, 666, host="66.6.6.6")
        self.reactor.socket().say(forged[:24] + b"another nonce"[:12] + forged[36:])
        self.reactor.advance(1)
        self.assertEqual(self.changes, [EXTERNAL])

    def test_every_mapping_has_a_nonce_of_its_own(self) -> None:
        """Nobody can guess it from an earlier one.  behaviour §29; RFC 6887 §11.2"""
        self.start()
        self.stop()
        self.mapper = PortMapper("pcp", self.clock, random.Random(2), self.changes.append)
        self.start()
        nonces = {request[24:36] for request in self.requests()}
        self.assertEqual(len(nonces), 2)

    def test_the_same_address_is_asked_for_again(self) -> None:
        """A gateway that has forgotten us gives it back if it can.  behaviour §29"""
        self.gateway.rows[9444] = Row("192.168.1.7", 9444, b"", 1e9)
        self.start()
        self.gateway.restart()
        self.reactor.advance(CHECK_SECS + 1)
        self.assertEqual(self.gateway.mapped, {9445: (OURS, 9444)})
        self.assertEqual(self.changes, [PeerAddress("77.1.2.3", 9445)])
        self.assertEqual(self.requests()[-1][-4:], bytes((77, 1, 2, 3)))

    def test_what_the_gateway_says_unasked_of_our_mapping_is_followed(self) -> None:
        """It has moved to another address.  behaviour §29; RFC 6887 §14.2"""
        self.start()
        self.reactor.advance(10)
        request = next(request for request in self.gateway.requests if len(request) == 60)
        self.gateway.external = "77.4.5.6"
        self.reactor.socket().say(self.gateway.pcp_response(request, 0, 3600, 9444))
        self.reactor.advance(MAX_HASTE_SECS + 0.1)
        self.assertEqual(self.changes, [EXTERNAL, PeerAddress("77.4.5.6", 9444)])

    def test_what_is_no_news_makes_us_ask_nothing(self) -> None:
        """Late answers, other mappings, garbage.  behaviour §29"""
        self.start()
        self.reactor.advance(10)
        request = self.requests()[0]
        same = self.gateway.pcp_response(request, 0, 3600, 9444)
        for datagram in (same, same[:24] + bytes(12) + same[36:], same[:30], b"", b"\0\x80\0\0"):
            self.reactor.socket().say(datagram)
        self.reactor.advance(MAX_HASTE_SECS + 0.1)
        self.assertEqual(self.requests(), [])


class NatPmpTests(KeptTests, MapperCase):
    """A gateway that speaks NAT-PMP."""

    method = "nat-pmp"
    speaks = ("nat-pmp",)

    def test_another_address_is_noticed_without_an_announcement(self) -> None:
        """At the next look, a minute later.  behaviour §29; RFC 6886 §3.2"""
        self.start()
        self.gateway.external = "77.4.5.6"
        self.reactor.advance(CHECK_SECS + 1)
        self.assertEqual(self.changes, [EXTERNAL, PeerAddress("77.4.5.6", 9444)])

    def test_looking_renews_nothing(self) -> None:
        """Two bytes a minute.  behaviour §29; RFC 6886 §3.2"""
        self.start()
        self.requests()
        self.reactor.advance(10 * CHECK_SECS)
        self.assertEqual(set(self.requests()), {b"\0\0"})


class OrderTests(MapperCase):
    """Which protocol is used."""

    speaks = ()

    def no_device(self) -> None:
        """Let miniupnpc find nothing."""

        class Upnp:
            def discover(self) -> int:
                return 0

        self.patch(igd, "_make_upnp", Upnp)

    def test_pcp_comes_first(self) -> None:
        """Of a gateway that speaks both.  behaviour §29"""
        self.gateway.speaks = {"pcp", "nat-pmp"}
        self.start()
        assert self.mapper.mapping is not None
        self.assertEqual(self.mapper.mapping.method, "pcp")
        self.assertEqual([request[0] for request in self.requests()], [2])

    def test_nat_pmp_is_next_without_a_delay(self) -> None:
        """A gateway that only has the older one says so.  behaviour §29; RFC 6887 appendix A"""
        self.gateway.speaks = {"nat-pmp"}
        self.start()
        assert self.mapper.mapping is not None
        self.assertEqual(self.mapper.mapping.method, "nat-pmp")

    def test_a_gateway_that_answers_nothing_is_asked_ten_times(self) -> None:
        """Five times in each protocol, 15.5 seconds; then a device is looked for.  behaviour §29"""
        self.no_device()
        with captured_logs() as logs:
            self.start()
            self.reactor.advance(15)
            self.assertEqual(len(self.requests()), 10)
            self.assertEqual(self.failures(logs), [])
            self.reactor.advance(1)
        (error,) = self.failures(logs)
        self.assertEqual(error, "pcp: no answer; nat-pmp: no answer; upnp: no device answers")

    def test_a_closed_port_is_an_answer(self) -> None:
        """The system says so, and nobody waits.  behaviour §29"""
        self.no_device()
        self.reactor.refuses = True
        with captured_logs() as logs:
            self.start()
        (error,) = self.failures(logs)
        self.assertTrue(error.startswith("pcp: nothing listens there; nat-pmp: nothing listens"))

    def test_without_miniupnpc_the_others_work(self) -> None:
        """What is missing is told once all else has failed.  design D17"""
        self.patch(igd, "_make_upnp", self.make_upnp)
        self.patch(igd, "has_miniupnpc", lambda: False)
        self.reactor.refuses = True
        with captured_logs() as logs:
            self.start()
            self.reactor.advance(1)
        (error,) = self.failures(logs)
        self.assertIn("upnp: needs miniupnpc: install dig-gossip[upnp]", error)
        self.reactor.refuses = False
        self.gateway.speaks = {"pcp"}
        self.reactor.advance(FIRST_RETRY_SECS)
        self.assertEqual(self.changes, [EXTERNAL])

    def test_upnp_alone_needs_miniupnpc(self) -> None:
        """A configuration that cannot work is refused at the start.  design D17"""
        self.patch(mapper, "has_miniupnpc", lambda: False)
        with self.assertRaises(InvalidConfig) as caught:
            self.make("upnp")
        self.assertEqual(
            str(caught.exception),
            "port_mapping: upnp needs miniupnpc: install dig-gossip[upnp]",
        )

    def test_one_method_alone_asks_no_other(self) -> None:
        """Where the operator has chosen.  behaviour §29"""
        self.gateway.speaks = {"nat-pmp"}
        self.mapper = self.make("pcp")
        with captured_logs() as logs:
            self.start()
        self.stop()
        self.assertEqual(self.failures(logs), ["pcp: the gateway does not speak PCP"])
        self.gateway.speaks = {"pcp"}
        self.mapper = self.make("nat-pmp")
        with captured_logs() as logs:
            self.start()
        self.assertEqual(self.failures(logs), ["nat-pmp: refused: unsupported version"])

    def test_a_machine_without_a_gateway_looks_for_a_device(self) -> None:
        """Or one whose system does not tell.  behaviour §29"""
        self.no_device()

        def unknown() -> str:
            raise MappingFailed("the default gateway is unknown")

        self.patch(mapper, "find_gateway", unknown)
        with captured_logs() as logs:
            self.start()
        self.assertEqual(
            self.failures(logs), ["the default gateway is unknown; upnp: no device answers"]
        )

    def test_a_public_address_needs_no_mapping(self) -> None:
        """There is no NAT; the gateway is the provider's.  behaviour §29"""
        self.patch(type(self.reactor.listenUDP(0, _Nobody())), "getHost", lambda _port: _Public)
        self.reactor.sockets.clear()
        with captured_logs() as logs:
            self.start()
        self.assertEqual(self.failures(logs), ["77.8.9.1 is a public address, there is no NAT"])
        self.assertEqual(self.requests(), [])

    def test_what_nobody_can_reach_is_not_mapped(self) -> None:
        """Loopback, and IPv6, which no gateway translates.  behaviour §29"""
        for bound in (PeerAddress("127.0.0.1", 9444), PeerAddress("2001:db8::1", 9444)):
            with captured_logs() as logs:
                self.start(bound)
                self.stop()
            self.assertEqual([log["event"] for log in logs], ["port_mapping_useless"])
        self.assertEqual(self.requests(), [])

    def failures(self, logs: Sequence[LogEvent]) -> list[str]:
        """Why there was no mapping."""
        return [log["error"] for log in logs if log["event"] == "port_mapping_failed"]


class _Nobody:
    transport: object


class _Public:
    host = "77.8.9.1"


class RequestTests(MapperCase):
    """What is asked for."""

    def test_a_configured_external_port_is_wished_for(self) -> None:
        """And two hours.  behaviour §29; RFC 6886 §3.3"""
        self.start(suggested=7777)
        (request,) = self.requests()
        self.assertEqual(struct.unpack("!HH", request[40:44]), (9444, 7777))
        self.assertEqual(struct.unpack("!I", request[4:8]), (LIFETIME_SECS,))
        self.assertEqual(self.changes, [PeerAddress("77.1.2.3", 7777)])
