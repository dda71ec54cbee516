"""The short way of messages that need nothing special leads where the long way leads."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Deliver, Effect, Send
from dig_gossip.gossip.first_copies import FirstCopy
from dig_gossip.gossip.plumtree import PURGE_TIMER, Plumtree
from dig_gossip.gossip.values import PeerMode
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import PlumtreeGraft, PlumtreeLazyAnnounce, PlumtreePrune
from dig_gossip.wire.message import Message, message_hash

PEERS = [PeerId(bytes([number]) * 32) for number in range(1, 5)]
MESSAGES = [Message(200 + number % 2, None, bytes([number]) * 8) for number in range(12)]
#: One that no cache of 64 KiB takes, which therefore is not announced.
LARGE = Message(200, None, bytes(70_000))


class _Long(Plumtree):
    """An engine that knows no short way."""

    def sent_first(self, message: Message) -> FirstCopy | None:
        return None

    def received_run(self, *_: object) -> list[Effect]:
        return []


class _Twin:
    """An engine, and its clock."""

    def __init__(self, engine: type[Plumtree]) -> None:
        self.now = 100.0
        self.engine = engine(
            PlumtreeConfig(cache_messages=6, cache_bytes=65_536),
            fanout=2,
            max_seen=8,
            now=lambda: self.now,
            rng=Random(5),
        )
        self.ran = 0

    def run(self, peer: PeerId, messages: list[Message], asks: frozenset[int]) -> list[Effect]:
        """Take messages in as the router does; deliveries come as effects."""
        effects: list[Effect] = []
        at = 0
        while at < len(messages):
            if messages[at].type not in asks:
                delivered: list[Message] = []
                more = self.engine.received_run(peer, messages, at, delivered)
                sends = [effect for effect in more if isinstance(effect, Send) and _pushes(effect)]
                rest = [effect for effect in more if not _pushes(effect)]
                for message in delivered:
                    effects.append(Deliver(peer, message))
                    effects += [send for send in sends if send.message is message]
                effects += rest
                at += len(delivered)
                self.ran += len(delivered)
            if at < len(messages):
                message = messages[at]
                effects += self.engine.received(peer, message, message.type in asks)
                at += 1
        return effects


def _pushes(effect: Effect) -> bool:
    return isinstance(effect, Send) and effect.message.type < 202


_peers = st.sampled_from(PEERS)
_modes = st.sampled_from([PeerMode.TREE] * 4 + [PeerMode.FLOOD, PeerMode.CHIA])
_messages = st.sampled_from([*MESSAGES, LARGE])
_events = st.one_of(
    st.tuples(st.just("up"), _peers, _modes),
    st.tuples(st.just("down"), _peers),
    st.tuples(st.just("run"), _peers, st.lists(_messages, min_size=2, max_size=8), st.booleans()),
    st.tuples(st.just("run"), _peers, st.lists(_messages, min_size=2, max_size=8), st.just(False)),
    st.tuples(st.just("broadcast"), _messages, st.none() | _peers),
    st.tuples(st.just("broadcast"), _messages, st.none()),
    st.tuples(st.just("prune"), _peers),
    st.tuples(st.just("graft"), _peers, _messages),
    st.tuples(st.just("announce"), _peers, _messages),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.3, 2.0, 30.0])),
)


def _perform(twin: _Twin, event: tuple[object, ...]) -> object:
    engine = twin.engine
    match event:
        case ("up", PeerId() as peer, PeerMode() as mode):
            return engine.peer_up(peer, mode)
        case ("down", PeerId() as peer):
            return engine.peer_down(peer)
        case ("run", PeerId() as peer, list() as messages, bool() as validated):
            return twin.run(peer, messages, frozenset({201} if validated else ()))
        case ("broadcast", Message() as message, exclude):
            assert exclude is None or isinstance(exclude, PeerId)
            return engine.broadcast(message, exclude)
        case ("prune", PeerId() as peer):
            body = bytes(PlumtreePrune())
            return engine.control_received(peer, Message(PlumtreePrune.OPCODE, None, body))
        case ("graft", PeerId() as peer, Message() as message):
            body = bytes(PlumtreeGraft(message_hash(message)))
            return engine.control_received(peer, Message(PlumtreeGraft.OPCODE, None, body))
        case ("announce", PeerId() as peer, Message() as message):
            body = bytes(PlumtreeLazyAnnounce(((message_hash(message), message.type),)))
            return engine.control_received(peer, Message(PlumtreeLazyAnnounce.OPCODE, None, body))
        case ("wait", float() as seconds):
            twin.now += seconds
            return [
                engine.timer_fired(key)
                for key in (("announce", b""), ("missing", b""), PURGE_TIMER)
            ]
    raise AssertionError(event)


class ShortWayTests(SynchronousTestCase):
    """Runs and broadcasts, compared with an engine that takes every message by itself."""

    @settings(max_examples=300)
    @given(st.tuples(_modes, _modes, _modes), st.lists(_events, max_size=20))
    def test_both_ways_have_the_same_outcome(
        self, modes: tuple[PeerMode, ...], events: list[tuple[object, ...]]
    ) -> None:
        """The same effects in the same order, and the same state, after whatever happens.

        PLT-002, PLT-003, PLT-004, PLT-007, PLT-102-X
        """
        short, long = _Twin(Plumtree), _Twin(_Long)
        begin: list[tuple[object, ...]] = [
            *(("up", peer, mode) for peer, mode in zip(PEERS, modes, strict=False)),
            ("broadcast", MESSAGES[0], None),
        ]
        for event in [*begin, *events]:
            one, other = _perform(short, event), _perform(long, event)
            if event[0] == "run":
                # A run pushes and announces when it is through; each kind keeps its order.
                assert isinstance(one, list)
                assert isinstance(other, list)
                self.assertEqual(
                    [effect for effect in one if isinstance(effect, Deliver) or _pushes(effect)],
                    [effect for effect in other if isinstance(effect, Deliver) or _pushes(effect)],
                )
                self.assertCountEqual(one, other)
            else:
                self.assertEqual(one, other)
            self.assertEqual(short.engine.snapshot(), long.engine.snapshot())
            for message in (*MESSAGES, LARGE):
                found = [twin.engine._seen.get(message_hash(message)) for twin in (short, long)]
                facts = [
                    sighting and (sighting.stage, sighting.source, sighting.aware, sighting.links)
                    for sighting in found
                ]
                self.assertEqual(*facts)
        self.assertEqual(long.ran, 0)

    def test_a_run_goes_the_short_way(self) -> None:
        """After the first message a whole run is taken at once, up to one seen before.  PLT-004"""
        twin = _Twin(Plumtree)
        twin.engine.peer_up(PEERS[0], PeerMode.TREE)
        twin.engine.peer_up(PEERS[1], PeerMode.TREE)
        alike = MESSAGES[::2]
        twin.run(PEERS[0], [alike[0], *alike[1:4], alike[2], *alike[4:]], frozenset())
        self.assertEqual(twin.ran, 5)

    def test_repeating_one_s_own_message_leaves_the_others_alone(self) -> None:
        """What is remembered of several at once is not changed for all of them.  PLT-102-X"""
        twin = _Twin(Plumtree)
        engine = twin.engine
        engine.peer_up(PEERS[0], PeerMode.TREE)
        for message in MESSAGES[:3]:
            engine.broadcast(message)
        engine.peer_up(PEERS[1], PeerMode.TREE)
        for message in MESSAGES[1:3]:
            pushes = [effect for effect in engine.broadcast(message).effects if _pushes(effect)]
            self.assertEqual(pushes, [Send((PEERS[1],), message)])

    def begun(self, *peers: PeerId) -> _Twin:
        """An engine with these peers in its tree, that has sent a message."""
        twin = _Twin(Plumtree)
        for peer in peers:
            twin.engine.peer_up(peer, PeerMode.TREE)
        twin.engine.broadcast(MESSAGES[0])
        return twin

    def test_whoever_announced_a_message_is_not_sent_it(self) -> None:
        """A broadcast that somebody announced goes the long way.  PLT-002"""
        twin = self.begun(*PEERS[:2])
        _perform(twin, ("announce", PEERS[1], MESSAGES[1]))
        pushes = [
            effect for effect in twin.engine.broadcast(MESSAGES[1]).effects if _pushes(effect)
        ]
        self.assertEqual(pushes, [Send((PEERS[0],), MESSAGES[1])])

    def test_a_verdict_that_is_due_is_settled_by_a_broadcast(self) -> None:
        """Even when the seen set has forgotten the message meanwhile.  PLT-104-X"""
        twin = self.begun(PEERS[0])
        asked = MESSAGES[1]
        twin.run(PEERS[0], [asked], frozenset({asked.type}))
        twin.run(PEERS[0], MESSAGES[2:], frozenset())
        self.assertEqual(twin.engine.snapshot().pending, 1)
        twin.engine.broadcast(asked)
        self.assertEqual(twin.engine.snapshot().pending, 0)

    def test_a_late_answer_is_taken_for_one(self) -> None:
        """A pull that was given up is forgotten when its message comes.  PLT-005.1"""
        twin = self.begun(PEERS[0])
        _perform(twin, ("announce", PEERS[0], MESSAGES[1]))
        for _ in range(4):
            _perform(twin, ("wait", 2.0))
        link = twin.engine._shared.links.get(PEERS[0])
        assert link is not None
        self.assertEqual((len(link.pulls), twin.engine.snapshot().missing), (1, 0))
        twin.run(PEERS[0], [MESSAGES[1]], frozenset())
        self.assertEqual(link.pulls, {})
