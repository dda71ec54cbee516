"""Which messages a session passes on as they are: nothing in them concerns the session.

Engines row of the stage table; pure.
"""

from __future__ import annotations

from typing import Final

from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType, is_dig

#: By opcode, of messages without a correlation id, from a peer that is known to know DIG opcodes.
PASSES: Final = tuple(
    opcode not in (DigMessageType.MESSAGE_CHUNK, ChiaMessageType.HANDSHAKE) for opcode in range(256)
)
#: The same from a peer that is not.
PASSES_CHIA: Final = tuple(passes and not is_dig(opcode) for opcode, passes in enumerate(PASSES))
