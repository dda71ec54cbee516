"""The relay's JSON frames, tunnel frames and STUN messages."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import ClientError
from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire import relay, stun, tunnel
from tests.vectors import load
from tests.wire import WireTestCase

#: Types that nodes of later versions, or other projects, send; we have no use for them.
UNSUPPORTED = {
    "get_dht_records", "dht_records", "sealed", "relay_hello", "pex_handshake", "pex_snapshot",
    "pex_delta", "pex_error",
}  # fmt: skip

texts = st.text(st.characters(codec="utf-8"), max_size=12)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
addresses = st.builds(
    PeerAddress,
    st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)),
    st.integers(0, 65535),
)
records = st.builds(
    relay.PeerRecord,
    peer_id=texts,
    network_id=texts,
    protocol_version=u32,
    connected_at=u64,
    last_seen=u64,
    addresses=st.lists(addresses, max_size=3).map(tuple),
)
frames = st.one_of(
    st.builds(
        relay.Register,
        peer_id=texts,
        network_id=texts,
        protocol_version=u32,
        listen_addrs=st.lists(addresses, max_size=3).map(tuple),
        binary=st.booleans(),
    ),
    st.builds(
        relay.RegisterAck,
        success=st.booleans(),
        message=texts,
        connected_peers=u64,
        binary=st.booleans(),
        observed=st.none() | addresses,
    ),
    st.builds(relay.Unregister, peer_id=texts),
    st.builds(
        relay.RelayMessage, sender=texts, recipient=texts, payload=st.binary(max_size=99), seq=u64
    ),
    st.builds(
        relay.Broadcast,
        sender=texts,
        payload=st.binary(max_size=99),
        exclude=st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(relay.PeerConnected, peer=records),
    st.builds(relay.PeerDisconnected, peer_id=texts),
    st.builds(relay.GetPeers, network_id=st.none() | texts),
    st.builds(relay.Peers, peers=st.lists(records, max_size=3).map(tuple)),
    st.builds(relay.Ping, timestamp=u64),
    st.builds(relay.Pong, timestamp=u64),
    st.builds(relay.HolePunchRequest, peer_id=texts, target_peer_id=texts, external_addr=addresses),
    st.builds(relay.HolePunchCoordinate, peer_id=texts, external_addr=addresses),
    st.builds(relay.HolePunchResult, peer_id=texts, success=st.booleans()),
    st.builds(relay.RelayFault, code=u32, message=texts),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


class RelayVectors(SynchronousTestCase):
    """Golden texts of the protocol's own known-answer tests."""

    def test_valid_vectors_decode_and_encode(self) -> None:
        """Every frame that we use is read and written byte for byte.  RLY-001, wire §14.2"""
        used = 0
        for vector in load("relay_messages.json"):
            if vector.get("valid") is False:
                continue
            frame = relay.decode(bytes.fromhex(vector["hex"]))
            if vector["type"] in UNSUPPORTED:
                self.assertEqual(frame, relay.Unsupported(vector["type"]), vector["name"])
                continue
            assert not isinstance(frame, relay.Unsupported)
            used += 1
            expected = vector.get("reencodes_to", vector["json"])
            self.assertEqual(frame.encode(), expected, vector["name"])
        self.assertGreater(used, 25)

    def test_malformed_vectors_are_refused(self) -> None:
        """What is no frame is malformed; an unknown type is merely not supported.  wire §14.2"""
        for vector in load("relay_messages.json"):
            if vector.get("valid") is not False:
                continue
            data = bytes.fromhex(vector["hex"])
            if vector["name"] == "bad_unknown_type":
                self.assertEqual(relay.decode(data), relay.Unsupported("not_a_real_message"))
            else:
                with self.assertRaises(ClientError, msg=vector["name"]):
                    relay.decode(data)


class RelayProperties(SynchronousTestCase):
    """The codec over all values and all bytes."""

    @given(frames)
    def test_every_frame_survives_its_text(self, frame: relay.RelayFrame) -> None:
        """Encoding and decoding are inverse.  wire §14.2"""
        text = frame.encode()
        self.assertEqual(relay.decode(text.encode()), frame)
        self.assertEqual(next(iter(json.loads(text))), "type")

    @given(st.binary(max_size=80))
    def test_any_bytes_decode_or_are_malformed(self, data: bytes) -> None:
        """No other exception leaves the decoder.  style §8.4"""
        try:
            relay.decode(data)
        except ClientError:
            pass

    @given(frames, st.data())
    def test_any_value_in_a_field_decodes_or_is_malformed(
        self, frame: relay.RelayFrame, data: st.DataObject
    ) -> None:
        """A field of the wrong kind is refused, never half understood.  RSV-101-X"""
        loaded: dict[str, Any] = json.loads(frame.encode())
        name = data.draw(st.sampled_from(sorted(loaded)))
        loaded[name] = data.draw(values)
        try:
            again = relay.decode(json.dumps(loaded).encode())
        except ClientError:
            return
        if not isinstance(again, relay.Unsupported):
            self.assertEqual(relay.decode(again.encode().encode()), again)

    def test_nesting_without_end_is_malformed(self) -> None:
        """A text that would exhaust the stack is refused.  RSV-101-X"""
        with self.assertRaises(ClientError):
            relay.decode(b"[" * 200_000)

    def test_true_is_no_byte_of_a_payload(self) -> None:
        """Python's True equals 1; JSON's does not.  wire §14.1"""
        with self.assertRaises(ClientError):
            relay.decode(b'{"type":"broadcast","from":"a","payload":[true],"exclude":[]}')

    @given(st.binary(min_size=32, max_size=32), u64, st.binary(max_size=99))
    def test_binary_messages_carry_the_same(self, peer: bytes, seq: int, payload: bytes) -> None:
        """The binary form survives, and cannot be taken for JSON.  wire §14.1"""
        message = relay.RelayMessage(sender="", recipient="", payload=payload, seq=seq)
        data = message.encode_binary(peer.hex())
        self.assertEqual(relay.parse_binary_message(data), (peer, seq, payload))
        with self.assertRaises(ClientError):
            relay.decode(data)

    @given(st.binary(max_size=60))
    def test_any_bytes_are_a_binary_message_or_malformed(self, data: bytes) -> None:
        """No other exception leaves the parser.  style §8.4"""
        try:
            peer, seq, payload = relay.parse_binary_message(data)
        except ClientError:
            return
        self.assertEqual(relay.binary_message(peer, seq, payload), data)


tunnel_frames = st.one_of(
    st.builds(tunnel.Open, u64),
    st.builds(tunnel.Accept, u64),
    st.builds(tunnel.Data, u64, u32, st.binary(max_size=40)),
    st.builds(tunnel.Ack, u64, u32),
    st.builds(tunnel.Close, u64, st.integers(0, 255)),
)


class TunnelFrames(WireTestCase):
    """Frames of the byte tunnel."""

    def test_vectors(self) -> None:
        """Frames are read and written as documented, and payloads classified.  RLY-101-X"""
        for vector in load("relay_tunnel_ours.json"):
            data = bytes.fromhex(vector["hex"])
            if vector["type"] == "relay_payload_class":
                self.assertEqual(tunnel.classify(data).value, vector["class"], vector["name"])
            elif vector.get("valid") is False:
                with self.assertRaises(ClientError, msg=vector["name"]):
                    tunnel.decode(data)
            else:
                frame = tunnel.decode(data)
                self.assertEqual(bytes(frame), data, vector["name"])
                self.assertEqual(tunnel.classify(data), tunnel.PayloadClass.TUNNEL)
                fields = vector["fields"]
                self.assertEqual(frame.tunnel_id, fields["tunnel_id"])
                if isinstance(frame, tunnel.Data):
                    self.assertEqual((frame.seq, frame.data.hex()), (fields["seq"], fields["data"]))
                elif isinstance(frame, tunnel.Ack):
                    self.assertEqual(frame.next_seq, fields["next_seq"])
                elif isinstance(frame, tunnel.Close):
                    self.assertEqual(frame.reason, fields["reason"])

    @given(tunnel_frames)
    def test_every_frame_survives(self, frame: tunnel.TunnelFrame) -> None:
        """Encoding and decoding are inverse.  RLY-101-X"""
        self.assertEqual(tunnel.decode(bytes(frame)), frame)

    @given(st.one_of(st.binary(max_size=30), st.binary(max_size=20).map(b"\0\1".__add__)))
    def test_any_bytes_decode_or_are_malformed(self, data: bytes) -> None:
        """No other exception leaves the decoder, and nothing has two encodings.  style §8.4"""
        tunnel.classify(data)
        try:
            frame = tunnel.decode(data)
        except ClientError:
            return
        self.assertEqual(bytes(frame), data)

    def test_a_frame_larger_than_the_relay_takes_is_refused(self) -> None:
        """A DATA frame has 48 KiB at most: at n-1, n and n+1.  RLY-103-X"""
        for size in (tunnel.MAX_DATA_BYTES - 1, tunnel.MAX_DATA_BYTES):
            frame = tunnel.Data(1, 0, bytes(size))
            self.assertEqual(tunnel.decode(bytes(frame)), frame)
        with self.assertRaises(ClientError):
            tunnel.decode(bytes(tunnel.Data(1, 0, bytes(tunnel.MAX_DATA_BYTES + 1))))


class StunMessages(SynchronousTestCase):
    """Binding requests and responses."""

    def test_vectors(self) -> None:
        """RFC 5769's samples are read and written, the damaged ones refused.  RSV-111-X"""
        for vector in load("stun.json"):
            data = bytes.fromhex(vector["hex"])
            transaction = bytes.fromhex(vector["fields"]["transaction_id"])
            if vector.get("valid") is False:
                with self.assertRaises(ClientError, msg=vector["name"]):
                    stun.parse_response(data, transaction)
            elif vector["type"] == "stun_request":
                self.assertEqual(stun.build_request(transaction), data)
                self.assertEqual(stun.parse_request(data), transaction)
            else:
                address = PeerAddress(vector["fields"]["ip"], vector["fields"]["port"])
                self.assertEqual(stun.parse_response(data, transaction), address)
                if "padded" not in vector["name"]:
                    self.assertEqual(stun.build_response(transaction, address), data)

    @given(st.binary(min_size=12, max_size=12), addresses)
    def test_an_answer_is_understood_or_useless(
        self, transaction: bytes, address: PeerAddress
    ) -> None:
        """What we answer is read back, unless nobody can be reached there.  wire §16"""
        data = stun.build_response(transaction, address)
        ip = address.ip
        assert ip is not None
        useless = (
            ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_multicast
        ) or not address.port
        if useless:
            with self.assertRaises(ClientError):
                stun.parse_response(data, transaction)
        else:
            self.assertEqual(stun.parse_response(data, transaction), address)

    @given(st.binary(max_size=60), st.integers(0, 3))
    def test_any_datagram_parses_or_is_malformed(self, body: bytes, kind: int) -> None:
        """No other exception leaves the parsers.  style §8.4"""
        start = (
            b"",
            b"\1\1",
            b"\0\1",
            b"\1\1" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42",
        )
        datagram = start[kind] + body
        for parse in (stun.parse_request, lambda data: stun.parse_response(data, data[8:20])):
            try:
                parse(datagram)
            except ClientError:
                pass
