"""What an application holds: the seed's handle on a running node.

Cheap; any number may exist, copies share the node, and equality is that of the service. Methods
that return a Deferred may be awaited or given callbacks. Called from a thread that is not the
reactor's they are marshalled to it, and the Deferred fires there; ``handle.blocking`` offers the
same methods to such threads, waiting for the result.

Source: seed, behaviour API-002, CNC-001.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import blockingCallFromThread
from twisted.python import threadable

from dig_gossip.connection.lanes import Offer
from dig_gossip.constants import DEFAULT_GOSSIP_REQUEST_TIMEOUT_SECS
from dig_gossip.discovery.introducer_client import IntroducerClient
from dig_gossip.discovery.introducer_source import IntroducerSource, known_addresses
from dig_gossip.errors import (
    ClientError,
    ClientErrorKind,
    IntroducerNotConfigured,
    InvalidConfig,
    Io,
    RequestRejected,
    WrongDispatch,
)
from dig_gossip.gossip.compact_provider import ICompactBlockProvider
from dig_gossip.service.judging import Validator
from dig_gossip.service.spreading import check_size
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.types.peer import AddressLike, NodeType, PeerAddress, PeerConnection, PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.types.stats import GossipStats, RelayStats
from dig_gossip.util.deferreds import Fired
from dig_gossip.wire import registry
from dig_gossip.wire.chia import NewTransaction, RequestPeers, RespondPeers, TimestampedPeerInfo
from dig_gossip.wire.dig import RegisterAck
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import (
    MessagePriority,
    RoutingClass,
    is_dig,
    opcode_name,
    routing_class,
)

if TYPE_CHECKING:
    from dig_gossip.service.gossip_service import GossipService, Node

T = TypeVar("T")
P = ParamSpec("P")
#: A wire body: a ``chia_rs`` object or one of the DIG payload classes; or a whole message.
Body: TypeAlias = Any


def _method(
    function: Callable[Concatenate[GossipHandle, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[GossipHandle, P], Deferred[T]]:
    """Run on the reactor's thread, whatever thread asks, and return a Deferred."""

    def start(self: GossipHandle, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(function(self, *args, **kwargs))

    return _on_reactor(start, function)


def _quick_method(
    function: Callable[Concatenate[GossipHandle, P], T],
) -> Callable[Concatenate[GossipHandle, P], Deferred[T]]:
    """The same for what never waits: without a coroutine, which costs more than the work."""

    def start(self: GossipHandle, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        try:
            return Fired(function(self, *args, **kwargs))
        except Exception:
            return fail()

    return _on_reactor(start, function)


def _on_reactor(
    start: Callable[Concatenate[GossipHandle, P], Deferred[T]], documented: Callable[..., Any]
) -> Callable[Concatenate[GossipHandle, P], Deferred[T]]:
    def wrapper(self: GossipHandle, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if threadable.ioThread is None or threadable.isInIOThread():
            return start(self, *args, **kwargs)
        result: Deferred[T] = Deferred()

        def run() -> None:
            start(self, *args, **kwargs).chainDeferred(result)

        self._service.node.reactor.callFromThread(run)
        return result

    functools.update_wrapper(wrapper, documented)
    return wrapper


class GossipHandle:
    """The application's side of a node."""

    __slots__ = ("_service",)

    def __init__(self, service: GossipService) -> None:
        self._service = service

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GossipHandle):
            return NotImplemented
        return self._service is other._service

    def __hash__(self) -> int:
        return hash(self._service)

    def __repr__(self) -> str:
        return f"<GossipHandle {self._service.peer_id.hex()} {self._service.lifecycle.value}>"

    @property
    def blocking(self) -> Blocking:
        """The same methods for threads other than the reactor's: they wait for the result."""
        return Blocking(self)

    @property
    def _node(self) -> Node:
        return self._service.node

    # -- health and statistics

    @_method
    async def health_check(self) -> None:
        """Fire with None if the node runs, listens, and its background tasks are well.

        :raises ServiceNotStarted: it does not run.
        :raises Io: the listening port is closed, or a task has failed three times in a row.
        """
        node = self._node
        if not node.listener.is_listening:
            raise Io("the listening port is closed")
        unhealthy = node.tasks.unhealthy()
        if unhealthy:
            raise Io(f"background tasks keep failing: {', '.join(unhealthy)}")
        if not node.discovery.is_alive:
            raise Io("the discovery loop has ended")

    @_method
    async def stats(self) -> GossipStats:
        """What the node has counted, as one consistent snapshot.

        Cost: O(sessions).
        """
        return self._stats()

    def _stats(self) -> GossipStats:
        node = self._node
        sessions = list(node.peers.table)
        totals = node.peers.sum()
        extra = node.router.counted()
        extra.update(node.peers.counters)
        extra.update(node.discovery.counters)
        extra["bans_active"] = node.peers.reputations.active_bans
        if node.port_mapper is not None:
            extra.update(node.port_mapper.stats())
        extra["host_bans_active"] = node.peers.reputations.active_host_bans
        extra["lagged"] = node.subscriptions.lagged
        extra["reading_held.subscription"] = node.subscriptions.holds
        extra["reading_held.memory"] = node.receive_budget.holds
        extra["half_received_bytes"] = node.receive_budget.total
        extra["receive_budget_dropped"] = node.receive_budget.given_up
        extra["unsent_bytes"] = node.send_budget.total
        extra["send_budget_refused"] = node.send_budget.refused
        extra["send_budget_dropped"] = node.send_budget.given_up
        extra["openings"] = node.peers.openings
        extra["queued_messages"] = sum(session.queued_messages for session in sessions)
        extra["budget_dropped"] = totals.budget_dropped
        extra["bulk_dropped"] = totals.bulk_dropped
        extra["normal_delayed"] = totals.normal_delayed
        extra["tx_suppressed"] = totals.tx_suppressed
        extra["late_answers"] = totals.late_answers
        extra["sessions_held"] = sum(session.is_held for session in sessions)
        extra.update({f"unsent.{what}": count for what, count in totals.unsent.items()})
        for lane in MessagePriority:
            name = lane.name.lower()
            extra[f"queued.{name}"] = totals.waited[lane].total
            for share in (50, 99):
                for what, waits in (("queue", totals.waited), ("wire", totals.left)):
                    wait = waits[lane].percentile(share / 100)
                    extra[f"{what}_us_p{share}.{name}"] = round(wait * 1e6)
        relay = None
        if node.relaying is not None:
            relay = node.relaying.stats()
            extra.update(node.relaying.counters())
        outbound = node.peers.table.outbound_count
        return GossipStats(
            total_connections=totals.admitted,
            connected_peers=len(sessions),
            inbound_connections=len(sessions) - outbound,
            outbound_connections=outbound,
            messages_sent=totals.messages_sent,
            messages_received=totals.messages_received,
            bytes_sent=totals.bytes_sent,
            bytes_received=totals.bytes_received,
            known_addresses=node.discovery.known_addresses,
            seen_messages=node.router.plumtree.seen_count,
            relay_connected=relay is not None,
            relay_peer_count=0 if relay is None else relay.relay_peer_count,
            extra=extra,
        )

    @_method
    async def relay_stats(self) -> RelayStats | None:
        """The relay session's counters; None while there is none."""
        relaying = self._node.relaying
        return None if relaying is None else relaying.stats()

    @_quick_method
    def local_peer_id(self) -> PeerId:
        """This node's id, at this moment: it changes if ``peer_id_rotation`` is configured."""
        self._node  # noqa: B018 - raises unless the node runs
        return self._service.peer_id

    @_quick_method
    def observe_rotation(self, observer: Callable[[PeerId, PeerId], object]) -> Callable[[], None]:
        """Call ``observer(former, current)``, on the reactor's thread, after each rotation.

        :returns: fires with a function that ends it.
        Source: behaviour ROT-102-X.
        """
        self._node  # noqa: B018 - raises unless the node runs
        return self._service.observe_rotation(observer)

    # -- inbound messages

    def inbound_receiver(self, *, lossless: bool = False) -> Subscription:
        """Subscribe to everything that is delivered from now on.

        :param lossless: when the queue is full, stop reading from the peers that fill it, instead
            of losing the oldest messages. For an application that must see everything and always
            catches up: peers give up a node that reads nothing for their timeout (90 s).
        :returns: an independent, bounded queue of ``(peer_id, message)``.
        :raises ServiceNotStarted: the node does not run.
        """
        return self._node.subscriptions.subscribe(lossless=lossless)

    def set_validator(self, opcode: int, validator: Validator | None) -> None:
        """Ask ``validator(peer_id, message)`` before a gossiped message is delivered or forwarded.

        It answers with a :class:`Verdict`, or with the :class:`PenaltyReason` for which the
        sender is to be charged, or with a Deferred or coroutine of one; after 5 s the answer
        counts as IGNORE. None removes the validator.

        :raises WrongDispatch: messages of this opcode do not spread.
        Source: behaviour PLT-104-X.
        """
        self._node.router.set_validator(opcode, validator)

    def set_compact_block_provider(self, provider: ICompactBlockProvider) -> None:
        """Let blocks travel without the transactions that the other side has.

        Sessions that are open already go on without. So call it when the node has started, in
        the same turn, before anybody can have connected.

        :raises InvalidConfig: it does not implement the interface, or there is one already.
        :raises ServiceNotStarted: the node does not run.
        Source: behaviour §23.
        """
        self._node.router.set_compact_block_provider(provider)

    # -- transactions of our own

    @_quick_method
    def submit_transaction(
        self, tx_id: bytes, payload: bytes, announce: NewTransaction | bytes
    ) -> None:
        """Make a transaction of ours known without showing that it is ours.

        With ``dandelion`` configured it travels a stem of relays before anybody announces it;
        without, it is announced at once. Until :meth:`is_stem_only` says no, do not answer
        anybody who asks for it.

        :param tx_id: 32 bytes.
        :param payload: the encoded transaction, at most 1 MiB less 52 bytes.
        :param announce: its ``NewTransaction``, or that one's 48 bytes.
        :raises ClientError: ``announce`` is about another transaction.
        :raises Backpressured: the transaction is too large for any relay.
        Source: behaviour PRV-002.
        """
        self._node.router.submit_transaction(bytes(tx_id), payload, bytes(announce))

    def is_stem_only(self, tx_id: bytes) -> bool:
        """Whether nobody may be told of a transaction yet, because only its stem knows it.

        :raises ServiceNotStarted: the node does not run.
        Source: behaviour PRV-002.
        """
        return self._node.router.is_stem_only(bytes(tx_id))

    # -- outbound messages

    def broadcast(self, msg: Message, exclude_peer: PeerId | None = None) -> Deferred[int]:
        """Spread a message through the network.

        :param exclude_peer: whoever gave it to us.
        :returns: sessions for which the message, or its announcement, was queued; 0 when the
            node has forwarded it already, or is about to, at the end of a Dandelion++ stem.
        :raises WrongDispatch: this opcode is for one peer only.
        :raises ClientError: larger than any peer takes.
        :raises Backpressured: larger than the rate limits of its opcode ever admit.
        Source: behaviour API-002.4, PLT-102-X.
        """
        # What _quick_method would do; called for every message that is sent.
        if get_ident() != threadable.ioThread:
            return self._broadcast(msg, exclude_peer)
        try:
            return Fired(self._service.node.router.broadcast(msg, exclude_peer))
        except Exception:
            return fail()

    @_quick_method
    def _broadcast(self, msg: Message, exclude_peer: PeerId | None) -> int:
        return self._node.router.broadcast(msg, exclude_peer)

    @_quick_method
    def broadcast_typed(self, body: Body, exclude_peer: PeerId | None = None) -> int:
        """Encode a body and :meth:`broadcast` it.

        :raises ClientError: it cannot be encoded; nothing was sent.
        """
        return self._node.router.broadcast(registry.encode(body), exclude_peer)

    def send_to(self, peer_id: PeerId, body: Body) -> Deferred[None]:
        """Send a body, or a whole :class:`Message`, to one peer. Success means: queued.

        :raises ClientError: it cannot be encoded.
        :raises PeerBanned, PeerNotConnected: nobody to send it to.
        :raises WrongDispatch: the peer does not know DIG opcodes.
        :raises Backpressured: the peer is too slow for bulk, or takes nothing this large.
        """
        if get_ident() == threadable.ioThread and body.__class__ is Message:
            # Nearly every message: nothing is in its way. A banned peer has no session.
            try:
                session = self._service.node.peers.table.get(peer_id)
                if session is not None and session.post(body):
                    return Fired(None)
            except Exception:
                return fail()
        return self._send_to(peer_id, body)

    @_quick_method
    def _send_to(self, peer_id: PeerId, body: Body) -> None:
        peers = self._node.peers
        message = body if isinstance(body, Message) else registry.encode(body)
        is_reply = message.id is not None and (
            routing_class(message.type, True) is RoutingClass.RESPONSE
        )
        check_size(message, is_answer=is_reply)
        peers.check_not_banned(peer_id)
        session = peers.get(peer_id)
        if is_dig(message.type) and not session.tolerates_dig:
            raise WrongDispatch(f"{peer_id.hex()} does not know {opcode_name(message.type)}")
        offer = session.send(OutboundFrame(message), is_reply=is_reply)
        if not offer and offer is not Offer.SUPPRESSED:
            raise session.refusal(offer)

    @_method
    async def respond(self, peer_id: PeerId, request: Message, body: Body) -> None:
        """Answer a peer's request: the answer carries the request's id, or none if it had none.

        :param request: the message as it was delivered.
        """
        answer = registry.encode(body)
        await self.send_to(peer_id, Message(answer.type, request.id, answer.data))

    @_method
    async def request(
        self,
        peer_id: PeerId,
        body: Body,
        response_type: type[Any] | None = None,
        timeout: float = DEFAULT_GOSSIP_REQUEST_TIMEOUT_SECS,
    ) -> Any:
        """Send a request and wait for its answer.

        :param response_type: class of the answer; by default the request's natural one.
        :param timeout: seconds.
        :returns: fires with the decoded answer.
        :raises RequestTimeout: no answer in time.
        :raises RequestRejected: the peer answered with its ``Reject…`` message or an error.
        :raises PeerNotConnected: the peer is not there, or was lost meanwhile.
        :raises ClientError: the answer does not decode, or is of another class.
        Cancellation: a late answer is dropped.
        """
        node = self._node
        message = registry.encode(body)
        check_size(message)
        replies = registry.natural_replies(type(body))
        if response_type is not None:
            replies |= {registry.opcode_of_class(response_type)}
        if not replies:
            raise WrongDispatch(f"{opcode_name(message.type)} has no answer to wait for")
        node.peers.check_not_banned(peer_id)
        session = node.peers.get(peer_id)
        answer = await session.request(message.type, message.data, replies, timeout)
        try:
            decoded = registry.decode(answer)
        except ClientError as error:
            # DIG answers are the application's: it may use a layout of its own.
            if not is_dig(answer.type):
                node.peers.penalize(peer_id, PenaltyReason.MALFORMED_MESSAGE)
            raise ClientError(ClientErrorKind.INVALID_RESPONSE, error.text) from error
        if registry.is_rejection(answer.type):
            raise RequestRejected(decoded)
        if response_type is not None and not isinstance(decoded, response_type):
            raise ClientError(
                ClientErrorKind.INVALID_RESPONSE,
                f"{type(decoded).__name__} instead of {response_type.__name__}",
            )
        return decoded

    # -- connections

    @_method
    async def connect_to(self, addr: AddressLike) -> PeerId:
        """Open a connection and take it to a registered session.

        :param addr: ``"host:port"``, ``(host, port)`` or :class:`PeerAddress`; the network's
            default port where none is named.
        :returns: fires with the verified id of the peer.
        :raises SelfConnection, PeerBanned, DuplicateConnection, MaxConnectionsReached: it must
            not be dialed.
        :raises ClientError: it could not be reached, or is not one of us.
        """
        node = self._node
        try:
            address = PeerAddress.parse(addr, node.config.network.default_port)
        except ValueError as error:
            raise InvalidConfig(f"addr: {error}") from None
        session = await node.dialer.connect(address)
        return session.peer_id

    @_method
    async def disconnect(self, peer_id: PeerId) -> None:
        """Close a session normally; neither bans nor charges.

        :raises PeerNotConnected: there is none.
        """
        self._node.peers.disconnect(peer_id)

    @_method
    async def ban_peer(self, peer_id: PeerId, reason: PenaltyReason, force: bool = False) -> None:
        """Charge a peer; ban and disconnect it when its points reach 100.

        :param force: ban whatever the points.
        Source: behaviour API-002.10.
        """
        if force:
            self._node.peers.ban(peer_id, reason)
        else:
            self._node.peers.penalize(peer_id, reason)

    @_method
    async def penalize_peer(self, peer_id: PeerId, reason: PenaltyReason) -> None:
        """Charge a peer, connected or not; the same accumulation as :meth:`ban_peer`."""
        self._node.peers.penalize(peer_id, reason)

    # -- peers

    @_method
    async def connected_peers(self) -> list[PeerConnection]:
        """Snapshots of all live sessions."""
        return self._connections()

    @_method
    async def get_connections(
        self, node_type: NodeType | None = None, outbound_only: bool = False
    ) -> list[PeerConnection]:
        """Snapshots of the live sessions of a kind."""
        return [
            connection
            for connection in self._connections()
            if (node_type is None or connection.node_type == node_type)
            and (connection.is_outbound or not outbound_only)
        ]

    @_method
    async def peer_count(self) -> int:
        """How many sessions are live."""
        return len(self._node.peers.table)

    def _connections(self) -> list[PeerConnection]:
        node = self._node
        return [
            session.snapshot(
                node.peers.reputation(session.peer_id), node.router.role(session.peer_id)
            )
            for session in node.peers.table
        ]

    # -- discovery

    @_method
    async def discover_from_introducer(self) -> list[TimestampedPeerInfo]:
        """Ask the introducer for peers; the address book takes them in.

        :returns: fires with at most 1000 addresses, possibly none. Their times are 0: an
            introducer does not tell when a node was there.
        :raises IntroducerNotConfigured: there is none.
        :raises InvalidConfig: its endpoint is empty.
        :raises IntroducerError: it could not be reached or understood, or took too long.
        """
        rows = await self._introducer().query()
        self._node.discovery.seeded(IntroducerSource.name, known_addresses(rows))
        return rows

    @_method
    async def register_with_introducer(self) -> RegisterAck:
        """Tell the introducer about this node, as happens every half hour anyhow.

        :returns: fires with the introducer's answer; that it declines is no error. An introducer
            of Chia's network takes the greeting for the registration, which always succeeds.
        :raises IntroducerNotConfigured, InvalidConfig, IntroducerError: as
            :meth:`discover_from_introducer`.
        """
        return await self._introducer().register()

    @_method
    async def request_peers_from(self, peer_id: PeerId) -> RespondPeers:
        """Ask one peer for addresses it knows; the address book takes them in.

        A peer that we dialed has been asked already, and answers later questions with an empty
        list; so does a peer that dialed us.

        :raises PeerNotConnected, RequestTimeout: as :meth:`request`.
        """
        discovery, router = self._node.discovery, self._node.router
        discovery.peers_asked(peer_id)
        answer: RespondPeers = await self.request(peer_id, RequestPeers())
        router.perform(discovery.peers_received(peer_id, bytes(answer)))
        return answer

    def _introducer(self) -> IntroducerClient:
        node = self._node
        if node.config.introducer is None:
            raise IntroducerNotConfigured
        if node.introducer is None:
            raise InvalidConfig("introducer.endpoint: is empty")
        return node.introducer


class Blocking:
    """The handle for threads: ``handle.blocking.broadcast(message)`` waits for the result."""

    def __init__(self, handle: GossipHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Callable[..., Any]:  # Any: every method of the handle
        method = getattr(self._handle, name)
        reactor = self._handle._node.reactor

        def call(*args: Any, **kwargs: Any) -> Any:
            return blockingCallFromThread(reactor, method, *args, **kwargs)

        return call
