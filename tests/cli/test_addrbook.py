"""``dig-gossip addrbook``."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.cli.main import main
from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.address_store import FileAddressStore
from dig_gossip.discovery.chia_peers import parse_foreign_book
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.types.peer import PeerAddress
from tests.discovery.test_chia_peers import vector
from tests.types.test_ip import ONION


class AddrbookTests(SynchronousTestCase):
    """The verb, as an operator types it."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.book = str(self.folder / "peers.dat")
        self.now = int(time.time())

    def run_verb(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["addrbook", *arguments, "--book", self.book])
        return status, out.getvalue(), err.getvalue()

    def fill(self) -> None:
        """Save a book of three addresses."""
        manager = AddressManager(
            rng=Random(1), unix=lambda: self.now, key=bytes(32), allow_onion=True
        )
        addresses = [("8.8.8.8", 9444), ("2a00:1450::5", 8444), (ONION, 9444)]
        manager.add_to_new_table(
            (KnownAddress(PeerAddress(*address), self.now - 7200) for address in addresses),
            "seed.\x1b[31mexample",
        )
        manager.mark_good(PeerAddress("8.8.8.8", 9444))
        FileAddressStore(self.book, time.time).save(manager.snapshot())

    def test_summary(self) -> None:
        """The numbers that tell whether a book is healthy, as text and as JSON.  design §4"""
        self.fill()
        status, out, err = self.run_verb("summary", "--json")
        facts = json.loads(out)
        self.assertEqual((status, err), (0, ""))
        expected = {
            "addresses": 3, "tried": 1, "new": 2, "groups": 3, "sources": 1, "ipv6": 1,
            "onion": 1, "terrible": 0, "newest_heard_of": "2h", "met_in_the_last_day": 1,
        }  # fmt: skip
        self.assertEqual({name: facts[name] for name in expected}, expected)
        status, out, _ = self.run_verb("summary")
        self.assertEqual(status, 0)
        self.assertIn("addresses              3\n", out)

    def test_dump(self) -> None:
        """A line an entry, met peers first; nothing steers the terminal.  design §4, API-102-X"""
        self.fill()
        status, out, _ = self.run_verb("dump")
        lines = out.splitlines()
        self.assertEqual((status, len(lines)), (0, 4))
        self.assertEqual(lines[0].split()[:3], ["table", "address", "heard"])
        self.assertEqual(lines[1].split()[:3], ["tried", "8.8.8.8:9444", "2h"])
        self.assertNotIn("\x1b", out)
        self.assertIn("seed.[31mexample", out)
        rows = [json.loads(line) for line in self.run_verb("dump", "--json")[1].splitlines()]
        self.assertEqual({row["host"] for row in rows}, {"8.8.8.8", "2a00:1450::5", ONION})
        self.assertEqual(rows[0]["last_success"], self.now)

    def test_dump_of_a_part(self) -> None:
        """One table, or so many lines.  design §4"""
        self.fill()
        for options, count in ((["--tried"], 1), (["--new"], 2), (["--limit", "1"], 1)):
            self.assertEqual(len(self.run_verb("dump", "--json", *options)[1].splitlines()), count)

    def test_import_of_a_chia_book(self) -> None:
        """Addresses with their sources; nobody counts as met.  wire §17.3, DSC-103-X"""
        foreign = self.folder / "chia.dat"
        for name in ("chia_v2_two_new_one_tried", "chia_v1_legacy"):
            foreign.write_bytes(vector(name))
            status, out, err = self.run_verb("import", str(foreign))
            self.assertEqual((status, err), (0, ""))
        self.assertIn("2 addresses", out)
        self.assertIn("0 new", out)
        rows = [json.loads(line) for line in self.run_verb("dump", "--json")[1].splitlines()]
        self.assertEqual({row["host"] for row in rows}, {"8.8.8.8", "9.9.9.9", "2a00:1450::5"})
        self.assertEqual({row["table"] for row in rows}, {"new"})
        self.assertEqual({row["source"] for row in rows}, {"198.51.100.1:9444"})

    def test_import_adds_to_what_is_there(self) -> None:
        """Onions and met peers stay.  wire §17.3"""
        self.fill()
        foreign = self.folder / "chia.dat"
        foreign.write_bytes(vector("chia_v2_two_new_one_tried"))
        self.assertIn("1 new", self.run_verb("import", str(foreign))[1])
        facts = json.loads(self.run_verb("summary", "--json")[1])
        self.assertEqual((facts["addresses"], facts["tried"], facts["onion"]), (4, 1, 1))

    def test_import_while_the_node_runs_is_refused(self) -> None:
        """The node would overwrite it; the message says so.  DSC-002.4"""
        self.fill()
        store = FileAddressStore(self.book, time.time)
        store.open()
        self.addCleanup(store.close)
        foreign = self.folder / "chia.dat"
        foreign.write_bytes(vector("chia_v2_two_new_one_tried"))
        status, out, err = self.run_verb("import", str(foreign))
        self.assertEqual((status, out), (1, ""))
        self.assertIn("in use by another process", err)

    def test_export(self) -> None:
        """A peers.dat for Chia, with a fresh key; it replaces nothing unasked.  wire §17.3"""
        self.fill()
        target = self.folder / "chia.dat"
        self.assertIn("2 addresses", self.run_verb("export", str(target))[1])
        data = target.read_bytes()
        rows = parse_foreign_book(data)
        self.assertEqual(
            {(row.known.address.host, row.is_tried) for row in rows},
            {("8.8.8.8", True), ("2a00:1450::5", False)},
        )
        self.assertNotEqual(data[:32], bytes(32))
        status, _, err = self.run_verb("export", str(target))
        self.assertEqual(status, 1)
        self.assertIn("--force", err)
        self.assertEqual(target.read_bytes(), data)
        self.assertEqual(self.run_verb("export", str(target), "--force")[0], 0)
        self.assertNotEqual(target.read_bytes()[:32], data[:32])

    def test_mistakes_are_explained_in_one_line(self) -> None:
        """No file, an empty one, Chia's, junk: no traceback.  design §4"""
        foreign = self.folder / "foreign.dat"
        cases = [("does not exist", ["summary"]), ("does not exist", ["import", str(foreign)])]
        for text, arguments in cases:
            self.check_mistake(text, arguments)
        Path(self.book).touch()
        self.check_mistake("has not saved anything", ["dump"])
        Path(self.book).write_bytes(vector("chia_v2_two_new_one_tried"))
        self.check_mistake("dig-gossip addrbook import", ["dump"])
        foreign.write_bytes(b"junk")
        self.check_mistake("neither Chia's peers.dat", ["import", str(foreign)])

    def check_mistake(self, text: str, arguments: list[str]) -> None:
        """One line that says what is wrong."""
        status, out, err = self.run_verb(*arguments)
        self.assertEqual((status, out, err.count("\n")), (1, "", 1))
        self.assertIn(text, err)
