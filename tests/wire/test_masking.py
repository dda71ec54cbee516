"""All ways to mask give the bytes that the RFC asks for."""

from __future__ import annotations

import importlib.util
import random
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.wire import masking

#: Around each change of method.
LENGTHS = (0, 1, 2, 3, 4, 5, 143, 144, 145, 511, 512, 513, 65_535, 65_536, 65_537, 200_003)


def plainly(payload: bytes, key: bytes) -> bytes:
    """RFC 6455 §5.3, word for word."""
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


class MaskTests(SynchronousTestCase):
    """The methods beside the definition."""

    def test_every_length(self) -> None:
        """Short, long, and where one method gives way to another.  wire §1"""
        rng = random.Random(1)
        for length in LENGTHS:
            payload, key = rng.randbytes(length), rng.randbytes(4)
            expected = plainly(payload, key)
            for method in (masking.mask, masking.mask_pure, masking.mask_small):
                result = method(payload, key)
                self.assertEqual(result, expected, (length, method))
                self.assertIs(type(result), bytes)

    @given(st.binary(max_size=700), st.binary(min_size=4, max_size=4))
    def test_any_bytes(self, payload: bytes, key: bytes) -> None:
        """Masking is the definition, and its own inverse.  wire §1"""
        for method in (masking.mask, masking.mask_pure, masking.mask_small):
            self.assertEqual(method(payload, key), plainly(payload, key))
            self.assertEqual(method(method(payload, key), key), payload)

    @given(st.binary(max_size=700), st.binary(min_size=4, max_size=4), st.integers(0, 9))
    def test_in_place(self, payload: bytes, key: bytes, before: int) -> None:
        """The same without a copy, and nothing around it changes.  wire §1"""
        for method in (masking.unmask, masking.unmask_pure):
            memory = bytearray(b"x" * before + payload + b"yz")
            method(memoryview(memory)[before:-2], key)
            self.assertEqual(memory, b"x" * before + plainly(payload, key) + b"yz")

    def test_argument_is_left_alone(self) -> None:
        """The payload masked may be in use elsewhere.  wire §1"""
        for length in LENGTHS:
            payload = random.Random(2).randbytes(length)
            masking.mask(payload, b"keys")
            self.assertEqual(payload, random.Random(2).randbytes(length))


class ChoiceTests(SynchronousTestCase):
    """Which method is used."""

    def reloaded(self, module: Any) -> Any:
        """A second copy of the module, made while this is Autobahn's masker."""
        spec = importlib.util.find_spec("dig_gossip.wire.masking")
        assert spec is not None
        assert spec.loader is not None
        copy = importlib.util.module_from_spec(spec)
        with mock.patch.dict(sys.modules, {"_nvx_xormasker": module}):
            spec.loader.exec_module(copy)
        return copy

    def test_without_the_compiled_masker(self) -> None:
        """The pure method takes its place.  D4"""
        copy = self.reloaded(None)
        self.assertFalse(copy.COMPILED)
        self.assertIs(copy.mask, copy.mask_pure)
        self.assertIs(copy.unmask, copy.unmask_pure)

    def test_with_another_masker_than_we_know(self) -> None:
        """One that has other functions, or other results, is not used.  D4"""
        self.assertIs(self.reloaded(SimpleNamespace()).COMPILED, False)
        if not masking.COMPILED:
            return
        _nvx_xormasker = importlib.import_module("_nvx_xormasker")
        functions = {
            name: getattr(_nvx_xormasker.lib, name)
            for name in ("nvx_xormask_new", "nvx_xormask_free")
        }
        lib = SimpleNamespace(nvx_xormask_process=lambda *arguments: None, **functions)
        broken = self.reloaded(SimpleNamespace(ffi=_nvx_xormasker.ffi, lib=lib))
        self.assertFalse(broken.COMPILED)
        self.assertRaises(
            ValueError, masking.compiled, SimpleNamespace(ffi=_nvx_xormasker.ffi, lib=lib)
        )

    def test_every_masker_is_freed(self) -> None:
        """The compiled masker allocates for each message, and keeps nothing.  D14"""
        if not masking.COMPILED:
            return
        module: Any = importlib.import_module("_nvx_xormasker")
        lib = mock.Mock(wraps=module.lib)
        method, in_place = masking.compiled(SimpleNamespace(ffi=module.ffi, lib=lib))
        for length in LENGTHS:
            method(bytes(length), b"keys")
            in_place(memoryview(bytearray(length)), b"keys")
        self.assertGreater(lib.nvx_xormask_new.call_count, 5)
        self.assertEqual(lib.nvx_xormask_new.call_count, lib.nvx_xormask_free.call_count)
