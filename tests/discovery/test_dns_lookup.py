"""Look-ups against a real DNS server on loopback."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import dnslib
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from dig_gossip.discovery.dns_lookup import ResolverLookup, ServersLookup, system_servers
from dig_gossip.discovery.dns_seeds import DnsSeeds
from dig_gossip.discovery.sources import IPeerSource
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.errors import DiscoveryError
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock
from tests.discovery.dns_server import SeedServer, code, silent, truncated, zone
from tests.discovery.fake_resolver import FakeResolver

WAITS = (0.15, 0.3)
#: Where questions are counted, no busy machine is to take long enough to be asked again.
PATIENT = (10.0, 10.0)


class DnsCase(TestCase):
    """Starts a server and makes look-ups that ask it."""

    timeout = 30

    def setUp(self) -> None:
        self.server = SeedServer()
        self.addCleanup(self.server.stop)
        self.clock = Clock(reactor)
        self.lookup = ServersLookup(self.clock, [self.server.address], WAITS)

    def tearDown(self) -> None:
        self.assertEqual(self.clock.pending, 0, "timers are left")

    async def fails(self, name: str, text: str) -> None:
        """The look-up of a name fails, and says so."""
        with self.assertRaises(DiscoveryError) as caught:
            await self.lookup.addresses(name)
        self.assertIn(text, str(caught.exception))


class ServersTests(DnsCase):
    """``twisted.names``, and what servers do to it."""

    async def test_both_families_are_asked(self) -> None:
        """A and AAAA records are all found.  DSC-003"""
        self.lookup = ServersLookup(self.clock, [self.server.address], PATIENT)
        self.server.names["seed.test"] = zone(
            "seed.test 60 A 192.0.2.1", "seed.test 60 A 192.0.2.2", "seed.test 60 AAAA 2001:db8::1"
        )
        found = await self.lookup.addresses("seed.test")
        self.assertEqual(found, ["2001:db8::1", "192.0.2.1", "192.0.2.2"])
        kinds = sorted(self.server.asked)
        self.assertEqual(kinds, [("seed.test", "A", "udp"), ("seed.test", "AAAA", "udp")])

    async def test_one_family_is_enough(self) -> None:
        """A name with AAAA records only is as good as any.  DSC-003"""
        self.server.names["six.test"] = zone("six.test 60 AAAA 2001:db8::6")
        self.assertEqual(await self.lookup.addresses("six.test"), ["2001:db8::6"])

    async def test_a_name_without_addresses_is_empty(self) -> None:
        """That is an answer, not a failure.  DSC-003"""
        self.server.names["none.test"] = zone()
        self.assertEqual(await self.lookup.addresses("none.test"), [])

    async def test_a_cname_in_the_answer_is_followed(self) -> None:
        """The addresses belong to the name at the end of the chain.  DSC-003"""
        self.server.names["alias.test"] = zone(
            "alias.test 60 CNAME middle.test",
            "middle.test 60 CNAME real.test",
            "real.test 60 A 192.0.2.3",
        )
        self.assertEqual(await self.lookup.addresses("ALIAS.test"), ["192.0.2.3"])

    async def test_a_cname_alone_is_followed_with_another_question(self) -> None:
        """Some servers leave the rest of the chain to the one who asks.  DSC-003"""
        self.server.names["alias.test"] = zone("alias.test 60 CNAME real.test")
        self.server.names["real.test"] = zone("real.test 60 A 192.0.2.4")
        self.assertEqual(await self.lookup.addresses("alias.test"), ["192.0.2.4"])

    async def test_cnames_in_a_circle_end(self) -> None:
        """In one answer, or from answer to answer.  DSC-003"""
        self.server.names["a.test"] = zone("a.test 60 CNAME b.test", "b.test 60 CNAME a.test")
        self.assertEqual(await self.lookup.addresses("a.test"), [])
        self.server.names["c.test"] = zone("c.test 60 CNAME d.test")
        self.server.names["d.test"] = zone("d.test 60 CNAME c.test")
        await self.fails("c.test", "more than 8 CNAME")
        # Eight of each family; a slow machine may ask once more for what it has not heard yet.
        asked = [question for question in self.server.asked if question[0] in ("c.test", "d.test")]
        self.assertTrue(16 <= len(asked) <= 32, asked)

    async def test_a_truncated_answer_is_asked_for_again_over_tcp(self) -> None:
        """UDP has no room for three hundred; the first 256 are taken.  DSC-003"""
        records = [f"big.test 60 A 198.18.{n // 256}.{n % 256}" for n in range(300)]
        self.server.names["big.test"] = truncated(zone(*records))
        found = await self.lookup.addresses("big.test")
        self.assertEqual(len(found), 256)
        self.assertIn(("big.test", "A", "tcp"), self.server.asked)

    async def test_an_unwilling_server_gives_way_to_the_next(self) -> None:
        """Refused, failed, not implemented: another one may know.  DSC-003"""
        willing = SeedServer()
        self.addCleanup(willing.stop)
        willing.names["seed.test"] = zone("seed.test 60 A 192.0.2.5")
        self.lookup = ServersLookup(self.clock, [self.server.address, willing.address], WAITS)
        for name in ("REFUSED", "SERVFAIL", "NOTIMP"):
            self.server.names["seed.test"] = code(name)
            self.assertEqual(await self.lookup.addresses("seed.test"), ["192.0.2.5"])

    async def test_a_refusal_by_all_is_a_failure(self) -> None:
        """After one round: they were heard.  DSC-003"""
        self.lookup = ServersLookup(self.clock, [self.server.address], PATIENT)
        self.server.names["seed.test"] = code("REFUSED")
        await self.fails("seed.test", "code 5")
        await self.fails("unknown.test", "code 3")
        self.assertEqual(len(self.server.asked), 4)

    async def test_a_silent_server_gives_way_to_the_next(self) -> None:
        """Lost datagrams are asked again, with more patience.  DSC-003"""
        heard = SeedServer()
        self.addCleanup(heard.stop)
        heard.names["seed.test"] = zone("seed.test 60 A 192.0.2.6")
        self.server.names["seed.test"] = silent
        self.lookup = ServersLookup(self.clock, [self.server.address, heard.address], WAITS)
        self.assertEqual(await self.lookup.addresses("seed.test"), ["192.0.2.6"])

    async def test_silence_of_all_is_a_failure(self) -> None:
        """Nobody answers, or nobody is there.  DSC-003"""
        self.server.names["seed.test"] = silent
        await self.fails("seed.test", "no answer from 127.0.0.1")
        self.assertEqual(len(self.server.asked), 2 * len(WAITS))

    async def test_records_of_other_names_are_ignored(self) -> None:
        """A server cannot smuggle in what nobody asked about.  DSC-003"""
        self.server.names["seed.test"] = zone(
            "victim.test 60 A 192.0.2.66",
            "seed.test 60 A 192.0.2.7",
            "sub.seed.test 60 A 192.0.2.8",
        )
        self.assertEqual(await self.lookup.addresses("seed.test"), ["192.0.2.7"])

    async def test_the_answer_to_another_question_is_refused(self) -> None:
        """The question comes back with the answer.  DSC-003, RFC 5452"""

        def behave(request: dnslib.DNSRecord, _protocol: str) -> dnslib.DNSRecord:
            other = dnslib.DNSRecord.question("victim.test")
            other.header.id = request.header.id
            return zone("victim.test 60 A 192.0.2.66")(other, "udp")

        self.server.names["seed.test"] = behave
        await self.fails("seed.test", "another question")

    async def test_datagrams_that_are_no_answer_are_ignored(self) -> None:
        """Noise, a wrong id, a header alone.  DSC-003"""
        self.server.names["noise.test"] = lambda request, protocol: b"\xff" * 40
        self.server.names["id.test"] = lambda request, protocol: bytes(12)
        self.server.names["short.test"] = lambda request, protocol: b"\0"
        for name in ("noise.test", "id.test", "short.test"):
            await self.fails(name, "no name server answers")

    async def test_bad_answers_over_tcp_are_failures(self) -> None:
        """Noise, another id, and a connection that only closes.  DSC-003"""
        bad: dict[str, tuple[Any, str]] = {
            "noise.test": (lambda request, protocol: b"\xff" * 4, "no DNS message"),
            "id.test": (lambda request, protocol: bytes(12), "another id"),
            "gone.test": (silent, "connection was lost"),
        }
        for name, (behavior, text) in bad.items():
            self.server.names[name] = truncated(behavior)
            await self.fails(name, text)

    async def test_cancelling_leaves_nothing(self) -> None:
        """Neither a socket nor a timer, which trial would find.  CNC-101-X"""
        self.server.names["seed.test"] = silent
        asking = self.lookup.addresses("seed.test")
        asking.cancel()
        with self.assertRaises(CancelledError):
            await asking


class SystemTests(SynchronousTestCase):
    """Which servers the system names."""

    def servers(self, text: str) -> list[str]:
        """What a file says."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return [str(address) for address in system_servers(path)]

    def test_the_first_three_addresses_count(self) -> None:
        """Comments, other lines and names are skipped.  DSC-003"""
        text = (
            "# x\nsearch a b\nnameserver 192.0.2.1\n nameserver\t::1\nnameserver name\nnameserver"
        )
        self.assertEqual(self.servers(text), ["192.0.2.1:53", "[::1]:53"])
        many = "".join(f"nameserver 192.0.2.{n}\n" for n in range(9))
        self.assertEqual(len(self.servers(many)), 3)

    def test_without_a_file_it_is_this_machine(self) -> None:
        """As in the C library.  DSC-003"""
        self.assertEqual(system_servers(self.mktemp()), [PeerAddress("127.0.0.1", 53)])
        self.assertEqual(self.servers("\xff\n"), ["127.0.0.1:53"])


class SeedsTests(DnsCase):
    """The names of a network as one source."""

    def seeds(self, *names: str, **options: Any) -> DnsSeeds:
        """A source of names."""
        options = {"batch_size": 2, "timeout": 5.0, **options}
        return DnsSeeds(names, 9444, self.lookup, self.clock, random.Random(1), **options)

    async def test_addresses_get_the_port_of_the_network(self) -> None:
        """Two names may have the same node.  DSC-003"""
        self.server.names["a.test"] = zone("a.test 60 A 192.0.2.1")
        self.server.names["b.test"] = zone("b.test 60 A 192.0.2.1", "b.test 60 A 192.0.2.2")
        source = self.seeds("a.test", "b.test")
        verifyObject(IPeerSource, source)
        found = await source.fetch()
        self.assertEqual(
            set(found),
            {
                KnownAddress(PeerAddress("192.0.2.1", 9444), 0),
                KnownAddress(PeerAddress("192.0.2.2", 9444), 0),
            },
        )
        self.assertEqual(len(found), 2)

    async def test_names_take_turns(self) -> None:
        """Some at a time, in an order drawn at the start.  DSC-003"""
        names = [f"{letter}.test" for letter in "abcde"]
        source = self.seeds(*names)
        rounds = []
        for _ in range(5):
            self.server.asked.clear()
            self.assertEqual(await source.fetch(), [])
            rounds.append({name for name, _, _ in self.server.asked})
        self.assertEqual([len(asked) for asked in rounds], [2] * 5)
        self.assertEqual(rounds[0] | rounds[1] | rounds[2], set(names))
        orders = {
            tuple(DnsSeeds(names, 1, self.lookup, self.clock, random.Random(n),
                           batch_size=5, timeout=1)._batch())
            for n in range(20)
        }  # fmt: skip
        self.assertGreater(len(orders), 10)

    async def test_one_bad_name_spoils_nothing(self) -> None:
        """Each name has a time limit of its own.  DSC-003"""
        self.server.names["good.test"] = zone("good.test 60 A 192.0.2.1")
        self.server.names["silent.test"] = silent
        self.lookup = ServersLookup(self.clock, [self.server.address], (60.0,))
        found = await self.seeds(
            "good.test", "silent.test", "no.test", batch_size=3, timeout=0.2
        ).fetch()
        self.assertEqual(found, [KnownAddress(PeerAddress("192.0.2.1", 9444), 0)])

    async def test_no_names_are_no_failure(self) -> None:
        """A network may have none.  DSC-003"""
        self.assertEqual(await self.seeds().fetch(), [])

    async def test_cancelling_drops_every_question(self) -> None:
        """A node that stops does not wait for name servers.  DSC-006.4"""
        self.server.names["silent.test"] = silent
        fetching = self.seeds("silent.test", "other.test").fetch()
        fetching.cancel()
        with self.assertRaises(CancelledError):
            await fetching


class ResolverTests(SynchronousTestCase):
    """A resolver that the application injects."""

    def test_what_it_finds_is_found(self) -> None:
        """Duplicates and what is no address are dropped.  CFG-101-X"""
        resolver = FakeResolver("192.0.2.1", "fe80::1%eth0", "192.0.2.1", "name")
        found = self.successResultOf(ResolverLookup(resolver).addresses("seed.test"))
        self.assertEqual(found, ["192.0.2.1", "fe80::1"])

    def test_no_more_than_256_are_taken(self) -> None:
        """Whatever it says.  DSC-003"""
        hosts = [str(ipaddress.ip_address(0xC0000200 + n)) for n in range(257)]
        found = self.successResultOf(ResolverLookup(FakeResolver(*hosts)).addresses("seed.test"))
        self.assertEqual(found, hosts[:256])

    def test_cancelling_cancels_it(self) -> None:
        """The resolution in progress is told.  DSC-006.4"""
        resolver = FakeResolver("192.0.2.1", hangs=True)
        finding = ResolverLookup(resolver).addresses("seed.test")
        finding.cancel()
        self.failureResultOf(finding, CancelledError)
        self.assertEqual(resolver.cancelled, 1)

    def test_one_that_raises_is_a_failure(self) -> None:
        """A mistake of the application ends nothing.  CNC-103-X"""
        finding = ResolverLookup(FakeResolver()).addresses("broken.test")
        self.failureResultOf(finding, DiscoveryError)
