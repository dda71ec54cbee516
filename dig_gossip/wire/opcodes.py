"""The opcodes, and everything that follows from an opcode alone: the single table.

Broadcast, receive path, lanes and logs all ask here, so that two lists cannot drift apart. Look-ups
index tuples of 256 entries, built once; they are on the hot path.

Source: wire §6, §7, §12; behaviour MSG-106-X, §20.
"""

from __future__ import annotations

import enum
from typing import Final


class ChiaMessageType(enum.IntEnum):
    """Chia's message types, by Chia's names. 0, 2, 4 and 114..199 are unassigned."""

    HANDSHAKE = 1
    HARVESTER_HANDSHAKE = 3
    NEW_PROOF_OF_SPACE = 5
    REQUEST_SIGNATURES = 6
    RESPOND_SIGNATURES = 7
    NEW_SIGNAGE_POINT = 8
    DECLARE_PROOF_OF_SPACE = 9
    REQUEST_SIGNED_VALUES = 10
    SIGNED_VALUES = 11
    FARMING_INFO = 12
    NEW_PEAK_TIMELORD = 13
    NEW_UNFINISHED_BLOCK_TIMELORD = 14
    NEW_INFUSION_POINT_VDF = 15
    NEW_SIGNAGE_POINT_VDF = 16
    NEW_END_OF_SUB_SLOT_VDF = 17
    REQUEST_COMPACT_PROOF_OF_TIME = 18
    RESPOND_COMPACT_PROOF_OF_TIME = 19
    NEW_PEAK = 20
    NEW_TRANSACTION = 21
    REQUEST_TRANSACTION = 22
    RESPOND_TRANSACTION = 23
    REQUEST_PROOF_OF_WEIGHT = 24
    RESPOND_PROOF_OF_WEIGHT = 25
    REQUEST_BLOCK = 26
    RESPOND_BLOCK = 27
    REJECT_BLOCK = 28
    REQUEST_BLOCKS = 29
    RESPOND_BLOCKS = 30
    REJECT_BLOCKS = 31
    NEW_UNFINISHED_BLOCK = 32
    REQUEST_UNFINISHED_BLOCK = 33
    RESPOND_UNFINISHED_BLOCK = 34
    NEW_SIGNAGE_POINT_OR_END_OF_SUB_SLOT = 35
    REQUEST_SIGNAGE_POINT_OR_END_OF_SUB_SLOT = 36
    RESPOND_SIGNAGE_POINT = 37
    RESPOND_END_OF_SUB_SLOT = 38
    REQUEST_MEMPOOL_TRANSACTIONS = 39
    REQUEST_COMPACT_VDF = 40
    RESPOND_COMPACT_VDF = 41
    NEW_COMPACT_VDF = 42
    REQUEST_PEERS = 43
    RESPOND_PEERS = 44
    REQUEST_PUZZLE_SOLUTION = 45
    RESPOND_PUZZLE_SOLUTION = 46
    REJECT_PUZZLE_SOLUTION = 47
    SEND_TRANSACTION = 48
    TRANSACTION_ACK = 49
    NEW_PEAK_WALLET = 50
    REQUEST_BLOCK_HEADER = 51
    RESPOND_BLOCK_HEADER = 52
    REJECT_HEADER_REQUEST = 53
    REQUEST_REMOVALS = 54
    RESPOND_REMOVALS = 55
    REJECT_REMOVALS_REQUEST = 56
    REQUEST_ADDITIONS = 57
    RESPOND_ADDITIONS = 58
    REJECT_ADDITIONS_REQUEST = 59
    REQUEST_HEADER_BLOCKS = 60
    REJECT_HEADER_BLOCKS = 61
    RESPOND_HEADER_BLOCKS = 62
    REQUEST_PEERS_INTRODUCER = 63
    RESPOND_PEERS_INTRODUCER = 64
    FARM_NEW_BLOCK = 65
    NEW_SIGNAGE_POINT_HARVESTER = 66
    REQUEST_PLOTS = 67
    RESPOND_PLOTS = 68
    COIN_STATE_UPDATE = 69
    REGISTER_FOR_PH_UPDATES = 70
    RESPOND_TO_PH_UPDATES = 71
    REGISTER_FOR_COIN_UPDATES = 72
    RESPOND_TO_COIN_UPDATES = 73
    REQUEST_CHILDREN = 74
    RESPOND_CHILDREN = 75
    REQUEST_SES_HASHES = 76
    RESPOND_SES_HASHES = 77
    PLOT_SYNC_START = 78
    PLOT_SYNC_LOADED = 79
    PLOT_SYNC_REMOVED = 80
    PLOT_SYNC_INVALID = 81
    PLOT_SYNC_KEYS_MISSING = 82
    PLOT_SYNC_DUPLICATES = 83
    PLOT_SYNC_DONE = 84
    PLOT_SYNC_RESPONSE = 85
    REQUEST_BLOCK_HEADERS = 86
    REJECT_BLOCK_HEADERS = 87
    RESPOND_BLOCK_HEADERS = 88
    REQUEST_FEE_ESTIMATES = 89
    RESPOND_FEE_ESTIMATES = 90
    NONE_RESPONSE = 91
    NEW_UNFINISHED_BLOCK2 = 92
    REQUEST_UNFINISHED_BLOCK2 = 93
    REQUEST_REMOVE_PUZZLE_SUBSCRIPTIONS = 94
    RESPOND_REMOVE_PUZZLE_SUBSCRIPTIONS = 95
    REQUEST_REMOVE_COIN_SUBSCRIPTIONS = 96
    RESPOND_REMOVE_COIN_SUBSCRIPTIONS = 97
    REQUEST_PUZZLE_STATE = 98
    RESPOND_PUZZLE_STATE = 99
    REJECT_PUZZLE_STATE = 100
    REQUEST_COIN_STATE = 101
    RESPOND_COIN_STATE = 102
    REJECT_COIN_STATE = 103
    MEMPOOL_ITEMS_ADDED = 104
    MEMPOOL_ITEMS_REMOVED = 105
    REQUEST_COST_INFO = 106
    RESPOND_COST_INFO = 107
    SOLUTION_RESPONSE = 108
    SOLVE = 109
    PARTIAL_PROOFS = 110
    CONFIGURE_WINDOW_SIZES = 111
    PLOT_SYNC_LOADED2 = 112
    RESPOND_PLOTS2 = 113
    ERROR = 255


class DigMessageType(enum.IntEnum):
    """Message types of the DIG band, by the seed's names; those from 240 up are ours."""

    NEW_ATTESTATION = 200
    NEW_CHECKPOINT_PROPOSAL = 201
    NEW_CHECKPOINT_SIGNATURE = 202
    REQUEST_CHECKPOINT_SIGNATURES = 203
    RESPOND_CHECKPOINT_SIGNATURES = 204
    REQUEST_STATUS = 205
    RESPOND_STATUS = 206
    NEW_CHECKPOINT_SUBMISSION = 207
    VALIDATOR_ANNOUNCE = 208
    REQUEST_BLOCK_TRANSACTIONS = 209
    RESPOND_BLOCK_TRANSACTIONS = 210
    RECONCILIATION_SKETCH = 211
    RECONCILIATION_RESPONSE = 212
    STEM_TRANSACTION = 213
    PLUMTREE_LAZY_ANNOUNCE = 214
    PLUMTREE_PRUNE = 215
    PLUMTREE_GRAFT = 216
    PLUMTREE_REQUEST_BY_HASH = 217
    REGISTER_PEER = 218
    REGISTER_ACK = 219
    NEW_COMPACT_BLOCK = 240
    MESSAGE_CHUNK = 241
    TREE_OPEN = 242
    TREE_ANNOUNCE = 243
    TREE_PRUNE = 244
    TREE_GRAFT = 245


class RoutingClass(enum.Enum):
    """What becomes of a message that arrives, and whether it may be broadcast."""

    FLOOD = "flood"
    TX = "tx"
    REQUEST = "request"
    RESPONSE = "response"
    CONTROL = "control"
    INTRODUCER = "introducer"
    HANDSHAKE = "handshake"
    UNKNOWN = "unknown"  # delivered to the application, never forwarded

    # Members are singletons; Enum's own hash is a Python call, felt by sets asked per message.
    __hash__ = object.__hash__


_C = ChiaMessageType
_D = DigMessageType

#: Numbers that later versions of the Rust crate use; listed so that nobody reuses them.
_RUST_ONLY: Final = {
    220: "dig_message",
    221: "store_melted",
    222: "holdings_announce",
    223: "profile_root_announce",
    224: "profile_body_request",
    225: "profile_body",
    226: "distributor_announce",
}

#: What may answer a request, as numbered in wire §6 and §12. Chia's error (255) may answer any.
_REPLIES: Final[dict[int, tuple[int, ...]]] = {
    22: (23,), 24: (25,), 26: (27, 28), 29: (30, 31), 33: (34,), 36: (37, 38), 40: (41,),
    43: (44,), 45: (46, 47), 48: (49,), 51: (52, 53), 54: (55, 56), 57: (58, 59),
    60: (62, 61, 87), 63: (64,), 70: (71,), 72: (73,), 74: (75,), 76: (77,), 86: (88, 87, 61),
    93: (34,), 94: (95,), 96: (97,), 98: (99, 100), 101: (102, 103), 106: (107,),
    203: (204,), 205: (206,), 209: (210,), 211: (212,), 218: (219,),
}  # fmt: skip

#: Classes that the name does not tell.
_CLASSES: Final[dict[int, RoutingClass]] = {
    _C.HANDSHAKE: RoutingClass.HANDSHAKE,
    _C.NEW_PEAK: RoutingClass.FLOOD,
    _C.NEW_TRANSACTION: RoutingClass.TX,
    _C.NEW_UNFINISHED_BLOCK: RoutingClass.FLOOD,
    _C.NEW_UNFINISHED_BLOCK2: RoutingClass.FLOOD,
    _C.NONE_RESPONSE: RoutingClass.RESPONSE,
    _C.ERROR: RoutingClass.RESPONSE,
    _D.NEW_ATTESTATION: RoutingClass.FLOOD,
    _D.NEW_CHECKPOINT_PROPOSAL: RoutingClass.FLOOD,
    _D.NEW_CHECKPOINT_SIGNATURE: RoutingClass.FLOOD,
    _D.NEW_CHECKPOINT_SUBMISSION: RoutingClass.FLOOD,
    _D.VALIDATOR_ANNOUNCE: RoutingClass.FLOOD,
    _D.RECONCILIATION_SKETCH: RoutingClass.CONTROL,
    _D.RECONCILIATION_RESPONSE: RoutingClass.CONTROL,
    _D.STEM_TRANSACTION: RoutingClass.CONTROL,
    _D.PLUMTREE_LAZY_ANNOUNCE: RoutingClass.CONTROL,
    _D.PLUMTREE_PRUNE: RoutingClass.CONTROL,
    _D.PLUMTREE_GRAFT: RoutingClass.CONTROL,
    _D.PLUMTREE_REQUEST_BY_HASH: RoutingClass.CONTROL,
    _D.TREE_OPEN: RoutingClass.CONTROL,
    _D.TREE_ANNOUNCE: RoutingClass.CONTROL,
    _D.TREE_PRUNE: RoutingClass.CONTROL,
    _D.TREE_GRAFT: RoutingClass.CONTROL,
    _D.REGISTER_PEER: RoutingClass.INTRODUCER,
    _D.REGISTER_ACK: RoutingClass.INTRODUCER,
    _D.NEW_COMPACT_BLOCK: RoutingClass.FLOOD,
    _D.MESSAGE_CHUNK: RoutingClass.CONTROL,
}

#: Answers that nobody asked for are pushes: block gossip.
_PUSHED_WITHOUT_ID: Final = frozenset({_C.RESPOND_BLOCK, _C.RESPOND_UNFINISHED_BLOCK})

_CRITICAL: Final = frozenset(
    {
        _C.NEW_PEAK,
        _C.RESPOND_BLOCK,
        _C.RESPOND_UNFINISHED_BLOCK,
        _D.NEW_ATTESTATION,
        _D.NEW_CHECKPOINT_PROPOSAL,
        _D.NEW_CHECKPOINT_SIGNATURE,
        _D.RESPOND_BLOCK_TRANSACTIONS,  # a block waits for it
        _D.NEW_COMPACT_BLOCK,
    }
)
_BULK: Final = frozenset(
    {
        _C.REQUEST_BLOCKS,
        _C.RESPOND_BLOCKS,
        _C.REQUEST_MEMPOOL_TRANSACTIONS,
        _C.REQUEST_PEERS,
        _C.RESPOND_PEERS,
        _C.REQUEST_PEERS_INTRODUCER,
        _C.RESPOND_PEERS_INTRODUCER,
        _D.VALIDATOR_ANNOUNCE,
        *(221, 222, 223, 226),  # announcements of the Rust crate
    }
)

#: Frames by which gossip engines build and mend their trees.
PLUMTREE_CONTROL: Final = frozenset(
    {
        *range(_D.PLUMTREE_LAZY_ANNOUNCE, _D.PLUMTREE_REQUEST_BY_HASH + 1),
        *range(_D.TREE_OPEN, _D.TREE_GRAFT + 1),
    }
)

#: What a Chia full node accepts without having asked (requests aside). Source: wire §7.
CHIA_UNSOLICITED: Final[frozenset[int]] = frozenset(
    {
        _C.NEW_PEAK,
        _C.NEW_TRANSACTION,
        _C.NEW_UNFINISHED_BLOCK,
        _C.NEW_UNFINISHED_BLOCK2,
        _C.RESPOND_UNFINISHED_BLOCK,
        _C.NEW_SIGNAGE_POINT_OR_END_OF_SUB_SLOT,
        _C.NEW_COMPACT_VDF,
    }
)


def _class(opcode: int) -> RoutingClass:
    if opcode in _CLASSES:
        return _CLASSES[opcode]
    if _NAMES[opcode].startswith("request_") or opcode in _REPLIES:
        return RoutingClass.REQUEST
    if _NAMES[opcode].startswith(("respond_", "reject_")) or opcode in _ANSWERS:
        return RoutingClass.RESPONSE
    return RoutingClass.UNKNOWN


_ALL = range(256)
_ANSWERS = frozenset(answer for answers in _REPLIES.values() for answer in answers)
_KNOWN: dict[int, str] = {
    **_RUST_ONLY,
    **{member.value: member.name.lower() for member in (*ChiaMessageType, *DigMessageType)},
}
_NAMES = tuple(_KNOWN.get(opcode, f"unknown_{opcode}") for opcode in _ALL)
_WITH_ID = tuple(_class(opcode) for opcode in _ALL)
_WITHOUT_ID = tuple(
    RoutingClass.FLOOD if opcode in _PUSHED_WITHOUT_ID else _WITH_ID[opcode] for opcode in _ALL
)
_VALID_REPLIES = tuple(frozenset(_REPLIES.get(opcode, ())) for opcode in _ALL)
_IS_REJECTION = tuple(name.startswith("reject_") or name == "error" for name in _NAMES)


class MessagePriority(enum.IntEnum):
    """The lane of an outbound message; lower is sooner.

    Source: behaviour PRI-001, §20; lanes of what only the Rust crate sends are the Rust crate's.
    """

    CRITICAL = 0
    NORMAL = 1
    BULK = 2

    @classmethod
    def of(cls, opcode: int) -> MessagePriority:
        """The lane of any opcode, 0..255.

        Cost: looking the method up on an enumeration takes longer than calling it, so hot paths
        keep a reference to it.
        """
        return _LANES[opcode]

    @classmethod
    def from_chia_type(cls, opcode: int) -> MessagePriority:
        """The lane of a Chia message type; NORMAL for every other number."""
        if 0 <= opcode <= 255 and not is_dig(opcode):
            return _LANES[opcode]
        return cls.NORMAL

    @classmethod
    def from_dig_type(cls, opcode: int) -> MessagePriority:
        """The lane of an opcode of the DIG band, 200..254; NORMAL for every other number."""
        return _LANES[opcode] if is_dig(opcode) else cls.NORMAL


_LANES = tuple(
    MessagePriority.CRITICAL
    if opcode in _CRITICAL
    else MessagePriority.BULK
    if opcode in _BULK
    else MessagePriority.NORMAL
    for opcode in _ALL
)


def routing_class(opcode: int, has_id: bool) -> RoutingClass:
    """What to do with a message.

    A class belongs to the opcode, so a flood-class message that carries an id still is of the
    flood class; that frames with an id are never forwarded (MSG-105-X) is for the caller to heed.

    :param opcode: 0..255.
    :param has_id: whether the message carries a correlation id; it tells the answer to a request
        for a block from a block that is pushed.
    """
    return _WITH_ID[opcode] if has_id else _WITHOUT_ID[opcode]


def valid_replies(opcode: int) -> frozenset[int]:
    """The opcodes that answer a request; empty for anything that expects no answer."""
    return _VALID_REPLIES[opcode]


def is_rejection(opcode: int) -> bool:
    """Whether the opcode says no to a request: Chia's ``Reject…`` and ``error``."""
    return _IS_REJECTION[opcode]


def is_dig(opcode: int) -> bool:
    """Whether the opcode is in the DIG band, 200..254; 255 is Chia's."""
    return 200 <= opcode <= 254


def opcode_name(opcode: int) -> str:
    """A name for logs, for example ``new_peak`` or ``unknown_199``."""
    return _NAMES[opcode]
