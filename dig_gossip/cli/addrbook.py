"""``dig-gossip addrbook``: what a node's address book holds, and books of other programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from random import SystemRandom
from typing import Any

from dig_gossip.discovery.address_store import (
    MAX_BOOK_BYTES,
    FileAddressStore,
    load_address_manager,
)
from dig_gossip.discovery.book_bytes import parse_address_book
from dig_gossip.discovery.chia_peers import build_chia_book, parse_foreign_book
from dig_gossip.discovery.slots import KEY_BYTES
from dig_gossip.discovery.values import AddressBook, ExtendedPeerInfo
from dig_gossip.errors import GossipError, Io
from dig_gossip.types.ip import is_routable_ip, packed_ip
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.files import read_at_most, write_atomically
from dig_gossip.util.sanitize import sanitize_text

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def add_verb(verbs: Any) -> None:  # Any: argparse's action for subparsers is private
    """Teach the command its verb."""
    addrbook = verbs.add_parser(
        "addrbook",
        help="look into a node's address book, or exchange it with Chia's",
        description="What a node remembers of other nodes. Reading is safe while the node runs; "
        "import needs the node to be stopped.",
    )
    actions = addrbook.add_subparsers(required=True, metavar="ACTION")

    summary = actions.add_parser("summary", help="how many peers, from where, how good")
    dump = actions.add_parser("dump", help="every entry, a line each")
    table = dump.add_mutually_exclusive_group()
    table.add_argument("--tried", action="store_true", help="only peers that were met")
    table.add_argument("--new", action="store_true", help="only peers that were heard of")
    dump.add_argument("--limit", type=int, help="so many lines at most")
    for action in (summary, dump):
        action.add_argument("--json", action="store_true", help="JSON, an object a line")

    importing = actions.add_parser(
        "import", help="add the addresses of a Chia peers.dat, or of the Rust node's book"
    )
    importing.add_argument("source", metavar="FOREIGN", help="the file to read")
    importing.add_argument(
        "--allow-private", action="store_true", help="take in private addresses too"
    )
    exporting = actions.add_parser("export", help="write the book as a peers.dat for Chia")
    exporting.add_argument("target", metavar="TARGET", help="the file to write")
    exporting.add_argument("--force", action="store_true", help="replace a file that is there")

    for action, run in (
        (summary, _summary),
        (dump, _dump),
        (importing, _import),
        (exporting, _export),
    ):
        action.add_argument(
            "--book", default="peers.dat", metavar="FILE", help="the address book (peers.dat)"
        )
        action.set_defaults(run=_guarded, action=run)


def _guarded(options: argparse.Namespace) -> int:
    try:
        for line in options.action(options):
            print(line)
    except BrokenPipeError:
        # The reader has seen enough (head); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (GossipError, OSError, ValueError) as error:
        print(f"dig-gossip addrbook: {sanitize_text(str(error))}", file=sys.stderr)
        return 1
    return 0


def _read_book(path: str) -> tuple[AddressBook, int]:
    data = read_at_most(path, MAX_BOOK_BYTES)
    if data is None:
        raise Io(f"{path} does not exist; a node writes it, or name another with --book")
    if not data:
        raise Io(f"{path} is empty: the node has not saved anything yet")
    try:
        return parse_address_book(data), len(data)
    except GossipError as error:
        raise Io(
            f"{path}: {error}. If it is a Chia peers.dat, «dig-gossip addrbook import» reads it"
        ) from None


def _summary(options: argparse.Namespace) -> Iterator[str]:
    book, size = _read_book(options.book)
    facts = summarize(book, int(time.time()))
    facts = {"file": options.book, "bytes": size} | facts
    if options.json:
        yield json.dumps(facts)
        return
    for name, value in facts.items():
        yield f"{name.replace('_', ' '):<22} {value}"


def summarize(book: AddressBook, now: int) -> dict[str, str | int]:
    """The book in a few numbers.

    :param now: Unix seconds.
    """
    entries = book.entries
    tried = [info for info in entries if info.is_tried]
    groups = Counter(info.address.get_group() for info in entries)
    heard = [info.timestamp for info in entries]
    return {
        "addresses": len(entries),
        "tried": len(tried),
        "new": len(entries) - len(tried),
        "slots_used_new": sum(info.ref_count for info in entries),
        "groups": len(groups),
        "largest_group": max(groups.values(), default=0),
        "groups_tried": len({info.address.get_group() for info in tried}),
        "sources": len({info.source for info in entries}),
        "ipv6": sum(":" in info.address.host for info in entries),
        "onion": sum(info.address.host.endswith(".onion") for info in entries),
        "terrible": sum(info.is_terrible(now) for info in entries),
        "met_in_the_last_day": sum(now - info.last_success < 86_400 for info in entries),
        "waiting_for_a_test": len(book.collisions),
        "newest_heard_of": _ago(max(heard, default=0), now),
        "oldest_heard_of": _ago(min(heard, default=0), now),
        "last_success": _ago(book.last_good if book.last_good > 1 else 0, now),
    }


def _dump(options: argparse.Namespace) -> Iterator[str]:
    book, _ = _read_book(options.book)
    now = int(time.time())
    entries: Iterable[ExtendedPeerInfo] = sorted(
        (
            info
            for info in book.entries
            if not (options.tried and not info.is_tried) and not (options.new and info.is_tried)
        ),
        key=lambda info: (not info.is_tried, -info.last_success, -info.timestamp),
    )
    if options.limit is not None:
        entries = list(entries)[: max(0, options.limit)]
    if options.json:
        for info in entries:
            yield json.dumps(_fields(info, now))
        return
    row = "{:<5} {:<46} {:>8} {:>8} {:>8} {:>5} {:>6}  {}"
    yield row.format("table", "address", "heard", "met", "dialed", "fails", "slots", "source")
    for info in entries:
        yield row.format(
            "tried" if info.is_tried else "new",
            _show(info.address),
            _ago(info.timestamp, now),
            _ago(info.last_success, now),
            _ago(info.last_try, now),
            info.num_attempts,
            len(info.slots),
            _show(info.source),
        ).rstrip()


def _fields(info: ExtendedPeerInfo, now: int) -> dict[str, object]:
    return {
        "host": sanitize_text(info.address.host),
        "port": info.address.port,
        "table": "tried" if info.is_tried else "new",
        "source": _show(info.source),
        "timestamp": info.timestamp,
        "last_success": info.last_success,
        "last_try": info.last_try,
        "num_attempts": info.num_attempts,
        "last_count_attempt": info.last_count_attempt,
        "slots": list(info.slots),
        "terrible": info.is_terrible(now),
        "selection_chance": info.selection_chance(now),
    }


def _show(address: PeerAddress) -> str:
    text = str(address) if address.port else address.host
    return sanitize_text(text)


def _ago(moment: int, now: int) -> str:
    if not moment:
        return "never"
    age = now - moment
    sign = "" if age >= 0 else "-"
    for unit, seconds in _UNITS:
        if abs(age) >= 2 * seconds or seconds == 1:
            return f"{sign}{abs(age) // seconds}{unit}"
    raise AssertionError("seconds fit everything")  # pragma: no cover


def _import(options: argparse.Namespace) -> Iterator[str]:
    data = read_at_most(options.source, MAX_BOOK_BYTES)
    if data is None:
        raise Io(f"{options.source} does not exist")
    rows = parse_foreign_book(data)
    store = FileAddressStore(options.book, time.time)
    store.open()
    try:
        # Whatever is in the book stays in it; the running node applies its own options.
        manager = load_address_manager(
            store, rng=SystemRandom(), unix=time.time, allow_private=True, allow_onion=True
        )
        before = manager.size()
        for row in rows:
            if options.allow_private or _is_public(row.known.address):
                manager.add_to_new_table([row.known], row.source)
        store.save(manager.snapshot())
    finally:
        store.close()
    yield (
        f"{len(rows)} addresses in {options.source}, {manager.size() - before} new in "
        f"{options.book}, which has {manager.size()} now"
    )


def _is_public(address: PeerAddress) -> bool:
    packed = packed_ip(address.host)
    return packed is None or is_routable_ip(packed)


def _export(options: argparse.Namespace) -> Iterator[str]:
    book, _ = _read_book(options.book)
    if os.path.exists(options.target) and not options.force:
        raise Io(f"{options.target} exists; --force replaces it")
    data = build_chia_book(book.entries, SystemRandom().randbytes(KEY_BYTES))
    write_atomically(options.target, data)
    count = sum(packed_ip(info.address.host) is not None for info in book.entries)
    yield f"{count} addresses written to {options.target}"
