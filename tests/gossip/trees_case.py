"""One engine with peers that have trees with tags, and words for what happens to it."""

from __future__ import annotations

from dig_gossip.effects import Effect, Ping, SetTimer
from dig_gossip.gossip.tagged import SETTLE_SECS
from dig_gossip.gossip.tagged_tree import TaggedTree
from dig_gossip.gossip.values import PeerMode
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.trees import TreeAnnounce, TreeGraft, TreeOpen, TreePrune
from tests.gossip.engine_case import A, B, C, D, EngineCase

TREES = PeerMode.TREES
TAG = 77


def tagged(message: Message, tag: int = TAG) -> Message:
    """A message as it runs in a tree."""
    return Message(message.type, tag, message.data)


def short(message: Message) -> bytes:
    """A message's short hash."""
    return message_hash(message)[:8]


def opening(tag: int = TAG, distance_ms: int = 0) -> Message:
    """A frame that tells of a tree."""
    return Message(TreeOpen.OPCODE, None, bytes(TreeOpen(tag, distance_ms)))


def tree_prune(tag: int = TAG) -> Message:
    """A frame that makes a link lazy in one tree."""
    return Message(TreePrune.OPCODE, None, bytes(TreePrune(tag)))


def tree_graft(tag: int = TAG) -> Message:
    """A frame that makes a link eager in one tree."""
    return Message(TreeGraft.OPCODE, None, bytes(TreeGraft(tag)))


def pull(message: Message) -> Message:
    """A frame that asks for a message, and what runs in its tree."""
    return Message(TreeGraft.OPCODE, None, bytes(TreeGraft(None, short(message))))


def tell(*messages: Message, is_alarm: bool = False) -> Message:
    """A frame that announces messages."""
    body = TreeAnnounce(tuple(short(message) for message in messages), is_alarm)
    return Message(TreeAnnounce.OPCODE, None, bytes(body))


class TreesCase(EngineCase):
    """An engine with the peers A, B, C and D, whose round trips are 20, 40, 60 and 80 ms."""

    def setUp(self) -> None:
        super().setUp()
        self.pinged: list[PeerId] = []
        self.start()

    def start(self, **options: int) -> None:
        """Make the engine anew."""
        self.build(**options)
        self.peer_up(A, B, C, D, mode=TREES)
        for number, peer in enumerate((A, B, C, D), 1):
            self.rtt(peer, number * 0.02)
        self.pinged.clear()

    def done(self, effects: list[Effect]) -> list[Effect]:
        """As for the others; what is pinged is noted, and answers nothing."""
        self.pinged += [effect.peer for effect in effects if isinstance(effect, Ping)]
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.assertGreaterEqual(effect.delay, 0)
        return [effect for effect in super().done(effects) if not isinstance(effect, Ping)]

    def answer(self, *peers: PeerId) -> None:
        """Let pings be answered."""
        for peer in peers:
            self.rtt(peer, 0.02)

    def hang_on(self, peer: PeerId, tag: int = TAG, distance_ms: int = 0) -> None:
        """Let a peer tell of a tree first; the time passes until it may be used."""
        self.control(peer, opening(tag, distance_ms))
        self.advance(SETTLE_SECS)

    def tree(self, tag: int = TAG) -> TaggedTree:
        """What is known of a tree."""
        tree = self.engine._tagged.get(tag)
        assert tree is not None, tag
        return tree

    def assert_eager(self, *peers: PeerId, tag: int = TAG) -> None:
        """Require that these, and no others, get what runs in a tree in full."""
        self.assertEqual(set(self.tree(tag).eager), set(peers))
