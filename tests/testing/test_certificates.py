"""Tests of :mod:`dig_gossip.testing.certificates`."""

from __future__ import annotations

import datetime
import subprocess
import sys

from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.testing.certificates import chia_identity, expired_identity, throwaway_identity
from dig_gossip.tls.identity import Identity


class ThrowawayIdentityTests(SynchronousTestCase):
    """Identities for tests."""

    def test_same_name_is_the_same_identity(self) -> None:
        """A name stands for one peer, a number for its text.  STR-005"""
        self.assertIs(throwaway_identity("a"), throwaway_identity("a"))
        self.assertIs(throwaway_identity(7), throwaway_identity("7"))
        self.assertNotEqual(throwaway_identity("a").peer_id, throwaway_identity("b").peer_id)

    def test_name_gives_the_same_peer_id_in_every_process(self) -> None:
        """A simulation repeats with the same peers.  STR-005"""
        program = (
            "from dig_gossip.testing.certificates import throwaway_identity as make;"
            "print(make('a').peer_id.hex())"
        )
        process = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {program}"],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(process.stdout.strip(), throwaway_identity("a").peer_id.hex())

    def test_without_name_every_identity_is_new(self) -> None:
        """Anonymous identities differ.  STR-005"""
        self.assertNotEqual(throwaway_identity().peer_id, throwaway_identity().peer_id)

    def test_unusual_names_work(self) -> None:
        """Empty and long names are names.  STR-005"""
        for name in ("", "x" * 1000, "peer \N{SNOWMAN}"):
            identity = throwaway_identity(name)
            self.assertEqual(
                Identity.from_pem(identity.certificate_pem, identity.key_pem), identity
            )

    def test_expired_identity_is_expired(self) -> None:
        """Its certificate ended long ago.  CON-009.2"""
        end = expired_identity().certificate.not_valid_after_utc
        self.assertLess(end, datetime.datetime(2022, 1, 1, tzinfo=datetime.UTC))

    def test_chia_identity_is_rsa_and_kept(self) -> None:
        """It is what deployed nodes show, and made once a name.  CON-009.4"""
        self.assertIsInstance(chia_identity().private_key, rsa.RSAPrivateKey)
        self.assertIs(chia_identity(), chia_identity())
        self.assertNotEqual(chia_identity("second").peer_id, chia_identity().peer_id)
