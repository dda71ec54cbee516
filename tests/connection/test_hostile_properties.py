"""Whatever a peer sends, the node neither fails nor forgets to clean up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from dig_gossip.errors import GossipError
from dig_gossip.testing.hostile import BINARY, HostilePeer, make_frame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.connection.hostile_case import HostileCase

#: What arrives in how many pieces.
chunks = st.lists(st.binary(max_size=300), max_size=8)


def ending(head: bytes) -> bytes:
    """A head of HTTP that is complete, if nothing else."""
    return head + b"\r\n\r\n"


_token = st.sampled_from(
    ["GET", "/ws", "/", "HTTP/1.1", "HTTP/1.0", "*", "//[", "/ws?a=%ff&b", "/ws#x", "http://[::1"]
)
_header = st.tuples(
    st.sampled_from(
        [
            "Host",
            "Upgrade",
            "Connection",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Extensions",
            "Sec-WebSocket-Accept",
            "Origin",
            "X-Forwarded-For",
            "Content-Length",
        ]
    ),
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(
            [
                "websocket",
                "Upgrade",
                "13",
                "-1",
                "a:b:c",
                "[::1",
                "http://[",
                "null",
                "dGhlIHNhbXBsZSBub25jZQ==",
                "permessage-deflate",
                "permessage-deflate; client_max_window_bits=99, permessage-bzip2",
                "permessage-deflate; =; ;;",
                "a, b, a",
            ]
        ),
    ),
)

#: Requests and responses that are nearly right.
heads = st.builds(
    lambda first, headers: (
        "\r\n".join([" ".join(first), *(f"{name}: {value}" for name, value in headers)]).encode(
            "utf-8", "surrogatepass"
        )
        + b"\r\n\r\n"
    ),
    st.lists(st.one_of(_token, st.text(max_size=8)), min_size=1, max_size=4),
    st.lists(_header, max_size=9),
)
any_heads = st.one_of(heads, st.binary(max_size=100).map(ending))
#: A few headers that may spoil a good head.
upgrades = st.lists(_header, max_size=2).map(lambda headers: dict(headers))

#: Frames that break some rule, or none.
frames = st.builds(
    make_frame,
    st.binary(max_size=130),
    st.integers(0, 15),
    st.booleans(),
    masked=st.sampled_from([True, True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 1, 4, 7]),
    length_override=st.one_of(
        st.none(), st.none(), st.integers(0, 70_000), st.sampled_from([2**23 + 1, 2**63, 2**64 - 1])
    ),
)
#: Envelopes that decode, with whatever in them.
messages = st.builds(
    Message,
    st.one_of(st.integers(0, 255), st.integers(200, 219), st.sampled_from([1, 20, 43, 44])),
    st.one_of(st.none(), st.integers(0, 65535), st.sampled_from([0x4000, 0x8000])),
    st.binary(max_size=200),
)
#: Handshakes that begin well.
bodies = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda texts, rest: b"".join(len(t).to_bytes(4, "big") + t for t in texts) + rest,
        st.lists(st.binary(max_size=40), min_size=3, max_size=3),
        st.binary(max_size=40),
    ),
)


class HostilePropertyTests(HostileCase):
    """One node that lives through all examples of a test, and a peer that stays connected."""

    def setUp(self) -> None:
        super().setUp()
        self.resident = self.joined()

    def explore(self, example: Callable[..., None], *strategies: SearchStrategy[Any]) -> None:
        """Run an example with many values; then see whether the node is as good as new."""

        @given(st.tuples(*strategies))
        def run(values: tuple[Any, ...]) -> None:
            try:
                example(*values)
            except BaseException:  # what it left behind must not speak for the next one
                self.setUp()
                raise

        run()
        self.assert_serves()
        self.assert_forgotten(peers=1)

    def check(self, peer: HostilePeer) -> None:
        """After one example: nothing failed, nothing is left, others are served."""
        self.network.settle()
        peer.drop()
        self.network.settle()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.parts.peers.openings, 0)
        self.assertEqual(self.parts.dialer.dials, 0)
        self.assertEqual(self.count("engine_errors"), 0)
        self.assert_link_works(self.resident)

    def dialing(self, **options: Any) -> HostilePeer:
        peer = self.hostile(**options)
        peer.connect(self.node.address)
        return peer

    def test_any_bytes_instead_of_tls(self) -> None:
        """Raw TCP.  CON-002"""

        def example(data: list[bytes]) -> None:
            peer = self.dialing(tls=False)
            for chunk in data:
                peer.send(chunk)
            self.check(peer)

        self.explore(example, chunks)

    def test_any_bytes_after_tls(self) -> None:
        """Instead of a request, and after what looks like one.  CON-002, CON-112-X"""

        def example(head: list[bytes], data: list[bytes]) -> None:
            peer = self.dialing()
            for chunk in [*head, *data]:
                peer.send(chunk)
            self.check(peer)

        self.explore(example, st.lists(any_heads, max_size=1), chunks)

    def test_any_headers(self) -> None:
        """An upgrade that is right but for two headers, and then more.  CON-002, CON-112-X"""

        def example(path: str, headers: dict[str, str], data: list[bytes]) -> None:
            peer = self.dialing()
            peer.upgrade(path, headers)
            for chunk in data:
                peer.send(chunk)
            self.check(peer)

        paths = st.sampled_from(["/ws", "/", "/ws?x=y", "//x", "*"])
        self.explore(example, paths, upgrades, chunks)

    def test_any_bytes_after_the_upgrade(self) -> None:
        """As a stream that should be frames, before and after a handshake.  CON-002, MSG-102-X"""

        def example(greets: bool, data: list[bytes]) -> None:
            peer = self.dialing()
            peer.upgrade()
            if greets:
                peer.greet()
            for chunk in data:
                peer.send(chunk)
            self.check(peer)

        self.explore(example, st.booleans(), chunks)

    def test_any_frames(self) -> None:
        """Before and after a handshake.  CON-002, MSG-102-X, CON-112-X"""

        def example(greets: bool, stream: list[bytes]) -> None:
            peer = self.dialing()
            peer.upgrade()
            if greets:
                peer.greet()
            for frame in stream:
                peer.send(frame)
            self.check(peer)

        self.explore(example, st.booleans(), st.lists(frames, max_size=8))

    def test_any_payload_of_a_session(self) -> None:
        """Binary messages with anything in them; the peer stays until it is banned.  MSG-102-X"""

        def example(payloads: list[bytes]) -> None:
            peer = self.joined()
            for payload in payloads:
                peer.send_frame(payload)
            self.network.settle()
            self.assertTrue(self.has_session(peer) or self.points(peer) >= 100)
            self.check(peer)

        self.explore(example, st.lists(st.binary(max_size=300), max_size=4))

    def test_any_message_of_a_session(self) -> None:
        """Envelopes of every opcode around anything.  MSG-101-X, MSG-102-X"""

        def example(sent: list[Message]) -> None:
            peer = self.joined()
            for message in sent:
                peer.send_message(message)
            self.network.settle()
            self.assertTrue(self.has_session(peer) or self.points(peer) >= 100)
            self.check(peer)

        self.explore(example, st.lists(messages, max_size=6))

    def test_any_handshake(self) -> None:
        """Bodies that decode or do not.  CON-002.3, CON-003"""

        def example(body: bytes) -> None:
            peer = self.dialing()
            peer.upgrade()
            peer.send_message(Message(ChiaMessageType.HANDSHAKE, None, body))
            self.check(peer)
            self.assertFalse(self.has_session(peer))

        self.explore(example, bodies)

    def dial(self, peer: HostilePeer, **script: Any) -> None:
        """Dial a listener; whatever comes of it is one of our errors, or a session."""
        address = peer.listen(**script)
        dialed = self.node.handle.connect_to(address)
        self.network.settle()
        peer.drop()
        try:
            self.network.run(dialed)
        except GossipError:
            pass
        self.check(peer)
        peer.stop_listening()

    def test_any_bytes_of_a_listener(self) -> None:
        """Instead of a response, and after what looks like one.  CON-001.2"""

        def example(head: bytes, data: list[bytes]) -> None:
            def answer(peer: HostilePeer) -> None:
                for chunk in [head, *data]:
                    peer.send(chunk)

            self.dial(self.hostile(), on_request=answer)

        self.explore(example, any_heads, chunks)

    def test_any_headers_of_a_listener(self) -> None:
        """A response that is right but for two headers, and then more.  CON-001.2"""

        def example(headers: dict[str, str], data: list[bytes]) -> None:
            def answer(peer: HostilePeer) -> None:
                peer.accept_upgrade(headers)
                for chunk in data:
                    peer.send(chunk)

            self.dial(self.hostile(), on_request=answer)

        self.explore(example, upgrades, chunks)

    def test_any_frames_of_a_listener(self) -> None:
        """Instead of a handshake, and after it.  CON-001.4"""

        def example(greets: bool, stream: list[bytes], payload: bytes) -> None:
            def answer(peer: HostilePeer) -> None:
                peer.accept_upgrade()
                if greets:
                    peer.greet()
                peer.send_frame(payload, BINARY)
                for frame in stream:
                    peer.send(frame)

            self.dial(self.hostile(), on_request=answer)

        self.explore(example, st.booleans(), st.lists(frames, max_size=6), st.binary(max_size=50))
