"""Onion addresses that nobody runs."""

from __future__ import annotations

import base64
import hashlib


def onion(number: int) -> str:
    """A version 3 address with a valid checksum."""
    key = hashlib.sha256(str(number).encode()).digest()
    checksum = hashlib.sha3_256(b".onion checksum" + key + b"\x03").digest()[:2]
    return base64.b32encode(key + checksum + b"\x03").decode().lower() + ".onion"
