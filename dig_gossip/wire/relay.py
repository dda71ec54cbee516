"""What nodes and relays say to each other: one JSON object a WebSocket message.

Texts are written compactly, ``type`` first and the fields in the order of the classes below; they
are read in any order, with any whitespace and unknown extra fields. Types that this layer has no
use for decode as :class:`Unsupported`; a server answers them with an error, a client ignores them.

A byte of payload costs up to four characters of JSON. Where both ends have said ``binary`` when
registering, a :class:`RelayMessage` travels as a binary WebSocket message instead::

    02 | peer id B32 | seq u64 | payload        to the relay the recipient, from it the sender

Divergence: ``binary`` with this form, and ``observed`` in the acknowledgement, are ours. Towards
anybody who does not say ``binary`` nothing changes; readers ignore a field that they do not know.

Source: wire §14.1, §14.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import attrs

from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire.streamable import malformed

#: The version that a register message carries.
RELAY_PROTOCOL_VERSION: Final = 1
MAX_LISTEN_ADDRS: Final = 8

BINARY_MESSAGE: Final = 2  #: first byte of a binary relay message; JSON begins with ``{``
_BINARY_HEADER: Final = 1 + 32 + 8

#: JSON is whatever json.loads() makes; each field's reader says what it must be.
Json: TypeAlias = Any


class _Field(NamedTuple):
    """How one attribute is read and written.

    :ivar default: written only if the value differs; required without one.
    """

    name: str
    attribute: str
    read: Callable[[Json], Json]
    write: Callable[[Json], str]
    default: Json = None
    is_required: bool = True


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _read_text(value: Json) -> str:
    if type(value) is not str:
        raise malformed("text is expected")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise malformed("text holds a lone surrogate") from None
    return value


def _read_optional_text(value: Json) -> str | None:
    return None if value is None else _read_text(value)


def _read_flag(value: Json) -> bool:
    if type(value) is not bool:
        raise malformed("true or false is expected")
    return value


def _reader_of_uint(bits: int) -> Callable[[Json], int]:
    def read(value: Json) -> int:
        # A bool is an int to Python, and 5.0 equals 5.
        if type(value) is not int or not 0 <= value < 1 << bits:
            raise malformed(f"an unsigned integer of {bits} bits is expected")
        return value

    return read


_read_u32 = _reader_of_uint(32)
_read_u64 = _reader_of_uint(64)

_DIGITS: Final = tuple(str(byte) for byte in range(256))


def _read_payload(value: Json) -> bytes:
    if type(value) is not list or not set(map(type, value)) <= {int}:
        raise malformed("a list of integers is expected")
    try:
        return bytes(value)
    except ValueError:
        raise malformed("a payload's elements are 0 to 255") from None


def _write_payload(value: bytes) -> str:
    return f"[{','.join([_DIGITS[byte] for byte in value])}]"


def read_socket_address(value: Json) -> PeerAddress:
    """Read ``a.b.c.d:port`` or ``[v6]:port``; names are no addresses.

    :raises ClientError: anything else.
    """
    text = _read_text(value)
    if len(text) > 64 or (":" in text.removeprefix("[") and text.count(":") > 1 and text[0] != "["):
        raise malformed("an address is a.b.c.d:port or [v6]:port")
    try:
        address = PeerAddress.parse(text)
    except ValueError:
        raise malformed("an address is a.b.c.d:port or [v6]:port") from None
    if address.ip is None:
        raise malformed("an address is a literal, not a name")
    return address


def _write_socket_address(value: PeerAddress) -> str:
    return _quote(str(value))


def _reader_of_list(read: Callable[[Json], Json]) -> Callable[[Json], tuple[Json, ...]]:
    def read_list(value: Json) -> tuple[Json, ...]:
        if type(value) is not list:
            raise malformed("a list is expected")
        return tuple(read(item) for item in value)

    return read_list


def _writer_of_list(write: Callable[[Json], str]) -> Callable[[Json], str]:
    return lambda values: f"[{','.join(map(write, values))}]"


def _text(name: str, attribute: str = "") -> _Field:
    return _Field(name, attribute or name, _read_text, _quote)


def _u32(name: str) -> _Field:
    return _Field(name, name, _read_u32, str)


def _u64(name: str) -> _Field:
    return _Field(name, name, _read_u64, str)


def _flag(name: str) -> _Field:
    return _Field(name, name, _read_flag, lambda value: "true" if value else "false")


def _payload() -> _Field:
    return _Field("payload", "payload", _read_payload, _write_payload)


def _address() -> _Field:
    return _Field("external_addr", "external_addr", read_socket_address, _write_socket_address)


def _additive_addresses(name: str) -> _Field:
    read = _reader_of_list(read_socket_address)
    return _Field(name, name, read, _writer_of_list(_write_socket_address), (), False)


def _additive_address(name: str) -> _Field:
    return _Field(name, name, read_socket_address, _write_socket_address, None, False)


def _additive_binary() -> _Field:
    return _flag("binary")._replace(default=False, is_required=False)


class _Frame:
    """What the frame classes share."""

    TYPE: ClassVar[str]
    FIELDS: ClassVar[tuple[_Field, ...]]

    def encode(self) -> str:
        """Write the compact text."""
        return f'{{"type":{_quote(self.TYPE)}{_write_fields(self, self.FIELDS, ",")}}}'


def _write_fields(value: object, fields: tuple[_Field, ...], separator: str) -> str:
    parts = []
    for field in fields:
        item = getattr(value, field.attribute)
        if field.is_required or item != field.default:
            parts.append(f"{separator}{_quote(field.name)}:{field.write(item)}")
            separator = ","
    return "".join(parts)


def _read_fields(value: dict[str, Json], fields: tuple[_Field, ...]) -> dict[str, Json]:
    found = {}
    for field in fields:
        if field.name in value:
            found[field.attribute] = field.read(value[field.name])
        elif field.is_required:
            raise malformed(f"{field.name} is missing")
    return found


@attrs.frozen(kw_only=True)
class Register(_Frame):
    """A node introduces itself; the first frame of a connection.

    :ivar peer_id: 64 lower-case hex digits; servers do not rely on the form.
    :ivar listen_addrs: where the node can be dialed, at most 8 count.
    :ivar binary: whether it takes binary relay messages.
    """

    TYPE = "register"
    FIELDS = (
        _text("peer_id"),
        _text("network_id"),
        _u32("protocol_version"),
        _additive_addresses("listen_addrs"),
        _additive_binary(),
    )
    peer_id: str
    network_id: str
    protocol_version: int = RELAY_PROTOCOL_VERSION
    listen_addrs: tuple[PeerAddress, ...] = ()
    binary: bool = False


@attrs.frozen(kw_only=True)
class RegisterAck(_Frame):
    """The relay's answer; a refusal is followed by an error and a close.

    :ivar connected_peers: every registered peer, the newcomer included.
    :ivar observed: where the connection comes from; what the world sees of a NAT.
    """

    TYPE = "register_ack"
    FIELDS = (
        _flag("success"),
        _text("message"),
        _u64("connected_peers"),
        _additive_binary(),
        _additive_address("observed"),
    )
    success: bool
    message: str
    connected_peers: int
    binary: bool = False
    observed: PeerAddress | None = None


@attrs.frozen(kw_only=True)
class Unregister(_Frame):
    """A node leaves; the relay closes without a reply."""

    TYPE = "unregister"
    FIELDS = (_text("peer_id"),)
    peer_id: str


@attrs.frozen(kw_only=True)
class RelayMessage(_Frame):
    """Bytes for one peer; the relay writes ``sender`` itself.

    :ivar seq: passed through untouched.
    """

    TYPE = "relay_message"
    FIELDS = (_text("from", "sender"), _text("to", "recipient"), _payload(), _u64("seq"))
    sender: str
    recipient: str
    payload: bytes
    seq: int

    def encode_binary(self, other: str) -> bytes:
        """Write the binary form.

        :param other: the id that it carries, 64 hex digits: the recipient's to the relay, the
            sender's from it.
        """
        return binary_message(bytes.fromhex(other), self.seq, self.payload)


@attrs.frozen(kw_only=True)
class Broadcast(_Frame):
    """Bytes for everybody in the network but ``exclude``."""

    TYPE = "broadcast"
    FIELDS = (
        _text("from", "sender"),
        _payload(),
        _Field("exclude", "exclude", _reader_of_list(_read_text), _writer_of_list(_quote)),
    )
    sender: str
    payload: bytes
    exclude: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PeerRecord:
    """What a relay tells about a registered peer; times are Unix seconds of its clock."""

    FIELDS: ClassVar[tuple[_Field, ...]] = (
        _text("peer_id"),
        _text("network_id"),
        _u32("protocol_version"),
        _u64("connected_at"),
        _u64("last_seen"),
        _additive_addresses("addresses"),
    )
    peer_id: str
    network_id: str
    protocol_version: int
    connected_at: int
    last_seen: int
    addresses: tuple[PeerAddress, ...] = ()


def _read_record(value: Json) -> PeerRecord:
    if type(value) is not dict:
        raise malformed("a peer is an object")
    return PeerRecord(**_read_fields(value, PeerRecord.FIELDS))


def _write_record(value: PeerRecord) -> str:
    return f"{{{_write_fields(value, PeerRecord.FIELDS, '')}}}"


@attrs.frozen(kw_only=True)
class PeerConnected(_Frame):
    """Somebody of the network has registered."""

    TYPE = "peer_connected"
    FIELDS = (_Field("peer", "peer", _read_record, _write_record),)
    peer: PeerRecord


@attrs.frozen(kw_only=True)
class PeerDisconnected(_Frame):
    """Somebody of the network has gone."""

    TYPE = "peer_disconnected"
    FIELDS = (_text("peer_id"),)
    peer_id: str


@attrs.frozen(kw_only=True)
class GetPeers(_Frame):
    """Ask who is registered; None asks for one's own network."""

    TYPE = "get_peers"
    FIELDS = (
        _Field(
            "network_id",
            "network_id",
            _read_optional_text,
            lambda value: "null" if value is None else _quote(value),
        ),
    )
    network_id: str | None


@attrs.frozen(kw_only=True)
class Peers(_Frame):
    """Who is registered, in the order of ids, the asker included."""

    TYPE = "peers"
    FIELDS = (
        _Field("peers", "peers", _reader_of_list(_read_record), _writer_of_list(_write_record)),
    )
    peers: tuple[PeerRecord, ...]


@attrs.frozen(kw_only=True)
class Ping(_Frame):
    """A sign of life; ``timestamp`` comes back as it was."""

    TYPE = "ping"
    FIELDS = (_u64("timestamp"),)
    timestamp: int


@attrs.frozen(kw_only=True)
class Pong(_Frame):
    """The answer to a ping."""

    TYPE = "pong"
    FIELDS = (_u64("timestamp"),)
    timestamp: int


@attrs.frozen(kw_only=True)
class HolePunchRequest(_Frame):
    """``peer_id`` wishes that ``target_peer_id`` dials ``external_addr`` now."""

    TYPE = "hole_punch_request"
    FIELDS = (_text("peer_id"), _text("target_peer_id"), _address())
    peer_id: str
    target_peer_id: str
    external_addr: PeerAddress


@attrs.frozen(kw_only=True)
class HolePunchCoordinate(_Frame):
    """Dial ``external_addr`` now: ``peer_id`` does the same."""

    TYPE = "hole_punch_coordinate"
    FIELDS = (_text("peer_id"), _address())
    peer_id: str
    external_addr: PeerAddress


@attrs.frozen(kw_only=True)
class HolePunchResult(_Frame):
    """How it went; forwarded to ``peer_id`` unchanged, who so reads its own id."""

    TYPE = "hole_punch_result"
    FIELDS = (_text("peer_id"), _flag("success"))
    peer_id: str
    success: bool


@attrs.frozen(kw_only=True)
class RelayFault(_Frame):
    """The relay refuses something; see :class:`RelayErrorCode`."""

    TYPE = "error"
    FIELDS = (_u32("code"), _text("message"))
    code: int
    message: str


@attrs.frozen
class Unsupported:
    """A well-formed object of a type that this layer has no use for."""

    type: str


RelayFrame: TypeAlias = (
    Register
    | RegisterAck
    | Unregister
    | RelayMessage
    | Broadcast
    | PeerConnected
    | PeerDisconnected
    | GetPeers
    | Peers
    | Ping
    | Pong
    | HolePunchRequest
    | HolePunchCoordinate
    | HolePunchResult
    | RelayFault
)

_CLASSES: Final[dict[str, type[Any]]] = {
    frame.TYPE: frame
    for frame in (
        Register, RegisterAck, Unregister, RelayMessage, Broadcast, PeerConnected,
        PeerDisconnected, GetPeers, Peers, Ping, Pong, HolePunchRequest, HolePunchCoordinate,
        HolePunchResult, RelayFault,
    )
}  # fmt: skip


def decode(data: bytes) -> RelayFrame | Unsupported:
    """Read one JSON frame.

    :param data: UTF-8, whole; the transport has limited its size.
    :raises ClientError: of kind ``malformed``: it is none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise malformed("this is not JSON") from None
    if type(value) is not dict:
        raise malformed("a frame is an object")
    name = _read_text(value.get("type"))
    frame = _CLASSES.get(name)
    if frame is None:
        return Unsupported(name)
    made: RelayFrame = frame(**_read_fields(value, frame.FIELDS))
    return made


def binary_message(peer_id: bytes, seq: int, payload: bytes) -> bytes:
    """Write the binary form of a relay message.

    :param peer_id: 32 bytes: the recipient's to the relay, the sender's from it.
    """
    return b"".join((b"\x02", peer_id, seq.to_bytes(8, "big"), payload))


def parse_binary_message(data: bytes) -> tuple[bytes, int, bytes]:
    """Read the binary form: peer id (32 bytes), sequence number, payload.

    :raises ClientError: it is none.
    """
    if len(data) < _BINARY_HEADER or data[0] != BINARY_MESSAGE:
        raise malformed("this is no binary relay message")
    return data[1:33], int.from_bytes(data[33:41], "big"), data[41:]
