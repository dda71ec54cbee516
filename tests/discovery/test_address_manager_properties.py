"""Any sequence of events leaves the address book as the requirements say, told the slow way."""

from __future__ import annotations

from collections import defaultdict
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.values import DAY, HOUR, KnownAddress
from dig_gossip.types.peer import PeerAddress
from tests.discovery.naive_book import NaiveBook

KEY = bytes(range(32))
SOURCES = [
    PeerAddress("9.9.9.9", 9444),
    PeerAddress("5.5.5.5", 9444),
    PeerAddress("seed.example.com", 0),
]


def crowded() -> list[PeerAddress]:
    """Addresses of which many want the same slots, of the tried table and of the new one."""
    book = NaiveBook(KEY, lambda: 0, is_lucky=True)
    wanted: defaultdict[tuple[str, int], list[PeerAddress]] = defaultdict(list)
    for number in range(1, 250):
        address = PeerAddress(f"8.8.8.{number}", 9444)
        wanted["tried", book.tried_slot(address)].append(address)
        wanted["new", book.new_slot(address, SOURCES[0])].append(address)
    crowds = sorted((c for c in wanted.items() if len(c[1]) > 1), key=lambda c: -len(c[1]))
    chosen = [a for (table, _), crowd in crowds if table == "tried" for a in crowd][:5]
    chosen += [a for (table, _), crowd in crowds if table == "new" for a in crowd][:3]
    other_port = [PeerAddress(a.host, 8444) for a in chosen[:1]]
    private = [PeerAddress("10.0.0.1", port) for port in (1, 2)]
    return list(dict.fromkeys([*chosen, *other_port, *private, SOURCES[0]]))


ADDRESSES = crowded()
addresses = st.sampled_from(ADDRESSES)
moments = st.sampled_from(
    [0, 60, 61, 600, 1201, HOUR + 1, 4 * HOUR, DAY, 8 * DAY, 15 * DAY, 31 * DAY]
)


class Chance(Random):
    """Chance that always, or never, lets a known entry have one more slot."""

    is_lucky = True

    def randbytes(self, n: int) -> bytes:
        """Bits of one kind."""
        return (b"\x00" if self.is_lucky else b"\xff") * n


class AddressManagerMachine(RuleBasedStateMachine):
    """The manager and the naive book live the same life."""

    @initialize(is_lucky=st.booleans())
    def start(self, is_lucky: bool) -> None:
        """Begin with empty books."""
        self.now = 1_700_000_000
        self.chance = Chance()
        self.chance.is_lucky = is_lucky
        self.manager = AddressManager(
            rng=self.chance, unix=lambda: self.now, key=KEY, allow_private=True
        )
        self.model = NaiveBook(KEY, lambda: self.now, is_lucky)

    @rule(
        address=addresses,
        age=st.one_of(moments, st.integers(-700, 40 * DAY), st.just(1_700_000_000)),
        source=st.sampled_from(SOURCES + ADDRESSES[:2]),
        penalty=st.sampled_from([0, 7200]),
    )
    def add(self, address: PeerAddress, age: int, source: PeerAddress, penalty: int) -> None:
        """Somebody tells of an address."""
        offered = max(0, self.now - age)
        added = self.manager.add_to_new_table([KnownAddress(address, offered)], source, penalty)
        assert added == self.model.add(address, offered, source, penalty)

    @rule(address=addresses, test=st.booleans())
    def mark_good(self, address: PeerAddress, test: bool) -> None:
        """A handshake is complete."""
        self.manager.mark_good(address, test)
        self.model.mark_good(address, test)

    @rule(address=addresses, source=st.sampled_from(SOURCES))
    def meet(self, address: PeerAddress, source: PeerAddress) -> None:
        """A fresh address is dialed at once, which is how tried slots fill."""
        self.add(address, 0, source, 0)
        self.mark_good(address, True)

    @rule(address=addresses, count=st.booleans(), times=st.sampled_from([1, 3, 10]))
    def attempt(self, address: PeerAddress, count: bool, times: int) -> None:
        """Dials fail, between successes with others."""
        for _ in range(times):
            self.manager.attempt(address, count)
            self.model.attempt(address, count)
            self.now += 2
            self.manager.mark_good(PeerAddress("4.4.4.4", 1))
            self.model.mark_good(PeerAddress("4.4.4.4", 1), True)
            self.now += 1

    @rule(address=addresses)
    def connect(self, address: PeerAddress) -> None:
        """A session is alive."""
        self.manager.connect(address)
        self.model.connect(address)

    @rule()
    def resolve(self) -> None:
        """The time has come to decide collisions."""
        self.manager.resolve_tried_collisions()
        self.model.resolve()

    @rule()
    def cleanup(self) -> None:
        """Half an hour has passed."""
        self.manager.cleanup()
        self.model.cleanup()

    @rule(seconds=moments)
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def restart(self) -> None:
        """The book is saved and loaded."""
        book = self.manager.snapshot()
        self.manager = AddressManager.restore(
            book, rng=self.chance, unix=lambda: self.now, allow_private=True
        )
        assert self.manager.snapshot() == book

    @rule(new_only=st.booleans())
    def select(self, new_only: bool) -> None:
        """Whoever is drawn is in the book, and in the right table."""
        info = self.manager.select_peer(new_only)
        if info is None:
            assert not (self.model.new if new_only else self.model.rows)
        else:
            row = self.model.row(info.address)
            assert row is not None
            assert not (new_only and self.model.is_tried(row))

    @rule(number=st.sampled_from([None, 1, 2]), limit=st.sampled_from([0, 1, 100]))
    def reload_as_table(self, number: int | None, limit: int) -> None:
        """Another AS table is there, and some entries have followed it."""
        self.manager.follow_as_table(None if number is None else lambda _: number)
        self.manager.regroup(limit)

    @rule()
    def select_collision(self) -> None:
        """The entry to test lies in the slot that somebody waits for."""
        info = self.manager.select_tried_collision()
        wanted = {self.model.tried_slot(a) for a in self.model.collisions}
        if info is not None:
            assert self.model.tried_slot(info.address) in wanted

    @rule()
    def answer(self) -> None:
        """What a peer is told is in good standing and no more than its share."""
        sample = self.manager.get_peers()
        assert len(set(sample)) == len(sample) <= -(-23 * len(self.model.rows) // 100)
        for known in sample:
            row = self.model.row(known.address)
            assert row is not None
            assert row.timestamp == known.timestamp
            assert not self.model.is_terrible(row)

    @invariant()
    def books_agree(self) -> None:
        """Every field, every slot and every count."""
        book = self.manager.snapshot()
        model = self.model
        assert (book.last_good, list(book.collisions)) == (model.last_good, model.collisions)
        expected = {
            row.address: (
                row.source, row.timestamp, row.last_success, row.last_try, row.num_attempts,
                row.last_count_attempt, model.is_tried(row), model.slots(row)
                or {model.tried_slot(row.address)},
            )
            for row in model.rows
        }  # fmt: skip
        found = {
            info.address: (
                info.source, info.timestamp, info.last_success, info.last_try, info.num_attempts,
                info.last_count_attempt, info.is_tried, set(info.slots),
            )
            for info in book.entries
        }  # fmt: skip
        assert found == expected
        manager = self.manager
        assert manager.size() == len(book.entries) == manager.size_new + manager.size_tried
        assert manager.size_tried == len(model.tried)

    @invariant()
    def structure_holds(self) -> None:
        """One table each, 1 to 8 slots, tables that lead back to the entries.  ADR-021-X"""
        manager = self.manager
        used: dict[bool, set[int]] = {False: set(), True: set()}
        for info in manager.snapshot().entries:
            assert len(info.slots) == 1 if info.is_tried else 1 <= len(info.slots) <= 8
            assert info.ref_count == (0 if info.is_tried else len(info.slots))
            assert len(set(info.slots)) == len(info.slots)
            table = manager._tried if info.is_tried else manager._new
            for slot in info.slots:
                assert slot not in used[info.is_tried]
                node = table.get(slot)
                assert node is not None
                assert node.info is info
                used[info.is_tried].add(slot)
                (network,) = [n for n in table.networks if n.key == node.network]
                assert network.lying[network.slots.index(slot)] is node
        assert used == {False: set(manager._new.used()), True: set(manager._tried.used())}
        assert set(manager._nodes) == {info.address for info in manager.snapshot().entries}


class AddressManagerPropertyTests(SynchronousTestCase):
    """The stateful machine, as a trial test."""

    def test_any_life_follows_the_requirements(self) -> None:
        """Manager and naive book agree after every event.  ADR-005, ADR-021-X"""
        from hypothesis.stateful import run_state_machine_as_test

        run_state_machine_as_test(
            AddressManagerMachine, settings=settings(settings(), stateful_step_count=80)
        )

    def test_addresses_are_crowded_enough(self) -> None:
        """The pool has collisions in both tables, or the machine shows nothing.  ADR-016"""
        book = NaiveBook(KEY, lambda: 0, is_lucky=True)
        tried = [book.tried_slot(address) for address in ADDRESSES]
        new = [book.new_slot(address, SOURCES[0]) for address in ADDRESSES]
        self.assertGreaterEqual(len(tried) - len(set(tried)), 2)
        self.assertGreaterEqual(len(new) - len(set(new)), 2)
