"""Real processes in tests: wait for what they print and for their end, and never leave one behind.

Nothing here waits for a duration. A test asks for a line, a JSON event or the end of a process;
the time allowed is generous and only turns a hang into a failure that shows what was printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast
from unittest import SkipTest

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from dig_gossip.util.deferreds import Observers
from tests.interop.environment import PERMISSION, RAW_CLIENT, ROOT

PATIENCE_SECS = 60.0
"""How long one expected thing may take on a machine that is busy with other tests."""

STOP_LIMIT_SECS = 10.0
"""What a node promises to need at most after SIGTERM."""

STORY_LINES = 150
"""How much of its output a process shows when a test has failed."""

TWISTD = "from twisted.scripts.twistd import run; run()"

Event = dict[str, Any]  # Any: JSON
T = TypeVar("T")
P = TypeVar("P", bound="Program")


class NotSeen(AssertionError):
    """What a test waited for did not come; the text has what came instead."""


class Program(ProcessProtocol):
    """One process: its lines, from standard output and standard error, and its end.

    :param name: what failures call it.
    :ivar lines: everything printed so far, in order of arrival.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self._unfinished = {1: b"", 2: b""}
        self._waiters: list[tuple[Callable[[str], bool], Deferred[str]]] = []
        self._end: Observers[int] = Observers()

    # -- what tests ask

    def when_line(
        self, wanted: Callable[[str], bool], *, since: int = 0, timeout: float = PATIENCE_SECS
    ) -> Deferred[str]:
        """The first line that is wanted, whether it has been printed already or not.

        :param since: index in :attr:`lines` of the first line to consider.
        :param timeout: seconds.
        :returns: fires with the line.
        :raises NotSeen: the process has ended without it, or did not print it in time.
        """
        for line in self.lines[since:]:
            if wanted(line):
                return succeed(line)
        if self._end.fired:
            return fail(self._ended_without())
        waiter: Deferred[str] = Deferred(self._forget)
        self._waiters.append((wanted, waiter))
        return self._in_time(waiter, timeout, "the line")

    async def when_event(
        self, name: str, *, since: int = 0, timeout: float = PATIENCE_SECS, **fields: object
    ) -> Event:
        """The first JSON event of this name whose fields have these values."""
        seeking = {"event": name, **fields}

        def wanted(line: str) -> bool:
            event = read_event(line)
            return all(key in event and event[key] == value for key, value in seeking.items())

        try:
            return read_event(await self.when_line(wanted, since=since, timeout=timeout))
        except NotSeen as error:
            raise NotSeen(f"{seeking}: {error}") from None

    def events(self, name: str, *, since: int = 0) -> list[Event]:
        """The JSON events of this name so far."""
        found = map(read_event, self.lines[since:])
        return [event for event in found if event.get("event") == name]

    def when_ended(self, timeout: float = PATIENCE_SECS) -> Deferred[int]:
        """The end of the process.

        :returns: fires with the exit status, or with the negative number of the signal that
            ended the process, as in :mod:`subprocess`.
        :raises NotSeen: the process is still running after ``timeout`` seconds.
        """
        return self._in_time(self._end.when(), timeout, "the end")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing, if the process has ended."""
        try:
            cast(Any, self.transport).signalProcess(number)
        except ProcessExitedAlready:
            pass

    def close_input(self) -> None:
        """End its standard input."""
        cast(Any, self.transport).closeStdin()

    def story(self) -> str:
        """What the process has printed, for a failure report."""
        head = f"--- {self.name}, {len(self.lines)} lines"
        return "\n".join([head, *(line[:600] for line in self.lines[-STORY_LINES:])])

    # -- what Twisted calls

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, self._unfinished[childFD] = (self._unfinished[childFD] + data).split(b"\n")
        for line in lines:
            self._printed(line)

    def processEnded(self, reason: Failure) -> None:
        for rest in self._unfinished.values():
            if rest:
                self._printed(rest)
        ended = cast(Any, reason.value)
        self._end.succeed(ended.exitCode if ended.signal is None else -ended.signal)
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            waiter.errback(self._ended_without())

    # -- inside

    def _printed(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace")
        self.lines.append(line)
        answered = [waiting for waiting in self._waiters if waiting[0](line)]
        self._waiters = [waiting for waiting in self._waiters if waiting not in answered]
        for _, waiter in answered:
            waiter.callback(line)

    def _forget(self, waiter: Deferred[str]) -> None:
        self._waiters = [waiting for waiting in self._waiters if waiting[1] is not waiter]

    def _in_time(self, waiter: Deferred[T], timeout: float, what: str) -> Deferred[T]:
        from twisted.internet import reactor

        def too_late(_failure: object, _timeout: float) -> NoReturn:
            raise NotSeen(f"{self.name}: {what} did not come within {timeout:g} s")

        return waiter.addTimeout(timeout, cast(IReactorTime, reactor), too_late)

    def _ended_without(self) -> NotSeen:
        return NotSeen(f"{self.name} ended without it")


class Node(Program):
    """A node run by ``twistd``, logging events.

    :ivar peer_id: its id in hex.
    :ivar address: where it listens, ``host:port``.
    """

    peer_id = ""
    address = ""

    async def introduce(self) -> None:
        """Wait until it says who it is and where it listens."""
        event = await self.when_event("node_introduced")
        self.peer_id, self.address = event["peer_id"], event["address"]

    def faults(self) -> list[Event]:
        """What it has logged that no peer and no operator must be able to cause."""
        records = map(read_event, self.lines)
        return [
            record
            for record in records
            if record.get("level") in ("error", "critical") or "traceback" in record
        ]


class Introducer(Program):
    """An introducer run by ``twistd``, logging events.

    :ivar address: where it listens, ``host:port``.
    """

    address = ""


class ProcessCase(TestCase):
    """Starts programs in a folder of the test's own and ends them with it.

    A test that fails shows what each of its programs printed. A node that logged an error, or a
    traceback, fails the test.
    """

    timeout = 180

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def start(self, program: P, *command: str | Path, ours: bool = True) -> P:
        """Start a program.

        :param command: the executable and its arguments.
        :param ours: whether the project's modules can be imported there.
        """
        from twisted.internet import reactor

        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONPATH", None)
        if ours:
            environment["PYTHONPATH"] = str(ROOT)
        words = [str(word) for word in command]
        cast(IReactorProcess, reactor).spawnProcess(
            program, words[0], words, environment, str(self.folder)
        )
        self.addCleanup(self._end, program)
        return program

    def python(self, name: str, *arguments: str | Path) -> Program:
        """Start our own Python."""
        return self.start(Program(name), sys.executable, *arguments)

    async def node(self, name: str, *options: str | Path) -> Node:
        """Start ``twistd dig-gossip`` on a free port of 127.0.0.1 and wait for it."""
        node = self.start(
            Node(name),
            *(sys.executable, "-c", TWISTD, "-n", "--pidfile="),
            *("--logger", "tests.interop.event_log.observer"),
            *("dig-gossip", "--listen", "127.0.0.1:0", *options),
        )
        await node.introduce()
        return node

    async def introducer(self, name: str, *options: str | Path) -> Introducer:
        """Start ``twistd dig-introducer`` on a free port of 127.0.0.1 and wait for it."""
        introducer = self.start(
            Introducer(name),
            *(sys.executable, "-c", TWISTD, "-n", "--pidfile="),
            *("--logger", "tests.interop.event_log.observer"),
            *("dig-introducer", "--listen", "127.0.0.1:0", *options),
        )
        introducer.address = (await introducer.when_event("introducer_started"))["address"]
        return introducer

    async def greeted(self, node: Node, *options: str) -> None:
        """Let the raw client greet a node and ask it for peers; both must be answered."""
        client = self.python("raw client", "-m", RAW_CLIENT, node.address, *options)
        self.assertEqual(await client.when_ended(), 0)
        self.assertEqual([event["peer_id"] for event in client.events("tls")], [node.peer_id])
        self.assertEqual(len(client.events("handshake")), 1)
        self.assertEqual([event["id"] for event in client.events("peers")], [7])

    async def stopped(self, *nodes: Node) -> None:
        """Stop nodes with SIGTERM, all at once; they must go in order and in time.

        ``twistd`` ends itself by the signal that it got, after the node has stopped.
        """
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            self.assertEqual(await node.when_ended(STOP_LIMIT_SECS), -signal.SIGTERM)
            self.assertEqual(len(node.events("node_stopped")), 1)

    async def _end(self, program: Program) -> None:
        program.send_signal(signal.SIGKILL)
        await program.when_ended()
        if not getattr(self, "_passed", True):
            raise Story(program.story())
        if isinstance(program, Node) and program.faults():
            raise Story(f"{program.name} logged {program.faults()}\n{program.story()}")


class Story(Exception):
    """What a program printed in a test that has failed."""


def read_event(line: str) -> Event:
    """Decode a line of JSON; empty if it is something else."""
    text = line.lstrip("\x1e")  # RFC 7464, as Twisted's own JSON log
    try:
        event: Event = json.loads(text) if text.startswith("{") else {}
    except ValueError:
        return {}
    return event


def only_by_make_interop() -> None:
    """Skip a test that needs minutes, or downloads, unless the tester wants that.

    :raises SkipTest: nobody asked for it.
    """
    if not os.environ.get(PERMISSION):
        raise SkipTest(f"takes minutes and may download: run 'make interop', or set {PERMISSION}=1")
