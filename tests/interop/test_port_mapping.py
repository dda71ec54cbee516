"""A real gateway, Debian's miniupnpd in a network namespace, and nodes behind it and before it."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from dig_gossip.portmap.igd import has_miniupnpc
from tests.interop.processes import only_by_make_interop
from tests.interop.test_nat import PROJECT, RIG, check_laboratory

PROGRAM = "tests.interop.mapped_node"
PATIENCE_SECS = 60.0

#: Where miniupnpd puts its rules; the laboratory's own NAT lets in what they translate.
CHAINS = """
table inet filter {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain c_fwd { type filter hook forward priority -5; jump miniupnpd; }
  chain c_pre { type nat hook prerouting priority -105; jump prerouting_miniupnpd; }
  chain c_post { type nat hook postrouting priority 95; jump postrouting_miniupnpd; }
}
"""


class Program:
    """A process in the laboratory that prints JSON lines."""

    def __init__(self, lab: Any, where: str, *arguments: str) -> None:
        command = f"cd {PROJECT} && exec {sys.executable} -m {PROGRAM} {' '.join(arguments)}"
        self.process = lab.popen(where, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said: list[str] = []
        self._rest = b""

    def event(self, name: str) -> dict[str, Any]:
        """The next event of a name, whatever comes before it."""
        end = time.monotonic() + PATIENCE_SECS
        while True:
            line = self._line(end)
            fields = json.loads(line) if line.startswith("{") else {}
            if fields.get("event") == name:
                return dict(fields)
            if fields.get("event") == "mistake":
                self._fail("a mistake")

    def end(self) -> None:
        """Stop it in order."""
        self.process.terminate()
        self.event("node_stopped")
        self.process.wait(PATIENCE_SECS)

    def _line(self, end: float) -> str:
        output = self.process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([output], [], [], max(0.0, end - time.monotonic()))[0]:
                self._fail("nothing more comes")
            more = os.read(output, 65536)
            if not more:
                self._fail("it has ended")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        self.said.append(line.decode())
        return self.said[-1]

    def _fail(self, reason: str) -> None:
        said = "\n".join(self.said)
        raise AssertionError(f"{reason}; it said:\n{said}\n{self._rest.decode()}")


class Gateway:
    """miniupnpd on the NAT of site A; it starts with an empty table and an age of 0."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self._lab = lab
        self._folder = folder
        self._process: Any = None
        self._inside("nft", "-f", "-", stdin=CHAINS)

    def start(self, external: str, *, natpmp: str = "yes") -> None:
        """Begin to map, from an external address; by UPnP alone without NAT-PMP and PCP."""
        settings = self._folder / "miniupnpd.conf"
        settings.write_text(
            f"ext_ifname=wan\next_ip={external}\nlistening_ip=lan\nhttp_port=0\n"
            f"enable_natpmp={natpmp}\nenable_upnp=yes\nsecure_mode=yes\nmin_lifetime=10\n"
            "uuid=00000000-0000-4000-8000-000000000001\n"
            "allow 1024-65535 192.168.0.0/16 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        )
        with open(self._folder / "miniupnpd.log", "ab") as log:
            pid = str(self._folder / "miniupnpd.pid")
            command = [miniupnpd(), "-d", "-f", str(settings), "-P", pid]
            self._process = self._lab.popen("na", command, stdout=log, stderr=log)

    def stop(self) -> None:
        """End, and forget everything."""
        self._process.terminate()
        self._process.wait(PATIENCE_SECS)
        for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
            self._inside("nft", "flush", "chain", "inet", "filter", chain)

    def add_address(self, address: str) -> None:
        """Give the NAT one more public address."""
        self._inside("ip", "addr", "add", f"{address}/8", "dev", "wan")

    def targets(self) -> list[str]:
        """Where mapped ports lead."""
        table = self._inside("nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd")
        return [line.rpartition(" ")[2] for line in table.splitlines() if "dnat" in line]

    def _inside(self, *command: str, stdin: str | None = None) -> str:
        space = self._lab.ns["na"]
        done = subprocess.run(
            ["ip", "netns", "exec", space, *command],
            input=stdin, capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return done.stdout


def miniupnpd() -> str:
    """The program; a package puts it where only root looks."""
    return shutil.which("miniupnpd") or "/usr/sbin/miniupnpd"


def laboratory(**options: Any) -> Any:
    """The network: a NAT that lets nothing in of itself, and public hosts."""
    check_laboratory()
    if not os.path.exists(miniupnpd()):
        raise SkipTest("there is no miniupnpd: apt-get install miniupnpd-nftables")
    spec = importlib.util.spec_from_file_location("nat_lab", RIG)
    assert spec is not None
    assert spec.loader is not None
    rig = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rig)
    return rig.Lab(nat_a="symmetric", nat_b="public", **options)


class PortMappingTests(TestCase):
    """What a real gateway maps, others can dial."""

    timeout = 300

    def setUp(self) -> None:
        only_by_make_interop()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def dialed(self, lab: Any, mapped: dict[str, Any]) -> None:
        """A node on the internet connects to the address, and finds the port in the greeting."""
        found = Program(lab, "p1", "dial", mapped["address"]).event("found")
        self.assertEqual(found["server_port"], int(mapped["address"].rpartition(":")[2]))

    def one(self, method: str) -> None:
        """A node gets its port by one protocol, is dialed there, and gives it back."""
        with laboratory() as lab:
            gateway = Gateway(lab, self.folder)
            gateway.start(lab.addr["nat_a"])
            node = Program(lab, "a", "serve", method)
            mapped = node.event("port_mapped")
            self.assertEqual(mapped["method"], method)
            self.assertEqual(mapped["address"], f"{lab.addr['nat_a']}:9444")
            self.assertEqual(gateway.targets(), [f"{lab.addr['a']}:9444"])
            self.dialed(lab, mapped)
            node.end()
            self.assertEqual(gateway.targets(), [])

    def only_upnp(self) -> None:
        """Nothing listens where PCP and NAT-PMP are asked."""
        with laboratory() as lab:
            Gateway(lab, self.folder).start(lab.addr["nat_a"], natpmp="no")
            mapped = Program(lab, "a", "serve", "auto").event("port_mapped")
            self.assertEqual(mapped["method"], "upnp")
            self.dialed(lab, mapped)

    def two(self) -> None:
        """Two nodes behind one NAT both want port 9444."""
        with laboratory(lan_hosts=2) as lab:
            gateway = Gateway(lab, self.folder)
            gateway.start(lab.addr["nat_a"])
            nodes = [Program(lab, where, "serve", "auto") for where in ("a", "a2")]
            mapped = [node.event("port_mapped") for node in nodes]
            self.assertEqual(len({fields["address"] for fields in mapped}), 2)
            for fields in mapped:
                self.assertEqual(fields["method"], "pcp")
                self.dialed(lab, fields)

    def moved(self, method: str) -> None:
        """The gateway starts anew, with nothing in its table and another address."""
        with laboratory() as lab:
            gateway = Gateway(lab, self.folder)
            gateway.start(lab.addr["nat_a"])
            node = Program(lab, "a", "serve", method)
            node.event("port_mapped")
            gateway.stop()
            gateway.add_address("11.100.0.9")
            gateway.start("11.100.0.9")
            mapped = node.event("port_mapped")
            self.assertEqual(mapped["address"], "11.100.0.9:9444")
            self.dialed(lab, mapped)

    def run_here(self, function: Callable[..., None], *arguments: str) -> Deferred[None]:
        """Run in a thread: it waits for other programs."""
        return deferToThread(function, *arguments)

    def test_pcp(self) -> Deferred[None]:
        """A port by PCP.  behaviour §29"""
        return self.run_here(self.one, "pcp")

    def test_nat_pmp(self) -> Deferred[None]:
        """A port by NAT-PMP.  behaviour §29"""
        return self.run_here(self.one, "nat-pmp")

    def test_upnp(self) -> Deferred[None]:
        """A port by UPnP.  behaviour §29, design D17"""
        if not has_miniupnpc():
            raise SkipTest("miniupnpc is not installed: pip install dig-gossip[upnp]")
        return self.run_here(self.one, "upnp")

    def test_auto_gets_to_upnp(self) -> Deferred[None]:
        """A gateway whose port for the others is closed.  behaviour §29, design D17"""
        if not has_miniupnpc():
            raise SkipTest("miniupnpc is not installed: pip install dig-gossip[upnp]")
        return self.run_here(self.only_upnp)

    def test_two_nodes_behind_one_gateway(self) -> Deferred[None]:
        """Each gets a port of its own, and tells that one.  behaviour §29"""
        return self.run_here(self.two)

    def test_pcp_after_a_restart(self) -> Deferred[None]:
        """The node has a port again, and tells the new address.  behaviour §29"""
        return self.run_here(self.moved, "pcp")

    def test_nat_pmp_after_a_restart(self) -> Deferred[None]:
        """The same.  behaviour §29; RFC 6886 §3.6"""
        return self.run_here(self.moved, "nat-pmp")
