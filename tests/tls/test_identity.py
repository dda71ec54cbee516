"""Tests of :mod:`dig_gossip.tls.identity`."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock, skipIf

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import ClientError, ClientErrorKind, GossipError, InvalidConfig, Io
from dig_gossip.testing.certificates import chia_identity, throwaway_identity
from dig_gossip.tls import identity as identity_module
from dig_gossip.tls.identity import (
    Identity,
    generate_identity,
    load_identity,
    load_or_create_identity,
    peer_id_from_certificate,
    peer_id_from_spki,
    replace_identity,
)
from tests import vectors

DER = throwaway_identity("der").certificate.public_bytes(Encoding.DER)
PEM = throwaway_identity("der").certificate_pem


class PeerIdTests(SynchronousTestCase):
    """The way from a certificate to a peer id."""

    def test_vectors_give_their_peer_id(self) -> None:
        """Every golden certificate has the id an independent implementation gave it.  CON-009.1"""
        for vector in vectors.load("peer_id.json"):
            der, expected = bytes.fromhex(vector["hex"]), vector["peer_id"]
            spki = bytes.fromhex(vector["spki_der"])
            pem = x509.load_pem_x509_certificate(vector["fields"]["cert_pem"].encode())
            self.assertEqual(peer_id_from_spki(spki).hex(), expected, vector["name"])
            self.assertEqual(peer_id_from_certificate(der).hex(), expected, vector["name"])
            self.assertEqual(peer_id_from_certificate(pem).hex(), expected, vector["name"])

    def test_reissued_certificate_keeps_the_id(self) -> None:
        """A new certificate about the same key is the same peer.  CON-009.1"""
        by_name = {v["name"]: bytes.fromhex(v["hex"]) for v in vectors.load("peer_id.json")}
        for first, second in (
            ("chia_ca_signed_rsa", "chia_ca_signed_rsa_reissued"),
            ("self_signed_p256", "chia_ca_signed_p256"),
        ):
            self.assertNotEqual(by_name[first], by_name[second])
            self.assertEqual(
                peer_id_from_certificate(by_name[first]), peer_id_from_certificate(by_name[second])
            )

    def test_certificate_of_version_1_gives_the_id(self) -> None:
        """A certificate without the version field is read just so.  CON-009.1"""
        tbs = throwaway_identity("der").certificate.tbs_certificate_bytes
        head, version, fields = tbs.partition(bytes.fromhex("a003020102"))
        self.assertEqual((len(head), len(version)), (3, 5))
        signature = DER[DER.index(tbs) + len(tbs) :]
        body = b"\x30\x81" + bytes([len(fields)]) + fields + signature
        old = b"\x30\x82" + len(body).to_bytes(2, "big") + body
        self.assertEqual(x509.load_der_x509_certificate(old).version, x509.Version.v1)
        self.assertEqual(peer_id_from_certificate(old), throwaway_identity("der").peer_id)

    @given(st.binary(max_size=2000))
    def test_arbitrary_bytes_raise_client_error(self, data: bytes) -> None:
        """Whatever is no certificate is a TLS error and nothing else.  CON-009.1"""
        error = self.assertRaises(ClientError, peer_id_from_certificate, data)
        self.assertEqual(error.kind, ClientErrorKind.TLS)

    @given(st.data())
    def test_damaged_certificate_gives_an_id_or_client_error(self, data: st.DataObject) -> None:
        """A certificate changed, cut or extended anywhere never raises another error.  CON-009.1"""
        damaged = bytearray(DER[: data.draw(st.integers(0, len(DER)) | st.just(len(DER)))])
        for _ in range(data.draw(st.integers(0, 3))):
            if damaged:
                damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(
                    st.integers(0, 255)
                )
        damaged += data.draw(st.binary(max_size=2))
        try:
            self.assertEqual(len(peer_id_from_certificate(bytes(damaged))), 32)
        except ClientError as error:
            self.assertEqual(error.kind, ClientErrorKind.TLS)


class IdentityTests(SynchronousTestCase):
    """What makes a usable identity."""

    def refuse(self, certificate: bytes, key: bytes, reason: str) -> None:
        error = self.assertRaises(ClientError, Identity.from_pem, certificate, key)
        self.assertEqual(error.kind, ClientErrorKind.TLS)
        self.assertIn(reason, str(error))

    def test_pem_round_trip_is_equal(self) -> None:
        """What is written can be read, as PKCS#8.  CON-009.3"""
        for identity in (throwaway_identity("a"), chia_identity()):
            self.assertTrue(identity.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n"))
            again = Identity.from_pem(identity.certificate_pem, identity.key_pem)
            self.assertEqual(again, identity)
            self.assertEqual(again.key_pem, identity.key_pem)

    def test_peer_id_is_the_hash_of_the_own_key(self) -> None:
        """The id is that of the public key.  CON-009.1"""
        identity = chia_identity()
        spki = identity.private_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self.assertEqual(identity.peer_id, hashlib.sha256(spki).digest())

    def test_traditional_key_is_accepted(self) -> None:
        """``BEGIN RSA PRIVATE KEY`` and ``BEGIN EC PRIVATE KEY`` load too.  CON-009.3"""
        for identity, begin in ((chia_identity(), b"RSA"), (throwaway_identity("a"), b"EC")):
            old = identity.private_key.private_bytes(
                Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
            )
            self.assertTrue(old.startswith(b"-----BEGIN " + begin + b" PRIVATE KEY-----"))
            self.assertEqual(Identity.from_pem(identity.certificate_pem, old), identity)

    def test_first_of_several_certificates_counts(self) -> None:
        """A CA certificate behind the leaf is ignored.  CON-009.3"""
        leaf, other = throwaway_identity("a"), throwaway_identity("b")
        chain = leaf.certificate_pem + other.certificate_pem
        self.assertEqual(Identity.from_pem(chain, leaf.key_pem), leaf)
        self.refuse(other.certificate_pem + leaf.certificate_pem, leaf.key_pem, "another")

    def test_repr_and_str_hide_the_key(self) -> None:
        """An identity that ends up in a log shows the id only.  CON-009.3"""
        identity = throwaway_identity("a")
        for text in (repr(identity), str(identity)):
            self.assertEqual(text, f"Identity(peer_id={identity.peer_id.hex()})")

    def test_mismatched_pair_is_refused(self) -> None:
        """The key of another certificate is an error.  CON-009.3"""
        a, b = throwaway_identity("a"), throwaway_identity("b")
        self.refuse(a.certificate_pem, b.key_pem, "belongs to another private key")
        self.refuse(a.certificate_pem, chia_identity().key_pem, "belongs to another private key")

    def test_certificate_about_an_unknown_key_is_refused(self) -> None:
        """An own certificate on a curve that nothing here knows is an error.  CON-009.3"""
        p256, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
        self.assertIn(p256, DER)
        strange = base64.encodebytes(DER.replace(p256, unknown))
        pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % strange
        self.refuse(pem, throwaway_identity("der").key_pem, "public key is unusable")

    def test_encrypted_key_is_refused_with_advice(self) -> None:
        """A node starts unattended, so nobody can type a passphrase.  CON-009.3"""
        identity = throwaway_identity("a")
        encrypted = identity.private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
        self.refuse(identity.certificate_pem, encrypted, "encrypted, store it decrypted")

    def test_unusable_kinds_of_key_are_refused(self) -> None:
        """Keys that TLS cannot sign with, or that anyone can compute, are refused.  CON-009.3"""
        keys: list[Any] = [  # Any: the point is that these are of the wrong type
            rsa.generate_private_key(65537, 1024),
            ec.generate_private_key(ec.SECP256K1()),
            dsa.generate_private_key(1024),
            x25519.X25519PrivateKey.generate(),
        ]
        for key in keys:
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            self.refuse(PEM, pem, "a key must be RSA of 2048 bits or more")

    @given(st.binary(max_size=500), st.integers(0, 60))
    def test_arbitrary_pem_raises_client_error(self, junk: bytes, kept: int) -> None:
        """Any bytes as certificate or key are an error of one kind.  CON-009.3"""
        key = throwaway_identity("der").key_pem
        for certificate, private_key in (
            (PEM[:kept] + junk, key),
            (junk + PEM[: -kept - 10], key),
            (PEM, key[:kept] + junk),
            (PEM, junk + key[: -kept - 10]),
        ):
            error = self.assertRaises(ClientError, Identity.from_pem, certificate, private_key)
            self.assertEqual(error.kind, ClientErrorKind.TLS)


class GenerateIdentityTests(SynchronousTestCase):
    """New identities."""

    def test_layout_is_what_chia_nodes_expect(self) -> None:
        """Key, names, alternative name, end and signature are chia-ssl's.  CON-009.4"""
        identity = generate_identity()
        certificate, key = identity.certificate, identity.private_key
        assert isinstance(key, rsa.RSAPrivateKey)
        self.assertEqual((key.key_size, key.public_key().public_numbers().e), (2048, 65537))
        self.assertEqual(
            {a.rfc4514_attribute_name: a.value for a in certificate.subject},
            {"CN": "Chia", "O": "Chia", "OU": "Organic Farming Division"},
        )
        self.assertEqual(certificate.not_valid_after_utc.isoformat(), "2100-08-02T00:00:00+00:00")
        (extension,) = certificate.extensions
        assert isinstance(extension.value, x509.SubjectAlternativeName)
        self.assertEqual(extension.value.get_values_for_type(x509.DNSName), ["chia.net"])

    def test_signature_is_the_chia_cas(self) -> None:
        """Chia's listeners admit the certificate: it verifies under both CA issues.  CON-009.4"""
        certificate = generate_identity().certificate
        by_name = {v["name"]: bytes.fromhex(v["hex"]) for v in vectors.load("peer_id.json")}
        for name in ("chia_ca_itself", "chia_ca_old"):
            certificate.verify_directly_issued_by(x509.load_der_x509_certificate(by_name[name]))

    def test_every_call_makes_another_key(self) -> None:
        """Two identities differ.  CON-009.4"""
        self.assertNotEqual(generate_identity().peer_id, generate_identity().peer_id)


class PowerCut(BaseException):
    """The machine stops here: no handler of the program runs."""


class IdentityFileTests(SynchronousTestCase):
    """Keeping an identity in files."""

    def setUp(self) -> None:
        self.folder = os.path.join(self.mktemp(), "new", "folders")
        self.cert = os.path.join(self.folder, "node.crt")
        self.key = os.path.join(self.folder, "node.key")

    def store(self, certificate: bytes | None, key: bytes | None) -> None:
        os.makedirs(self.folder, exist_ok=True)
        for path, content in ((self.cert, certificate), (self.key, key)):
            if content is not None:
                with open(path, "wb") as file:
                    file.write(content)

    def files(self) -> dict[str, bytes]:
        found = {}
        for name in os.listdir(self.folder):
            with open(os.path.join(self.folder, name), "rb") as file:
                found[name] = file.read()
        return found

    def refuse(self, kind: type[GossipError], *texts: str) -> None:
        """Loading fails, says so, and leaves every byte on the disk as it is."""
        before = self.files()
        error = self.assertRaises(kind, load_or_create_identity, self.cert, self.key)
        for text in texts:
            self.assertIn(text, str(error))
        self.assertEqual(self.files(), before)

    def test_both_missing_creates_and_next_start_loads(self) -> None:
        """The first start makes the identity that every later one finds.  CON-009.3"""
        first = load_or_create_identity(self.cert, self.key)
        self.assertEqual(sorted(os.listdir(self.folder)), ["node.crt", "node.key"])
        self.assertEqual(load_or_create_identity(self.cert, self.key), first)
        self.assertEqual(load_identity(self.cert, self.key), first)

    @skipIf(sys.platform == "win32", "POSIX permissions")
    def test_key_is_readable_by_its_owner_only(self) -> None:
        """The key has mode 0600 whatever the umask, and had from its first byte.  CON-009.3"""
        seen: list[int] = []

        def fsync(descriptor: int) -> None:
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

        self.addCleanup(os.umask, os.umask(0))
        with mock.patch.object(os, "fsync", fsync):
            load_or_create_identity(self.cert, self.key)
        self.assertEqual(seen[:2], [0o600, 0o600])  # the temporary files
        self.assertEqual(stat.S_IMODE(os.stat(self.key).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.cert).st_mode), 0o644)
        self.assertEqual(stat.S_IMODE(os.stat(self.folder).st_mode), 0o700)

    def test_relative_paths_without_folder_work(self) -> None:
        """File names alone mean the current folder.  CON-009.3"""
        os.makedirs(self.folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        first = load_or_create_identity("node.crt", "node.key")
        self.assertEqual(load_or_create_identity("node.crt", "node.key"), first)

    def test_empty_paths_give_an_identity_that_is_not_kept(self) -> None:
        """Two ephemeral identities differ, and nothing is written.  CON-009.4"""
        with mock.patch.object(identity_module, "_write_new") as write:
            first, second = load_or_create_identity("", ""), load_or_create_identity("", "")
        self.assertNotEqual(first.peer_id, second.peer_id)
        write.assert_not_called()

    def test_unusable_paths_are_configuration_errors(self) -> None:
        """One path without the other, or one file for both, is refused.  CON-009.4"""
        for cert, key in (("", self.key), (self.cert, ""), (self.cert, self.cert)):
            self.assertRaises(InvalidConfig, load_or_create_identity, cert, key)
        self.assertFalse(os.path.exists(self.folder))

    def test_one_file_missing_is_reported(self) -> None:
        """A lone key or a lone certificate is never completed by something new.  CON-009.3"""
        identity = throwaway_identity("a")
        self.store(None, identity.key_pem)
        self.refuse(Io, "node.crt is missing, node.key is not: restore", "move node.key away")
        os.unlink(self.key)
        self.store(identity.certificate_pem, None)
        self.refuse(Io, "node.key is missing, node.crt is not: restore", "move node.crt away")

    def test_corrupt_file_is_reported(self) -> None:
        """A damaged, empty or oversized file is an error that says what to do.  CON-009.3"""
        identity = throwaway_identity("a")
        certificate, key = identity.certificate_pem, identity.key_pem
        for bad in (b"", b"\0\xff" * 40, certificate[:-50], key):
            self.store(bad, key)
            self.refuse(ClientError, "node.key: not a PEM certificate", "new identity")
        for bad in (b"", b"\0\xff" * 40, key[:-50], certificate):
            self.store(certificate, bad)
            self.refuse(ClientError, "node.key: not a PEM private key", "new identity")
        self.store(certificate, key + b"\n" * 65_536)
        self.refuse(ClientError, "node.key is no PEM file: it is larger")

    def test_mismatched_pair_is_reported(self) -> None:
        """A certificate of another key is an error.  CON-009.3"""
        self.store(throwaway_identity("a").certificate_pem, throwaway_identity("b").key_pem)
        self.refuse(ClientError, "belongs to another private key", "new identity")

    def test_unreadable_file_is_reported(self) -> None:
        """What exists but cannot be read is an error, links to nowhere included.  CON-009.3"""
        identity = throwaway_identity("a")
        self.store(identity.certificate_pem, None)
        os.symlink("nowhere", self.key)
        error = self.assertRaises(Io, load_or_create_identity, self.cert, self.key)
        self.assertIn("node.key: No such file", str(error))
        os.unlink(self.key)
        os.mkdir(self.key)
        error = self.assertRaises(Io, load_or_create_identity, self.cert, self.key)
        self.assertIn("node.key: Is a directory: check its owner and permissions", str(error))

    def test_uncertain_presence_is_not_taken_for_absence(self) -> None:
        """A folder that cannot be searched may hold an identity.  CON-009.3"""
        os.makedirs(self.folder)
        with mock.patch.object(os, "lstat", side_effect=PermissionError(13, "Permission denied")):
            self.refuse(Io, "Permission denied", "check the folder's permissions")

    def test_failed_write_leaves_nothing_behind(self) -> None:
        """When any step of writing fails, the next start begins from nothing again.  CON-009.3"""
        for name, failing in [(name, n) for name in ("replace", "fsync", "chmod") for n in (1, 2)]:
            with mock.patch.object(os, name, self.fail_at(failing, getattr(os, name), OSError)):
                error = self.assertRaises(Io, load_or_create_identity, self.cert, self.key)
            self.assertIn("No space left: check permissions and space", str(error))
            self.assertEqual(os.listdir(self.folder), [], (name, failing))
        load_or_create_identity(self.cert, self.key)

    def test_folder_that_cannot_be_flushed_is_no_error(self) -> None:
        """Some file systems refuse to flush a folder; the files are there.  CON-009.3"""
        with mock.patch.object(os, "fsync", self.fail_at(3, os.fsync, OSError)):
            first = load_or_create_identity(self.cert, self.key)
        self.assertEqual(load_identity(self.cert, self.key), first)

    def test_folder_that_cannot_be_opened_is_no_error(self) -> None:
        """Windows opens no folders; the files are there all the same.  CON-009.3"""
        real = os.open

        def open_file(path: str, flags: int, mode: int = 0o777) -> int:
            if os.path.isdir(path):
                raise PermissionError(13, "Permission denied")
            return real(path, flags, mode)

        with mock.patch.object(os, "open", open_file):
            first = load_or_create_identity(self.cert, self.key)
        self.assertEqual(load_identity(self.cert, self.key), first)

    def test_power_cut_before_the_key_starts_over(self) -> None:
        """A crash while writing temporary files leaves neither name taken.  CON-009.3"""
        self.crash_at(1)
        self.assertFalse(os.path.exists(self.key))
        self.assertFalse(os.path.exists(self.cert))
        first = load_or_create_identity(self.cert, self.key)
        self.assertEqual(load_or_create_identity(self.cert, self.key), first)

    def test_power_cut_between_key_and_certificate_is_reported(self) -> None:
        """A crash between the two renames is no silent change of identity.  CON-009.3"""
        self.crash_at(2)
        self.assertTrue(os.path.exists(self.key))
        self.refuse(Io, "node.crt is missing", "move node.key away")

    def test_power_cut_at_any_rename_of_a_replacement_leaves_one_identity(self) -> None:
        """The old one or the new one, whole; and the next replacement works.  PRV-007"""
        seen = set()
        for rename in range(1, 5):
            first = load_or_create_identity(self.cert, self.key)
            second, third = generate_identity(), generate_identity()
            broken = self.fail_at(rename, os.replace, PowerCut)
            with mock.patch.object(os, "replace", broken), self.assertRaises(PowerCut):
                replace_identity(second, self.cert, self.key)
            found = load_or_create_identity(self.cert, self.key)
            self.assertIn(found, (first, second))
            seen.add(found == first)
            replace_identity(third, self.cert, self.key)
            self.assertEqual(load_identity(self.cert, self.key), third)
            self.assertEqual(os.stat(self.key).st_mode & 0o777, 0o600)
        self.assertEqual(seen, {True, False})

    def test_replacement_that_cannot_be_written_changes_nothing(self) -> None:
        """A full disk keeps the old identity.  PRV-007"""
        first = load_or_create_identity(self.cert, self.key)
        broken = self.fail_at(2, os.replace, OSError)
        with mock.patch.object(os, "replace", broken):
            error = self.assertRaises(
                Io, replace_identity, generate_identity(), self.cert, self.key
            )
        self.assertIn("No space left", str(error))
        self.assertEqual(load_or_create_identity(self.cert, self.key), first)

    def test_unwritable_folder_is_reported(self) -> None:
        """A folder that cannot be made is an error that names it.  CON-009.3"""
        os.makedirs(os.path.dirname(self.folder))
        with open(self.folder, "w"):
            pass
        error = self.assertRaises(Io, load_or_create_identity, self.cert, self.key)
        self.assertIn("folders", str(error))

    def crash_at(self, rename: int) -> None:
        with mock.patch.object(os, "replace", self.fail_at(rename, os.replace, PowerCut)):
            self.assertRaises(PowerCut, load_or_create_identity, self.cert, self.key)

    def fail_at(
        self, n: int, real: Callable[..., object], error: type[BaseException]
    ) -> Callable[..., object]:
        """Stand in for a function whose n-th call fails."""
        calls = 0

        def call(*args: object) -> object:
            nonlocal calls
            calls += 1
            if calls == n:
                raise error(28, "No space left")
            return real(*args)

        return call
