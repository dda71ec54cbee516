"""A node's key pair and certificate, and the peer id that every session is about.

The id is the SHA-256 of the public key's SubjectPublicKeyInfo. Nothing else in a certificate means
anything here: not its issuer, names, dates or signature.

Source: behaviour §3, wire §1.3 and §1.4.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from typing import TypeAlias

import attrs
from chia_rs.sized_bytes import bytes32
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dig_gossip.errors import ClientError, ClientErrorKind, InvalidConfig, Io
from dig_gossip.types.peer import PeerId

PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

#: Smaller RSA keys are refused, our own and those of peers: others could compute them.
MIN_RSA_KEY_BITS = 2048

#: The curves that every TLS version signs with.
_TLS_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

#: A certificate or key file is a few KiB; more is somebody's mistake.
_MAX_PEM_BYTES = 65_536

#: Ends the names of files that wait to take the place of others.
_NEXT = ".next"

#: Ends every message about unusable files: the two ways out.
_WAY_OUT = "restore it from a backup, or move {} away to start with a new identity"


def _unusable(text: str) -> ClientError:
    return ClientError(ClientErrorKind.TLS, text, retryable=False)


def peer_id_from_spki(der: bytes) -> PeerId:
    """Hash a public key into the id of whoever holds its private half.

    :param der: the complete DER SubjectPublicKeyInfo, algorithm included.
    :returns: SHA-256, 32 bytes.
    Source: behaviour CON-009.1, wire §1.4.
    """
    return bytes32(hashlib.sha256(der).digest())


def peer_id_from_certificate(certificate: x509.Certificate | bytes) -> PeerId:
    """Derive the peer id from a certificate, parsed or as DER.

    :raises ClientError: kind ``TLS``, the bytes are no certificate.
    Source: behaviour CON-009.1.
    """
    if isinstance(certificate, bytes):
        der = certificate
        try:
            x509.load_der_x509_certificate(der)
        except Exception as exc:  # the parser promises no closed list of errors
            raise ClientError(ClientErrorKind.TLS, f"not a certificate: {exc}") from exc
    else:
        der = certificate.public_bytes(Encoding.DER)
    return peer_id_from_spki(_spki(der))


def _spki(certificate: bytes) -> bytes:
    """Cut the SubjectPublicKeyInfo out of a certificate that has been parsed before.

    The bytes as they stand, because writing a parsed key again may change them, and not every
    key that TLS can verify can be parsed.
    """

    def content(at: int) -> tuple[int, int]:
        """Where the content of the DER element at ``at`` starts and ends."""
        length, at = certificate[at + 1], at + 2
        if length & 0x80:  # the low bits count the bytes of the length proper
            start = at + (length & 0x7F)
            return start, start + int.from_bytes(certificate[at:start], "big")
        return at, at + length

    at, _ = content(0)  # Certificate
    at, _ = content(at)  # TBSCertificate
    if certificate[at] == 0xA0:  # the explicit version
        _, at = content(at)
    for _field in ("serialNumber", "signature", "issuer", "validity", "subject"):
        _, at = content(at)
    return certificate[at : content(at)[1]]


@attrs.frozen
class Identity:
    """A certificate and the private key that belongs to it.

    Neither ``repr()`` nor equality touches the private key.

    :param certificate: the leaf shown to every peer.
    :param private_key: RSA of 2048 bits or more, P-256, P-384, P-521, Ed25519 or Ed448. Deployed
        nodes use RSA.
    :raises ClientError: kind ``TLS``, the two do not match or the key is of another kind.
    Source: behaviour CON-009, TLS-102-X.
    """

    certificate: x509.Certificate = attrs.field(repr=False)
    private_key: PrivateKey = attrs.field(repr=False, eq=False)
    #: SHA-256 of the public key, 32 bytes.
    peer_id: PeerId = attrs.field(init=False, repr=str)

    def __attrs_post_init__(self) -> None:
        key = self.private_key
        match key:
            case rsa.RSAPrivateKey():
                usable = key.key_size >= MIN_RSA_KEY_BITS
            case ec.EllipticCurvePrivateKey():
                usable = isinstance(key.curve, _TLS_CURVES)
            case _:
                usable = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        if not usable:
            raise _unusable(
                f"a key must be RSA of {MIN_RSA_KEY_BITS} bits or more, P-256, P-384, P-521 or"
                " Ed25519"
            )
        try:
            matches = self.certificate.public_key() == key.public_key()
        except Exception as exc:  # a certificate about a key that cannot be parsed
            raise _unusable(f"the certificate's public key is unusable: {exc}") from exc
        if not matches:
            raise _unusable("the certificate belongs to another private key")
        object.__setattr__(self, "peer_id", peer_id_from_certificate(self.certificate))

    @classmethod
    def from_pem(cls, certificate: bytes, private_key: bytes) -> Identity:
        """Parse a certificate and an unencrypted private key.

        :param certificate: PEM; of several certificates the first counts, the rest is ignored.
        :param private_key: PEM, PKCS#8 (``BEGIN PRIVATE KEY``) or the older forms such as
            ``BEGIN RSA PRIVATE KEY``.
        :raises ClientError: kind ``TLS``, whatever is wrong with either.
        """
        try:
            leaf = x509.load_pem_x509_certificate(certificate)
        except Exception as exc:  # as above
            raise _unusable("not a PEM certificate") from exc
        try:
            key = load_pem_private_key(private_key, password=None)
        except TypeError as exc:
            raise _unusable("the private key is encrypted, store it decrypted") from exc
        except Exception as exc:
            raise _unusable("not a PEM private key") from exc
        return cls(leaf, key)  # type: ignore[arg-type]  # the constructor checks the kind

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def generate_identity() -> Identity:
    """Make a new RSA-2048 key with a certificate signed by the public Chia CA.

    Takes about 0.1 s of processor time: call it in a thread, never on the reactor.

    Source: behaviour CON-009.4, wire §1.3.
    """
    from chia_wallet_sdk import Certificate  # a large native library, needed only here

    made = Certificate.generate()
    return Identity.from_pem(made.cert_pem.encode(), made.key_pem.encode())


def load_identity(cert_path: str, key_path: str) -> Identity:
    """Read an identity from two PEM files.

    :raises Io: a file cannot be read.
    :raises ClientError: kind ``TLS``, a file holds something else, or they do not match.
    """
    certificate, private_key = _read(cert_path), _read(key_path)
    try:
        return Identity.from_pem(certificate, private_key)
    except ClientError as exc:
        reason = exc.text.removeprefix(f"{exc.kind.value}: ")
        files = f"{cert_path} and {os.path.basename(key_path)}"
        raise _unusable(f"{files}: {reason}: {_WAY_OUT.format('both')}") from exc


def load_or_create_identity(cert_path: str, key_path: str) -> Identity:
    """Load the node's identity; on the very first start make one and keep it in the two files.

    An identity never changes unnoticed: one file without the other is an error, also after a
    machine that lost power between writing the first and the second.

    :param cert_path: certificate, PEM; "" (with ``key_path`` "") for an identity that is not kept.
    :param key_path: private key, PEM, created with mode 0600. Missing folders are created.
    :raises InvalidConfig: one path is empty, or both name one file.
    :raises Io: a file is missing, cannot be read or cannot be written.
    :raises ClientError: kind ``TLS``, a file is corrupt, or the two do not match.
    Source: behaviour CON-009.3, CON-009.4.
    """
    if not cert_path and not key_path:
        return generate_identity()
    if not cert_path or not key_path:
        raise InvalidConfig("cert_path: set both cert_path and key_path, or neither")
    if os.path.abspath(cert_path) == os.path.abspath(key_path):
        raise InvalidConfig("key_path: must differ from cert_path")
    _finish_replacement(cert_path, key_path)
    missing = [path for path in (cert_path, key_path) if not _present(path)]
    if not missing:
        return load_identity(cert_path, key_path)
    if len(missing) == 1:
        present = os.path.basename(key_path if missing[0] == cert_path else cert_path)
        raise Io(f"{missing[0]} is missing, {present} is not: {_WAY_OUT.format(present)}")
    identity = generate_identity()
    _write_new(identity, cert_path, key_path)
    return identity


def replace_identity(identity: Identity, cert_path: str, key_path: str) -> None:
    """Put another identity in the place of the one in two files.

    Two files cannot be replaced in one step. So both are complete on disk under names of their
    own, ``….next``, before the key takes its place and then the certificate; a node that finds the
    new key with the old certificate finishes the work. Whenever the machine dies, there is one
    identity to start with, the old one or the new one.

    Writes to the disk: call it in a thread.

    :raises Io: a file cannot be written. What is there is one usable identity.
    Source: behaviour PRV-007.
    """
    _finish_replacement(cert_path, key_path)
    folders = {_folder_of(key_path), _folder_of(cert_path)}
    temporary = ""
    try:
        for path, content, mode in (
            (key_path, identity.key_pem, 0o600),
            (cert_path, identity.certificate_pem, 0o644),
        ):
            temporary = _write_temporary(path, content, mode)
            os.replace(temporary, path + _NEXT)
        for folder in folders:
            _sync_folder(folder)
        os.replace(key_path + _NEXT, key_path)
        _sync_folder(_folder_of(key_path))
        os.replace(cert_path + _NEXT, cert_path)
        _sync_folder(_folder_of(cert_path))
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise Io(
            f"cannot keep a new identity in {_folder_of(key_path)}: {exc.strerror}:"
            " check permissions and space"
        ) from exc


def _finish_replacement(cert_path: str, key_path: str) -> None:
    """Finish what :func:`replace_identity` has begun and a dying machine has interrupted."""
    successor = cert_path + _NEXT
    if not (_present(successor) and _present(key_path)):
        return
    try:
        Identity.from_pem(_read(successor), _read(key_path))
    except ClientError:
        return  # the key is the old one: nothing has been replaced yet
    try:
        os.replace(successor, cert_path)
    except OSError as exc:
        raise Io(f"cannot write {cert_path}: {exc.strerror}: check permissions") from exc
    _sync_folder(_folder_of(cert_path))


def _present(path: str) -> bool:
    """Whether something has this name, a dangling link included."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise Io(f"cannot read {path}: {exc.strerror}: check the folder's permissions") from exc
    return True


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_PEM_BYTES + 1)
    except OSError as exc:
        raise Io(f"cannot read {path}: {exc.strerror}: check its owner and permissions") from exc
    if len(content) > _MAX_PEM_BYTES:
        raise _unusable(f"{path} is no PEM file: it is larger than {_MAX_PEM_BYTES} bytes")
    return content


def _write_new(identity: Identity, cert_path: str, key_path: str) -> None:
    """Put a new identity in place, both files or (unless the machine dies) neither.

    Both are complete on disk under temporary names before either gets its own, the key first.
    """
    ours: list[str] = []  # what to remove when something fails
    try:
        temporary_key = _write_temporary(key_path, identity.key_pem, 0o600)
        ours.append(temporary_key)
        temporary_cert = _write_temporary(cert_path, identity.certificate_pem, 0o644)
        ours.append(temporary_cert)
        os.replace(temporary_key, key_path)
        ours.append(key_path)  # nobody has met this identity yet: it may go again
        os.replace(temporary_cert, cert_path)
        for folder in {_folder_of(key_path), _folder_of(cert_path)}:
            _sync_folder(folder)
    except OSError as exc:
        for path in ours:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise Io(
            f"cannot keep a new identity in {_folder_of(key_path)}: {exc.strerror}:"
            " check permissions and space"
        ) from exc


def _write_temporary(path: str, content: bytes, mode: int) -> str:
    """Write beside ``path``, flushed to the disk, and return the temporary name."""
    folder = _folder_of(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    # mkstemp creates with mode 0600, so a key is never readable by others, not even briefly.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
    except OSError:
        os.unlink(temporary)
        raise
    return temporary


def _folder_of(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


def _sync_folder(folder: str) -> None:
    """Make renames in ``folder`` survive a power cut, where platform and file system can.

    Where they cannot, the worst that is left is one file without the other: an error, no surprise.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
