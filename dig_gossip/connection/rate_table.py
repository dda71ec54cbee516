"""How much of what a session may send: the rate tables as data, and which of them apply.

A row limits one opcode for 60 seconds. The numbers are Chia's, the Rust SDK's and, from 200 up,
the DIG band's own; nothing here knows time. Sizes are those of the body, ``len(message.data)``.

What we accept is never narrower than what a peer that keeps its own table sends, and what we send
is never wider than what the peer accepts. Source: wire §6, §11; behaviour CON-005, RL-101-X,
RL-102-X; design D7, D9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from dig_gossip.constants import WS_MAX_MESSAGE_BYTES

K: Final = 1024
M: Final = 1024 * 1024

#: Bytes around a body: opcode, correlation id, length.
ENVELOPE_BYTES: Final = 8
#: The largest message that a Chia node takes. Source: wire §2.
CHIA_MAX_MESSAGE_BYTES: Final = 50 * M


@attrs.frozen(kw_only=True)
class Row:
    """What one opcode may use in 60 seconds.

    :ivar count: messages; None for any number.
    :ivar max_size: bytes of one message's body; never scaled by a factor.
    :ivar max_total: bytes of all bodies together, at least ``max_size``; None for any number.
    :ivar aggregate: whether these messages count towards :data:`AGGREGATE` too.
    """

    count: int | None
    max_size: int
    max_total: int | None
    aggregate: bool

    def narrowed(self, other: Row) -> Row:
        """The row that keeps both."""
        return Row(
            count=_least(self.count, other.count),
            max_size=min(self.max_size, other.max_size),
            max_total=_least(self.max_total, other.max_total),
            aggregate=self.aggregate or other.aggregate,
        )


def _least(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _row(count: int, max_size: int, max_total: int | None = None, aggregate: bool = True) -> Row:
    total = count * max_size if max_total is None else max_total
    return Row(count=count, max_size=max_size, max_total=total, aggregate=aggregate)


def _free(count: int, max_size: int, max_total: int | None = None) -> Row:
    return _row(count, max_size, max_total, aggregate=False)


def _endless(max_size: int) -> Row:
    return Row(count=None, max_size=max_size, max_total=None, aggregate=False)


#: What all messages of aggregate rows may use together.
AGGREGATE: Final = _free(1000, 100 * M, 100 * M)
#: For opcodes that no table lists.
DEFAULT_ROW: Final = _free(100, M, 100 * M)

#: Chia's rows when one end lacks capability 3. ``_free`` rows are outside the aggregate,
#: ``_endless`` rows limit single messages only.
CHIA_V1: Final[Mapping[int, Row]] = {
    1: _row(5, 10 * K, 50 * K), 3: _row(5, M),
    5: _row(100, 2 * K), 6: _row(100, 2 * K), 7: _row(100, 2 * K), 8: _row(200, 2 * K),
    9: _row(100, 10 * K), 10: _row(100, 10 * K), 11: _row(100, K), 12: _row(100, K),
    13: _row(100, 20 * K), 14: _row(100, 10 * K), 15: _row(100, 100 * K), 16: _row(100, 100 * K),
    17: _row(100, 100 * K), 18: _row(100, 10 * K), 19: _row(100, 100 * K),
    20: _row(200, 512), 21: _free(5000, 100, 500_000), 22: _free(5000, 100, 500_000),
    23: _free(5000, M, 20 * M), 24: _row(5, 100), 25: _row(5, 50 * M, 100 * M),
    26: _row(200, 100), 27: _endless(2 * M), 28: _endless(100),
    29: _row(500, 100), 30: _endless(50 * M), 31: _endless(100),
    32: _row(200, 100), 33: _row(200, 100), 34: _row(200, 2 * M, 20 * M),
    35: _row(200, 200), 36: _row(200, 200), 37: _row(200, 50 * K), 38: _row(100, 50 * K),
    39: _row(5, M), 40: _row(200, K), 41: _row(200, 100 * K), 42: _row(100, K),
    43: _row(10, 100), 44: _row(10, M),
    45: _row(1000, 100), 46: _row(1000, M), 47: _row(1000, 100),
    48: _free(5000, M), 49: _free(5000, 2 * K), 50: _row(200, 300),
    51: _row(500, 100), 52: _row(500, 500 * K), 53: _row(500, 100),
    54: _row(500, 50 * K, 10 * M), 55: _row(500, M, 10 * M), 56: _row(500, 100),
    57: _row(500, M, 10 * M), 58: _row(500, M, 10 * M), 59: _row(500, 100),
    60: _row(500, 100), 61: _row(100, 100), 62: _row(500, 2 * M, 100 * M),
    63: _row(100, 100), 64: _row(100, M), 65: _row(200, 200), 66: _row(100, 4886),
    67: _row(10, 10 * M), 68: _row(10, 100 * M), 69: _row(1000, 100 * M),
    70: _row(1000, 100 * M), 71: _row(1000, 100 * M), 72: _row(1000, 100 * M),
    73: _row(1000, 100 * M), 74: _row(2000, M), 75: _row(2000, M), 76: _row(2000, M),
    77: _row(2000, M), 78: _row(1000, 100 * M), 79: _row(1000, 100 * M), 80: _row(1000, 100 * M),
    81: _row(1000, 100 * M), 82: _row(1000, 100 * M), 83: _row(1000, 100 * M),
    84: _row(1000, 100 * M), 85: _row(3000, 100 * M),
    86: _free(5000, 100), 87: _free(1000, 100), 88: _free(5000, 2 * M),
    89: _row(10, 100), 90: _row(10, 100), 91: _free(500, 100),
    92: _row(200, 100), 93: _row(200, 100), 94: _row(1000, 100 * M), 95: _row(1000, 100 * M),
    96: _row(1000, 100 * M), 97: _row(1000, 100 * M), 98: _row(1000, 100 * M),
    99: _row(1000, 100 * M), 100: _row(200, 100), 101: _row(1000, 100 * M),
    102: _row(1000, 100 * M), 103: _row(200, 100), 104: _row(1000, 100 * M),
    105: _row(1000, 100 * M), 106: _row(1000, 100), 107: _row(1000, K),
    108: _free(120, K), 109: _free(120, K), 110: _free(120, 3 * K), 111: _row(5, K, K),
    112: _row(1000, 100 * M), 113: _row(10, 100 * M), 255: _free(50_000, 100),
}  # fmt: skip

#: Chia's rows when both ends have capability 3.
CHIA_V2: Final[Mapping[int, Row]] = {
    **CHIA_V1,
    45: _free(5000, 100), 46: _free(5000, M), 47: _free(5000, 100),
    51: _free(500, 100), 52: _free(500, 500 * K), 53: _free(500, 100),
    54: _free(5000, 50 * K, 10 * M), 55: _free(5000, M, 10 * M), 56: _free(500, 100),
    57: _free(50_000, 100 * M), 58: _free(50_000, 100 * M), 59: _free(500, 100),
    60: _row(5000, 100), 61: _free(1000, 100), 62: _free(5000, 2 * M),
    74: _free(2000, M), 75: _free(2000, M), 76: _free(2000, M), 77: _free(2000, M),
}  # fmt: skip

_NOT_IN_SDK: Final = frozenset({76, 77, 89, 90, *range(104, 114), 255})

#: The Rust SDK's rows: Chia's V2, except for answers that carry blocks.
SDK_V2: Final[Mapping[int, Row]] = {
    **{opcode: row for opcode, row in CHIA_V2.items() if opcode not in _NOT_IN_SDK},
    27: _row(200, 2 * M, 20 * M), 28: _row(200, 100),
    30: _row(100, 50 * M, 250 * M), 31: _row(100, 100),
}  # fmt: skip

#: The DIG band, outside the aggregate; 220 has the default row.
DIG_ROWS: Final[Mapping[int, Row]] = {
    200: _free(100, 4 * K), 201: _free(10, 8 * K), 202: _free(100, 4 * K), 203: _free(10, K),
    204: _free(10, 64 * K), 205: _free(10, K), 206: _free(10, 8 * K), 207: _free(10, 64 * K),
    208: _free(10, 4 * K), 209: _free(200, K), 210: _free(200, 2 * M, 20 * M),
    211: _free(120, 8 * K), 212: _free(240, 64 * K), 213: _free(500, M, 20 * M),
    214: _free(6000, 64 * K, 4 * M), 215: _free(600, 64), 216: _free(3000, 64),
    217: _free(3000, 64), 218: _free(4, 512), 219: _free(4, 256),
    221: _free(10, 164), 222: _free(20, 128 * K), 223: _free(20, 64), 224: _free(60, 64),
    225: _free(60, M), 226: _free(6, 1058),
    240: _free(200, 2 * M, 20 * M), 241: _free(24_000, 33 * K, 400 * M), 242: _free(600, 64),
    243: _free(6000, 2 * K, 4 * M), 244: _free(6000, 64), 245: _free(6000, 64),
}  # fmt: skip

#: Answers that carry blocks: with the SDK's limits, but outside the aggregate, as in Chia's own
#: tables. Inside it they would stop at 100 MiB, far below the 250 MiB of their own row.
_BLOCK_ANSWERS: Final[Mapping[int, Row]] = {
    opcode: attrs.evolve(SDK_V2[opcode], aggregate=False) for opcode in (27, 28, 30, 31)
}


def _complete(*tables: Mapping[int, Row]) -> tuple[Row, ...]:
    rows: dict[int, Row] = {}
    for table in (*tables, DIG_ROWS):
        rows.update(table)
    return tuple(rows.get(opcode, DEFAULT_ROW) for opcode in range(256))


def _narrowed(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    sdk = _complete(SDK_V2)
    return tuple(row.narrowed(other) for row, other in zip(rows, sdk, strict=True))


_CHIA: Final = (_complete(CHIA_V1), _complete(CHIA_V2))
_OURS: Final = (_complete(CHIA_V1, _BLOCK_ANSWERS), _complete(CHIA_V2, _BLOCK_ANSWERS))
_TO_RUST: Final = (_narrowed(_OURS[False]), _narrowed(_OURS[True]))


def receive_rows(*, is_chia: bool, both_v2: bool) -> tuple[Row, ...]:
    """The limits of what a peer may send us.

    The rows from 200 up are the same for every peer.

    :param is_chia: the session is a plain Chia session. Other peers are Rust's or ours; the former
        know one table only, so for them ``both_v2`` makes no difference.
    :param both_v2: both ends advertise capability 3.
    :returns: 256 rows, by opcode; the same object for the same arguments.
    """
    return _CHIA[both_v2] if is_chia else _OURS[True]


def send_rows(*, both_v2: bool, is_rust: bool = True) -> tuple[Row, ...]:
    """The limits of what we may send to a peer.

    Towards Rust nodes no row is wider than the SDK's, which counts block answers towards the
    aggregate, nor, where the SDK has none, than its default row. Towards Chia nodes and our own
    that would only slow down the answers they asked for.

    :param both_v2: both ends advertise capability 3.
    :param is_rust: the peer applies the Rust SDK's table, or may do so.
    :returns: 256 rows, by opcode; the same object for the same arguments.
    """
    return _TO_RUST[both_v2] if is_rust else _OURS[both_v2]


def max_frame_size(opcode: int, *, solicited: bool, rows: tuple[Row, ...]) -> int:
    """How large the WebSocket message that begins with this opcode may be.

    :param opcode: 0..255, its first byte.
    :param solicited: a request of ours is pending that this opcode answers.  Divergence: design D7
        caps unasked answers only. Nothing else that a peer of ours may send is larger than 8 MiB
        either, and tables of opcodes that wallets and harvesters use would allow 50 MiB.
    :param rows: what :func:`receive_rows` gave.
    :returns: bytes, envelope included. No more than a Chia node would take itself, where a row
        allows more.
    Source: design D7.
    """
    if not solicited:
        return min(rows[opcode].max_size + ENVELOPE_BYTES, WS_MAX_MESSAGE_BYTES)
    return min(rows[opcode].max_size, CHIA_MAX_MESSAGE_BYTES) + ENVELOPE_BYTES
