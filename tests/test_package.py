"""The shape of the package: who may import whom, and what no module does."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

import dig_gossip

ROOT = Path(dig_gossip.__file__).resolve().parent
PROJECT = ROOT.parent

#: From the bottom up: a module imports from its own layer and from those above it in this list.
#: A name stands for the module and for everything inside it; the longest match counts.
LAYERS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "values",
        frozenset({"_version", "constants", "errors", "types", "util.sanitize"}),
    ),
    ("wire", frozenset({"wire", "effects"})),
    # A new module of these packages counts as pure until it is listed below.
    (
        "engines",
        frozenset(
            {
                "connection",
                "discovery.address_manager",
                "discovery.anchors",
                "discovery.as_table",
                "discovery.asmap",
                "discovery.book_bytes",
                "discovery.chia_peers",
                "discovery.diversity",
                "discovery.interfaces",
                "discovery.introducer_protocol",
                "discovery.introducer_registry",
                "discovery.introducer_store",
                "discovery.networks",
                "discovery.peer_exchange",
                "discovery.planner",
                "discovery.seeding",
                "discovery.slots",
                "discovery.token_buckets",
                "discovery.values",
                "gossip",
                "portmap",
                "privacy",
                "relay",
                "tls.identity",
            }
        ),
    ),
    (
        "shells",
        frozenset(
            {
                "connection.ban_file",
                "connection.cast",
                "connection.dialer",
                "connection.endpoints",
                "connection.fast_frames",
                "connection.fast_tls",
                "connection.listener",
                "connection.observer",
                "connection.opening",
                "connection.peers",
                "connection.quiet",
                "connection.receive_budget",
                "connection.retirement",
                "connection.session",
                "connection.session_owner",
                "connection.socks_endpoint",
                "connection.stack",
                "connection.tls_inside",
                "connection.tls_sending",
                "connection.totals",
                "connection.tunneled",
                "connection.visit",
                "connection.waiter",
                "connection.websocket",
                "connection.writer",
                "discovery",
                "portmap.gateway_link",
                "portmap.igd",
                "portmap.mapper",
                "portmap.methods",
                "privacy.onion_service",
                "relay.client",
                "relay.former",
                "relay.hub",
                "relay.puncher",
                "relay.server",
                "relay.transport",
                "relay.websocket",
                "tls",
                "util",
            }
        ),
    ),
    ("service", frozenset({"service"})),
    (
        "programs",
        frozenset(
            {
                "",
                "cli",
                "config_file",
                "introducer_tap",
                "lab",
                "relay_tap",
                "tap",
                "testing",
            }
        ),
    ),
)
PURE = frozenset({"values", "wire", "engines"})

#: What no pure module may reach, not even through another module of ours.
IMPURE_IMPORTS = (
    "OpenSSL", "asyncio", "autobahn", "select", "socket", "threading", "time", "treq", "twisted",
    "txaio",
)  # fmt: skip
PURE_EXCEPTIONS = frozenset({"twisted.internet.interfaces", "twisted.internet.address"})

MAX_LINES = 600

#: Where a third-party import comes from, if the distribution has another name.
DISTRIBUTIONS = {
    "_nvx_xormasker": "autobahn",  # its compiled accelerator
    "OpenSSL": "pyopenssl",
    "attr": "attrs",
    "chia_wallet_sdk": "chia-wallet-sdk",
    "txaio": "autobahn",
    "zope": "twisted",
}


class Import(NamedTuple):
    """One import statement.

    :ivar target: the module, fully qualified; a name taken from it only if that is a module too.
    :ivar is_lazy: inside a function: it happens when the function runs.
    :ivar is_typing: under ``if TYPE_CHECKING``: it never happens.
    """

    target: str
    line: int
    is_lazy: bool
    is_typing: bool


def module_name(path: Path) -> str:
    """``dig_gossip/wire/message.py`` is ``wire.message``; the root package is ``""``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    """All modules of the package, parsed, by name."""
    paths = [path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts]
    return {module_name(path): ast.parse(path.read_bytes(), str(path)) for path in sorted(paths)}


def is_type_checking(node: ast.If) -> bool:
    """Whether an ``if`` asks for TYPE_CHECKING."""
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(
    node: ast.AST, *, is_lazy: bool = False, is_typing: bool = False
) -> Iterator[tuple[ast.AST, bool, bool]]:
    """Walk a tree, remembering whether a node is in a function and whether it ever runs."""
    yield node, is_lazy, is_typing
    lazy = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for name, value in ast.iter_fields(node):
        typing = is_typing or (
            isinstance(node, ast.If) and is_type_checking(node) and name == "body"
        )
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from nodes(child, is_lazy=lazy, is_typing=typing)


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Every import of a module."""
    found = []
    for node, is_lazy, is_typing in nodes(modules()[name]):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{name}: a relative import"
            targets = [
                f"{node.module}.{alias.name}"
                if is_ours(f"{node.module}.{alias.name}")
                or node.module in ("twisted", "twisted.internet")
                else node.module
                for alias in node.names
            ]
        else:
            continue
        found += [Import(target, node.lineno, is_lazy, is_typing) for target in targets]
    return tuple(found)


def is_ours(target: str) -> bool:
    """Whether a qualified name is a module of this package."""
    return target == "dig_gossip" or (
        target.startswith("dig_gossip.") and target.removeprefix("dig_gossip.") in modules()
    )


def ours(name: str, *, typing: bool) -> list[str]:
    """The modules of this package that one of them imports.

    :param typing: whether those under ``if TYPE_CHECKING`` count.
    """
    return [
        found.target.removeprefix("dig_gossip").removeprefix(".")
        for found in imports(name)
        if is_ours(found.target) and (typing or not found.is_typing)
    ]


def layer(name: str) -> int:
    """The index of a module's layer; -1 if it is in none."""
    candidate = name
    while candidate:
        for index, (_, members) in enumerate(LAYERS):
            if candidate in members:
                return index
        candidate = candidate.rpartition(".")[0]
    return len(LAYERS) - 1 if name == "" else -1


def closure(name: str) -> set[str]:
    """A module and everything of ours that importing or using it brings in."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting += ours(current, typing=False)
    return reached


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of attributes; "" for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


class ImportTests(SynchronousTestCase):
    """The import graph."""

    def test_every_module_belongs_to_a_layer(self) -> None:
        """A new module must be put somewhere in the table.  style §2"""
        self.assertEqual([name for name in modules() if layer(name) < 0], [])

    def test_table_names_only_what_exists(self) -> None:
        """A renamed module cannot fall out of the rules unnoticed.  style §2"""
        named = {name for _, members in LAYERS for name in members}
        self.assertEqual(named - set(modules()), set())

    def test_imports_go_downwards(self) -> None:
        """No module imports from a layer above its own, not even for types.  style §2"""
        wrong = [
            f"{name} ({LAYERS[layer(name)][0]}) imports {target} ({LAYERS[layer(target)][0]})"
            for name in modules()
            for target in ours(name, typing=True)
            if layer(target) > layer(name)
        ]
        self.assertEqual(wrong, [])

    def test_nothing_is_imported_in_a_circle(self) -> None:
        """Any module can be the first one imported.  style §2"""
        state: dict[str, bool] = {}  # True while on the path
        path: list[str] = []

        def visit(name: str) -> None:
            if state.get(name):
                self.fail(" -> ".join([*path[path.index(name) :], name]))
            if name in state:
                return
            state[name] = True
            path.append(name)
            for found in imports(name):
                if is_ours(found.target) and not found.is_typing and not found.is_lazy:
                    visit(found.target.removeprefix("dig_gossip").removeprefix("."))
            path.pop()
            state[name] = False

        for name in modules():
            visit(name)

    def test_pure_modules_reach_no_input_or_output(self) -> None:
        """Engines know no reactor, socket, clock or library that does.  style §2, design D1"""
        wrong = []
        for name in modules():
            if LAYERS[layer(name)][0] not in PURE:
                continue
            for member in closure(name):
                for found in imports(member):
                    if (
                        found.target.partition(".")[0] in IMPURE_IMPORTS
                        and found.target not in PURE_EXCEPTIONS
                        and not found.is_typing
                    ):
                        wrong.append(f"{name} reaches {found.target} at {member}:{found.line}")
        self.assertEqual(wrong, [])

    def test_importing_everything_installs_no_reactor(self) -> None:
        """An application chooses its reactor after importing us.  style §6.2"""
        names = [f"dig_gossip.{name}".rstrip(".") for name in modules()]
        program = (
            "import importlib, sys\n"
            f"for name in {[*names, 'twisted.plugins.dig_gossip_plugin']!r}:\n"
            "    importlib.import_module(name)\n"
            "print('twisted.internet.reactor' in sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True
        )
        self.assertEqual((done.stdout, done.stderr), ("False\n", ""))

    def test_plugin_file_imports_only_what_it_needs(self) -> None:
        """A plugin that installs a reactor breaks ``twistd --reactor``.  style §9"""
        path = PROJECT / "twisted" / "plugins" / "dig_gossip_plugin.py"
        tree = ast.parse(path.read_bytes())
        found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        self.assertEqual(
            [ast.unparse(node) for node in found],
            ["from twisted.application.service import ServiceMaker"],
        )

    def test_every_dependency_is_declared(self) -> None:
        """Every import is a requirement, or an extra if it happens lazily.  style §9"""
        setup = configparser.ConfigParser()
        setup.read(PROJECT / "setup.cfg")
        required = distributions(setup["options"]["install_requires"])
        extras = distributions("\n".join(setup["options.extras_require"].values()))
        undeclared = set()
        used = set()
        for name in modules():
            for found in imports(name):
                top = found.target.partition(".")[0]
                if top in sys.stdlib_module_names or top == "dig_gossip":
                    continue
                distribution = DISTRIBUTIONS.get(top, top)
                used.add(distribution)
                allowed = required | extras if found.is_lazy or found.is_typing else required
                if distribution not in allowed:
                    undeclared.add(f"{name}:{found.line} {top}")
        self.assertEqual(undeclared, set())
        # Twisted needs this one for its TLS endpoints.
        self.assertEqual(required - used, {"service-identity"})


def distributions(lines: str) -> set[str]:
    """The names in a list of requirements."""
    names = set()
    for line in lines.splitlines():
        text = line.partition("#")[0].strip()
        if text:
            names.add(text.replace("[", " ").replace(">", " ").split()[0])
    return names


class HouseRuleTests(SynchronousTestCase):
    """What no module does."""

    def offenders(self, message: str, *, allowed: tuple[str, ...] = ()) -> list[str]:
        """Where a rule is broken, except in the modules that are allowed to."""
        return [
            f"{name or '__init__'}:{line}"
            for name in modules()
            if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)
            for line, rule in offenses(name)
            if rule == message
        ]

    def test_nothing_is_dialed_or_asked_but_where_tor_is_thought_of(self) -> None:
        """Whatever makes connections must go through ``Routes``, or be known here.  TOR-101-X"""
        ways = {
            "TCP4ClientEndpoint", "TCP6ClientEndpoint", "HostnameEndpoint", "UNIXClientEndpoint",
            "clientFromString", "client_endpoint", "shared_endpoint", "connectTCP", "connectSSL",
            "connectUNIX", "listenUDP", "listenMulticast", "getaddrinfo", "gethostbyname",
            "create_connection", "getHostByName", "resolveHostName", "Agent",
        }  # fmt: skip
        known = {
            "connection.endpoints": "the place where the choice is made",
            "discovery.dns_https": "makes its connections through routed_https, with Tor alone",
            "discovery.dns_lookup": "not made with Tor alone: discovery.make_lookup",
            "portmap.gateway_link": "not made with Tor alone: GossipConfig.used_port_mapping",
            "privacy.onion_service": "the control port of our own Tor",
            "relay.client": "asks Routes first",
            "relay.puncher": "not begun with Tor alone: service.relaying",
            "relay.server": "a program of its own",
        }
        found = {
            name
            for name, tree in modules().items()
            for node in ast.walk(tree)
            if not name.startswith(("testing", "cli"))
            and (
                (isinstance(node, ast.Name) and node.id in ways)
                or (isinstance(node, ast.Attribute) and node.attr in ways)
            )
        }
        self.assertEqual(found, set(known))

    def test_nothing_sleeps(self) -> None:
        """A sleep would stop every peer of the process.  CNC-101-X"""
        self.assertEqual(self.offenders("sleep"), [])

    def test_no_module_imports_the_reactor_when_imported(self) -> None:
        """The reactor is injected, or imported inside a function.  style §6.2"""
        self.assertEqual(self.offenders("reactor"), [])

    def test_no_shared_randomness(self) -> None:
        """Autobahn seeds the shared generator with the time: nobody draws from it.  CNC-105-X"""
        self.assertEqual(self.offenders("random"), [])

    def test_only_the_clock_asks_for_the_time(self) -> None:
        """Logic sees an injected clock; the figures of ``localnet`` are real time.  design D8"""
        self.assertEqual(self.offenders("time", allowed=("util.clock", "cli")), [])

    def test_nobody_reads_the_reactor_s_wall_clock(self) -> None:
        """``reactor.seconds()`` jumps when the system's clock does.  design D8"""
        self.assertEqual(self.offenders("seconds", allowed=("testing",)), [])

    def test_only_commands_print(self) -> None:
        """A library's output is its log.  style §7.6"""
        self.assertEqual(self.offenders("print", allowed=("cli",)), [])

    def test_log_formats_are_constant(self) -> None:
        """Fields are named, not formatted in, and every record has its event.  style §7.6"""
        self.assertEqual(self.offenders("log format"), [])

    def test_modules_are_documented_and_short(self) -> None:
        """Each module says what it is for, and fits into a head.  style §7.5"""
        wrong = []
        for path in ROOT.rglob("*.py"):
            name = module_name(path)
            lines = path.read_text(encoding="utf-8").count("\n")
            if lines > MAX_LINES:
                wrong.append(f"{name}: {lines} lines")
            if modules()[name].body and not ast.get_docstring(modules()[name]):
                wrong.append(f"{name}: no docstring")
        self.assertEqual(wrong, [])

    def test_annotations_are_not_evaluated(self) -> None:
        """Every module that says anything begins with the future import.  style §3"""
        wrong = [
            name
            for name, tree in modules().items()
            if len(tree.body) > 1 and not any(f.target == "__future__" for f in imports(name))
        ]
        self.assertEqual(wrong, [])


@cache
def offenses(name: str) -> tuple[tuple[int, str], ...]:
    """The rules that a module breaks."""
    return tuple(broken_rules(modules()[name]))


def broken_rules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find the uses that the rules forbid, as (line, rule)."""
    for node, is_lazy, is_typing in nodes(tree):
        if is_typing:
            continue
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if node.module == "twisted.internet" and "reactor" in names and not is_lazy:
                yield node.lineno, "reactor"
            if node.module == "random" and names - {"Random", "SystemRandom"}:
                yield node.lineno, "random"
            if node.module == "time":
                yield node.lineno, "time"
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            if "twisted.internet.reactor" in names:
                yield node.lineno, "reactor"
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if name == "time.sleep":
                yield node.lineno, "sleep"
            elif name.startswith("random.") and name not in (
                "random.Random",
                "random.SystemRandom",
            ):
                yield node.lineno, "random"
            elif name.startswith("time."):
                yield node.lineno, "time"
            elif name.endswith("reactor.seconds"):
                yield node.lineno, "seconds"
        elif isinstance(node, ast.Call):
            if dotted(node.func) == "print":
                yield node.lineno, "print"
            elif is_logging(node) and not is_good_record(node):
                yield node.lineno, "log format"


def is_logging(node: ast.Call) -> bool:
    """Whether a call writes a log record."""
    owner, _, method = dotted(node.func).rpartition(".")
    return owner.endswith("_log") and method in (
        "debug", "info", "warn", "error", "critical", "failure",
    )  # fmt: skip


def is_good_record(node: ast.Call) -> bool:
    """Whether a log record has a constant format and the name of its event."""
    return (
        bool(node.args)
        and isinstance(node.args[0], ast.Constant)
        and any(
            keyword.arg == "event" and isinstance(keyword.value, ast.Constant)
            for keyword in node.keywords
        )
    )


class RuleCheckerTests(SynchronousTestCase):
    """The checker itself: each rule catches what it is for."""

    def rules(self, source: str) -> list[str]:
        """The rules that a program breaks."""
        return [rule for _, rule in broken_rules(ast.parse(source))]

    def test_offenses_are_found(self) -> None:
        """One program for each rule.  style §6.2"""
        for source, rule in {
            "import time\ntime.sleep(1)": "sleep",
            "from twisted.internet import reactor": "reactor",
            "if x:\n from twisted.internet import defer, reactor": "reactor",
            "def f():\n import twisted.internet.reactor": "reactor",
            "import random\nrandom.random()": "random",
            "from random import choice": "random",
            "f(default=time.time)": "time",
            "from time import monotonic": "time",
            "self._clock.reactor.seconds()": "seconds",
            "print('x')": "print",
            "self._log.info(f'{x}', event='x')": "log format",
            "self._log.info('x')": "log format",
        }.items():
            self.assertEqual(self.rules(source), [rule], source)

    def test_allowed_uses_pass(self) -> None:
        """What looks similar and is fine.  style §6.2"""
        for source in (
            "def f():\n from twisted.internet import reactor",
            "if TYPE_CHECKING:\n from twisted.internet import reactor",
            "rng: random.Random = random.SystemRandom()",
            "from random import Random",
            "self._rng.random()",
            "self._now()",
            "self._log.info('{x}', event='x', x=1)",
        ):
            self.assertEqual(self.rules(source), [], source)

    def test_layers_are_found_by_the_longest_name(self) -> None:
        """A module named in the table leaves the layer of its package.  style §2"""
        named = {name: LAYERS[layer(name)][0] for name in ("tls.identity", "tls.context", "")}
        self.assertEqual(
            named, {"tls.identity": "engines", "tls.context": "shells", "": "programs"}
        )
        self.assertEqual(layer("nowhere"), -1)


class PublicNameTests(SynchronousTestCase):
    """``dig_gossip`` as applications see it."""

    def test_every_public_name_resolves_and_is_listed_once(self) -> None:
        """``__all__`` promises nothing that is not there.  INT-013"""
        names = dig_gossip.__all__
        self.assertEqual([name for name in names if not hasattr(dig_gossip, name)], [])
        self.assertEqual(len(names), len(set(names)))

    def test_names_of_the_seed_are_public(self) -> None:
        """What the README uses, and every error and type of the API, is at the top.  INT-013"""
        expected = {
            "GossipConfig", "GossipError", "GossipHandle", "GossipService", "GossipStats",
            "IntroducerConfig", "RelayConfig", "DandelionConfig", "PeerIdRotationConfig",
            "TorConfig", "ErlayConfig", "BackpressureConfig", "PeerOptions", "Network",
            "PeerConnection", "PeerId", "PeerInfo", "PeerReputation", "PenaltyReason",
            "RelayStats", "DigMessageType", "Message", "NodeType",
            "ClientError", "ServiceNotStarted", "AlreadyStarted", "PeerBanned",
            "DuplicateConnection", "MaxConnectionsReached", "SelfConnection",
            "ConnectionFiltered", "DiscoveryError", "RelayError", "ChannelClosed", "Io",
        }  # fmt: skip
        self.assertEqual(expected - set(dig_gossip.__all__), set())

    def test_every_error_is_public(self) -> None:
        """An application can catch each error by name.  API-004"""
        from dig_gossip import errors

        defined = {
            name
            for name, value in vars(errors).items()
            if isinstance(value, type)
            and issubclass(value, errors.GossipError)
            and not name.startswith("_")
        }
        self.assertEqual(defined - set(dig_gossip.__all__), set())

    def test_types_are_shipped(self) -> None:
        """Type checkers believe the annotations of an installed package.  style §7.4"""
        self.assertTrue((ROOT / "py.typed").exists())
