"""What one node was told and what it wanted done, written down and played again.

Programs row of the stage table. A trace is a regression test for an engine: the events of one node
are fed to a fresh machine, at the times at which they happened, and what it wants is compared with
what it wanted then. If an engine raises, the trace ends with the event on which it did so.

A file has one JSON value a line::

    {"trace": 1, "scenario": NAME, "text": TOML, "protocol": …, "seed": …, "node": …}
    ["message", …]                    the n-th of these is message n from here on
    ["start", LIFE, TIME]             the node starts afresh
    [EVENT, TIME, ARGUMENTS, EFFECTS] an event, and the effects; or {"raised": …} in their place

Numbers have nine significant digits in comparisons, on which all machines agree. What is read
may come from strangers: it is checked before it is used.

Source: design D1.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

import attrs

from dig_gossip.effects import Effect, TimerKey
from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.adversaries import Around
from dig_gossip.lab.machine import Machine, as_peer
from dig_gossip.lab.models.frame import ModelFrame, frame
from dig_gossip.lab.protocols import KINDS_BY_PROTOCOL
from dig_gossip.lab.results import DamagedResults, write_text
from dig_gossip.lab.run import Experiment
from dig_gossip.lab.scenario import Scenario, parse
from dig_gossip.types.peer import PeerId
from dig_gossip.util.files import read_at_most
from dig_gossip.wire.message import Message

MAX_TRACE_BYTES: Final = 256 * 1024 * 1024
_VERSION: Final = 1
_DIGITS: Final = 9
_MAX_DEPTH: Final = 20
_EVENTS: Final = ("peer_up", "peer_down", "measured", "publish", "received", "timer_fired")


class _Raised(Exception):
    """A machine raised; the trace says what."""


@attrs.frozen(kw_only=True)
class Replayed:
    """What came of playing a trace again.

    :ivar events: how many were played.
    :ivar difference: the first event that came out otherwise, and how; "" if none did.
    :ivar raised: what the engine raised this time; "" for nothing.
    """

    events: int
    difference: str
    raised: str


class _Writer:
    """Makes lines; each message is written once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._messages: dict[str, int] = {}

    def add(self, value: object) -> None:
        """Write a line."""
        self.lines.append(json.dumps(value, separators=(",", ":")))

    def encoded(self, value: object) -> object:
        """Make JSON of anything that machines are given, or give."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value
        if isinstance(value, enum.Enum):
            return str(value.value)
        if isinstance(value, bytes):
            return {"b": value.hex()}
        if isinstance(value, Message):
            return self._message(["m", value.type, value.id, value.data.hex()])
        if isinstance(value, ModelFrame):
            content, payload = self.encoded(value.content), self.encoded(value.payload)
            return self._message(["f", value.type, value.size, content, payload])
        if isinstance(value, tuple | list | set | frozenset):
            return [self.encoded(item) for item in value]
        raise TypeError(f"nothing that a trace can hold: {type(value).__name__}")

    def effects(self, effects: list[Effect]) -> list[object]:
        """Make JSON of effects, each with its name."""
        return [[type(effect).__name__, *map(self.encoded, effect)] for effect in effects]

    def _message(self, parts: list[object]) -> object:
        text = json.dumps(parts)
        number = self._messages.get(text)
        if number is None:
            number = self._messages[text] = len(self._messages)
            self.add(["message", parts])
        return {"m": number}


class _Recording(Around):
    """A machine that writes down what the one inside is told and wants."""

    def __init__(self, inner: Machine, writer: _Writer, now: Callable[[], float]) -> None:
        super().__init__(inner)
        self._writer = writer
        self._now = now

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A link begins."""
        return self._note("peer_up", peer, dialed, rtt)

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A link ends."""
        return self._note("peer_down", peer)

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """A ping came back."""
        return self._note("measured", peer, rtt)

    def publish(self, message: Message) -> list[Effect]:
        """The application spreads a message."""
        return self._note("publish", message)

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """A frame arrives."""
        return self._note("received", peer, message)

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """A timer is due."""
        return self._note("timer_fired", key)

    def _note(self, event: str, *arguments: object) -> list[Effect]:
        writer, now = self._writer, self._now()
        told = [writer.encoded(argument) for argument in arguments]
        try:
            effects = _told(self.inner, event, arguments)
        except Exception as error:
            writer.add([event, now, told, {"raised": _words(error)}])
            raise _Raised(_words(error)) from error
        writer.add([event, now, told, writer.effects(effects)])
        return effects


class _Blaming(Around):
    """A machine that says whose fault it is if it raises."""

    def __init__(self, inner: Machine, blame: Callable[[], None]) -> None:
        super().__init__(inner)
        for event in _EVENTS:
            setattr(self, event, self._guarded(getattr(inner, event), blame))

    @staticmethod
    def _guarded(event: Callable[..., list[Effect]], blame: Callable[[], None]) -> Any:
        # Any: of the same type as the event
        def call(*arguments: Any, **named: Any) -> list[Effect]:
            try:
                return event(*arguments, **named)
            except Exception as error:
                blame()
                raise _Raised(_words(error)) from error

        return call


class _Traced(Experiment):
    """An experiment in which one node's machine is recorded, or none and all are watched."""

    def __init__(self, scenario: Scenario, protocol: str, seed: int, node: int | None) -> None:
        self.writer = _Writer()
        self.blamed: int | None = None
        self._traced = node
        super().__init__(scenario, protocol, seed)

    def _machine(self, node: int) -> Machine:
        machine = super()._machine(node)
        if node in self.adversaries:
            return machine
        if self._traced is None:

            def blame() -> None:
                self.blamed = node

            return _Blaming(machine, blame)
        if node != self._traced:
            return machine
        self.writer.add(["start", self.lives[node], self.simulator.now])
        return _Recording(machine, self.writer, lambda: self.simulator.now)


def record(scenario: Scenario, protocol: str, seed: int, node: int | None = None) -> str:
    """Simulate, and write down what one node was told and wanted.

    :param node: which; None for the one whose engine raises, which takes two runs.
    :returns: the content of a trace file.
    :raises InvalidConfig: the node is an adversary or does not exist; nobody's engine raises; or
        the protocol is about address books, whose machines cannot be told all in frames.
    """
    name = scenario.name
    if KINDS_BY_PROTOCOL[protocol].manager is not None:
        raise InvalidConfig(f"{name}: {protocol} cannot be traced")
    if node is None:
        watched = _Traced(scenario, protocol, seed, None)
        try:
            watched.play(None)
        except _Raised:
            node = watched.blamed
        if node is None:
            raise InvalidConfig(f"{name}: nothing was raised; say which node is to be traced")
    if not 0 <= node < scenario.overlay.nodes:
        raise InvalidConfig(f"{name}: there is no node {node}")
    traced = _Traced(scenario, protocol, seed, node)
    if node in traced.adversaries:
        raise InvalidConfig(f"{name}: node {node} is an adversary")
    try:
        traced.play(None)
    except _Raised:
        pass  # it is in the trace
    head = {
        "trace": _VERSION,
        "scenario": name,
        "text": scenario.text,
        "protocol": protocol,
        "seed": seed,
        "node": node,
    }
    return "\n".join([json.dumps(head), *traced.writer.lines]) + "\n"


def write(path: str, text: str) -> None:
    """Write a trace file in one step.

    :raises OSError: it cannot be written.
    """
    write_text(path, text)


def replay(path: str) -> Replayed:
    """Play a trace file again.

    :raises DamagedResults: it cannot be read, or is none; names the line.
    """
    try:
        data = read_at_most(path, MAX_TRACE_BYTES)
    except OSError as error:
        raise DamagedResults(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DamagedResults(path, str(error)) from None
    if data is None:
        raise DamagedResults(path, "there is no such file")
    return replay_bytes(data, path)


def replay_bytes(data: bytes, path: str = "trace") -> Replayed:
    """Play the content of a trace file again.

    All events are played, also after a difference, unless the engine raises.

    :param path: what errors call it.
    :raises DamagedResults: as :func:`replay`.
    """
    number = 1
    try:
        first, *lines = data.decode("utf-8").split("\n")
        player = _Player(_json(first))
        for line in lines:
            number += 1
            if line and not player.play(_json(line)):
                break
    except (_Unfit, UnicodeDecodeError) as error:
        raise DamagedResults(path, f"line {number}: {error}") from None
    return Replayed(events=player.events, difference=player.difference, raised=player.raised)


class _Unfit(Exception):
    """What is wrong with a line."""


class _Player:
    """A fresh machine, and what it was told so far."""

    def __init__(self, head: object) -> None:
        if not isinstance(head, dict) or head.get("trace") != _VERSION:
            raise _Unfit(f"no trace of version {_VERSION}")
        text, protocol = head.get("text"), head.get("protocol")
        seed, node = head.get("seed"), head.get("node")
        kind = KINDS_BY_PROTOCOL.get(protocol) if isinstance(protocol, str) else None
        if kind is None or kind.manager is not None:
            raise _Unfit("no protocol that can be traced")
        if not isinstance(text, str) or type(seed) is not int or type(node) is not int:
            raise _Unfit("no text, seed or node")
        try:
            self._scenario = parse(text)
        except InvalidConfig as error:
            raise _Unfit(str(error)) from None
        self._kind, self._seed, self._node = kind, seed, node
        self._messages: list[Message] = []
        self._machine: Machine | None = None
        self._now = 0.0
        self._writer = _Writer()
        #: messages, in JSON, as they were recorded and as there are in what is wanted now
        self._recorded: list[str] = []
        self._anew: list[str] = []
        self.events = 0
        self.difference = self.raised = ""

    def play(self, line: object) -> bool:
        """Do what a line says; whether to go on."""
        if not isinstance(line, list) or not line:
            raise _Unfit("no list")
        name = line[0]
        if name == "message" and len(line) == 2:
            self._messages.append(self._message(line[1]))
            self._recorded.append(json.dumps(line[1]))
            return True
        if name == "start" and len(line) == 3 and type(line[1]) is int:
            self._now = _number(line[2])
            rng = Random(f"{self._seed} node {self._node} {line[1]}")
            self._machine = self._kind.build(self._scenario, self._node, lambda: self._now, rng)
            return True
        if name not in _EVENTS or len(line) != 4:
            raise _Unfit("no event")
        if self._machine is None:
            raise _Unfit("an event before the node has started")
        self._now = _number(line[1])
        arguments = self._decoded(line[2])
        if not isinstance(arguments, tuple):
            raise _Unfit("no arguments")
        return self._event(name, _fitting(name, arguments), line[3])

    def _event(self, name: str, arguments: tuple[Any, ...], expected: object) -> bool:
        assert self._machine is not None
        self.events += 1
        try:
            effects = _told(self._machine, name, arguments)
        except Exception as error:
            self.raised = _words(error)
            got: object = {"raised": self.raised}
        else:
            encoded = self._writer.effects(effects)
            for line in self._writer.lines[len(self._anew) :]:
                self._anew.append(json.dumps(json.loads(line)[1]))
            got = self._plain(encoded, self._anew)
        was = self._plain(expected, self._recorded)
        if was != got and not self.difference:
            self.difference = f"event {self.events}, {name} at {self._now:g}: {_shown(was, got)}"
        return not self.raised

    def _plain(self, value: object, messages: list[str], depth: int = 0) -> object:
        """Put messages in the places of their numbers, and round."""
        if depth > _MAX_DEPTH:
            raise _Unfit("nested too deeply")
        if isinstance(value, float):
            return float(f"{value:.{_DIGITS}g}")
        if isinstance(value, list):
            return [self._plain(item, messages, depth + 1) for item in value]
        if isinstance(value, dict):
            number = value.get("m")
            if type(number) is int and len(value) == 1:
                if not 0 <= number < len(messages):
                    raise _Unfit(f"there is no message {number}")
                return self._plain(json.loads(messages[number]), messages, depth + 1)
            return {key: self._plain(item, messages, depth + 1) for key, item in value.items()}
        return value

    def _decoded(self, value: object, depth: int = 0) -> Any:  # Any: what machines are given
        if depth > _MAX_DEPTH:
            raise _Unfit("nested too deeply")
        if isinstance(value, list):
            return tuple(self._decoded(item, depth + 1) for item in value)
        if isinstance(value, dict):
            if isinstance(value.get("b"), str):
                return _hex(value["b"])
            number = value.get("m")
            if type(number) is int and 0 <= number < len(self._messages):
                return self._messages[number]
            raise _Unfit("no bytes and no message")
        return value

    def _message(self, parts: object) -> Message:
        if not isinstance(parts, list):
            raise _Unfit("no message")
        match parts:
            case ["m", int(kind), None | int() as number, str(text)]:
                try:
                    return Message(kind, number, _hex(text))
                except (ValueError, TypeError) as error:
                    raise _Unfit(str(error)) from None
            case ["f", int(kind), int(size), content, payload]:
                carried = self._decoded(payload)
                if carried is not None and not isinstance(carried, Message):
                    raise _Unfit("a frame carries a message or nothing")
                return frame(kind, size, self._decoded(content), carried)
        raise _Unfit("no message")


def _told(machine: Machine, event: str, arguments: tuple[Any, ...]) -> list[Effect]:
    """Call a machine's method; all arguments go by their places."""
    if event == "peer_up":
        peer, dialed, rtt = arguments
        return machine.peer_up(peer, dialed=dialed, rtt=rtt)
    method: Callable[..., list[Effect]] = getattr(machine, event)
    return method(*arguments)


_FORMS: Final[dict[str, tuple[type | tuple[type, ...], ...]]] = {
    "peer_up": (int, bool, (float, int)),
    "peer_down": (int,),
    "measured": (int, (float, int)),
    "publish": (Message,),
    "received": (int, (Message, ModelFrame)),
    "timer_fired": (tuple,),
}


def _fitting(event: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check the arguments of an event: a peer is a number below 2^31, a key a name and bytes."""
    forms = _FORMS[event]
    if len(arguments) != len(forms) or not all(map(isinstance, arguments, forms)):
        raise _Unfit(f"arguments that {event} does not take")
    if event == "timer_fired":
        match arguments[0]:
            case (str(), bytes() | int()):
                return arguments
        raise _Unfit("no timer")
    if isinstance(arguments[0], int):
        if isinstance(arguments[0], bool) or not 0 <= arguments[0] < 2**31:
            raise _Unfit("no peer")
        return (as_peer(arguments[0]), *arguments[1:])
    return arguments


def _json(line: str) -> object:
    try:
        return json.loads(line, parse_constant=_no_constant)
    except RecursionError:
        raise _Unfit("nested too deeply") from None
    except ValueError as error:
        raise _Unfit(f"no JSON ({error})") from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _Unfit("no hexadecimal digits") from None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        raise _Unfit("no time")
    return float(value)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(was: object, got: object) -> str:
    """The first part in which two lists of effects differ, in a line."""
    pairs = _pairs(was, got)
    first, second = next(((a, b) for a, b in pairs if a != b), (was, got))
    return f"{_short(first)} became {_short(second)}"


def _pairs(was: object, got: object) -> Iterator[tuple[object, object]]:
    if isinstance(was, list) and isinstance(got, list):
        for index in range(max(len(was), len(got))):
            yield (
                was[index] if index < len(was) else None,
                got[index] if index < len(got) else None,
            )


def _short(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."
