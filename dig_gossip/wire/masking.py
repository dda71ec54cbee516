"""The XOR that RFC 6455 §5.3 asks of every frame from a dialer to a listener.

Which way is the fastest depends on the length. Up to a cache line or two one exclusive-or of two
big integers wins; beyond that Autobahn's compiled masker, called without the copies and objects of
its Python wrapper; where that is missing, ``bytes.translate`` on each of the four lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_from_bytes = int.from_bytes

#: Up to this many bytes integers are faster than the compiled masker, and than ``translate``.
_COMPILED_FROM = 144
_TRANSLATED_FROM = 512

#: Up to this many bytes the compiled masker works in a buffer that is kept.
_SCRATCH_BYTES = 65_536


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


def compiled(module: Any) -> Callable[[bytes, bytes], bytes]:  # Any: a cffi module
    """XOR with Autobahn's compiled masker.

    :param module: ``_nvx_xormasker``.
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

    sample = bytes(range(251)) * 2
    for length in (_COMPILED_FROM, len(sample)):
        if mask_compiled(sample[:length], b"\x00\x5a\xff\x01") != mask_small(
            sample[:length], b"\x00\x5a\xff\x01"
        ):
            raise ValueError("the compiled masker gives other results")
    return mask_compiled


def _choose() -> tuple[Callable[[bytes, bytes], bytes], bool]:
    try:
        import _nvx_xormasker  # type: ignore[import-not-found]  # part of Autobahn's wheels

        return compiled(_nvx_xormasker), True
    except Exception:
        return mask_pure, False


#: XOR ``payload`` with the repeated 4-byte ``key``; and whether that is done by compiled code.
mask, COMPILED = _choose()
