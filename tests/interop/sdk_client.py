"""Greet a node with chia-wallet-sdk's own peer client, which is written in Rust.

It is the client that wallets on Chia's network use, and the one that the Rust node of the DIG
network was built upon: Rust TLS, Rust WebSocket, Rust handshake (node type WALLET, port 0).
Nothing of ours runs here. Output is one JSON object a line; the exit status is 0 when the
handshake succeeded and every question ended as ``--expect`` says.

The Python package 0.37 exposes ``Peer.connect`` as a coroutine that polls a Tokio future on the
thread of asyncio, where no Tokio runtime is entered: awaiting it panics with "there is no reactor
running". Every *method* of the package runs inside the runtime, though, and reports back by
calling ``call_soon_threadsafe`` of the event loop from one of the runtime's own threads.
:class:`TokioLoop` uses that moment: it advances the coroutine there, where the runtime is entered.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVarTuple

import chia_wallet_sdk as sdk

# The package's objects are Any throughout this module, like the arguments asyncio passes on.

Ts = TypeVarTuple("Ts")


class TokioLoop(asyncio.SelectorEventLoop):
    """An event loop that advances one coroutine on the threads of the Tokio runtime."""

    def __init__(self) -> None:
        super().__init__()
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._outcome: asyncio.Future[Any] | None = None
        self._awaited: Any = None
        self._thread = threading.get_ident()

    async def run_on_tokio(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of the package that must not run on asyncio's thread.

        :raises ValueError: what the package raises when the work fails.
        :raises RuntimeError: the package panicked.
        """
        self._outcome = outcome = self.create_future()
        self._awaited = None
        self._coroutine = coroutine
        # Any method will do; this one fails at once, and its failure arrives from Tokio.
        with contextlib.suppress(ValueError):
            await sdk.RpcClient("https://127.0.0.1:1").get_network_info()
        return await outcome

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Advance the coroutine if this is Tokio calling, then do what was asked."""
        coroutine = self._coroutine
        wakes_it = self._awaited is None or self._awaited in args
        if coroutine is not None and wakes_it and threading.get_ident() != self._thread:
            self._advance(coroutine)
        return super().call_soon_threadsafe(callback, *args, context=context)

    def _advance(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        outcome = self._outcome
        assert outcome is not None
        asyncio._set_running_loop(self)  # the coroutine asks for it when it has to wait
        try:
            self._awaited = coroutine.send(None)
        except StopIteration as done:
            self._coroutine = None
            super().call_soon_threadsafe(outcome.set_result, done.value)
        except BaseException as error:  # a panic in Rust is not an Exception
            self._coroutine = None
            failure = error if isinstance(error, ValueError) else RuntimeError(repr(error))
            super().call_soon_threadsafe(outcome.set_exception, failure)
        finally:
            asyncio._set_running_loop(None)


def report(event: str, **fields: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **fields}, default=str), flush=True)


async def question(name: str, awaitable: Any, timeout: float) -> str:
    """Await one request and report how it ended.

    :returns: ``answered``, ``refused`` (the SDK raised) or ``silent`` (nothing in time).
    """
    started = time.monotonic()
    detail = ""
    try:
        answer = await asyncio.wait_for(awaitable, timeout)
        outcome = "answered"
        detail = type(answer).__name__
    except TimeoutError:
        outcome = "silent"
    except Exception as error:
        outcome, detail = "refused", str(error)
    took = round(time.monotonic() - started, 3)
    report("question", request=name, outcome=outcome, detail=detail, seconds=took)
    return outcome


async def converse(options: argparse.Namespace) -> bool:
    """Connect, ask, listen; report each step."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TokioLoop)
    connector = sdk.Connector(sdk.Certificate.generate())
    connecting = sdk.Peer.connect(options.network, options.target, connector, sdk.PeerOptions())
    try:
        peer = await asyncio.wait_for(loop.run_on_tokio(connecting), options.timeout)
    except TimeoutError:
        report("failed", reason=f"no handshake within {options.timeout} s")
        return False
    except (ValueError, RuntimeError) as error:
        report("failed", reason=str(error))
        return False
    report("connected", target=options.target, network_id=options.network, node_type="WALLET")
    outcomes = [
        await question(
            "request_remove_puzzle_subscriptions",
            peer.remove_puzzle_subscriptions(None),
            options.timeout,
        ),
        await question(
            "request_coin_state",
            peer.request_coin_state([bytes(32)], None, bytes(32), False),
            options.timeout,
        ),
    ]
    lost = await listen(peer, options.stay)
    report("summary", lost=lost, outcomes=outcomes)
    expected = options.expect is None or all(outcome == options.expect for outcome in outcomes)
    return expected and not lost


async def listen(peer: Any, seconds: float) -> bool:
    """Report what the node sends unasked, for a while.

    :returns: whether the node ended the connection meanwhile.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            event = await asyncio.wait_for(peer.next(), left)
        except TimeoutError:
            return False
        if event is None:
            report("closed")
            return True
        report("received", new_peak=event.new_peak_wallet is not None)
    return False


def main(arguments: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", metavar="HOST:PORT", help="an IP address and a port")
    parser.add_argument("--network", default="mainnet", help="network id of the handshake")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for each step")
    parser.add_argument("--stay", type=float, default=2.0, help="seconds to listen at the end")
    parser.add_argument("--expect", choices=["answered", "silent", "refused"])
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=TokioLoop) as runner:
        return 0 if runner.run(converse(options)) else 1


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # The runtime's threads still call into Python, which aborts the interpreter when it finalizes.
    os._exit(status)
