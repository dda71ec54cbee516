"""The file in which an introducer keeps its nodes: JSON, one row a node.

Pure: values in, bytes out, and back. Source: behaviour ISV-106-X.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from dig_gossip.types.introducer import VettedPeer
from dig_gossip.types.peer import PeerAddress, parse_peer_id

_FORMAT: Final = "dig-introducer nodes"
_VERSION: Final = 1
#: A million nodes fit.
MAX_FILE_BYTES: Final = 268_435_456
_MAX_HOST_CHARS: Final = 64
#: Far beyond any count of probes, and no overflow anywhere.
_MAX_VETTED: Final = 1_000_000_000


def encode(records: tuple[VettedPeer, ...], network: str) -> bytes:
    """Write records, a line each.

    :param network: the name of their network in handshakes.
    """
    rows = [
        json.dumps(
            [
                record.address.host,
                record.address.port,
                record.vetted,
                record.vetted_timestamp,
                record.last_attempt,
                record.time_added,
                None if record.peer_id is None else record.peer_id.hex(),
            ]
        )
        for record in records
    ]
    head = json.dumps({"format": _FORMAT, "version": _VERSION, "network": network})
    lines = ",\n".join(rows)
    return f'{head[:-1]}, "nodes": [\n{lines}\n]}}\n'.encode()


def decode(data: bytes, network: str) -> list[VettedPeer]:
    """Read records back; a row that is not one spoils the file.

    :param network: the network that the file must be of.
    :raises ValueError: anything but such a file; the text says why.
    """
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError("not a file of an introducer")
    if document.get("version") != _VERSION:
        raise ValueError("made by another version")
    if document.get("network") != network:
        raise ValueError("of another network")
    rows = document.get("nodes")
    if not isinstance(rows, list):
        raise ValueError("without nodes")
    return [_record(row) for row in rows]


def _record(row: Any) -> VettedPeer:  # Any: JSON
    if not isinstance(row, list) or len(row) != 7:
        raise ValueError("a row is not one")
    host, port, vetted, vetted_timestamp, last_attempt, time_added, peer_id = row
    if not isinstance(host, str) or len(host) > _MAX_HOST_CHARS:
        raise ValueError("a host is not one")
    if type(vetted) is not int or abs(vetted) > _MAX_VETTED:
        raise ValueError("a count is not one")
    if peer_id is not None and not isinstance(peer_id, str):
        raise ValueError("a peer id is not one")
    return VettedPeer(
        address=PeerAddress(host, port),
        vetted=vetted,
        vetted_timestamp=_time(vetted_timestamp),
        last_attempt=_time(last_attempt),
        time_added=_time(time_added),
        peer_id=None if peer_id is None else parse_peer_id(peer_id),
    )


def _time(value: Any) -> float:  # Any: JSON
    if type(value) not in (int, float) or not 0 <= value < 1e15 or math.isnan(value):
        raise ValueError("a time is not one")
    return float(value)
