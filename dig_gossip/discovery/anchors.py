"""Two peers that a node comes back to first, so that a restart is no chance to surround it.

Pure. Source: issue of eclipse resistance; Bitcoin Core's ``anchors.dat``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from dig_gossip.constants import MAX_ANCHORS
from dig_gossip.types.peer import PeerAddress

MAX_FILE_BYTES: Final = 4096
_VERSION: Final = 1


def choose_anchors(
    sessions: Iterable[tuple[float, PeerAddress]], before: Iterable[PeerAddress]
) -> tuple[PeerAddress, ...]:
    """Choose the outbound peers that have been there the longest.

    :param sessions: when each outbound session was opened, and where to.
    :param before: the anchors so far; they stay if there are too few sessions, so that an outage
        leaves a node with somebody to come back to.
    """
    oldest = [address for _, address in sorted(sessions)[:MAX_ANCHORS]]
    return tuple(dict.fromkeys([*oldest, *before]))[:MAX_ANCHORS]


def encode_anchors(anchors: Iterable[PeerAddress]) -> bytes:
    """Write the content of the file."""
    document = {"version": _VERSION, "anchors": [str(address) for address in anchors]}
    return (json.dumps(document, indent=1) + "\n").encode()


def decode_anchors(data: bytes) -> tuple[PeerAddress, ...]:
    """Read the content of the file.

    :raises ValueError: it is none of ours.
    """
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError(f"not a file of anchors of version {_VERSION}")
    found = document.get("anchors")
    if not isinstance(found, list) or len(found) > MAX_ANCHORS:
        raise ValueError(f"not a list of at most {MAX_ANCHORS} addresses")
    anchors = tuple(PeerAddress.parse(text) for text in found)
    if any(address.port == 0 for address in anchors):
        raise ValueError("an address has port 0")
    return anchors
