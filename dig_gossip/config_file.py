"""Configuration files: TOML in, :class:`~dig_gossip.types.config.GossipConfig` out, and back.

The keys are the fields of ``GossipConfig``; its parts are tables (``[relay]``, ``[plumtree]``).
Files of the servers hold the fields of their own classes, by the same rules. Defaults give way to
the file, and the file to overrides (the command line).
"""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs

from dig_gossip.errors import InvalidConfig, Io
from dig_gossip.types.config import FEATURES_NOT_YET, GossipConfig
from dig_gossip.types.network import PRESETS, Network
from dig_gossip.types.options import Option, nearest, options_of, show

__all__ = [
    "MAX_FILE_BYTES",
    "build_config",
    "load_config",
    "load_settings",
    "parse_config",
    "to_toml",
    "toml_literal",
]

MAX_FILE_BYTES = 1_048_576
_WIDTH = 96

C = TypeVar("C")


def load_config(
    path: str | None = None, overrides: Mapping[str, object] | None = None
) -> GossipConfig:
    """Make a configuration of a TOML file and overrides.

    :param path: None for no file.
    :param overrides: as in :func:`build_config`.
    :raises Io: the file cannot be read.
    :raises InvalidConfig: it is larger than 1 MiB, no TOML, or says something unusable; the text
        names the file, and the line or the key.
    """
    return load_settings(GossipConfig, path, overrides)


def load_settings(
    kind: type[C], path: str | None = None, overrides: Mapping[str, object] | None = None
) -> C:
    """Make a configuration object of any class, as :func:`load_config` makes a node's.

    :param kind: an attrs class whose fields were declared with ``option`` or ``about``.
    """
    if path is None:
        return _build(kind, {}, overrides, "configuration")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a path that no system call takes
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise Io(f"cannot read the configuration file {path}: {reason}") from exc
    if len(data) > MAX_FILE_BYTES:
        raise InvalidConfig(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise InvalidConfig(f"{path}: not UTF-8 text (at line {line})") from exc
    return _build(kind, _parse(text, path), overrides, path)


def parse_config(
    text: str, overrides: Mapping[str, object] | None = None, *, source: str = "configuration"
) -> GossipConfig:
    """Make a configuration of TOML text and overrides.

    :param source: what errors call the text, usually its path.
    :raises InvalidConfig: as in :func:`load_config`.
    """
    return build_config(_parse(text, source), overrides, source=source)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise InvalidConfig(f"{source}: nested too deeply") from exc
    except tomllib.TOMLDecodeError as exc:
        line = len(text.splitlines())
        reason = str(exc).replace("at end of document", f"at line {line}, the last one")
        raise InvalidConfig(f"{source}: {reason}") from exc
    except ValueError as exc:  # Python refuses to read integers of thousands of digits
        raise InvalidConfig(f"{source}: a number has too many digits") from exc


def build_config(
    settings: Mapping[str, object],
    overrides: Mapping[str, object] | None = None,
    *,
    source: str = "configuration",
) -> GossipConfig:
    """Make a configuration of settings, as TOML has them, and overrides.

    :param overrides: values by field name, which win. A mapping changes single settings of a
        table; None or a configuration object replaces the whole table.
    :raises InvalidConfig: a key that does not exist, with the nearest one that does; a value that
        cannot be used.
    """
    return _build(GossipConfig, settings, overrides, source)


def _build(
    kind: type[C],
    settings: Mapping[str, object],
    overrides: Mapping[str, object] | None,
    source: str,
) -> C:
    overrides = {} if overrides is None else overrides
    places = _known_keys(kind)
    _check_keys(settings, places, source)
    # What no file can hold may still be injected.
    as_any: Any = kind  # Any: every class with options is an attrs class
    injected = {field.name for field in attrs.fields(as_any)} - set(places[""])
    named = {name: value for name, value in overrides.items() if name not in injected}
    _check_keys(named, places, "overrides")

    merged: dict[str, Any] = dict(settings)  # Any: the class judges what these are
    for name, value in overrides.items():
        below = merged.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = {**below, **value}
        merged[name] = value
    try:
        for option in _tables(kind):
            if isinstance(merged.get(option.name), Mapping):
                merged[option.name] = _build_table(option, merged[option.name])
        return kind(**merged)
    except InvalidConfig as exc:
        key = exc.text.partition(":")[0].partition(".")[0]
        if key in settings and key not in overrides:
            raise InvalidConfig(f"{exc.text} (in {source})") from exc
        raise


def to_toml(config: GossipConfig) -> str:
    """Write a configuration file with every option, its meaning and its default.

    Options at their default are commented out, so that later defaults apply to them.
    ``parse_config(to_toml(config)) == config``. Objects that no file can hold are left out.
    """
    lines = ["# Configuration of dig-gossip. Remove the # before an option to set it.", ""]
    tables: list[str] = []
    for option in options_of(GossipConfig):
        value = getattr(config, option.name)
        if option.table is None:
            lines += _entry(option, value)
        elif isinstance(value, Network) and PRESETS.get(value.name) == value:
            by_name = attrs.evolve(option, default=Network.DIG_MAINNET.name)
            lines += _entry(by_name, value.name)
        else:
            tables += _table(option, option.table, value)
    return "\n".join(lines + tables)


def _table(option: Option, table: type, value: object) -> list[str]:
    summary = " ".join((table.__doc__ or "").split("\n\n")[0].split())
    header = f"[{option.name}]" if value is not None else f"#[{option.name}]"
    lines = [*_comment(summary), *_not_yet(option.name), header, ""]
    for inner in options_of(table):
        lines += _entry(inner, inner.default if value is None else getattr(value, inner.name))
    return lines


def _entry(option: Option, value: object) -> list[str]:
    kind = f"{option.kind} of {option.unit}" if option.unit else option.kind
    facts = f"{kind}, {option.range}" if option.range else kind
    is_changed = value != option.default
    if option.default not in (None, "", (), attrs.NOTHING):
        facts += f"; default {toml_literal(option.default)}"
    elif not is_changed and option.example is not None:
        value = option.example
    return [
        *_comment(option.doc),
        *_not_yet(option.name),
        *_comment(f"({facts})"),
        f"{'' if is_changed else '#'}{option.name} = {toml_literal(value)}",
        "",
    ]


def _comment(text: str) -> list[str]:
    words = text.replace("``", "")
    return ["# " + line for line in textwrap.wrap(words, _WIDTH - 2, break_long_words=False)]


def _not_yet(name: str) -> list[str]:
    return ["# Not available yet."] if name in FEATURES_NOT_YET else []


def toml_literal(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and value < 1e15:
        return str(int(value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(toml_literal, value)) + "]"
    if isinstance(value, bytes):
        return f'"{value.hex()}"'
    text = "" if value is None else str(value)
    # JSON leaves DEL alone, which TOML does not allow.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _tables(kind: type) -> Iterable[Option]:
    return (option for option in options_of(kind) if option.table is not None)


def _known_keys(kind: type) -> dict[str, list[str]]:
    """The options of each table; those outside of any are under ""."""
    known = {"": [option.name for option in options_of(kind)]}
    for option in _tables(kind):
        assert option.table is not None
        known[option.name] = [inner.name for inner in options_of(option.table)]
    return known


def _check_keys(
    settings: Mapping[str, object], places: Mapping[str, list[str]], source: str
) -> None:
    for key, value in settings.items():
        if key not in places[""]:
            raise _unknown("", key, places, source)
        if key in places and isinstance(value, Mapping):
            for inner in value:
                if inner not in places[key]:
                    raise _unknown(key, inner, places, source)


def _unknown(table: str, key: str, places: Mapping[str, list[str]], source: str) -> InvalidConfig:
    others = [f"[{name}]" for name, keys in places.items() if name and key in keys]
    if table and key in places[""]:
        hint = "; it belongs above the first [table]"
    elif others:
        hint = f"; it belongs into {' or '.join(others)}"
    else:
        hint = nearest(key, places[table])
    name = key if key.isidentifier() and len(key) <= 60 else show(key)
    path = f"{table}.{name}" if table else name
    return InvalidConfig(f"{path}: no such option{hint} (in {source})")


def _build_table(option: Option, values: Mapping[str, Any]) -> object:  # Any: as in build_config
    assert option.table is not None
    for inner in options_of(option.table):
        if inner.default is attrs.NOTHING and inner.name not in values:
            raise InvalidConfig(f"{option.name}.{inner.name}: must be set in [{option.name}]")
    return option.table(**values)
