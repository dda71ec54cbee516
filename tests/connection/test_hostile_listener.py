"""Dialing somebody who answers badly, at every level."""

from __future__ import annotations

from typing import Any

from dig_gossip.constants import (
    DO_NOT_DIAL_SECS,
    OUTBOUND_HANDSHAKE_TIMEOUT_SECS,
    PRE_HANDSHAKE_MAX_MESSAGE_BYTES,
    WS_MAX_MESSAGE_BYTES,
)
from dig_gossip.errors import ClientError, ClientErrorKind, PeerBanned, SelfConnection
from dig_gossip.testing.hostile import CLOSE, TEXT, HostilePeer, Script
from dig_gossip.types.peer import PeerAddress
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.connection.hostile_case import HostileCase


def accept(peer: HostilePeer) -> None:
    """Answer the upgrade request as it should be answered."""
    peer.accept_upgrade()


def saying(data: bytes) -> Script:
    """Answer with these bytes."""
    return lambda peer: peer.send(data)


def answering(answer: Script) -> dict[str, Any]:  # Any: mypy asks it of ** arguments
    """A correct listener that answers our handshake in this way."""

    def answer_first(peer: HostilePeer) -> None:
        if len(peer.messages) == 1:
            answer(peer)

    return {"on_request": accept, "on_message": answer_first}


def greeting(**fields: Any) -> dict[str, Any]:
    """A correct listener, except for these fields of its handshake."""
    return answering(lambda peer: peer.greet(**fields))


class HostileListenerCase(HostileCase):
    """Dial a peer, and see which error comes of it, and that nothing else does."""

    def assert_dial_fails(
        self,
        kind: ClientErrorKind,
        *,
        text: str = "",
        tls: bool = True,
        retryable: bool = True,
        after: float | None = None,
        identity: Any = ...,
        **script: Any,
    ) -> HostilePeer:
        peer = self.hostile(tls=tls, identity=identity)
        address = peer.listen(**script)
        timers = self.parts.clock.pending
        failed = self.count(f"opening_failed.outbound.{kind.value}")
        began = self.network.clock.seconds()
        error = self.assertFires(ClientError, self.node.handle.connect_to(address))
        assert isinstance(error, ClientError)
        self.assertIs(error.kind, kind, str(error))
        self.assertIn(text, str(error))
        self.assertIs(error.retryable, retryable)
        took = self.network.clock.seconds() - began
        if after is None:
            self.assertLess(took, 1)
        else:
            self.assertLess(abs(took - after), 0.1)
        self.assert_backs_off(address, retryable)
        self.assertEqual(self.count(f"opening_failed.outbound.{kind.value}"), failed + 1)
        self.assertEqual(self.parts.peers.openings, 0)
        self.assertEqual(self.parts.dialer.dials, 0)
        self.assert_forgotten()
        self.assertEqual(self.parts.clock.pending, timers)
        self.assertFalse(peer.is_connected)
        if peer.identity is not None:
            self.assertEqual(self.points(peer), 0, "whom we dialed is not charged")
        return peer

    def assert_backs_off(self, address: PeerAddress, retryable: bool) -> None:
        backoff = self.parts.dialer.backoff
        self.assertEqual(backoff.failures(address), 1)
        if retryable:
            self.assertGreater(backoff.retry_in(address), 0)
            self.assertLessEqual(backoff.retry_in(address), 7.5)
        else:
            self.assertGreater(backoff.retry_in(address), DO_NOT_DIAL_SECS - 2)


class BelowTheWebSocketTests(HostileListenerCase):
    """What answers is no TLS, or no HTTP."""

    def test_no_certificate(self) -> None:
        """A server without one has no common cipher with us.  CON-001.2, API-004.1"""
        self.assert_dial_fails(ClientErrorKind.TLS, identity=None)

    def test_plain_bytes(self) -> None:
        """Another service on that port.  API-004.1"""
        self.assert_dial_fails(
            ClientErrorKind.TLS, tls=False, on_connect=saying(b"SSH-2.0-OpenSSH_9.6\r\n")
        )

    def test_dropped_at_once(self) -> None:
        """Their gate does not like us, and says nothing.  API-004.1"""
        self.assert_dial_fails(
            ClientErrorKind.TLS,
            text="before TLS was done",
            tls=False,
            on_connect=lambda peer: peer.drop(),
        )

    def test_dropped_after_tls(self) -> None:
        """TLS is done on our side before the other judges our certificate.  API-004.1"""
        self.assert_dial_fails(
            ClientErrorKind.WS,
            text="before the handshake",
            on_connect=lambda peer: peer.drop(),
        )

    def test_silence_instead_of_tls(self) -> None:
        """The deadline covers all of it.  CON-001.2"""
        self.assert_dial_fails(
            ClientErrorKind.TIMEOUT,
            text="gave up waiting for TLS",
            tls=False,
            after=OUTBOUND_HANDSHAKE_TIMEOUT_SECS,
        )

    def test_silence_instead_of_http(self) -> None:
        """The deadline covers all of it.  CON-001.2"""
        self.assert_dial_fails(
            ClientErrorKind.TIMEOUT,
            text="gave up waiting for the WebSocket",
            after=OUTBOUND_HANDSHAKE_TIMEOUT_SECS,
        )

    def test_http_that_is_none(self) -> None:
        """Answers of other programs, and of no program at all.  API-004.1"""
        for answer in (
            b"HTTP/1.1 404 Not Found",
            b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/",
            b"HTTP/1.0 101 Switching Protocols",
            b"HTTP/1.1 \xef\xbc\x91\xef\xbc\x90\xef\xbc\x91 ",
            b"HTTP/1.1 101",
            b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade",
            b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: another key's",
            b"",
            b":",
            b"\x00",
        ):
            self.assert_dial_fails(ClientErrorKind.WS, on_request=saying(answer + b"\r\n\r\n"))

    def test_http_that_is_not_text(self) -> None:
        """Bytes that are no UTF-8 are a bad answer, not an accident of ours.  API-004.1"""
        for answer in (b"HTTP/1.1 404 \xff\xfe", b"HTTP/1.1 101 OK\r\nX: \xc3\x28", b"\xff"):
            self.assert_dial_fails(ClientErrorKind.WS, on_request=saying(answer + b"\r\n\r\n"))

    def test_endless_headers(self) -> None:
        """The response is limited as the request is.  CON-112-X"""
        self.assert_dial_fails(
            ClientErrorKind.WS,
            on_request=saying(b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 170_000),
        )

    def test_what_we_did_not_offer(self) -> None:
        """A compression or a subprotocol that nobody asked for.  CON-112-X"""
        for header, value in (
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=x"),
            ("Sec-WebSocket-Extensions", "x-unknown"),
            ("Sec-WebSocket-Protocol", "chat"),
        ):
            headers = {header: value}
            self.assert_dial_fails(
                ClientErrorKind.WS,
                on_request=lambda peer, headers=headers: peer.accept_upgrade(headers),
            )


class AboveTheWebSocketTests(HostileListenerCase):
    """The WebSocket is fine, and what comes through it is not."""

    def test_silence_instead_of_a_handshake(self) -> None:
        """The deadline covers all of it.  CON-001.2"""
        self.assert_dial_fails(
            ClientErrorKind.TIMEOUT,
            text="gave up waiting for the handshake",
            after=OUTBOUND_HANDSHAKE_TIMEOUT_SECS,
            on_request=accept,
        )

    def test_dropped_after_the_upgrade(self) -> None:
        """Without a word.  API-004.1"""
        self.assert_dial_fails(
            ClientErrorKind.WS,
            text="before the handshake",
            **answering(lambda peer: peer.drop()),
        )

    def test_closed_instead_of_a_handshake(self) -> None:
        """Their reason is told, in text that cannot harm.  API-004.1, API-102-X"""
        self.assert_dial_fails(
            ClientErrorKind.REFUSED,
            text="closed by the peer: 1008 go away",
            **answering(lambda peer: peer.send_close(1008, "go\n away\x1b")),
        )

    def test_closed_without_a_code(self) -> None:
        """A close frame need not say anything.  API-004.1"""
        self.assert_dial_fails(
            ClientErrorKind.REFUSED, **answering(lambda peer: peer.send_frame(b"", CLOSE))
        )

    def test_closed_because_of_the_network(self) -> None:
        """Chia's number for it: no use trying again.  API-004.1"""
        self.assert_dial_fails(
            ClientErrorKind.WRONG_NETWORK,
            retryable=False,
            **answering(lambda peer: peer.send_close(1002, "110")),
        )

    def test_other_message_first(self) -> None:
        """An answer, but not to a handshake.  CON-001.4"""
        self.assert_dial_fails(
            ClientErrorKind.MISSING_HANDSHAKE,
            **answering(
                lambda peer: peer.send_message(Message(ChiaMessageType.RESPOND_PEERS, None, b""))
            ),
        )

    def test_undecodable_handshake(self) -> None:
        """The right opcode around nonsense.  CON-001.4"""
        self.assert_dial_fails(
            ClientErrorKind.MISSING_HANDSHAKE,
            **answering(
                lambda peer: peer.send_message(Message(ChiaMessageType.HANDSHAKE, None, b"\xff"))
            ),
        )

    def test_text_first(self) -> None:
        """Text is closed with 1003.  CON-001.4, MSG-102-X"""
        peer = self.assert_dial_fails(
            ClientErrorKind.MISSING_HANDSHAKE,
            **answering(lambda peer: peer.send_frame(b"hello", TEXT)),
        )
        self.assert_closed(peer, 1003)

    def test_wrong_network(self) -> None:
        """We tell them, too.  CON-003"""
        peer = self.assert_dial_fails(
            ClientErrorKind.WRONG_NETWORK, retryable=False, **greeting(network_id="mainnet")
        )
        self.assert_closed(peer, 1002, "110")

    def test_old_version(self) -> None:
        """Nobody we can talk to.  CON-003.1"""
        self.assert_dial_fails(
            ClientErrorKind.BAD_VERSION, retryable=False, **greeting(protocol_version="0.0.29")
        )

    def test_wrong_node_type(self) -> None:
        """Only full nodes are worth dialing; wallets may only dial us.  CON-001.4"""
        peer = self.assert_dial_fails(
            ClientErrorKind.WRONG_NODE_TYPE, retryable=False, **greeting(node_type=6)
        )
        self.assert_closed(peer, 1008)

    def test_masked_frames(self) -> None:
        """A listener does not mask.  CON-112-X"""
        peer = self.assert_dial_fails(
            ClientErrorKind.WS,
            text="1002",
            **answering(lambda peer: peer.send_frame(b"\x01", masked=True)),
        )
        self.assert_closed(peer, 1002)

    def test_too_large_a_handshake(self) -> None:
        """64 KiB are enough for a greeting.  RL-106-X"""
        peer = self.assert_dial_fails(
            ClientErrorKind.WS,
            text="1009",
            **answering(
                lambda peer: peer.send_frame(
                    b"", length_override=PRE_HANDSHAKE_MAX_MESSAGE_BYTES + 1
                )
            ),
        )
        self.assert_closed(peer, 1009)

    def test_own_identity(self) -> None:
        """A peer with our own key is us; it hears no greeting.  CON-001.5"""
        peer = self.hostile(identity=self.node.service._identity)
        address = peer.listen(**greeting())
        self.assertFires(SelfConnection, self.node.handle.connect_to(address))
        self.network.settle()
        self.assertEqual(peer.messages, [])
        self.assert_closed(peer, 1002, "-5")
        self.assertEqual(self.count("opening_failed.outbound.SelfConnection"), 1)
        self.assert_backs_off(address, retryable=False)
        self.assert_forgotten()

    def test_banned_identity(self) -> None:
        """Known and unwelcome; it hears no greeting either.  CON-001.5, CON-007.1"""
        peer = self.hostile()
        self.parts.peers.ban(peer.peer_id, PenaltyReason.SPAM)
        address = peer.listen(**greeting())
        self.assertFires(PeerBanned, self.node.handle.connect_to(address))
        self.network.settle()
        self.assertEqual(peer.messages, [])
        self.assert_closed(peer, 1008)
        self.assertEqual(self.count("opening_failed.outbound.PeerBanned"), 1)
        self.assert_forgotten()

    def test_a_correct_listener_is_a_peer(self) -> None:
        """None of the above: otherwise the tests above prove nothing.  CON-001"""
        peer = self.hostile()
        address = peer.listen(**greeting())
        self.parts.dialer.backoff.failed(address, retryable=True)
        found = self.network.run(self.node.handle.connect_to(address))
        self.assertEqual(found, peer.peer_id)
        self.assertEqual(self.parts.dialer.backoff.failures(address), 0)
        self.network.settle()
        self.assertTrue(self.has_session(peer))

    def test_a_listener_that_greets_first_is_a_peer(self) -> None:
        """The order of the greetings does not matter.  CON-001.3"""
        peer = self.hostile()

        def accept_and_greet(peer: HostilePeer) -> None:
            peer.accept_upgrade()
            peer.greet()

        address = peer.listen(on_request=accept_and_greet)
        self.assertEqual(self.network.run(self.node.handle.connect_to(address)), peer.peer_id)
        self.network.settle()
        self.assertEqual(peer.messages[0].type, ChiaMessageType.HANDSHAKE)

    def test_a_peer_that_misbehaves_after_the_handshake_is_charged(self) -> None:
        """From then on it does not matter who dialed.  CON-112-X"""
        peer = self.hostile()
        address = peer.listen(**greeting())
        self.network.run(self.node.handle.connect_to(address))
        self.network.settle()
        peer.send_frame(b"\x1e", length_override=WS_MAX_MESSAGE_BYTES + 1)
        self.network.settle()
        self.assertFalse(self.has_session(peer))
        self.assert_closed(peer, 1009)
        self.assert_charged(peer, PenaltyReason.SPAM)
        self.assert_forgotten()
