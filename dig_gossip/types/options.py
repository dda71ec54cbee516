"""What a setting must be and what it means, said once.

A configuration class is an ``attrs.frozen(kw_only=True, field_transformer=checked("section"))``
class whose fields are made by :func:`option`, or by ``attrs.field`` with a named converter and
:func:`about` where the accepted type is wider than the stored one (type checkers see such a
converter only when it stands there literally). The metadata feeds the TOML loader, the file
that ``dig-gossip config`` writes, and the reference in the documentation.

A converter reads one value, in as many forms as are accepted, and raises ``ValueError`` with the
reason; :func:`checked` turns that into ``InvalidConfig("section.field: reason")``.

Source: behaviour §2, CFG-102-X.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import urlsplit

import attrs
from chia_rs.sized_bytes import bytes32

from dig_gossip.errors import InvalidConfig
from dig_gossip.types.peer import AddressLike, PeerAddress, parse_peer_id

T = TypeVar("T")
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
PathLike: TypeAlias = str | os.PathLike[str]

MAX_HOST_CHARS = 253
_MAX_URL_CHARS = 2048
_MAX_PATH_CHARS = 4096
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)


@attrs.frozen
class Rule(Generic[T]):
    """What a value must be: the reader that enforces it, and the words that describe it."""

    read: Callable[[object], T]
    kind: str
    range: str = ""


@attrs.frozen(kw_only=True)
class Option:
    """One setting as the documentation and the TOML file show it.

    :ivar default: the effective default, ``attrs.NOTHING`` where a value is required.
    :ivar example: a value worth showing where the default shows nothing.
    :ivar table: the class of the TOML table behind this key, None for a plain value.
    """

    name: str
    doc: str
    kind: str
    range: str
    unit: str
    default: object
    example: object
    table: type | None


def about(
    doc: str,
    *,
    kind: str,
    range: str = "",  # noqa: A002 - the metadata key
    unit: str = "",
    example: object = None,
    table: type | None = None,
    in_file: bool = True,
    takes_config: bool = False,
) -> dict[str, Any]:  # Any: attrs' metadata type
    """Build the metadata of a field.

    :param in_file: False for objects that no file can hold.
    :param takes_config: the converter also gets the half-made object, with all earlier fields.
    """
    return {
        "doc": " ".join(doc.split()),
        "kind": kind,
        "range": range,
        "unit": unit,
        "example": example,
        "table": table,
        "in_file": in_file,
        "takes_config": takes_config,
    }


def option(
    default: T,
    rule: Rule[T],
    doc: str,
    *,
    unit: str = "",
    example: object = None,
) -> T:
    """Declare a setting; to a type checker it is a field with a default of the rule's type."""
    metadata = about(doc, kind=rule.kind, range=rule.range, unit=unit, example=example)
    field: T = attrs.field(default=default, converter=rule.read, metadata=metadata)
    return field


def section(table: type[T], doc: str, *, optional: bool = True) -> Any:  # Any: as attrs.field
    """Declare a setting that is a configuration object of its own, a table in the file.

    :param optional: None is the default and switches it off; otherwise ``table()`` is.
    """

    def read(value: object) -> object:
        if isinstance(value, table) or (optional and value is None):
            return value
        none = " or None" if optional else ""
        raise ValueError(f"must be a table ({table.__name__}{none}), not {show(value)}")

    default: object = None if optional else attrs.Factory(table)
    metadata = about(doc, kind=table.__name__, table=table)
    return attrs.field(default=default, converter=read, metadata=metadata)


def checked(
    name: str = "",
) -> Callable[[type, list[attrs.Attribute[Any]]], list[attrs.Attribute[Any]]]:
    """Make a ``field_transformer`` that names the field in every converter's complaint.

    :param name: the TOML table of the class, empty for the top level.
    """
    prefix = f"{name}." if name else ""

    def transform(
        _cls: type, fields: list[attrs.Attribute[Any]]
    ) -> list[attrs.Attribute[Any]]:  # Any: fields of any type
        return [field.evolve(converter=_named(prefix + field.name, field)) for field in fields]

    return transform


def _named(path: str, field: attrs.Attribute[Any]) -> object:  # Any: a field of any type
    read: Any = field.converter
    if read is None:
        raise TypeError(f"{path} needs a converter")
    takes_config = field.metadata["takes_config"]

    def convert(value: object, config: object) -> object:
        try:
            return read(value, config) if takes_config else read(value)
        except ValueError as exc:
            raise InvalidConfig(f"{path}: {exc}") from exc

    return attrs.Converter(convert, takes_self=True)


def options_of(table: type) -> Iterator[Option]:
    """Walk through the settings that a file may hold, in the order of their definition."""
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(table)  # Any: fields of any type
    required = any(field.default is attrs.NOTHING for field in fields)
    defaults = None if required else table()
    for field in fields:
        about_it = field.metadata
        if not about_it["in_file"]:
            continue
        yield Option(
            name=field.name,
            doc=about_it["doc"],
            kind=about_it["kind"],
            range=about_it["range"],
            unit=about_it["unit"],
            default=field.default if defaults is None else getattr(defaults, field.name),
            example=about_it["example"],
            table=about_it["table"],
        )


def show(value: object) -> str:
    """Describe a refused value in at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; a deep list
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(key: str, known: Iterable[str]) -> str:
    """Say which key was probably meant, as the end of a complaint; "" if none is near."""
    near = difflib.get_close_matches(key[:64], list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


# --- rules for plain values ------------------------------------------------------------------


def integer(low: int, high: int, *, clamp_low: bool = False) -> Rule[int]:
    """A whole number; booleans are none.

    :param clamp_low: values below ``low`` count as ``low``.
    """
    words = f"{low} to {high}"

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, {words}, not {show(value)}")
        if value < low and clamp_low:
            return low
        if not low <= value <= high:
            raise ValueError(f"must be {words}, not {show(value)}")
        return int(value)

    return Rule(read, "whole number", f"{words} (less counts as {low})" if clamp_low else words)


def number(low: float, high: float = math.inf, *, open_ends: str = "") -> Rule[float]:
    """A finite number.

    :param open_ends: any of ``"<"`` (above ``low``) and ``">"`` (below ``high``); ends are
        included otherwise.
    """
    above, below = "<" in open_ends, ">" in open_ends
    if math.isinf(high):
        words = f"above {low:g}" if above else f"{low:g} or more"
    elif above:
        words = f"above {low:g} and {'below' if below else 'at most'} {high:g}"
    else:
        words = f"{low:g} to {'below ' if below else ''}{high:g}"

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number, {words}, not {show(value)}")
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        fits = (low < result if above else low <= result) and (
            result < high if below else result <= high
        )
        # NaN fails every comparison; infinity would pass an open upper end.
        if not fits or math.isinf(result):
            raise ValueError(f"must be {words}, not {show(value)}")
        return result

    return Rule(read, "number", words)


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {show(value)}")
    return value


#: Yes or no; integers are neither.
flag: Rule[bool] = Rule(_read_flag, "boolean")


def text(low: int, high: int) -> Rule[str]:
    """Printable ASCII of ``low`` to ``high`` characters."""
    words = f"{low} to {high} printable ASCII characters"

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be text, not {show(value)}")
        if not low <= len(value) <= high or not (value.isascii() and value.isprintable()):
            raise ValueError(f"must be {words}, not {show(value)}")
        return value

    return Rule(read, "text", words)


def choice(*values: str) -> Rule[str]:
    """One of a few words."""
    words = " or ".join(f'"{value}"' for value in values)

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"must be {words}, not {show(value)}")
        return value

    return Rule(read, "text", words)


def list_of(rule: Rule[T], limit: int, *, least: int = 0) -> Rule[tuple[T, ...]]:
    """A list of ``least`` to ``limit`` values."""

    def read(value: object) -> tuple[T, ...]:
        items = tuple([rule.read(item) for item in read_list(value, limit)])
        if len(items) < least:
            raise ValueError(f"must list at least {least}, not {len(items)}")
        return items

    return Rule(read, f"list of {rule.kind}", rule.range)


def prose(limit: int) -> Rule[str]:
    """Text of any script, in several lines, without the white space around it."""

    def read(value: object) -> str:
        if not isinstance(value, str) or len(value) > limit:
            raise ValueError(f"must be text of at most {limit} characters, not {show(value)}")
        if not all(char.isprintable() or char == "\n" for char in value):
            raise ValueError("must have no control characters")
        return value.strip()

    return Rule(read, "text", f"at most {limit} characters")


def optional(rule: Rule[T]) -> Rule[T | None]:
    """What ``rule`` accepts, or None."""

    def read(value: object) -> T | None:
        return None if value is None else rule.read(value)

    return Rule(read, rule.kind, rule.range)


def endpoint(default_port: int) -> Rule[str]:
    """A WebSocket URL, stored with its port spelled out; empty for none."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be a ws:// or wss:// URL, not {show(value)}")
        if not value:
            return ""
        wrong = f"must be a URL such as ws://host:{default_port}, not {show(value)}"
        # urlsplit() silently drops line breaks and tabs.
        if len(value) > _MAX_URL_CHARS or not value.isascii() or not value.isprintable():
            raise ValueError(wrong)
        try:
            url = urlsplit(value)
            port = default_port if url.port is None else url.port
        except ValueError as exc:
            raise ValueError(f"{wrong} ({exc})") from exc
        if url.scheme not in ("ws", "wss") or not url.hostname or " " in value or not port:
            raise ValueError(wrong)
        if "@" in url.netloc or url.fragment:
            raise ValueError(f"must have neither a user name nor a fragment: {show(value)}")
        host = check_host(url.hostname)
        netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return url._replace(netloc=netloc).geturl()

    return Rule(read, "URL", f"ws:// or wss://, port {default_port} unless given")


def _read_https_url(value: object) -> str:
    if value == "":
        return ""
    wrong = f"must be a URL such as https://dns.example/dns-query, not {show(value)}"
    if not isinstance(value, str) or len(value) > _MAX_URL_CHARS:
        raise ValueError(wrong)
    # urlsplit() silently drops line breaks and tabs.
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(wrong)
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as exc:
        raise ValueError(f"{wrong} ({exc})") from exc
    if url.scheme != "https" or not url.hostname or port == 0:
        raise ValueError(wrong)
    if "@" in url.netloc or url.fragment:
        raise ValueError(f"must have neither a user name nor a fragment: {show(value)}")
    check_host(url.hostname)
    return value


#: A URL of the web, over TLS; empty for none.
https_url: Rule[str] = Rule(_read_https_url, "URL", "https://")


# --- readers for values that come in several forms -------------------------------------------


def check_host(host: str) -> str:
    """Accept an IP literal or a DNS name of at most 253 characters.

    :raises ValueError: anything else, also a malformed IPv4 address that looks like a name.
    """
    try:
        ipaddress.ip_address(host)
        return host
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    if (
        len(host) > MAX_HOST_CHARS
        or not all(_LABEL.fullmatch(label) for label in labels)
        or labels[-1].isdigit()
    ):
        hint = "" if host.isascii() else " (write an international name in its xn-- form)"
        raise ValueError(f"{show(host)} is neither an IP address nor a host name{hint}")
    return host


def read_ip_address(value: AddressLike, default_port: int | None = None) -> PeerAddress:
    """Read an IP literal with a port; names are refused.

    :param default_port: taken where a text names no port.
    """
    address = read_address(value, default_port)
    if address.ip is None:
        raise ValueError(f"must be an IP address, not the name {show(address.host)}")
    return address


def read_address(value: AddressLike, default_port: int | None = None) -> PeerAddress:
    """Read ``host:port`` in any of its forms, the host being an IP literal or a DNS name."""
    try:
        address = PeerAddress.parse(value, default_port)
    except ValueError as exc:
        form = "host:port" if default_port is None else f"host:port (port {default_port} if none)"
        raise ValueError(f"must be {form}, not {show(value)}") from exc
    check_host(address.host)
    return address


def read_dns_servers(value: Iterable[AddressLike]) -> tuple[PeerAddress, ...]:
    """Read at most 8 IP literals with their ports, 53 where none is given."""
    servers: dict[PeerAddress, None] = {}
    for item in read_list(value, 8):
        address = read_ip_address(item, 53)
        if address.port == 0:
            raise ValueError(f"the port of a DNS server must be 1 to 65535, not 0: {address}")
        servers[address] = None
    return tuple(servers)


def read_bytes32(value: bytes | str | None) -> bytes32 | None:
    """Read 32 bytes, or their hex digits with or without ``0x``; "" and None mean none."""
    if value is None or value == "":
        return None
    if isinstance(value, bytes | str):
        try:
            return parse_peer_id(value)
        except ValueError:
            pass
    raise ValueError(f"must be 32 bytes or 64 hex digits, not {show(value)}")


def read_path(value: PathLike) -> str:
    """Read a path; "" stands for none."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise ValueError(f"must be a path, not {show(value)}")
    if "\0" in path or len(path) > _MAX_PATH_CHARS or not _is_unicode(path):
        raise ValueError(f"is no usable path: {show(path)}")
    return path


def read_optional_path(value: PathLike | None) -> str | None:
    """Read a path; "" and None mean none."""
    return (read_path(value) or None) if value is not None else None


def read_networks(value: Iterable[str | IPNetwork]) -> tuple[IPNetwork, ...]:
    """Read IP networks in CIDR form; host bits are cleared, duplicates collapse."""
    networks: dict[IPNetwork, None] = {}
    for item in read_list(value, 1000):
        if not isinstance(item, str | ipaddress.IPv4Network | ipaddress.IPv6Network):
            raise ValueError(f"must list networks such as 10.0.0.0/8, not {show(item)}")
        try:
            networks[ipaddress.ip_network(item, strict=False)] = None
        except ValueError:
            raise ValueError(f"{show(item)} is no network such as 10.0.0.0/8") from None
    return tuple(networks)


def read_host_names(value: Iterable[str]) -> tuple[str, ...]:
    """Read at most 64 host names; duplicates collapse."""
    names: dict[str, None] = {}
    for item in read_list(value, 64):
        if not isinstance(item, str):
            raise ValueError(f"must list host names, not {show(item)}")
        names[check_host(item)] = None
    return tuple(names)


def read_list(value: object, limit: int) -> list[Any]:  # Any: items are checked by the caller
    """Copy a list, tuple or other collection of at most ``limit`` items; text is none."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValueError(f"must be a list, not {show(value)}")
    items = list(value)
    if len(items) > limit:
        raise ValueError(f"must list at most {limit}, not {len(items)}")
    return items


def read_software_version(value: str) -> str:
    """Read the text that tells peers what we run."""
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {show(value)}")
    if value == "0.0.0":
        raise ValueError('must not be "0.0.0", which old nodes send; use "" to tell nothing')
    if value and not value.isprintable():
        raise ValueError(f"must have no control characters: {show(value)}")
    if len(value.encode("utf-8", "replace")) > 128 or not _is_unicode(value):
        raise ValueError("must be at most 128 bytes of UTF-8")
    return value


def _is_unicode(value: str) -> bool:
    # Lone surrogates come from undecodable file names and cannot be written anywhere.
    return not any("\ud800" <= char <= "\udfff" for char in value)
