"""Autobahn's methods, copied without their formatting, beside the originals."""

from __future__ import annotations

from typing import Any
from unittest import mock

from autobahn.twisted.websocket import WebSocketClientProtocol, WebSocketServerProtocol
from autobahn.websocket import protocol as autobahn
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.quiet import quiet
from tests.connection.frame_streams import Recorder, make

STOCK = (WebSocketServerProtocol, WebSocketClientProtocol)


def protocols(stock: type[Any]) -> tuple[type[Any], type[Any]]:
    """The stock protocol and ours, both with a silent log."""
    return tuple(  # type: ignore[return-value]
        type("Protocol", (base,), {"log": Recorder.log}) for base in (stock, quiet(stock))
    )


class QuietTests(SynchronousTestCase):
    """Nothing but the formatting is gone."""

    def test_code_is_autobahns(self) -> None:
        """The copies run what the originals run, with the same defaults.  D4"""
        for stock in STOCK:
            copies = {name: value for name, value in vars(quiet(stock)).items() if callable(value)}
            del copies["_connectionMade"]  # which begins by copying the options
            self.assertIn("processHandshake", copies)
            self.assertIn("sendData", copies)
            for name, copy in copies.items():
                original = getattr(stock, name)
                self.assertIs(copy.__code__, original.__code__)
                self.assertIs(copy.__closure__, original.__closure__)
                self.assertEqual(copy.__defaults__, original.__defaults__)
                self.assertIn(copy.__globals__["pformat"](1), ("", "1"))

    def test_options_are_copied_alike(self) -> None:
        """From the factory, unless the protocol has its own.  D4"""
        for stock in STOCK:
            for protocol in protocols(stock):
                protocol.tcpNoDelay = False
                websocket = make(protocol, maxFramePayloadSize=77)
                self.assertEqual((websocket.tcpNoDelay, websocket.maxFramePayloadSize), (False, 77))
                for name in stock.CONFIG_ATTRS:
                    if name != "tcpNoDelay":
                        self.assertIs(vars(websocket)[name], getattr(websocket.factory, name))

    def test_nothing_is_formatted(self) -> None:
        """That is what it is for; the originals do it.  design §5"""
        for stock in STOCK:
            formatted: list[list[Any]] = []
            for protocol in protocols(stock):
                with mock.patch.object(autobahn, "pformat", return_value="") as pformat:
                    make(protocol)
                formatted.append([call.args[0] for call in pformat.call_args_list])
            self.assertEqual([len(formatted[0][0]) > 20, formatted[1]], [True, [[]]])

    def test_state_after_the_beginning_is_the_same(self) -> None:
        """Both know the same of themselves.  D4"""
        for stock in STOCK:
            one, other = (set(vars(make(protocol))) for protocol in protocols(stock))
            self.assertEqual(one, other)
