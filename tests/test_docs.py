"""The documentation says what is true: examples run, catalogs are complete, pages build."""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import subprocess
import sys
import textwrap
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

import dig_gossip
from dig_gossip.config_file import load_config

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = Path(dig_gossip.__file__).resolve().parent
DOCS = PROJECT / "docs"
EXAMPLES = PROJECT / "examples"
#: Examples that are programs, with what they print; of lines that differ from run to run, a part.
PROGRAMS = {
    "embed": [": hello"],
    "subscribe": ["the slow subscription lost 44 messages and goes on with 44"],
    "ask": ["the peak is at 1234", "no answer to the second question"],
    "validate": ["good came through; the sender has 50 points"],
    "threads": ["message 0", "message 1", "message 2", "the thread has counted 3"],
    "asyncio_app": ["hello"],
}
#: Run below in ways of their own, or not programs.
OTHERS = {"application", "chia_blocks", "pair", "test_in_memory"}


def page(name: str) -> str:
    """The source of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def sources() -> list[tuple[str, str]]:
    """Names and texts of the package's modules."""
    return [
        (str(path.relative_to(PACKAGE)), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "__pycache__" not in path.parts
    ]


class DocsCase(SynchronousTestCase):
    """Needs the documentation's sources, which an installed package does not have."""

    def setUp(self) -> None:
        if not DOCS.exists():
            raise SkipTest("the documentation's sources are absent")
        self.patch(sys, "path", [str(DOCS), *sys.path])


class ReadmeTests(DocsCase):
    """README.rst."""

    def setUp(self) -> None:
        super().setUp()
        self.readme = (PROJECT / "README.rst").read_text(encoding="utf-8")

    def test_embedding_example_is_the_file(self) -> None:
        """What the README shows is what the tests run.  style §9"""
        block = self.readme.partition(".. code-block:: python\n\n")[2]
        lines = []
        for line in block.splitlines():
            if line and not line.startswith("    "):
                break
            lines.append(line)
        shown = textwrap.dedent("\n".join(lines)).strip()
        self.assertEqual(shown, (EXAMPLES / "embed.py").read_text(encoding="utf-8").strip())

    def test_commands_exist(self) -> None:
        """What a newcomer copies is in the Makefile.  design §4"""
        makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
        for target in re.findall(r"make (\w+)", self.readme):
            self.assertRegex(makefile, rf"(?m)^{target}:", target)

    def test_files_exist(self) -> None:
        """Files that the README names are there.  style §9"""
        named = re.findall(r"``((?:docs|examples)/[\w/.]+\.(?:rst|py))``", self.readme)
        self.assertGreater(len(named), 3)
        self.assertEqual([name for name in named if not (PROJECT / name).exists()], [])


class ExampleTests(TestCase):
    """``examples/``, in this process and on real sockets."""

    timeout = 60

    def setUp(self) -> None:
        if not EXAMPLES.exists():
            raise SkipTest("the examples are absent")
        self.patch(sys, "path", [str(EXAMPLES), *sys.path])
        self.addCleanup(sys.modules.pop, "pair", None)

    async def check(self, name: str) -> None:
        """Run an example's ``main`` and compare what it prints."""
        namespace = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
        main: Callable[[object], Awaitable[None]] = namespace["main"]
        output = io.StringIO()
        self.patch(sys, "stdout", output)
        await main(reactor)
        printed, expected = output.getvalue().splitlines(), PROGRAMS[name]
        self.assertEqual(len(printed), len(expected), printed)
        for line, part in zip(printed, expected, strict=True):
            self.assertIn(part, line)

    def test_every_example_is_run(self) -> None:
        """A new example cannot be forgotten.  style §9"""
        found = {path.stem for path in EXAMPLES.glob("*.py")}
        self.assertEqual(found, {*PROGRAMS, *OTHERS})

    async def test_embed(self) -> None:
        """Two nodes; one broadcasts, the other receives.  INT-015"""
        await self.check("embed")

    async def test_subscribe(self) -> None:
        """A slow subscription loses its oldest messages, a fast one nothing.  API-002.3"""
        await self.check("subscribe")

    async def test_ask(self) -> None:
        """A request is answered; another one times out.  API-002.7"""
        await self.check("ask")

    async def test_validate(self) -> None:
        """A validator ignores, rejects and accepts.  PLT-104-X"""
        await self.check("validate")

    async def test_threads(self) -> None:
        """A thread uses the node and waits for results.  CNC-001"""
        await self.check("threads")

    async def test_application(self) -> None:
        """A node as a child of a service, with a service that reads from it.  design §3"""
        namespace = runpy.run_path(str(EXAMPLES / "application.py"))
        config = dig_gossip.GossipConfig(listen_addr="127.0.0.1:0", peers_file_path="")
        parent: Any = namespace["make_service"](config)
        node, attestations = parent
        parent.startService()
        other = dig_gossip.GossipService(config)
        await other.start()
        await other.handle.connect_to(node.listen_address)
        inbound = node.handle.inbound_receiver()
        await other.handle.broadcast(dig_gossip.Message(200, None, b"one"))
        await inbound.get()
        self.assertEqual(attestations.count, 1)
        await other.stop()
        await parent.stopService()

    def test_embed_and_asyncio_run_as_programs(self) -> None:
        """As copied from the documentation, also under the asyncio reactor.  style §6.2"""
        for name in ("embed", "asyncio_app"):
            done = subprocess.run(
                [sys.executable, str(EXAMPLES / f"{name}.py")],
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                cwd=os.curdir,
                capture_output=True,
                text=True,
            )
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(PROGRAMS[name][0], done.stdout)

    def test_test_in_memory_passes(self) -> None:
        """The test of the embedding guide is one that passes.  STR-005"""
        namespace = runpy.run_path(str(EXAMPLES / "test_in_memory.py"), run_name="example")
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(namespace["ChainTests"])
        result = unittest.TestResult()
        suite.run(result)
        self.assertEqual((result.testsRun, result.errors, result.failures), (2, [], []))

    def test_configuration_file_is_valid(self) -> None:
        """The file of the operator's guide can be used.  design §4"""
        config = load_config(str(EXAMPLES / "node.toml"))
        self.assertEqual(config.max_connections, 100)
        self.assertEqual(config.plumtree.cache_bytes, 128 * 1024**2)


class CatalogTests(DocsCase):
    """Pages that list what the code has."""

    def test_log_events_are_those_of_the_code(self) -> None:
        """Every event is in the catalog, with its level and fields, and no other is.  style §7.6"""
        listed = {}
        rows = page("logging.rst").partition("Events\n------")[2]
        for row in re.findall(r"   \* - ``(\w+)``\n((?:     .*\n)+)", rows):
            name, cells = row
            level, fields, _when = re.split(r"(?m)^     - ?", cells)[1:]
            listed[name] = (level.strip(), frozenset(re.findall(r"``(\w+)``", fields)))
        found = self.events()
        self.assertEqual(set(listed) ^ set(found), set())
        self.assertEqual(listed, found)

    def events(self) -> dict[str, tuple[str, frozenset[str]]]:
        """Level and fields of each event in the code."""
        found: dict[str, tuple[str, frozenset[str]]] = {}
        for name, text in sources():
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                arguments = {word.arg: word.value for word in node.keywords if word.arg}
                event = arguments.pop("event", None)
                if not isinstance(event, ast.Constant) or not isinstance(event.value, str):
                    continue
                level = {"failure": "critical"}.get(node.func.attr, node.func.attr)
                self.assertNotIn(event.value, found, f"{name}: two records share an event")
                found[event.value] = (level, frozenset(arguments))
        return found

    def test_every_public_name_is_documented(self) -> None:
        """The API page has an entry for, or at least names, each public name.  INT-013"""
        text = page("reference/api.rst")
        missing = [name for name in dig_gossip.__all__ if not re.search(rf"\b{name}\b", text)]
        self.assertEqual(missing, [])

    def test_every_error_is_explained_to_embedders(self) -> None:
        """The table of errors is complete.  API-004"""
        table = page("embedding.rst").partition("Errors\n------")[2].partition("Threads\n---")[0]
        errors = [
            name
            for name in dig_gossip.__all__
            if isinstance(value := getattr(dig_gossip, name), type)
            and issubclass(value, dig_gossip.GossipError)
        ]
        self.assertEqual([name for name in errors if name not in table], [])

    def test_every_method_of_the_handle_has_a_purpose(self) -> None:
        """The table of tasks names each method.  API-002"""
        table = page("embedding.rst")
        methods = [name for name in vars(dig_gossip.GossipHandle) if not name.startswith("_")]
        self.assertGreater(len(methods), 15)
        self.assertEqual([name for name in methods if f"{name}" not in table], [])

    def test_every_penalty_is_in_the_security_page(self) -> None:
        """Reasons and points are those of the code.  API-006"""
        listed = re.findall(r"(?m)^``([A-Z_]+)`` +(\d+) ", page("security.rst"))
        self.assertEqual(
            {name: int(points) for name, points in listed},
            {reason.name: reason.points for reason in dig_gossip.PenaltyReason},
        )

    def test_removal_reasons_are_those_of_the_code(self) -> None:
        """Each counter ``removed.…`` is explained.  CON-115-X"""
        from dig_gossip.connection.session import RemovalReason

        table = page("connections.rst").partition("How it ends\n")[2].partition("Close codes\n")[0]
        listed = re.findall(r"   \* - ``(\w+)``", table)
        self.assertEqual(sorted(listed), sorted(reason.value for reason in RemovalReason))

    def test_options_of_the_command_line_are_explained(self) -> None:
        """Each option of the node is in the operator's guide.  design §4"""
        from dig_gossip.tap import Options

        guide = page("operating.rst")
        options = [name for name in Options().longOpt if name not in ("help", "version")]
        self.assertIn("listen=", options)
        missing = [name for name in options if f"``--{name.rstrip('=')}" not in guide]
        self.assertEqual(missing, [])

    def test_features_are_named_in_the_readme(self) -> None:
        """Whoever looks for a part of the protocol finds it.  API-003"""
        readme = (PROJECT / "README.rst").read_text(encoding="utf-8")
        for word in ("introducer", "relay", "Tor", "ERLAY", "Dandelion++", "rotation"):
            self.assertIn(word, readme)


class GeneratedPageTests(DocsCase):
    """Pages that are made from the code."""

    def generated(self, name: str) -> dict[str, Any]:
        """The namespace of a program beside the pages."""
        return runpy.run_path(str(DOCS / f"{name}.py"))

    def test_every_divergence_is_listed(self) -> None:
        """A mark that the page would miss is an error.  style §7.5"""
        marks = sum(text.count("Divergence:") for _, text in sources())
        listed = list(self.generated("divergences")["paragraphs"]())
        self.assertEqual(len(listed), marks)
        for name, text in listed:
            self.assertGreater(len(text), 40, name)

    def test_every_test_names_its_requirement(self) -> None:
        """Tests have one docstring each, which the table of requirements can use.  style §8.1"""
        ids = self.generated("traceability")["ids"]
        nameless = []
        for path in sorted((PROJECT / "tests").rglob("test_*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if (
                    isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                    and node.name.startswith("test_")
                    and not list(ids(ast.get_docstring(node) or ""))
                ):
                    nameless.append(f"{path.relative_to(PROJECT)} {node.name}")
        self.assertEqual(nameless, [])

    def test_requirements_are_recognized(self) -> None:
        """Ids, sections and decisions, in all the forms that are in use.  style §8.1"""
        ids = self.generated("traceability")["ids"]
        for text, expected in {
            "A.  CON-002.1, REP-101-X (c)": ["CON-002.1", "REP-101-X"],
            "B.  wire §13.1, §13.5": ["wire §13.1", "wire §13.5"],
            "C.  behaviour 32": ["behaviour §32"],
            "D.  design D6, D7": ["design D6", "design D7"],
            "E.  D14": ["design D14"],
            "SHA-256, TLS 1.2 and P-256": [],
        }.items():
            self.assertEqual(list(ids(text)), expected)

    def test_table_of_requirements_joins_code_and_tests(self) -> None:
        """A requirement's row has the module and the test that name it.  style §8.1"""
        text = self.generated("traceability")["generate"]()
        row = text.partition("   * - PLT-104-X\n")[2].partition("   * - ")[0]
        self.assertIn("``dig_gossip.gossip.validation``", row)
        self.assertIn("``test_docs.ExampleTests.test_validate``", row)
        self.assertLess(text.index("* - wire §5.3"), text.index("* - wire §13.1"))

    def test_every_module_is_listed(self) -> None:
        """The list of modules has all that say what they are for.  style §9"""
        text = self.generated("modules")["generate"]()
        self.assertIn(".. automodule:: dig_gossip.gossip.plumtree\n", text)
        self.assertIn(".. automodule:: dig_gossip.connection\n", text)


class BuildTests(DocsCase):
    """``make docs``."""

    def test_pages_are_all_reachable_and_pictures_exist(self) -> None:
        """The table of contents has every page; images and includes are files.  style §9"""
        contents = page("index.rst")
        for path in sorted(DOCS.rglob("*.rst")):
            name = str(path.relative_to(DOCS).with_suffix(""))
            if "_build" in path.parts or name == "index":
                continue
            self.assertRegex(contents, rf"(?m)^   {re.escape(name)}$")
            text = path.read_text(encoding="utf-8")
            for target in re.findall(r"(?m)^\.\. (?:image|literalinclude|include):: (.+)$", text):
                self.assertTrue((path.parent / target).exists(), f"{name}: {target}")
            for target in re.findall(r"(?m)^\.\. generated:: (.+)$", text):
                self.assertTrue((DOCS / f"{target}.py").exists(), f"{name}: {target}")
