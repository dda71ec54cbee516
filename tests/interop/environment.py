"""Environments of the foreign counterparts, kept apart from the project's own.

``python -m tests.interop.environment chia`` makes ``.envs/chia`` with chia-blockchain from PyPI
when it is missing or made from other requirements, and prints the path of its Python.
``python -m tests.interop.environment sdk`` prints the Python that has chia-wallet-sdk's peer
client; that is our own, because the package is a dependency of the node.

Tests call :func:`chia_python` and :func:`sdk_python`. They never download anything unless the
variable ``DIG_GOSSIP_INTEROP`` is set in the environment; without it an environment that is
absent skips the test.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import SkipTest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".envs"

CHIA_REQUIREMENTS = ("chia-blockchain==2.7.5",)
"""What ``.envs/chia`` is made of; a change makes the existing environment stale."""

SDK_MINIMUM = (0, 37)
"""The first release of chia-wallet-sdk whose Python package is known to hold the peer client."""

PERMISSION = "DIG_GOSSIP_INTEROP"
"""Environment variable that allows a test to create an environment."""

CHIA_NODE = Path(__file__).with_name("chia_node.py")
CHIA_INTRODUCER = Path(__file__).with_name("chia_introducer.py")
BUSY_CHIA = Path(__file__).with_name("busy_chia.py")
SDK_CLIENT = Path(__file__).with_name("sdk_client.py")
RAW_CLIENT = "tests.interop.raw_client"
"""Module to run with ``-m``, in our own environment, from the project's root."""


def chia_python() -> Path:
    """Find the Python that runs ``chia_node.py``, creating its environment where allowed.

    :returns: absolute path of an executable.
    :raises SkipTest: the environment is absent or stale and creation is not allowed.
    """
    python = _python_of(ENVIRONMENTS / "chia")
    if _is_fresh(ENVIRONMENTS / "chia", CHIA_REQUIREMENTS):
        return python
    if not os.environ.get(PERMISSION):
        raise SkipTest(
            f"no current environment {ENVIRONMENTS / 'chia'}; set {PERMISSION}=1 or run"
            " 'python -m tests.interop.environment chia'"
        )
    return create("chia", CHIA_REQUIREMENTS)


def sdk_python() -> Path:
    """Find the Python that runs ``sdk_client.py``.

    :returns: absolute path of an executable.
    :raises SkipTest: chia-wallet-sdk is absent or older than the one with a peer client.
    """
    try:
        release = version("chia-wallet-sdk")
    except PackageNotFoundError as error:
        raise SkipTest("chia-wallet-sdk is not installed") from error
    if tuple(int(part) for part in release.split(".")[:2]) < SDK_MINIMUM:
        raise SkipTest(f"chia-wallet-sdk {release} has no usable peer client")
    return Path(sys.executable)


def create(name: str, requirements: tuple[str, ...]) -> Path:
    """Make ``.envs/<name>`` anew unless it is already made of these requirements.

    Two processes may ask at the same time: one builds, the other waits and finds it done.

    :param requirements: arguments for pip, pinned.
    :returns: absolute path of the environment's Python.
    :raises subprocess.CalledProcessError: pip failed; the next call starts over.
    """
    folder = ENVIRONMENTS / name
    with _locked(name):
        if not _is_fresh(folder, requirements):
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            command = [str(_python_of(folder)), "-m", "pip", "install", "--quiet", *requirements]
            subprocess.run(command, check=True, stdout=sys.stderr)
            _stamp(folder).write_text(_recipe(requirements))
    return _python_of(folder)


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def _stamp(folder: Path) -> Path:
    return folder / "made-of.txt"


def _recipe(requirements: tuple[str, ...]) -> str:
    running = f"python {sys.version_info.major}.{sys.version_info.minor}"
    return "\n".join((running, *requirements)) + "\n"


def _is_fresh(folder: Path, requirements: tuple[str, ...]) -> bool:
    """Tell whether the environment was completed from exactly these requirements."""
    try:
        made_of = _stamp(folder).read_text()
    except OSError:
        return False
    return made_of == _recipe(requirements) and _python_of(folder).exists()


@contextmanager
def _locked(name: str) -> Iterator[None]:
    ENVIRONMENTS.mkdir(exist_ok=True)
    with open(ENVIRONMENTS / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str] | None = None) -> int:
    """Make one environment and print the path of its Python."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=["chia", "sdk"])
    options = parser.parse_args(arguments)
    try:
        print(create("chia", CHIA_REQUIREMENTS) if options.name == "chia" else sdk_python())
    except SkipTest as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
