"""The address book once more, as the requirements say it and without a thought for speed.

Everything is found by looking at everything. Times and identities as in behaviour §12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import attrs

from dig_gossip.types.peer import PeerAddress

HOUR, DAY = 3600, 86_400


def number(data: bytes) -> int:
    """The hash of ADR-002."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


@attrs.define
class Row:
    """One entry."""

    address: PeerAddress
    source: PeerAddress
    timestamp: int
    last_success: int = 0
    last_try: int = 0
    num_attempts: int = 0
    last_count_attempt: int = 0


class NaiveBook:
    """Entries in a list, slots in two dictionaries.

    :param is_lucky: whether chance always lets a known entry have one more slot, or never.
    """

    def __init__(self, key: bytes, unix: Callable[[], float], is_lucky: bool) -> None:
        self.key, self.unix, self.is_lucky = key, unix, is_lucky
        self.rows: list[Row] = []
        self.new: dict[int, Row] = {}
        self.tried: dict[int, Row] = {}
        self.collisions: list[PeerAddress] = []
        self.last_good = 1

    def row(self, address: PeerAddress) -> Row | None:
        """The entry of an address."""
        return next((row for row in self.rows if row.address == address), None)

    def slots(self, row: Row) -> set[int]:
        """The slots of the new table that hold a row."""
        return {slot for slot, other in self.new.items() if other is row}

    def is_tried(self, row: Row) -> bool:
        """Whether the tried table holds a row."""
        return any(other is row for other in self.tried.values())

    def new_slot(self, address: PeerAddress, source: PeerAddress) -> int:
        """ADR-002."""
        group, origin = address.get_group(), source.get_group()
        h1 = number(self.key + group + origin) % 64
        bucket = number(self.key + origin + bytes([h1])) % 1024
        return bucket * 64 + self._position(b"N", bucket, address)

    def tried_slot(self, address: PeerAddress) -> int:
        """ADR-002."""
        h1 = number(self.key + address.get_key()) % 8
        bucket = number(self.key + address.get_group() + bytes([h1])) % 256
        return bucket * 64 + self._position(b"K", bucket, address)

    def _position(self, table: bytes, bucket: int, address: PeerAddress) -> int:
        return number(self.key + table + bucket.to_bytes(3, "big") + address.get_key()) % 64

    def is_terrible(self, row: Row) -> bool:
        """ADR-008."""
        now = int(self.unix())
        if row.last_try and now - row.last_try <= 60:
            return False
        if row.timestamp > now + 600 or row.timestamp == 0 or now - row.timestamp > 30 * DAY:
            return True
        if row.last_success == 0 and row.num_attempts >= 3:
            return True
        return now - row.last_success > 7 * DAY and row.num_attempts >= 10

    def delete(self, row: Row) -> None:
        """Forget an entry wherever it lies."""
        self.rows = [other for other in self.rows if other is not row]
        self.collisions = [address for address in self.collisions if address != row.address]
        self.new = {slot: other for slot, other in self.new.items() if other is not row}
        self.tried = {slot: other for slot, other in self.tried.items() if other is not row}

    def clear(self, slot: int) -> None:
        """Empty a slot of the new table."""
        row = self.new.pop(slot, None)
        if row is not None and not self.slots(row):
            self.delete(row)

    def add(self, address: PeerAddress, offered: int, source: PeerAddress, penalty: int) -> bool:
        """ADR-004 to ADR-007, for addresses that are acceptable."""
        now = int(self.unix())
        if offered < 100_000_000 or offered > now + 600:
            offered = now - 5 * DAY
        if address == source:
            penalty = 0
        row = self.row(address)
        slot = self.new_slot(address, source)
        if row is not None:
            refresh = HOUR if now - offered < DAY else DAY
            if row.timestamp == 0 or row.timestamp < offered - refresh - penalty:
                row.timestamp = max(0, offered - penalty)
            references = len(self.slots(row))
            if offered <= row.timestamp or self.is_tried(row) or references == 8:
                return False
            if not self.is_lucky:
                return False
            there = self.new.get(slot)
            if there is None or (there is not row and self.is_terrible(there)):
                self.clear(slot)
                self.new[slot] = row
            return False
        rivals = [r for r in self.rows if r.address.host == address.host] if (
            address.ip is not None and address.ip.is_global
        ) else []  # fmt: skip
        for rival in rivals:
            own_word = rival.last_success == 0 and source.host == address.host
            if not (self.is_terrible(rival) or own_word):
                return False
        there = self.new.get(slot)
        if there is None or there in rivals or self.is_terrible(there):
            pass
        elif len(self.slots(there)) == 1:
            return False
        for rival in rivals:
            self.delete(rival)
        self.clear(slot)
        row = Row(address, source, max(0, offered - penalty))
        self.rows.append(row)
        self.new[slot] = row
        return True

    def mark_good(self, address: PeerAddress, test_before_evict: bool) -> None:
        """ADR-012."""
        now = self.last_good = int(self.unix())
        row = self.row(address)
        if row is None:
            return
        row.last_success = row.last_try = now
        row.num_attempts = 0
        if self.is_tried(row):
            return
        if test_before_evict and self.tried_slot(address) in self.tried:
            if address not in self.collisions and len(self.collisions) < 10:
                self.collisions.append(address)
        else:
            self.make_tried(row)

    def make_tried(self, row: Row) -> None:
        """ADR-013."""
        self.new = {slot: other for slot, other in self.new.items() if other is not row}
        slot = self.tried_slot(row.address)
        old = self.tried.pop(slot, None)
        if old is not None:
            home = self.new_slot(old.address, old.source)
            self.clear(home)
            self.new[home] = old
        self.tried[slot] = row

    def attempt(self, address: PeerAddress, count_failure: bool) -> None:
        """ADR-014."""
        row = self.row(address)
        if row is not None:
            row.last_try = int(self.unix())
            if count_failure and row.last_count_attempt < self.last_good:
                row.last_count_attempt = row.last_try
                row.num_attempts += 1

    def connect(self, address: PeerAddress) -> None:
        """ADR-015."""
        row, now = self.row(address), int(self.unix())
        if row is not None and now - row.timestamp > 20 * 60:
            row.timestamp = now

    def resolve(self) -> None:
        """ADR-016."""
        now = int(self.unix())
        for address in list(self.collisions):
            row = self.row(address)
            if row is None:
                continue
            if self.is_tried(row):
                self.collisions.remove(address)
                continue
            old = self.tried.get(self.tried_slot(address))
            if old is None:
                self.make_tried(row)
            elif now - old.last_success < 4 * HOUR:
                pass
            elif now - old.last_try < 4 * HOUR:
                if now - old.last_try <= 60:
                    continue
                self.make_tried(row)
            elif now - row.last_success > 40 * 60:
                self.make_tried(row)
            else:
                continue
            self.collisions.remove(address)

    def cleanup(self) -> None:
        """ADR-019."""
        now = int(self.unix())
        for row in list(self.rows):
            if not self.is_tried(row) and now - row.timestamp > 14 * DAY and row.num_attempts >= 10:
                self.delete(row)
