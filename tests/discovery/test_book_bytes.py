"""The address book as bytes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.book_bytes import MAX_ENTRIES, build_address_book, parse_address_book
from dig_gossip.discovery.values import AddressBook, ExtendedPeerInfo
from dig_gossip.errors import AddressManagerStore
from dig_gossip.types.peer import PeerAddress
from tests.types.test_ip import ONION

times = st.integers(0, 2**32 - 1)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.just(ONION), st.just("x")
)
peer_addresses = st.builds(PeerAddress, hosts, st.integers(0, 65535))
entries = st.builds(
    ExtendedPeerInfo,
    address=peer_addresses,
    source=peer_addresses,
    timestamp=times,
    last_success=times,
    last_try=times,
    num_attempts=times,
    last_count_attempt=times,
    is_tried=st.booleans(),
    slots=st.lists(st.integers(0, 65535), max_size=8).map(tuple),
)


@st.composite
def books(draw: st.DrawFn) -> AddressBook:
    """Any book, whether or not its entries fit together."""
    rows = draw(st.lists(entries, max_size=12, unique_by=lambda info: info.address))
    waiting = draw(st.lists(st.sampled_from(rows), max_size=4)) if rows else []
    return AddressBook(
        key=draw(st.binary(min_size=32, max_size=32)),
        last_good=draw(st.integers(1, 2**40)),
        entries=tuple(rows),
        collisions=tuple(info.address for info in waiting),
    )


def sealed(body: bytes) -> bytes:
    """A file with a right checksum, whatever is in it."""
    return body + hashlib.sha256(body).digest()


SMALL = AddressBook(
    key=bytes(range(32)),
    last_good=5,
    entries=(
        ExtendedPeerInfo(
            PeerAddress("8.8.8.8", 9444), PeerAddress("9.9.9.9", 1), 1_700_000_000, slots=(1, 2)
        ),
        ExtendedPeerInfo(
            PeerAddress("2a00:1450::5", 9444), PeerAddress("seed.example", 0), 1_700_000_001,
            1_700_000_002, 1_700_000_003, 4, 1_700_000_004, True, (5,),
        ),
    ),
    collisions=(PeerAddress("8.8.8.8", 9444),),
)  # fmt: skip


class BookBytesTests(SynchronousTestCase):
    """Encoding and decoding."""

    @given(books())
    def test_round_trip_is_exact(self, book: AddressBook) -> None:
        """Every field of every entry, the key, and what waits.  DSC-002.2"""
        self.assertEqual(parse_address_book(build_address_book(book)), book)

    def test_layout_is_stable(self) -> None:
        """Files of today are read tomorrow: the bytes are these.  DSC-002.2"""
        data = build_address_book(SMALL)
        self.assertEqual(data[:10].hex(), "444947504545525300" + "01")
        self.assertEqual(
            hashlib.sha256(data).hexdigest(),
            "b5e3a7d0deecf5fbd8b8aaf9541d9ccce9087ac064514cafc3658063b57871a6",
        )

    def test_empty_book(self) -> None:
        """A node that knows nobody still keeps its key.  DSC-002.2"""
        book = AddressBook(bytes(32), 1, (), ())
        self.assertEqual(parse_address_book(build_address_book(book)), book)

    def test_every_truncation_is_refused(self) -> None:
        """A file that was cut off anywhere, even after a valid part.  DSC-002.1"""
        data = build_address_book(SMALL)
        for size in range(len(data)):
            self.assertRaises(AddressManagerStore, parse_address_book, data[:size])
            self.assertRaises(AddressManagerStore, parse_address_book, sealed(data[:size][:-32]))

    def test_every_flipped_bit_is_refused(self) -> None:
        """The checksum covers everything.  DSC-002.1"""
        data = build_address_book(SMALL)
        for position in range(len(data)):
            for bit in range(8):
                spoiled = bytearray(data)
                spoiled[position] ^= 1 << bit
                self.assertRaises(AddressManagerStore, parse_address_book, bytes(spoiled))

    def test_newer_version_is_refused(self) -> None:
        """Rather than misread; the text says which version it is.  DSC-002.1"""
        body = bytearray(build_address_book(SMALL)[:-32])
        body[9] = 2
        error = self.assertRaises(AddressManagerStore, parse_address_book, sealed(bytes(body)))
        self.assertIn("format 2", str(error))

    def test_numbers_that_lead_nowhere_are_refused(self) -> None:
        """Sources, entries and collisions that do not exist, or are too many.  DSC-002.1"""
        body = build_address_book(SMALL)[:-32]
        for position, value in ((50, 3), (54, 3), (50, 2**32 - 1), (54, MAX_ENTRIES + 1)):
            spoiled = body[:position] + value.to_bytes(4, "big") + body[position + 4 :]
            self.assertRaises(AddressManagerStore, parse_address_book, sealed(spoiled))
        self.assertRaises(
            AddressManagerStore, parse_address_book, sealed(body[:-4] + b"\x00\x00\x00\x02")
        )
        self.assertRaises(AddressManagerStore, parse_address_book, sealed(body + b"\x00"))

    @given(
        st.one_of(
            st.binary(max_size=300),
            st.binary(max_size=300).map(sealed),
            st.tuples(st.integers(10, 200), st.binary(min_size=1, max_size=6)).map(
                lambda change: sealed(
                    build_address_book(SMALL)[:-32][: change[0]]
                    + change[1]
                    + build_address_book(SMALL)[:-32][change[0] + len(change[1]) :]
                )
            ),
        )
    )
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        """A book, or the one error, even with a right checksum.  DSC-002.1"""
        try:
            book = parse_address_book(data)
        except AddressManagerStore:
            return
        self.assertLessEqual(len(book.entries), len(data))
        self.assertTrue(all(len(info.slots) <= 255 for info in book.entries))

    def test_size_of_an_entry(self) -> None:
        """19 bytes for an IPv4 entry that was never dialed, 16 more for its history.  DSC-002.2"""
        base = AddressBook(bytes(32), 1, SMALL.entries[:1], ())
        one = SMALL.entries[0]._replace(address=PeerAddress("8.8.4.4", 1), slots=(3,))
        for extra, expected in ((one, 19), (one._replace(last_try=5), 35)):
            grown = base._replace(entries=(*base.entries, extra))
            size = len(build_address_book(grown)) - len(build_address_book(base))
            self.assertEqual(size, expected)
