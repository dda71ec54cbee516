"""UPnP devices, with an object in the place of miniupnpc's."""

from __future__ import annotations

import random
import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dig_gossip.portmap import igd
from dig_gossip.portmap.igd import Igd
from dig_gossip.portmap.values import LIFETIME_SECS, Mapping, MappingFailed
from dig_gossip.testing.clock import SimulatedClock
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.deferreds import handled

OURS = "192.168.1.2"
GATEWAY = "192.168.1.1"


class FakeUpnp:
    """What miniupnpc shows of a device.

    :ivar rows: what is mapped, by external port: host, port, lifetime.
    :ivar taken: ports that others have.
    """

    lanaddr = OURS

    def __init__(self) -> None:
        self.devices = 1
        self.url = f"http://{GATEWAY}:5000/rootDesc.xml"
        self.external = "77.1.2.3"
        self.rows: dict[int, tuple[str, int, int]] = {}
        self.taken: set[int] = set()
        self.error = ""
        self.only_permanent = False
        self.discoveries = 0

    def discover(self) -> int:
        self.discoveries += 1
        if not self.devices:
            raise Exception("Success")  # that is what it does
        return self.devices

    def selectigd(self) -> str:
        return self.url

    def externalipaddress(self) -> str:
        return self.external

    def addportmapping(
        self, way: int, protocol: str, host: str, port: int, text: str, remote: str, lifetime: int
    ) -> bool:
        if self.error:
            raise Exception(self.error)
        if way in self.taken:
            raise Exception("ConflictInMappingEntry")
        if lifetime and self.only_permanent:
            raise Exception("OnlyPermanentLeasesSupported")
        assert (protocol, remote) == ("TCP", "")
        self.rows[way] = (host, port, lifetime)
        return True

    def getspecificportmapping(
        self, way: int, protocol: str
    ) -> tuple[str, int, str, bool, int] | None:
        assert protocol == "TCP"
        if way not in self.rows:
            return None
        host, port, lifetime = self.rows[way]
        return host, port, "dig-gossip", True, lifetime

    def deleteportmapping(self, way: int, protocol: str) -> bool:
        assert protocol == "TCP"
        if self.error:
            raise Exception(self.error)
        del self.rows[way]
        return True


class IgdTests(SynchronousTestCase):
    """One device."""

    def setUp(self) -> None:
        self.upnp = FakeUpnp()
        self.patch(igd, "_make_upnp", lambda: self.upnp)
        self.igd = self.make()

    def make(
        self, *, gateway: str | None = GATEWAY, host: str = OURS, suggested: int = 9444
    ) -> Igd:
        """The way to that device."""
        return Igd(SimulatedClock(), gateway, host, 9444, suggested, random.Random(1))

    def map(self) -> Mapping:
        """Make or renew the mapping."""
        return self.successResultOf(Deferred.fromCoroutine(self.igd.map()))

    def refusal(self) -> str:
        """Why there is no mapping."""
        failure = self.failureResultOf(Deferred.fromCoroutine(self.igd.map()), MappingFailed)
        return str(failure.value)

    def is_intact(self) -> bool:
        """Look at it."""
        return self.successResultOf(Deferred.fromCoroutine(self.igd.is_intact()))

    def release(self) -> None:
        """Remove it."""
        self.successResultOf(Deferred.fromCoroutine(self.igd.release()))

    def test_a_port_is_mapped_and_removed(self) -> None:
        """For two hours, to our address.  behaviour §29"""
        self.assertEqual(
            self.map(),
            Mapping(method="upnp", external=PeerAddress("77.1.2.3", 9444), lifetime=LIFETIME_SECS),
        )
        self.assertEqual(self.upnp.rows, {9444: (OURS, 9444, LIFETIME_SECS)})
        self.release()
        self.assertEqual(self.upnp.rows, {})
        self.release()

    def test_nothing_is_removed_that_was_not_made(self) -> None:
        """Somebody else may have the port.  behaviour §29"""
        self.upnp.rows[9444] = ("192.168.1.7", 9444, 0)
        self.release()
        self.upnp.taken = set(range(65536))
        self.assertEqual(self.refusal(), "the ports that we asked for are taken")
        self.release()
        self.assertEqual(self.upnp.rows, {9444: ("192.168.1.7", 9444, 0)})

    def test_a_port_that_is_taken_is_left_to_its_owner(self) -> None:
        """Another one is drawn, and kept from then on.  behaviour §29"""
        self.upnp.taken = {9444}
        first = self.map().external.port
        self.assertNotEqual(first, 9444)
        self.upnp.taken = set()
        self.assertEqual(self.map().external.port, first)
        self.assertEqual(list(self.upnp.rows), [first])

    def test_devices_without_leases_get_a_permanent_one(self) -> None:
        """It is removed at the end all the same.  behaviour §29; WANIPConnection:1 error 725"""
        self.upnp.only_permanent = True
        self.assertEqual(self.map().lifetime, LIFETIME_SECS)
        self.assertEqual(self.upnp.rows, {9444: (OURS, 9444, 0)})
        self.release()
        self.assertEqual(self.upnp.rows, {})

    def test_a_mapping_is_looked_at(self) -> None:
        """It may be gone, be another's, or lead from another address.  behaviour §29"""
        self.map()
        self.assertTrue(self.is_intact())
        self.upnp.external = "77.4.5.6"
        self.assertFalse(self.is_intact())
        self.assertEqual(self.map().external.host, "77.4.5.6")
        self.assertTrue(self.is_intact())
        self.upnp.rows[9444] = ("192.168.1.7", 9444, 0)
        self.assertFalse(self.is_intact())
        del self.upnp.rows[9444]
        self.assertFalse(self.is_intact())

    def test_only_the_gateway_is_a_device(self) -> None:
        """Anybody in the network can answer; where the gateway is unknown, anybody may.  D14"""
        self.upnp.url = "http://192.168.1.66:80/rootDesc.xml"
        self.assertEqual(self.refusal(), f"the device at 192.168.1.66 is not the gateway {GATEWAY}")
        self.assertEqual(self.upnp.rows, {})
        self.igd = self.make(gateway=None, host="")
        self.map()
        self.assertEqual(self.upnp.rows, {9444: (OURS, 9444, LIFETIME_SECS)})

    def test_what_a_device_says_is_checked(self) -> None:
        """An external address is an address, and a text has no control characters.  D14"""
        for host in ("", "None", "::1", "77.1.2.3.4", "077.1.2.3", "\x1b[2J"):
            self.upnp.external = host
            self.assertTrue(self.refusal().startswith("the external address is no IPv4 address"))
        self.upnp.error = "no\nway\x1b"
        self.assertFalse(set("\n\x1b") & set(self.refusal()))

    def test_a_device_is_looked_for_again_after_a_failure(self) -> None:
        """It may have another URL; while all goes well it is asked where it is.  behaviour §29"""
        self.upnp.devices = 0
        self.assertEqual(self.refusal(), "no device answers")
        self.upnp.devices = 1
        self.map()
        self.map()
        self.assertEqual(self.upnp.discoveries, 2)
        self.upnp.error = "HTTP error"
        self.assertEqual(self.refusal(), "the gateway says: HTTP error")
        self.upnp.error = ""
        self.map()
        self.assertEqual(self.upnp.discoveries, 3)

    def test_a_removal_that_fails_is_told(self) -> None:
        """Then the lease has to end by itself.  behaviour §29"""
        self.map()
        self.upnp.error = "NoSuchEntryInArray"
        self.failureResultOf(Deferred.fromCoroutine(self.igd.release()), MappingFailed)


class ThreadTests(TestCase):
    """In real threads."""

    timeout = 30

    async def _interrupted(self) -> None:
        upnp = FakeUpnp()
        entered: Deferred[None] = Deferred()
        may_go = threading.Event()
        add = upnp.addportmapping
        turns: list[str] = []

        def slow(*args: Any) -> bool:
            turns.append("begin")
            reactor.callFromThread(entered.callback, None)  # type: ignore[attr-defined]
            may_go.wait(20)
            turns.append("end")
            return add(*args)

        def delete(*args: Any) -> bool:
            turns.append("delete")
            return FakeUpnp.deleteportmapping(upnp, *args)

        upnp.addportmapping = slow  # type: ignore[method-assign,assignment]
        upnp.deleteportmapping = delete  # type: ignore[method-assign,assignment]
        self.patch(igd, "_make_upnp", lambda: upnp)
        way = Igd(reactor, GATEWAY, OURS, 9444, 9444, random.Random(1))
        mapping = Deferred.fromCoroutine(way.map())
        handled(mapping.addErrback(lambda failure: None))
        await entered
        mapping.cancel()
        releasing = Deferred.fromCoroutine(way.release())
        may_go.set()
        await releasing
        self.assertEqual((turns, upnp.rows), (["begin", "end", "delete"], {}))

    def test_what_a_thread_still_does_is_undone(self) -> None:
        """A node may stop in the middle of a call, which cannot be broken off.  CNC-101-X"""
        return Deferred.fromCoroutine(self._interrupted())  # type: ignore[return-value]
