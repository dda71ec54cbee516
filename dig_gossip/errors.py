"""Everything that can go wrong, as one tree under :class:`GossipError`.

Arguments stay available as attributes. Both ``str()`` and ``repr()`` are one line of text in which
nothing a peer supplied can forge a second line: every text passes :func:`sanitize_text` on entry.

Source: behaviour API-004, API-004.1, API-102-X.
"""

from __future__ import annotations

import enum
from typing import Any

from dig_gossip.util.sanitize import sanitize_text


class GossipError(Exception):
    """Base of every error this package raises on purpose."""

    def __init__(self, text: str = "") -> None:
        self.text = sanitize_text(text)
        super().__init__(self.text)

    def __str__(self) -> str:
        return self.text or type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class ClientErrorKind(enum.Enum):
    """What a :class:`ClientError` is about; the value is the name used in logs and counters."""

    WRONG_NETWORK = "wrong_network"
    MISSING_HANDSHAKE = "missing_handshake"
    WRONG_NODE_TYPE = "wrong_node_type"
    BAD_VERSION = "bad_version"
    INVALID_RESPONSE = "invalid_response"
    MALFORMED = "malformed"
    TLS = "tls"
    WS = "ws"
    TIMEOUT = "timeout"
    REFUSED = "refused"


#: Trying again cannot help: the other side runs something else, not something broken.
_HOPELESS = frozenset(
    {
        ClientErrorKind.WRONG_NETWORK,
        ClientErrorKind.WRONG_NODE_TYPE,
        ClientErrorKind.BAD_VERSION,
    }
)


class ClientError(GossipError):
    """A transport, handshake or encoding failure of one connection.

    :param kind: what failed.
    :param retryable: whether a later attempt may succeed; by default False for policy refusals
        (network, version, node type) and True otherwise.
    """

    def __init__(
        self, kind: ClientErrorKind, text: str = "", *, retryable: bool | None = None
    ) -> None:
        self.kind = kind
        self.retryable = kind not in _HOPELESS if retryable is None else retryable
        super().__init__(f"{kind.value}: {text}" if text else kind.value)


class InvalidConfig(GossipError):
    """A configuration value cannot be used; the text is ``field: reason``."""


class ServiceNotStarted(GossipError):
    """The handle was used before ``start()`` or after ``stop()``."""

    def __init__(self) -> None:
        super().__init__("the service is not running: call start() first")


class AlreadyStarted(GossipError):
    """``start()`` was called on a running service."""

    def __init__(self) -> None:
        super().__init__("the service is already running")


class _PeerError(GossipError):
    _what = ""

    def __init__(self, peer_id: bytes | None = None, text: str = "") -> None:
        self.peer_id = peer_id
        who = peer_id.hex() if peer_id is not None else "peer"
        super().__init__(f"{who} {self._what}" + (f": {text}" if text else ""))


class PeerBanned(_PeerError):
    """The peer id, or the address it uses, is banned."""

    _what = "is banned"


class DuplicateConnection(_PeerError):
    """A live session with this peer exists already."""

    _what = "is already connected"


class PeerNotConnected(_PeerError):
    """No session with this peer exists (any more)."""

    _what = "is not connected"


class MaxConnectionsReached(GossipError):
    """Every slot is taken; ``limit`` is the number of slots."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"all {limit} connection slots are taken")


class SelfConnection(GossipError):
    """The other end is this node."""

    def __init__(self, text: str = "the other end is this node") -> None:
        super().__init__(text)


class ConnectionFiltered(GossipError):
    """A diversity rule refused the connection."""


class ProxyError(GossipError):
    """The proxy could not be used, or failed; nothing is known about whoever was to be reached."""


class DiscoveryError(GossipError):
    """A seed or introducer look-up failed."""


class RelayError(GossipError):
    """The relay refused, or could not be reached."""


class ChannelClosed(GossipError):
    """The service stopped while somebody was waiting."""

    def __init__(self, text: str = "the service has stopped") -> None:
        super().__init__(text)


class Io(GossipError):
    """The operating system refused: a file, a port, a socket."""


class RequestTimeout(GossipError):
    """No answer to a request within its time."""


class RequestRejected(GossipError):
    """The peer answered a request with its ``Reject…`` message or error; ``answer`` carries it."""

    def __init__(self, answer: Any, text: str = "") -> None:  # Any: a chia_rs object or our own
        self.answer = answer
        super().__init__(text or f"rejected with {type(answer).__name__}")


class WrongDispatch(GossipError):
    """This message cannot be sent in this way, for example a reply that is to be broadcast."""


class Backpressured(GossipError):
    """The peer's queue is too full, or its limits too tight, for this message."""


class IntroducerNotConfigured(GossipError):
    """The configuration names no introducer."""

    def __init__(self) -> None:
        super().__init__("no introducer is configured: set GossipConfig.introducer")


class IntroducerError(GossipError):
    """The introducer answered something unusable."""


class RelayNotConfigured(GossipError):
    """The configuration names no relay."""

    def __init__(self) -> None:
        super().__init__("no relay is configured: set GossipConfig.relay")


class AddressManagerStore(GossipError):
    """The address book file cannot be read or written."""


class SketchError(GossipError):
    """A sketch has an impossible size or element."""


class SketchDecodeFailed(SketchError):
    """The difference of two sets does not fit the sketch."""
