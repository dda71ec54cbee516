"""The experiments of ``raw_client --cases``, against RFC 6455 and the rules of the protocol.

Each case has a connection, an identity and (on Linux, towards 127.0.0.1) a loopback address of
its own, so that no penalty for one case disturbs the next.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.interop.raw_link import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MEMPOOL,
    NEW_PEAK,
    PING,
    PONG,
    REQUEST_PEERS,
    RESPOND_BLOCKS,
    TEXT,
    Link,
    Target,
    Unexpected,
    build_frame,
    pack_message,
)

MIB = 1024 * 1024
VALID_CLOSE_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
INVALID_CLOSE_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999)


class Case(NamedTuple):
    """One experiment.

    ``run`` gets a link that has greeted (or only a TLS connection if ``greeted`` is false) and
    says what it saw; any of ``expected`` is right.
    """

    name: str
    expected: tuple[str, ...]
    run: Callable[[Link], str]
    greeted: bool = True


def sends(data: bytes) -> Callable[[Link], str]:
    """A case that sends bytes and waits for the end."""

    def run(link: Link) -> str:
        link.send(data)
        return link.ending()

    return run


def survives(data: bytes) -> Callable[[Link], str]:
    """A case that sends bytes and then asks whether the link still works."""

    def run(link: Link) -> str:
        link.send(data)
        return link.alive()

    return run


def upgrades(path: str, *headers: str) -> Callable[[Link], str]:
    """A case about the opening request: the status and what was negotiated."""

    def run(link: Link) -> str:
        status, answer = link.upgrade(path, *headers)
        names = ("sec-websocket-extensions", "sec-websocket-protocol")
        return " ".join([str(status), *(f"{name}" for name in names if name in answer)])

    return run


def pongs(*payloads: bytes, together: bool = True) -> Callable[[Link], str]:
    """A case that pings and expects each payload back, in order."""

    def run(link: Link) -> str:
        frames = [build_frame(PING, payload) for payload in payloads]
        for data in [b"".join(frames)] if together else frames:
            link.send(data)
        try:
            answers = [link.until(PONG).payload for _ in payloads]
        except Unexpected as what:
            return str(what)
        return "same payload" if answers == list(payloads) else "other payload"

    return run


def asks(split: Callable[[bytes], Iterator[bytes]]) -> Callable[[Link], str]:
    """A case that asks for peers; ``split`` turns the message into pieces to be sent."""

    def run(link: Link) -> str:
        for piece in split(link.question()):
            link.send(piece)
        return link.answered()

    return run


def _fragments(message: bytes) -> Iterator[bytes]:
    yield build_frame(BINARY, message[:3], fin=False)
    yield build_frame(CONTINUATION, message[3:5], fin=False)
    yield build_frame(CONTINUATION, message[5:])


def _empty_fragments(message: bytes) -> Iterator[bytes]:
    yield build_frame(BINARY, fin=False)
    yield build_frame(CONTINUATION, message, fin=False)
    yield build_frame(CONTINUATION)


def _byte_by_byte(message: bytes) -> Iterator[bytes]:
    for byte in build_frame(BINARY, message):
        yield bytes([byte])


def ping_between_fragments(link: Link) -> str:
    """A ping inside a fragmented message is answered before the message is complete."""
    message = link.question()
    link.send(build_frame(BINARY, message[:4], fin=False) + build_frame(PING, b"between"))
    try:
        pong = link.until(PONG).payload
    except Unexpected as what:
        return str(what)
    link.send(build_frame(CONTINUATION, message[4:]))
    return f"{'pong' if pong == b'between' else 'other pong'}, {link.answered()}"


def close_then_data(link: Link) -> str:
    """What follows our close frame is ignored and does not disturb the answer."""
    link.send(build_frame(CLOSE, b"\x03\xe8") + build_frame(BINARY, link.question()))
    return link.ending()


def too_many(first: bytes, following: bytes, count: int) -> Callable[[Link], str]:
    """A case that goes on with fragments until the node objects."""

    def run(link: Link) -> str:
        link.send(first)
        for _ in range(count):
            if link.readable():
                break
            link.send(following)
        return link.ending()

    return run


def filler(size: int) -> bytes:
    """A well-formed message of exactly so many bytes: a request for mempool transactions."""
    return pack_message(MEMPOOL, None, struct.pack("!I", size - 10) + bytes(size - 10))


def cases() -> list[Case]:
    """Every experiment, in the order of RFC 6455's sections 4, 5, 7 and of the protocol's rules."""
    ask = pack_message(REQUEST_PEERS, 9)
    deflate = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    bad = ("closed 1002",)
    big = ("closed 1009",)
    found = [
        Case("upgrade_path_ws", ("101",), upgrades("/ws"), False),
        Case("upgrade_path_root", ("101",), upgrades("/"), False),
        Case("upgrade_compression_offered", ("101",), upgrades("/ws", deflate), False),
        Case(
            "upgrade_subprotocol_offered",
            ("101",),
            upgrades("/ws", "Sec-WebSocket-Protocol: chat"),
            False,
        ),
        Case("mask_random", ("answered",), asks(lambda m: iter([build_frame(BINARY, m)]))),
        Case(
            "mask_zero",
            ("answered",),
            asks(lambda m: iter([build_frame(BINARY, m, mask=bytes(4))])),
        ),
        Case("mask_absent", bad, sends(build_frame(BINARY, ask, mask=None))),
        Case("mask_absent_on_ping", bad, sends(build_frame(PING, b"x", mask=None))),
    ]
    for bits in (1, 2, 4):
        found += [
            Case(f"reserved_bits_{bits}", bad, sends(build_frame(BINARY, ask, rsv=bits))),
            Case(f"reserved_bits_{bits}_on_ping", bad, sends(build_frame(PING, rsv=bits))),
        ]
    found += [
        Case(f"reserved_opcode_{opcode}", bad, sends(build_frame(opcode, b"x")))
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ]
    found += [
        Case("length_16_bits_for_8", bad, sends(build_frame(BINARY, ask, form=16))),
        Case("length_16_bits_for_125", bad, sends(build_frame(BINARY, filler(125), form=16))),
        Case("length_64_bits_for_8", bad, sends(build_frame(BINARY, ask, form=64))),
        Case("length_64_bits_for_65535", bad, sends(build_frame(BINARY, filler(65535), form=64))),
        Case("length_16_bits_on_ping", bad, sends(build_frame(PING, b"x", form=16))),
        Case("length_top_bit", bad, sends(build_frame(BINARY, ask, declared=1 << 63 | 8))),
    ]
    for size in (125, 126, 127, 65535, 65536):
        found.append(Case(f"length_{size}", ("open",), survives(build_frame(BINARY, filler(size)))))
    found += [
        Case("binary_empty", ("open",), survives(build_frame(BINARY))),
        Case("binary_byte_by_byte", ("answered",), asks(_byte_by_byte)),
        Case("fragments", ("answered",), asks(_fragments)),
        Case("fragments_empty", ("answered",), asks(_empty_fragments)),
        Case("fragments_ping_between", ("pong, answered",), ping_between_fragments),
        Case("fragments_no_start", bad, sends(build_frame(CONTINUATION, ask))),
        Case(
            "fragments_new_message_inside",
            bad,
            sends(build_frame(BINARY, ask[:4], fin=False) + build_frame(BINARY, ask)),
        ),
        Case("control_fragmented_ping", bad, sends(build_frame(PING, b"x", fin=False))),
        Case("control_fragmented_close", bad, sends(build_frame(CLOSE, fin=False))),
        Case("control_ping_126", bad, sends(build_frame(PING, bytes(126)))),
        Case("control_close_126", bad, sends(build_frame(CLOSE, b"\x03\xe8" + b"x" * 124))),
        Case("ping_empty", ("same payload",), pongs(b"")),
        Case("ping_125", ("same payload",), pongs(os.urandom(125))),
        Case("ping_ten_at_once", ("same payload",), pongs(*(bytes([n]) for n in range(10)))),
        Case("pong_unasked", ("open",), survives(build_frame(PONG, b"unasked"))),
        Case("text", ("closed 1003",), sends(build_frame(TEXT, "gr\u00fc\u00df".encode()))),
        Case(
            "text_in_fragments",
            ("closed 1003",),
            sends(build_frame(TEXT, b"a", fin=False) + build_frame(CONTINUATION, b"b")),
        ),
        Case("text_not_utf8", ("closed 1003", "closed 1007"), sends(build_frame(TEXT, b"\xff"))),
        Case("close_empty", ("closed", "closed 1000"), sends(build_frame(CLOSE))),
        Case("close_one_byte", bad, sends(build_frame(CLOSE, b"\x03"))),
        Case(
            "close_reason_123",
            ("closed 1000",),
            sends(build_frame(CLOSE, b"\x03\xe8" + b"r" * 123)),
        ),
        Case(
            "close_reason_not_utf8",
            ("closed 1007", "closed 1002"),
            sends(build_frame(CLOSE, b"\x03\xe8\xff\xfe")),
        ),
        Case("close_then_data", ("closed 1000",), close_then_data),
    ]
    for code in VALID_CLOSE_CODES:
        # RFC 6455 5.5.1: the answer "typically echoes" the code; 1000 is as good.
        right = (f"closed {code}", "closed 1000")
        found.append(
            Case(f"close_{code}", right, sends(build_frame(CLOSE, struct.pack("!H", code))))
        )
    for code in INVALID_CLOSE_CODES:
        found.append(Case(f"close_{code}", bad, sends(build_frame(CLOSE, struct.pack("!H", code)))))
    blocks = struct.pack("!BBI", RESPOND_BLOCKS, 0, 9 * MIB)
    peak = struct.pack("!BBI", NEW_PEAK, 0, 4090)
    piece = build_frame(CONTINUATION, bytes(MIB), fin=False)
    start = build_frame(BINARY, blocks, fin=False)
    found += [
        Case("oversize_header", big, sends(build_frame(BINARY, blocks, declared=8 * MIB + 1))),
        Case("oversize_header_exabyte", big, sends(build_frame(BINARY, blocks, declared=1 << 60))),
        Case("oversize_for_its_opcode", big, sends(build_frame(BINARY, peak, declared=4096))),
        Case("oversize_in_fragments", big, too_many(start, piece, 12)),
        Case(
            "endless_empty_fragments",
            ("closed 1002", "closed 1008", "closed 1009"),
            too_many(start, build_frame(CONTINUATION, fin=False) * 100, 2000),
        ),
    ]
    return found


def perform(case: Case, target: Target, number: int) -> str:
    """Run one case on a connection of its own; say what was observed."""
    link = None
    try:
        link = Link(target, number)
        if case.greeted:
            status, _ = link.upgrade()
            if status != 101:
                raise Unexpected(f"upgrade refused with {status}")
            link.greet()
    except (OSError, Unexpected) as error:
        if link is not None:
            link.close()
        return f"not reached: {error}"
    try:
        return case.run(link)
    except (OSError, Unexpected) as error:
        return str(error)
    finally:
        link.close()
