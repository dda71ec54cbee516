"""Bytes on one side, values on the other; no clock, no socket, no reactor.

:mod:`~dig_gossip.wire.message` is the envelope, :mod:`~dig_gossip.wire.opcodes` everything that
follows from an opcode, :mod:`~dig_gossip.wire.registry` the way from a body to its message and
back. Bodies are in :mod:`~dig_gossip.wire.handshake`, :mod:`~dig_gossip.wire.dig` and, from
``chia_rs``, :mod:`~dig_gossip.wire.chia`.
"""
