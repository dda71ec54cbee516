"""Which connections with peers may be made through a relay, and how they begin.

Source: behaviour DIV-102-X, RLY-104-X.
"""

from __future__ import annotations

from collections.abc import Callable

from dig_gossip.connection.admission import inbound_tunnels, outbound_tunnels
from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.peers import Peers
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind


class TunneledConnections:
    """The gate for connections through a relay.

    :param relay: its address, which stands for that of every peer behind it.
    """

    def __init__(self, config: GossipConfig, peers: Peers, relay: PeerAddress) -> None:
        self._config = config
        self._peers = peers
        self._relay = relay

    def room(self, *, is_outbound: bool, instead_of: PeerId | None = None) -> int:
        """How many more there may be in one direction.

        :param instead_of: do not count this peer's session: the new one takes its place.
        """
        same = [
            session
            for session in self._peers.table
            if session.is_outbound == is_outbound and session.peer_id != instead_of
        ]
        relayed = sum(session.transport is TransportKind.RELAY for session in same)
        if is_outbound:
            return outbound_tunnels(self._config.target_outbound_count) - relayed
        room = inbound_tunnels(self._config.max_connections) - relayed
        return min(room, self._config.max_inbound - len(same))

    def is_allowed(self, peer_id: PeerId, *, is_outbound: bool) -> bool:
        """Whether there may be one with a peer."""
        peers = self._peers
        return (
            peers.running
            and peer_id not in peers.own_ids
            and not peers.reputations.is_banned(peer_id)
            and self.room(is_outbound=is_outbound, instead_of=peer_id) > 0
        )

    def begin(
        self, peer_id: PeerId, ended: Callable[[Outcome], object], *, is_outbound: bool
    ) -> Opening | None:
        """Begin one.

        :param peer_id: who the relay says is there; it must be.
        :param ended: called once with the outcome.
        :returns: None if there may be none.
        """
        if not self.is_allowed(peer_id, is_outbound=is_outbound):
            return None
        return self._peers.begin(
            self._relay, ended, peer_id, is_outbound=is_outbound, transport=TransportKind.RELAY
        )
