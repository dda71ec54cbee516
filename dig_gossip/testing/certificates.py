"""Throw-away identities for tests; never for a node that anyone is to trust.

Making one takes a fraction of a millisecond, so a hundred nodes with certificates of their own cost
nothing. The key follows from the name alone: the same test has the same peer ids on every machine.
"""

from __future__ import annotations

import datetime
import functools
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dig_gossip.tls.identity import Identity, generate_identity

_CURVE = ec.SECP256R1()
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_LAST_YEAR = datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC)
_FAR_AHEAD = datetime.datetime(2100, 8, 2, tzinfo=datetime.UTC)

#: Identities kept for the life of the process; least recently used ones go first.
_POOL_SIZE = 4096


def throwaway_identity(name: str | int | None = None) -> Identity:
    """Return a self-signed P-256 identity.

    :param name: the same name gives the same key and peer id, in every process; None gives a new
        key each time.
    """
    if name is None:
        return _self_signed(ec.generate_private_key(_CURVE), "throwaway", _FAR_AHEAD)
    return _named(str(name))


@functools.lru_cache(_POOL_SIZE)
def _named(name: str) -> Identity:
    return _self_signed(_key_of(name), name, _FAR_AHEAD)


@functools.cache
def expired_identity() -> Identity:
    """Return an identity whose certificate ran out in 2021."""
    return _self_signed(_key_of("\0expired"), "expired", _LAST_YEAR)


@functools.lru_cache(_POOL_SIZE)
def chia_identity(name: str | int = "") -> Identity:
    """Return an RSA identity signed by the Chia CA, as nodes really use them.

    :param name: the same name gives the same identity for the life of the process.
    """
    return generate_identity()


def _key_of(name: str) -> ec.EllipticCurvePrivateKey:
    seed = hashlib.sha512(b"dig_gossip throwaway " + name.encode()).digest()
    return ec.derive_private_key(int.from_bytes(seed, "big") % (_P256_ORDER - 1) + 1, _CURVE)


def _self_signed(key: ec.EllipticCurvePrivateKey, name: str, end: datetime.datetime) -> Identity:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "unnamed")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_LONG_AGO)
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    return Identity(certificate, key)
