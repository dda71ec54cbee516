"""Check the wheel as a stranger gets it; ``make wheel-check`` runs ``python -m tests.wheel_check``.

Builds the sdist, and the wheel from it, in a temporary folder; installs the wheel into a fresh
environment; then starts and stops a node there, under ``twistd`` and under ``twist``, and runs a
small network. Needs the package index for the dependencies. Exit status 0 if all is well; 1, with
a sentence, if not.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import threading
import time
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).resolve().parents[1]
PLUGIN = "twisted/plugins/dig_gossip_plugin.py"
IN_WHEEL = (
    PLUGIN, "dig_gossip/py.typed", "dig_gossip/testing/network.py", "dig_gossip/gossip/_sketch.pyi",
    "dig_gossip/gossip/_seen.pyi", "dig_gossip/wire/_frames.pyi",
)  # fmt: skip
#: Compiled, each optional.
EXTENSIONS = (
    "dig_gossip/gossip/_seen", "dig_gossip/gossip/_sketch", "dig_gossip/wire/_frames",
)  # fmt: skip
IN_SDIST = (
    "LICENSE", "Makefile", "NEWS.rst", "README.rst", "dig_gossip/gossip/_sketch.c", "docs/conf.py",
    "dig_gossip/gossip/_seen.c", "dig_gossip/wire/_frames.c",
    "examples/embed.py", "pyproject.toml", "setup.py", "tests/__init__.py", PLUGIN,
)  # fmt: skip
START_LIMIT_SECS = 30
STOP_LIMIT_SECS = 10
#: twistd and twist stop in order, then end by the signal that they got; service managers count
#: that as success, as they count 0.
ORDERLY = (0, -signal.SIGTERM)


class Failure(Exception):
    """Something is not as it must be; the text says what."""


def say(text: str) -> None:
    """Print at once what is being done."""
    print(text, flush=True)


def run(*command: str | Path, cwd: Path, extra: Mapping[str, str] | None = None) -> str:
    """Run a command to its end.

    :param extra: variables of its environment.
    :returns: what it printed.
    :raises Failure: its status is not 0.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment(), **(extra or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        words = " ".join(str(part) for part in command)
        raise Failure(f"«{words}» ended with status {done.returncode}:\n{done.stdout}")
    return done.stdout


def environment() -> dict[str, str]:
    """Ours, without what could make the sources visible to the new environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def build(out: Path) -> tuple[Path, Path]:
    """Build both distributions.

    :returns: the sdist and the wheel.
    """
    # setuptools ships whatever an earlier build has left there.
    shutil.rmtree(PROJECT / "build", ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out, PROJECT, cwd=out)
    sdists, wheels = sorted(out.glob("*.tar.gz")), sorted(out.glob("*.whl"))
    if len(sdists) != 1 or len(wheels) != 1:
        raise Failure(f"expected one sdist and one wheel, found {sdists} and {wheels}")
    return sdists[0], wheels[0]


def check_sdist(path: Path) -> None:
    """The sdist carries tests, documentation and C, and nothing that was left lying about."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in IN_SDIST if name not in names]
    if missing:
        raise Failure(f"{path.name} lacks {', '.join(missing)}")
    litter = [name for name in names if name.endswith((".pyc", ".so", "dropin.cache"))]
    if litter:
        raise Failure(f"{path.name} contains {', '.join(litter)}")


def check_wheel(path: Path) -> None:
    """The wheel has the plugin, every module, and, given a compiler, every extension; no tests."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    modules = {
        str(module.relative_to(PROJECT))
        for module in (PROJECT / "dig_gossip").rglob("*.py")
        if "__pycache__" not in module.parts
    }
    missing = [name for name in (*IN_WHEEL, *sorted(modules)) if name not in names]
    if missing:
        raise Failure(f"{path.name} lacks {', '.join(missing)}")
    info = path.name.rsplit("-", 3)[0] + ".dist-info"
    allowed = ("dig_gossip/", f"{info}/", PLUGIN)
    foreign = sorted(name for name in names if not name.startswith(allowed))
    foreign += sorted(name for name in names if name.endswith(".c"))
    if foreign:
        raise Failure(f"{path.name} contains {', '.join(foreign)}, which is not to be installed")
    binaries = [name for name in names if name.endswith((".so", ".pyd"))]
    built = {name.partition(".")[0] for name in binaries}
    if len(binaries) != len(built) or built != (set(EXTENSIONS) if has_compiler() else set()):
        raise Failure(f"{path.name} contains the extensions {', '.join(binaries) or 'none'}")


def has_compiler() -> bool:
    """Whether extensions can be built here."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(command.split()[0]) is not None


def check_without_compiler(sdist: Path, folder: Path) -> None:
    """Where nothing can be compiled, the wheel is built all the same."""
    out = folder / "pure"
    command = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", out, sdist)
    run(*command, cwd=folder, extra={"CC": "no-such-compiler"})
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        binaries = [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]
    if binaries:
        raise Failure(f"{wheel.name} contains {', '.join(binaries)}: the compiler was not missing")


def check_commands(commands: Path, cwd: Path) -> None:
    """The plugin is listed by both runners, and the command knows its version."""
    for runner in ("twistd", "twist"):
        if "dig-gossip" not in run(commands / runner, "--help", cwd=cwd):
            raise Failure(f"«{runner} --help» does not list dig-gossip")
    version = run(commands / "dig-gossip", "--version", cwd=cwd).strip()
    if not version.startswith("dig-gossip "):
        raise Failure(f"«dig-gossip --version» says {version!r}")
    say(f"   {version}")


def check_node(command: list[str], cwd: Path) -> None:
    """Start a node, wait until it introduces itself, stop it with SIGTERM."""
    words = " ".join(command).replace(str(cwd), "…")
    say(f"   {words}")
    node = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert node.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=read_lines, args=(node.stdout, lines), daemon=True)
    reader.start()
    output: list[str] = []
    try:
        deadline = time.monotonic() + START_LIMIT_SECS
        while not output or "PeerId" not in output[-1]:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise Failure(f"the node did not introduce itself:\n{''.join(output)}")
            output.append(line)
        say(f"      {output[-1].rstrip()}")
        knock(output[-1])
        asked = time.monotonic()
        node.send_signal(signal.SIGTERM)
        try:
            status = node.wait(STOP_LIMIT_SECS)
        except subprocess.TimeoutExpired:
            raise Failure(f"the node still runs {STOP_LIMIT_SECS} s after SIGTERM") from None
        took = time.monotonic() - asked
        reader.join(STOP_LIMIT_SECS)
        while (line := lines.get()) is not None:
            output.append(line)
        if status not in ORDERLY or "node stopped" not in "".join(output):
            raise Failure(f"the node did not stop in order (status {status}):\n{''.join(output)}")
        say(f"      stopped after {took:.1f} s, status {status}")
    finally:
        if node.poll() is None:
            node.kill()
            node.wait()


def knock(introduction: str) -> None:
    """Wait until the node works: it closes a connection that does not speak TLS.

    It introduces itself shortly before it handles signals.
    """
    found = re.search(r"listening on ([\d.]+):(\d+)", introduction)
    if found is None:
        raise Failure(f"no address in the introduction: {introduction}")
    address = (found[1], int(found[2]))
    with socket.create_connection(address, timeout=STOP_LIMIT_SECS) as connection:
        connection.sendall(b"GET /ws HTTP/1.1\r\n\r\n")
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise Failure("the node keeps a connection that does not speak TLS") from None


def read_lines(source: IO[str], lines: queue.Queue[str | None]) -> None:
    """Pass lines on as they come, then None."""
    for line in source:
        lines.put(line)
    lines.put(None)


def check(folder: Path) -> None:
    """Do everything, in order."""
    say("building the sdist, and the wheel from it")
    sdist, wheel = build(folder)
    say(f"   {sdist.name}, {wheel.name}")
    check_sdist(sdist)
    check_wheel(wheel)

    say("building the wheel without a compiler")
    check_without_compiler(sdist, folder)

    say("installing the wheel into a fresh environment")
    home = folder / "venv"
    venv.create(home, with_pip=True)
    commands = home / ("Scripts" if os.name == "nt" else "bin")
    run(commands / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)

    say("loading the compiled parts")
    for extension in EXTENSIONS if has_compiler() else ():
        module = extension.replace("/", ".")
        run(commands / "python", "-c", f"import {module}", cwd=folder)

    say("asking the commands who they are")
    check_commands(commands, folder)

    say("starting and stopping a node")
    node = ["dig-gossip", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "node")]
    check_node([str(commands / "twistd"), "-n", "--pidfile=", *node], folder)
    check_node([str(commands / "twist"), "--log-format=text", *node], folder)
    left = sorted(path.name for path in (folder / "node").iterdir())
    if left != ["node.crt", "node.key", "peers.dat", "peers.dat.lock"]:
        raise Failure(f"the data directory holds {left}")

    say("letting three nodes gossip")
    local = (commands / "dig-gossip", "localnet", "--nodes", "3", "--once", "--messages", "5")
    say("   " + run(*local, "--plain", cwd=folder).strip().replace("\n", "\n   "))


def main() -> int:
    """Run the check; the exit status."""
    with tempfile.TemporaryDirectory(prefix="dig-gossip-wheel-") as folder:
        try:
            check(Path(folder))
        except Failure as failure:
            print(f"wheel-check: {failure}", file=sys.stderr)
            return 1
    say("the wheel installs, starts and stops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
