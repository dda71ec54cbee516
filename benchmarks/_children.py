"""The processes under test, and what joins two of them into a pair.

A counterpart is a program that behaves like ``_flow.End``: it listens on loopback, prints one line
of JSON about that, and then answers each line of commands with a line. To add one, write such a
program and enter it in ``COUNTERPARTS``.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from common import ROOT
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HERE = Path(__file__).resolve().parent
PATIENCE_SECS = 60.0

DIG = "dig_gossip"
AUTOBAHN = "autobahn"
CHIA = "chia"
FIFO = "one queue"
OPENSSL = "openssl"
RELAYED = "relayed"


def _ours() -> str:
    return sys.executable


def _chia() -> str:
    """The Python of chia-blockchain's environment, which is made from PyPI when it is missing."""
    command = [sys.executable, "-m", "tests.interop.environment", "chia"]
    made = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()


class Unavailable(Exception):
    """A counterpart that this machine cannot run, and why."""


@functools.cache
def _openssl() -> str:
    """The counterpart in C, compiled when it is missing or older than its source.

    :raises Unavailable: there is no compiler, or OpenSSL's headers are not there.
    """
    source, binary = HERE / "_openssl_end.c", ROOT / ".envs" / "openssl_end"
    if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
        return str(binary)
    binary.parent.mkdir(exist_ok=True)
    command = ["cc", "-O2", "-o", str(binary), str(source), "-lssl", "-lcrypto"]
    try:
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable("there is no C compiler (Debian: apt-get install gcc)") from None
    if compiled.returncode:
        first = next((line for line in compiled.stderr.splitlines() if "error" in line), "?")
        raise Unavailable(f"it does not compile (Debian: apt-get install libssl-dev): {first}")
    return str(binary)


def available(names: list[str]) -> list[str]:
    """Those of the counterparts that can run here; says what is left out and why."""
    found = []
    for name in names:
        try:
            COUNTERPARTS[name].python()
        except Unavailable as reason:
            print(f"without {name}: {reason}\n")
        else:
            found.append(name)
    return found


@attrs.frozen
class Program:
    """How to start one end of a session.

    :ivar python: finds the interpreter; or a program that ignores the script.
    :ivar script: a file of this folder.
    """

    python: Callable[[], str]
    script: str


COUNTERPARTS = {
    DIG: Program(_ours, "_dig_end.py"),
    AUTOBAHN: Program(_ours, "_autobahn_end.py"),
    CHIA: Program(_chia, "_chia_end.py"),
    FIFO: Program(_ours, "_fifo_end.py"),
    RELAYED: Program(_ours, "_relayed_end.py"),
    OPENSSL: Program(_openssl, "_openssl_end.c"),
}


class Child:
    """A program that obeys."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        self._name = script
        self._process = subprocess.Popen(
            [python, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )

    @functools.cached_property
    def hello(self) -> Any:  # Any: what JSON holds
        """What it says when it is ready; children start side by side until somebody asks."""
        return self._answer()

    def ask(self, do: str, **arguments: Any) -> Any:  # Any: what JSON holds
        """Give one command and wait for its answer.

        :raises RuntimeError: the program has ended, or took too long and was killed.
        """
        assert self.hello is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the program; it stops when its standard input ends."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        timer = threading.Timer(PATIENCE_SECS, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise RuntimeError(f"{self._name} ended, or did not answer in {PATIENCE_SECS:.0f} s")
        return json.loads(line)


def start(name: str, certificate: Path) -> Child:
    """Start one end of a counterpart."""
    program = COUNTERPARTS[name]
    return Child(program.python(), program.script, "--certificate", str(certificate))


@attrs.frozen
class Flow:
    """One measured stream.

    :ivar rate: messages a second, as received.
    :ivar seconds: from the first message to the last.
    :ivar sender_cpu: seconds of processor time per message.
    :ivar receiver_cpu: the same at the other end.
    """

    rate: float
    seconds: float
    sender_cpu: float
    receiver_cpu: float


class Pair:
    """Two processes of one counterpart with a session between them."""

    def __init__(self, name: str, certificates: Certificates) -> None:
        self.name = name
        self.acceptor = start(name, certificates.leaf("acceptor"))
        self.dialer = start(name, certificates.leaf("dialer"))

    def connect(self, port: int | None = None) -> None:
        """Open the session.

        :param port: of something in between that leads to the acceptor.
        """
        self.dialer.ask("dial", port=port or self.acceptor.hello["port"])
        wait_for_sessions(self.acceptor, 1)

    def stream(self, count: int, size: int, window: int, *, inward: bool, spread: bool) -> Flow:
        """Send messages one way and count them at the other end.

        :param count: messages, a multiple of a quarter of the window.
        :param window: messages on their way at most, a multiple of 4.
        :param inward: from the dialer to the acceptor.
        :param spread: as gossip.
        :raises RuntimeError: something was lost.
        """
        sender, receiver = self.dialer, self.acceptor
        if not inward:
            sender, receiver = receiver, sender
        every = window // 4
        receiver.ask("expect", count=count, every=every)
        sent = sender.ask("send", count=count, size=size, window=window, every=every, spread=spread)
        report = receiver.ask("report")
        if report["received"] != count or report["bytes"] != count * size:
            raise RuntimeError(f"{self.name}: {count} messages were sent, {report} came")
        return Flow(
            rate=(count - 1) / report["seconds"],
            seconds=report["seconds"],
            sender_cpu=sent["cpu"] / count,
            receiver_cpu=report["cpu"] / count,
        )

    def close(self) -> None:
        """End both processes."""
        self.dialer.close()
        self.acceptor.close()


def wait_for_sessions(child: Child, count: int) -> None:
    """Wait until a program has this many sessions.

    :raises RuntimeError: it never does.
    """
    deadline = time.monotonic() + PATIENCE_SECS
    while child.ask("sessions")["sessions"] != count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"there never were {count} sessions")
        time.sleep(0.01)


@contextlib.contextmanager
def pairs(names: list[str]) -> Iterator[list[Pair]]:
    """Pairs of processes, one for each name, that end with the block."""
    with contextlib.ExitStack() as stack:
        certificates = stack.enter_context(Certificates.temporary())
        made = []
        for name in names:
            made.append(Pair(name, certificates))
            stack.callback(made[-1].close)
        yield made


class Certificates:
    """Certificates of one authority, thrown away after the run; RSA 2048 as those of Chia.

    :param folder: holds ``ca.crt`` and ``ca.key``, which chia-blockchain insists on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = rsa.generate_private_key(65537, 2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark CA")])
        self._write("ca", self._certify(self._name, self._key, is_authority=True), self._key)

    @classmethod
    @contextlib.contextmanager
    def temporary(cls) -> Iterator[Certificates]:
        """Certificates in a folder that is removed afterwards."""
        with tempfile.TemporaryDirectory(prefix="dig-benchmark-") as folder:
            yield cls(Path(folder))

    def leaf(self, name: str) -> Path:
        """Make an identity; the path of its certificate, with the key beside it."""
        path = self.folder / f"{name}.crt"
        if not path.exists():
            key = rsa.generate_private_key(65537, 2048)
            self._write(name, self._certify(_common_name(name), key), key)
        return path

    def crowd(self, count: int) -> Path:
        """Make many identities, with quick keys; the path of one file with all of them."""
        path = self.folder / "crowd.pem"
        with path.open("wb") as file:
            for number in range(count):
                key = ec.generate_private_key(ec.SECP256R1())
                certificate = self._certify(_common_name(f"peer {number}"), key)
                file.write(_private_pem(key) + certificate.public_bytes(Encoding.PEM))
        return path

    def _certify(
        self, subject: x509.Name, key: Any, *, is_authority: bool = False
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate, key: Any) -> None:
        public, private = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        public.write_bytes(certificate.public_bytes(Encoding.PEM))
        private.touch(0o600)
        private.write_bytes(_private_pem(key))


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem
