"""SOCKS5 as its client speaks it: asks for a destination, by name, and reads the answer.

Pure: bytes in, bytes out. Source: RFC 1928, RFC 1929; Tor's ``socks-extensions``; behaviour
PRV-010.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from dig_gossip.errors import ClientError, ClientErrorKind, GossipError, ProxyError
from dig_gossip.types.peer import PeerAddress

_VERSION: Final = 5
_NO_AUTHENTICATION: Final = 0
_USER_AND_PASSWORD: Final = 2
_AUTHENTICATION_VERSION: Final = 1
_CONNECT: Final = 1
_MAX_TEXT: Final = 255

_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
_ADDRESS_BYTES: Final = {_IPV4: 4, _IPV6: 16}

_REPLIES: Final = {
    1: "general failure",
    2: "forbidden by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "timed out",
    7: "command not supported",
    8: "address type not supported",
    0xF0: "the onion service has no descriptor",
    0xF1: "the onion service's descriptor is invalid",
    0xF2: "the onion service cannot be introduced",
    0xF3: "no rendezvous with the onion service",
    0xF4: "the onion service wants authorization",
    0xF5: "the onion service refuses our authorization",
    0xF6: "the onion address is invalid",
    0xF7: "the introduction to the onion service timed out",
}
#: What these say is about the destination; the others are about the proxy, or may be.
_ABOUT_DESTINATION: Final = {
    3: ClientErrorKind.REFUSED,
    4: ClientErrorKind.REFUSED,
    5: ClientErrorKind.REFUSED,
    6: ClientErrorKind.TIMEOUT,
    **dict.fromkeys(range(0xF0, 0xF7), ClientErrorKind.REFUSED),
    0xF7: ClientErrorKind.TIMEOUT,
}


@attrs.frozen
class Credentials:
    """A user and a password, each 1 to 255 bytes.

    Tor checks them against nothing: connections with different ones share no circuit.
    """

    user: bytes
    password: bytes = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        if not (0 < len(self.user) <= _MAX_TEXT and 0 < len(self.password) <= _MAX_TEXT):
            raise ValueError("a user or a password has 1 to 255 bytes")


class SocksStage(enum.Enum):
    """What the client waits for."""

    METHOD = "method"
    AUTHENTICATION = "authentication"
    REPLY = "reply"
    CONNECTED = "connected"


class SocksClient:
    """One conversation with a proxy, up to the moment when the destination takes over::

        METHOD ─▶ (AUTHENTICATION) ─▶ REPLY ─▶ CONNECTED

    Names are never looked up: the proxy gets them as they are. Bounds: keeps less than one answer,
    262 bytes, until it is connected.

    :param address: the destination.
    :param credentials: what to offer beside no authentication; the proxy chooses.
    :ivar surplus: what came after the proxy's last answer: the destination's first bytes.
    """

    def __init__(self, address: PeerAddress, credentials: Credentials | None = None) -> None:
        self.stage = SocksStage.METHOD
        self.surplus = b""
        self._request = _request(address)
        self._credentials = credentials
        self._buffer = b""

    @property
    def is_connected(self) -> bool:
        """Whether the proxy has said that the destination is there."""
        return self.stage is SocksStage.CONNECTED

    def begin(self) -> bytes:
        """What to send first."""
        methods = [_NO_AUTHENTICATION]
        if self._credentials is not None:
            methods.append(_USER_AND_PASSWORD)
        return bytes((_VERSION, len(methods), *methods))

    def received(self, data: bytes) -> bytes:
        """Take bytes of the proxy.

        :returns: what to send to it, possibly nothing.
        :raises ProxyError: the proxy refuses, fails, or is none.
        :raises ClientError: (refused, timeout) the proxy says that the destination cannot be
            reached.
        """
        if self.is_connected:
            self.surplus += data
            return b""
        self._buffer += data
        answer = b""
        while not self.is_connected:
            before = self.stage
            answer += self._step()
            if self.stage is before:
                return answer
        self.surplus, self._buffer = self._buffer, b""
        return answer

    def _step(self) -> bytes:
        """Take one answer of the proxy, if it is complete."""
        if self.stage is SocksStage.REPLY:
            self._read_reply()
            return b""
        buffer = self._buffer
        if self.stage is SocksStage.METHOD:
            _check_version(buffer, _VERSION)
            if len(buffer) < 2:
                return b""
            self._buffer = buffer[2:]
            return self._chosen(buffer[1])
        _check_version(buffer, _AUTHENTICATION_VERSION)
        if len(buffer) < 2:
            return b""
        if buffer[1]:
            raise ProxyError("the proxy refuses our user and password")
        self._buffer = buffer[2:]
        self.stage = SocksStage.REPLY
        return self._request

    def _chosen(self, method: int) -> bytes:
        if method == _NO_AUTHENTICATION:
            self.stage = SocksStage.REPLY
            return self._request
        if method == _USER_AND_PASSWORD and self._credentials is not None:
            self.stage = SocksStage.AUTHENTICATION
            user, password = self._credentials.user, self._credentials.password
            version = bytes((_AUTHENTICATION_VERSION,))
            return version + _counted(user) + _counted(password)
        raise ProxyError(f"the proxy wants another authentication than we have: {method}")

    def _read_reply(self) -> None:
        buffer = self._buffer
        _check_version(buffer, _VERSION)
        if len(buffer) < 2:
            return
        # An error is one as soon as it is seen; some proxies close without the rest.
        if buffer[1]:
            raise _refusal(buffer[1])
        if len(buffer) < 5:
            return
        kind = buffer[3]
        if kind == _NAME:
            size = 1 + buffer[4]
        elif kind in _ADDRESS_BYTES:
            size = _ADDRESS_BYTES[kind]
        else:
            raise ProxyError(f"the proxy answers with an unknown type of address: {kind}")
        end = 4 + size + 2
        if len(buffer) >= end:
            self._buffer = buffer[end:]
            self.stage = SocksStage.CONNECTED


def _request(address: PeerAddress) -> bytes:
    ip = address.ip
    if ip is not None:
        target = bytes((_IPV4 if ip.version == 4 else _IPV6,)) + ip.packed
    else:
        try:
            name = address.host.encode("ascii")
        except ValueError:
            raise ProxyError("the name is not ASCII") from None
        if len(name) > _MAX_TEXT:
            raise ProxyError("the name is too long for SOCKS")
        target = bytes((_NAME,)) + _counted(name)
    return bytes((_VERSION, _CONNECT, 0)) + target + address.port.to_bytes(2, "big")


def _counted(text: bytes) -> bytes:
    return bytes((len(text),)) + text


def _check_version(buffer: bytes, version: int) -> None:
    if buffer and buffer[0] != version:
        raise ProxyError(f"what answers is no SOCKS5 proxy: it begins with {buffer[0]}")


def _refusal(code: int) -> GossipError:
    text = f"the proxy says: {_REPLIES.get(code, f'unknown failure {code}')}"
    kind = _ABOUT_DESTINATION.get(code)
    return ProxyError(text) if kind is None else ClientError(kind, text)
