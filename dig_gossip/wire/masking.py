"""The XOR that RFC 6455 §5.3 asks of every frame from a dialer to a listener.

Which way is the fastest depends on the length. Up to a cache line or two one exclusive-or of two
big integers wins; beyond that Autobahn's compiled masker, called without the copies and objects of
its Python wrapper; where that is missing, ``bytes.translate`` on each of the four lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

_from_bytes = int.from_bytes

#: Up to this many bytes integers are faster than the compiled masker, and than ``translate``.
_COMPILED_FROM = 144
_TRANSLATED_FROM = 512

#: Up to this many bytes work is done in buffers that are kept.
_SCRATCH_BYTES = 163_840
_joined = memoryview(bytearray(_SCRATCH_BYTES))


def mask_small(payload: bytes, key: bytes) -> bytes:
    """XOR through integers; the cost of both conversions grows with the length."""
    words = (len(payload) + 3) >> 2
    masked = _from_bytes(payload, "little") ^ _from_bytes(key * words, "little")
    return masked.to_bytes(words * 4, "little")[: len(payload)]


@functools.lru_cache(256)
def _table(byte: int) -> bytes:
    return bytes(byte ^ value for value in range(256))


def mask_pure(payload: bytes, key: bytes) -> bytes:
    """XOR without anything compiled."""
    if len(payload) < _TRANSLATED_FROM:
        return mask_small(payload, key)
    masked = bytearray(payload)
    for lane, byte in enumerate(key):
        masked[lane::4] = masked[lane::4].translate(_table(byte))
    return bytes(masked)


def unmask_pure(view: memoryview, key: bytes) -> None:
    """XOR in place without anything compiled."""
    view[:] = mask_pure(bytes(view), key)


def compiled(
    module: Any,  # Any: a cffi module
) -> tuple[Callable[[bytes, bytes], bytes], Callable[[memoryview, bytes], None]]:
    """XOR with Autobahn's compiled masker.

    :param module: ``_nvx_xormasker``.
    :returns: what :data:`mask` and :data:`unmask` are to be.
    :raises Exception: of any kind, when it is not what we know; use :func:`mask_pure` then.
    """
    ffi, lib = module.ffi, module.lib
    new, process, free = lib.nvx_xormask_new, lib.nvx_xormask_process, lib.nvx_xormask_free
    from_buffer, move = ffi.from_buffer, ffi.memmove
    scratch = ffi.new("uint8_t[]", _SCRATCH_BYTES)
    content = ffi.buffer(scratch)

    def mask_compiled(payload: bytes, key: bytes) -> bytes:
        length = len(payload)
        if length < _COMPILED_FROM:
            return mask_small(payload, key)
        masker = new(key)
        if length <= _SCRATCH_BYTES:
            move(scratch, payload, length)
            process(masker, scratch, length)
            masked: bytes = content[:length]
        else:
            copy = bytearray(payload)
            process(masker, from_buffer(copy), length)
            masked = bytes(copy)
        free(masker)
        return masked

    def unmask_compiled(view: memoryview, key: bytes) -> None:
        if len(view) < _COMPILED_FROM:
            view[:] = mask_small(bytes(view), key)
            return
        masker = new(key)
        process(masker, from_buffer("uint8_t[]", view), len(view))
        free(masker)

    sample, key = bytes(range(251)) * 2, b"\x00\x5a\xff\x01"
    for length in (_COMPILED_FROM, len(sample)):
        expected = mask_small(sample[:length], key)
        copy = bytearray(sample[:length])
        unmask_compiled(memoryview(copy), key)
        if mask_compiled(sample[:length], key) != expected or copy != expected:
            raise ValueError("the compiled masker gives other results")
    return mask_compiled, unmask_compiled


def mask_joined(pieces: Sequence[bytes | memoryview], size: int, key: bytes) -> bytes | memoryview:
    """XOR pieces, joined, in memory that is kept.

    :param size: bytes of all pieces.
    :returns: valid until the next call.
    """
    if size > _SCRATCH_BYTES:
        return mask(b"".join(pieces), key)
    at = 0
    for piece in pieces:
        end = at + len(piece)
        _joined[at:end] = piece
        at = end
    joined = _joined[:size]
    unmask(joined, key)
    return joined


def _choose() -> tuple[Callable[[bytes, bytes], bytes], Callable[[memoryview, bytes], None], bool]:
    try:
        import _nvx_xormasker  # type: ignore[import-not-found]  # part of Autobahn's wheels

        return *compiled(_nvx_xormasker), True
    except Exception:
        return mask_pure, unmask_pure, False


#: XOR ``payload`` with the repeated 4-byte ``key``; the same in place; and whether that is done by
#: compiled code.
mask, unmask, COMPILED = _choose()
