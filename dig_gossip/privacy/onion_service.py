"""An onion service of the node's own, made through Tor's control port::

    connect ─▶ authenticate ─▶ ADD_ONION ─▶ published ─▶ (connection lost) ─▶ again
                     any failure ─▶ wait, at most 5 minutes ─▶ again

The service lives as long as the control connection: Tor takes it down when the node stops, however
the node stops. Its key lives in a file that only the owner can read, so that the address stays.

Source: behaviour PRV-010.2; Tor's ``control-spec`` §3.27 (ADD_ONION).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.endpoints import client_endpoint
from dig_gossip.errors import InvalidConfig, Io
from dig_gossip.types.ip import is_onion
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled
from dig_gossip.util.files import read_at_most, write_atomically
from dig_gossip.util.sanitize import sanitize_text

_ATTEMPT_SECS: Final = 60.0
_FIRST_DELAY_SECS: Final = 5.0
_MAX_DELAY_SECS: Final = 300.0
_GOODBYE_SECS: Final = 2.0
_MAX_KEY_BYTES: Final = 1024
_KEY = re.compile(r"ED25519-V3:[A-Za-z0-9+/]{86}==")


class OnionService:
    """Keeps one onion service up while the node runs.

    :param control: the control port, ``host:port`` or ``unix:`` and a path.
    :param password: of the control port; without one, its cookie.
    :param key_path: the file of the service's key; empty for a new address at every start.
    :param changed: told the host of the service when it is up, and None when it is not any more.
    :raises InvalidConfig: txtorcon is not installed.
    """

    _log = Logger()

    def __init__(
        self,
        control: str,
        password: str,
        key_path: str,
        clock: Clock,
        changed: Callable[[str | None], object],
    ) -> None:
        if find_spec("txtorcon") is None:
            raise InvalidConfig(
                "tor.control_address: needs txtorcon: install dig-gossip[tor], or set "
                "tor.onion_address to a service that Tor's own configuration makes"
            )
        self.host: str | None = None
        self._control = control
        self._password = password
        self._key_path = key_path
        self._key = ""
        self._clock = clock
        self._changed = changed
        self._delay = _FIRST_DELAY_SECS
        self._command = ""
        self._attempt: Deferred[None] | None = None
        self._limit: Timer | None = None
        self._retry: Timer | None = None
        self._protocol: Any = None  # Any: txtorcon has no types
        self._stopped = False

    def start(self, port: int, target: PeerAddress) -> None:
        """Begin to publish.

        :param port: of the service.
        :param target: where Tor is to bring connections.
        """
        self._command = f"Port={port},{target}"
        self._begin()

    def stop(self) -> Deferred[None]:
        """Take the service down; fires when the connection is closed."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        protocol = self._protocol
        if protocol is None:
            if self._attempt is not None:
                self._attempt.cancel()
            return succeed(None)
        gone: Deferred[None] = Deferred()
        protocol.when_disconnected().addBoth(lambda _reason: gone.callback(None))
        timer = self._clock.call_later(_GOODBYE_SECS, protocol.transport.abortConnection)
        protocol.transport.loseConnection()
        return gone.addCallback(lambda _none: timer.cancel())

    def _begin(self) -> None:
        self._attempt = Deferred.fromCoroutine(self._publish())
        self._limit = self._clock.call_later(_ATTEMPT_SECS, self._attempt.cancel)
        handled(self._attempt.addCallbacks(self._published, self._failed))

    async def _publish(self) -> None:
        from txtorcon import TorProtocolFactory

        self._load_key()
        factory = TorProtocolFactory(password_function=lambda: self._password or None)
        protocol: Any = await self._endpoint().connect(factory)
        self._protocol = protocol
        protocol.when_disconnected().addBoth(self._lost, protocol)
        await protocol.post_bootstrap
        key = self._key or "NEW:ED25519-V3"
        reply = await protocol.queue_command(f"ADD_ONION {key} {self._command}")
        self._take(str(reply))

    def _take(self, reply: str) -> None:
        fields = dict(line.split("=", 1) for line in reply.splitlines() if "=" in line)
        host = f"{fields.get('ServiceID', '')}.onion"
        if not is_onion(host):
            raise Io("Tor's answer to ADD_ONION names no service")
        key = fields.get("PrivateKey", "")
        if key:
            if not _KEY.fullmatch(key):
                raise Io("Tor's answer to ADD_ONION has a key of an unknown form")
            self._key = key
            if self._key_path:
                write_atomically(self._key_path, key.encode())
        self.host = host

    def _load_key(self) -> None:
        if self._key or not self._key_path:
            return
        content = read_at_most(self._key_path, _MAX_KEY_BYTES)
        if content is None:
            return
        key = content.decode("ascii", "replace").strip()
        if not _KEY.fullmatch(key):
            # Another key would be another address: that is for the operator to decide.
            raise Io(
                f"{self._key_path} holds no key of an onion service; move it away for a new one"
            )
        self._key = key

    def _endpoint(self) -> IStreamClientEndpoint:
        reactor: Any = self._clock.reactor
        if self._control.startswith("unix:"):
            return UNIXClientEndpoint(reactor, self._control.removeprefix("unix:"))
        address = PeerAddress.parse(self._control)
        return client_endpoint(reactor, address, timeout=_ATTEMPT_SECS)

    def _published(self, _result: None) -> None:
        self._over()
        if self._protocol is None or self._stopped:  # lost in the meantime
            return
        self._delay = _FIRST_DELAY_SECS
        self._log.info(
            "the onion service {host} leads here", event="onion_published", host=self.host
        )
        self._changed(self.host)

    def _failed(self, failure: Failure) -> None:
        self._over()
        if self._stopped:
            return
        self._log.warn(
            "cannot make the onion service: {error}; next attempt in {delay:.0f} s",
            event="onion_failed",
            error=sanitize_text(failure.getErrorMessage()),
            delay=self._delay,
        )
        if self._protocol is not None:
            self._protocol.transport.abortConnection()
        self._again()

    def _over(self) -> None:
        self._attempt = None
        if self._limit is not None:
            self._limit.cancel()

    def _again(self) -> None:
        if self._retry is None or not self._retry.active:
            self._retry = self._clock.call_later(self._delay, self._begin)
            self._delay = min(2 * self._delay, _MAX_DELAY_SECS)

    def _lost(self, _reason: object, protocol: Any) -> None:
        """The control connection is gone, and with it the service."""
        if self._protocol is protocol:
            self._protocol = None
        if self.host is None or self._stopped:
            return
        self.host = None
        if self._attempt is None:
            self._log.warn("Tor has closed the control connection", event="onion_lost")
            self._changed(None)
            self._again()
