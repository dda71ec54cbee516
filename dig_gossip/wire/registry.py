"""From bodies to messages and back: which class belongs to which opcode.

Source: design §3; wire §7, §12.
"""

from __future__ import annotations

from typing import Any, Final

from dig_gossip.errors import GossipError
from dig_gossip.wire import chia, compact, dig, erlay, opcodes, stem, trees
from dig_gossip.wire.handshake import Handshake
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.streamable import malformed

#: chia_rs calls two messages otherwise than Chia's table of opcodes does.
_RENAMED: Final[dict[int, str]] = {
    ChiaMessageType.REQUEST_SES_HASHES: "RequestSesInfo",
    ChiaMessageType.RESPOND_SES_HASHES: "RespondSesInfo",
}


def _chia_class_name(opcode: ChiaMessageType) -> str:
    words = opcode.name.split("_")
    camel = "".join(word if word == "VDF" else word.capitalize() for word in words)
    return _RENAMED.get(opcode, camel)


# Any: chia_rs classes share no base class; all have from_bytes() and __bytes__().
_CLASSES: Final[dict[int, type[Any]]] = {
    **{
        opcode.value: getattr(chia, name)
        for opcode in ChiaMessageType
        if (name := _chia_class_name(opcode)) in chia.__all__
    },
    ChiaMessageType.HANDSHAKE: Handshake,
    **{
        body_class.OPCODE: body_class
        for body_class in (
            dig.NewAttestation,
            dig.NewCheckpointProposal,
            dig.NewCheckpointSignature,
            dig.RequestCheckpointSignatures,
            dig.RespondCheckpointSignatures,
            dig.RequestStatus,
            dig.RespondStatus,
            dig.NewCheckpointSubmission,
            dig.ValidatorAnnounce,
            dig.PlumtreeLazyAnnounce,
            dig.PlumtreePrune,
            dig.PlumtreeGraft,
            dig.PlumtreeRequestByHash,
            trees.TreeOpen,
            trees.TreeAnnounce,
            trees.TreePrune,
            trees.TreeGraft,
            dig.RegisterPeer,
            dig.RegisterAck,
            dig.RequestPeersIntroducer,
            dig.RespondPeersIntroducer,
            dig.NoneResponse,
            dig.ConfigureWindowSizes,
            dig.ErrorMessage,
            erlay.ReconciliationSketch,
            erlay.ReconciliationResponse,
            compact.NewCompactBlock,
            compact.RequestBlockTransactions,
            compact.RespondBlockTransactions,
            stem.StemTransaction,
        )
    },
}
_OPCODES: Final[dict[type[Any], int]] = {
    chia.ChiaHandshake: ChiaMessageType.HANDSHAKE.value,
    **{body_class: int(opcode) for opcode, body_class in _CLASSES.items()},
}


def body_class(opcode: int) -> type[Any] | None:
    """The class of an opcode's bodies; None where there is none."""
    return _CLASSES.get(opcode)


def opcode_of(body: object) -> int:
    """The opcode of a body, by its class.

    :raises ClientError: (malformed) the class belongs to no opcode.
    """
    return opcode_of_class(type(body))


def opcode_of_class(cls: type[Any]) -> int:
    """The opcode of the bodies of a class.

    :raises ClientError: (malformed) the class belongs to no opcode.
    """
    opcode = _OPCODES.get(cls)
    if opcode is None:
        raise malformed(f"{cls.__name__} is not the body of a message")
    return opcode


def natural_replies(request_class: type[Any]) -> frozenset[int]:
    """The opcodes that answer a request of this class; empty where none does.

    :raises ClientError: (malformed) the class belongs to no opcode.
    """
    return opcodes.valid_replies(opcode_of_class(request_class))


def is_rejection(opcode: int) -> bool:
    """Whether an answer with this opcode refuses the request."""
    return opcodes.is_rejection(opcode)


def encode(body: object, message_id: int | None = None) -> Message:
    """Put a body into its message.

    :param message_id: correlation id, 0..65535, or None.
    :raises ClientError: (malformed) the class belongs to no opcode, or a field holds a value that
        cannot be encoded.
    """
    opcode = opcode_of(body)
    try:
        data = bytes(body)  # type: ignore[call-overload]
    except GossipError:
        raise
    except Exception as error:
        # The body is the application's: whatever its fields hold must fail as documented.
        raise malformed(f"{type(body).__name__} cannot be encoded: {error}") from error
    return Message(opcode, message_id, data)


def decode(message: Message) -> Any:  # Any: see _CLASSES
    """Read the body of a message.

    :returns: an object of ``body_class(message.type)``.
    :raises ClientError: (malformed) the data does not decode, or no class is known.
    """
    cls = _CLASSES.get(message.type)
    if cls is None:
        raise malformed(f"no class for the body of {opcodes.opcode_name(message.type)}")
    try:
        return cls.from_bytes(message.data)
    except ValueError as error:  # chia_rs
        raise malformed(f"{cls.__name__}: {error}") from None
