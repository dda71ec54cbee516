"""PCP and NAT-PMP, as ways to ask for a mapping.

Source: RFC 6887 §11, §15; RFC 6886 §3.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dictionary
from typing import Final

from dig_gossip.errors import ClientError
from dig_gossip.portmap.epoch import Epoch, is_kept_natpmp, is_kept_pcp
from dig_gossip.portmap.gateway_link import ATTEMPTS, GatewayLink
from dig_gossip.portmap.values import LIFETIME_SECS, Mapping, MappingFailed, bounded_lifetime
from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire import natpmp, pcp
from dig_gossip.wire.streamable import malformed

#: A node that stops does not wait for a silent gateway: 1.75 s.
_LAST_ATTEMPTS: Final = 3
_ANY: Final = "0.0.0.0"


class Pcp:
    """Mappings by PCP.

    :param port: where we listen.
    :param suggested: the external port wished for.
    :param nonce: 12 random bytes: who has them may change the mapping.
    :param now: monotonic seconds.
    """

    name = "pcp"

    def __init__(
        self,
        link: GatewayLink,
        port: int,
        suggested: int,
        nonce: bytes,
        *,
        now: Callable[[], float],
    ) -> None:
        self._link = link
        self._port = port
        self._wish = PeerAddress(_ANY, suggested)
        self._nonce = nonce
        self._epoch = Epoch(is_kept_pcp, now=now)
        self._may_hold = False

    async def map(self) -> Mapping:
        """See :class:`Method`; afterwards the same external address is wished for."""
        held, self._may_hold = self._may_hold, True  # also if we are cancelled
        try:
            return self._granted(await self._ask(pcp.Opcode.MAP, LIFETIME_SECS, ATTEMPTS))
        except MappingFailed:
            self._may_hold = held
            raise

    def _granted(self, response: pcp.Response) -> Mapping:
        self._is_same_table(response)  # the mapping is there, whatever was before
        _check(response.result, pcp.RESULTS)
        if response.external is None or not response.external.port:
            raise MappingFailed("the gateway names no external port")
        lifetime = bounded_lifetime(response.lifetime)
        self._wish = response.external
        return Mapping(method=self.name, external=response.external, lifetime=lifetime)

    async def is_intact(self) -> bool:
        """See :class:`Method`; whatever answers an ANNOUNCE tells the age of the table."""
        return self._is_same_table(await self._ask(pcp.Opcode.ANNOUNCE, 0, ATTEMPTS))

    async def release(self) -> None:
        """See :class:`Method`."""
        if self._may_hold:
            response = await self._ask(pcp.Opcode.MAP, 0, _LAST_ATTEMPTS)
            _check(response.result, pcp.RESULTS)

    def is_news(self, datagram: bytes) -> bool:
        """Whether the gateway says, unasked, that the mapping leads from elsewhere now, or that
        it has started anew (RFC 6887 §14)."""
        try:
            response = pcp.parse_response(datagram, self._nonce, self._port)
        except ClientError:
            return False
        if response.epoch is None:
            return False
        if response.opcode == pcp.Opcode.ANNOUNCE:
            return True
        return response.external not in (None, self._wish)

    async def _ask(self, opcode: pcp.Opcode, lifetime: int, attempts: int) -> pcp.Response:
        host = self._link.host
        if opcode is pcp.Opcode.MAP:
            wish = self._wish if lifetime else PeerAddress(_ANY, 0)
            request = pcp.build_map(host, self._nonce, self._port, wish, lifetime)
        else:
            request = pcp.build_announce(host)

        def read(datagram: bytes) -> pcp.Response:
            response = pcp.parse_response(datagram, self._nonce, self._port)
            if response.epoch is None:
                raise MappingFailed("the gateway does not speak PCP")
            if response.opcode != opcode:
                raise malformed("the response is to another request")
            return response

        return await self._link.ask(request, read, attempts=attempts)

    def _is_same_table(self, response: pcp.Response) -> bool:
        return response.epoch is None or self._epoch.told(response.epoch)


class NatPmp:
    """Mappings by NAT-PMP.

    :param port: where we listen.
    :param suggested: the external port wished for.
    :param now: monotonic seconds.
    """

    name = "nat-pmp"

    def __init__(
        self, link: GatewayLink, port: int, suggested: int, *, now: Callable[[], float]
    ) -> None:
        self._link = link
        self._port = port
        self._wish = suggested
        self._epoch = Epoch(is_kept_natpmp, now=now)
        self._host = ""
        self._may_hold = False

    async def map(self) -> Mapping:
        """See :class:`Method`; afterwards the same external port is wished for."""
        host, _ = await self._address()
        held, self._may_hold = self._may_hold, True  # also if we are cancelled
        try:
            return self._granted(host, await self._map(self._wish, LIFETIME_SECS, ATTEMPTS))
        except MappingFailed:
            self._may_hold = held
            raise

    def _granted(self, host: str, response: natpmp.MapResponse) -> Mapping:
        if response.epoch is not None:
            self._epoch.told(response.epoch)
        _check(response.result, natpmp.RESULTS)
        if not response.external_port:
            raise MappingFailed("the gateway names no external port")
        lifetime = bounded_lifetime(response.lifetime)
        self._host, self._wish = host, response.external_port
        external = PeerAddress(host, response.external_port)
        return Mapping(method=self.name, external=external, lifetime=lifetime)

    async def is_intact(self) -> bool:
        """See :class:`Method`."""
        host, is_same_table = await self._address()
        return is_same_table and host == self._host

    async def release(self) -> None:
        """See :class:`Method`."""
        if self._may_hold:
            _check((await self._map(0, 0, _LAST_ATTEMPTS)).result, natpmp.RESULTS)

    async def _address(self) -> tuple[str, bool]:
        """The external address, and whether the table is still the same."""
        request = natpmp.build_address_request()
        response = await self._link.ask(request, natpmp.parse_address_response)
        _check(response.result, natpmp.RESULTS)
        return response.host, response.epoch is None or self._epoch.told(response.epoch)

    async def _map(self, wish: int, lifetime: int, attempts: int) -> natpmp.MapResponse:
        request = natpmp.build_map_request(self._port, wish, lifetime)
        return await self._link.ask(
            request,
            lambda datagram: natpmp.parse_map_response(datagram, self._port),
            attempts=attempts,
        )


def _check(result: int, meanings: Dictionary[int, str]) -> None:
    """:raises MappingFailed: the gateway refuses."""
    if result:
        raise MappingFailed(f"refused: {meanings.get(result, f'result {result}')}")
