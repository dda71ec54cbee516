"""Every number of the protocol by its name, with unit and source.

Names are the seed's; those marked (ext.) are ours. Seconds and bytes unless the name says
otherwise. Source: behaviour §36, wire.
"""

from __future__ import annotations

from typing import Final

# Ports
DEFAULT_P2P_PORT: Final = 9444
DEFAULT_INTRODUCER_PORT: Final = 9448
DEFAULT_RELAY_PORT: Final = 9450

# Bans and reputation (behaviour §9)
PENALTY_BAN_THRESHOLD: Final = 100  # points
BAN_DURATION_SECS: Final = 3600
MAX_REPUTATIONS: Final = 10_000  # (ext.) remembered peers, least recently used goes first
RTT_WINDOW_SIZE: Final = 10  # samples
RTT_PENALTY_THRESHOLD_MS: Final = 5000

# Keepalive (behaviour §7)
PING_INTERVAL_SECS: Final = 30
PEER_TIMEOUT_SECS: Final = 90
PING_PAYLOAD_BYTES: Final = 8  # (ext.)

# Connecting (behaviour §4, §5)
PARALLEL_CONNECT_BATCH_SIZE: Final = 8
MAX_CONCURRENT_OUTBOUND_CONNECTIONS: Final = 70
MAX_ANCHORS: Final = 2  # (ext.) outbound sessions besides the target (Bitcoin Core)
TCP_CONNECT_TIMEOUT_SECS: Final = 10  # (ext.)
OUTBOUND_HANDSHAKE_TIMEOUT_SECS: Final = 30  # (ext.) TCP to registered
INBOUND_HANDSHAKE_TIMEOUT_SECS: Final = 30  # accept to registered
CLOSE_TIMEOUT_SECS: Final = 5  # (ext.) from our close frame to an aborted transport
EVICTION_INTERVAL_SECS: Final = 60  # (ext.) one inbound peer at most makes room for another
GLARE_WINDOW_SECS: Final = 30  # (ext.) age below which opposite sessions are one glare
DIAL_BACKOFF_BASE_SECS: Final = 5  # (ext.)
DIAL_BACKOFF_CAP_SECS: Final = 600  # (ext.)
DO_NOT_DIAL_SECS: Final = 3600  # (ext.) after a refusal that retrying cannot cure
MAX_DIAL_RECORDS: Final = 10_000  # (ext.)
DEFAULT_TARGET_OUTBOUND_COUNT: Final = 8
DEFAULT_MAX_CONNECTIONS: Final = 50
DEFAULT_MAX_CONNECTIONS_PER_IP: Final = 8  # (ext.)
DEFAULT_PEER_CONNECT_INTERVAL_SECS: Final = 30

# WebSocket (wire §2, design D7)
WS_MAX_MESSAGE_BYTES: Final = 8_388_608
PRE_OPEN_MAX_BYTES: Final = 16_384  # (ext.) the HTTP request or response
PRE_HANDSHAKE_MAX_MESSAGE_BYTES: Final = 65_536  # (ext.) a message before registration
PRE_HANDSHAKE_MAX_FRAMES: Final = 5  # (ext.)
UNSENT_MAX_BYTES: Final = 16_384  # (ext.) that a socket may hold without sending them
UNWRITTEN_MAX_BYTES: Final = 32_768  # (ext.) in front of the socket, when the writer is paused
MAX_FRAMES_PER_MESSAGE: Final = 4096  # (ext.) fragments; endless empty ones never reach a size

# Handshake (wire §5)
PROTOCOL_VERSION: Final = "0.0.37"
MIN_COMPATIBLE_PROTOCOL_VERSION: Final = "0.0.30"
MAX_SOFTWARE_VERSION_BYTES: Final = 128  # after stripping
MAX_RAW_SOFTWARE_VERSION_BYTES: Final = 1024  # (ext.) before stripping
MAX_CAPABILITIES: Final = 64  # (ext.)

# Requests (behaviour §1.1)
DEFAULT_GOSSIP_REQUEST_TIMEOUT_SECS: Final = 30
REQUEST_ID_QUARANTINE_SECS: Final = 120  # (ext.) a timed-out id is not reused sooner

# Outbound queue of a session (behaviour BP-101-X)
MAX_QUEUED_MESSAGES: Final = 4096  # (ext.)
MAX_QUEUED_BYTES: Final = 33_554_432  # (ext.)

# Gossip (behaviour §19)
DEFAULT_GOSSIP_FANOUT: Final = 8
DEFAULT_MAX_SEEN_MESSAGES: Final = 100_000
PLUMTREE_LAZY_TIMEOUT_MS: Final = 500
PLUMTREE_GRAFT_RETRY_MS: Final = 250  # (ext.)
PLUMTREE_ANNOUNCE_FLUSH_MS: Final = 50  # (ext.)
PLUMTREE_MESSAGE_CACHE_SIZE: Final = 1000  # frames
PLUMTREE_MESSAGE_CACHE_BYTES: Final = 67_108_864  # (ext.)
PLUMTREE_MESSAGE_CACHE_TTL_SECS: Final = 60
PLUMTREE_MAX_ANNOUNCE_ENTRIES: Final = 64  # (ext.) per LazyAnnounce
PLUMTREE_MAX_MISSING: Final = 10_000  # (ext.) hashes announced and not yet here
PLUMTREE_MAX_MISSING_PER_PEER: Final = 1000  # (ext.)
PLUMTREE_MAX_ANNOUNCERS: Final = 8  # (ext.) remembered per missing hash
TREE_MAX_ANNOUNCE_ENTRIES: Final = 128  # (ext.) per TreeAnnounce
VALIDATOR_TIMEOUT_SECS: Final = 5  # (ext.)

# Subscriptions
SUBSCRIPTION_BUFFER: Final = 256  # (ext.) messages

# Housekeeping
CLEANUP_INTERVAL_SECS: Final = 30
SHUTDOWN_TIMEOUT_SECS: Final = 10
PROGRESS_INTERVAL_SECS: Final = 60  # (ext.) the node's progress line

# Discovery, address book, peer exchange
FEELER_INTERVAL_SECS: Final = 240
MAX_PEERS_RECEIVED_PER_REQUEST: Final = 1000
MAX_TOTAL_PEERS_RECEIVED: Final = 3000  # per source and day
ADDRESS_RELAY_FRESH_SECS: Final = 600  # (ext.) an address heard longer ago is not passed on
ADDRESS_THIRD_PARTY_PENALTY_SECS: Final = 7200  # (ext.) off the time of what others tell
MAX_ADDRESSES_PER_DNS_NAME: Final = 256  # (ext.)
DEFAULT_DNS_SEED_TIMEOUT_SECS: Final = 30
DEFAULT_DNS_SEED_BATCH_SIZE: Final = 2

# Lanes and backpressure
PRIORITY_STARVATION_RATIO: Final = 16
BACKPRESSURE_TX_DEDUP_THRESHOLD: Final = 25
BACKPRESSURE_BULK_DROP_THRESHOLD: Final = 50
BACKPRESSURE_NORMAL_DELAY_THRESHOLD: Final = 100
NORMAL_DELAY_FLUSH_INTERVAL_MS: Final = 500

# Transactions and blocks
ERLAY_FLOOD_PEER_COUNT: Final = 1
ERLAY_RECONCILIATION_INTERVAL_MS: Final = 2000
ERLAY_SKETCH_CAPACITY: Final = 8
ERLAY_FLOOD_SET_ROTATION_SECS: Final = 60
ERLAY_RECONCILE: Final = "reconcile"  # (ext.) policies
ERLAY_SAFETY_NET: Final = "safety_net"  # (ext.)
ERLAY_MAX_CAPACITY: Final = 128  # (ext.) syndromes on the wire
ERLAY_ROUND_TIMEOUT_SECS: Final = 10  # (ext.)
ERLAY_ROUNDS_PER_INTERVAL: Final = 4  # (ext.) that one node begins
ERLAY_MIN_INTERVAL_SECS: Final = 1.25  # (ext.) longer than a peer rests between two sketches
ERLAY_DECODE_REST_SECS: Final = 1  # (ext.) per session
ERLAY_DECODE_SHARE: Final = 0.1  # (ext.) of one processor, all sessions together
ERLAY_MAX_BURST: Final = 100  # (ext.) announcements to one peer at once; then as many in 2 s
ERLAY_MAX_TRANSACTIONS: Final = 50_000  # (ext.) remembered
ERLAY_TRANSACTION_SECS: Final = 600  # (ext.) as long as they may be announced
ERLAY_MAX_PENDING: Final = 5000  # (ext.) per session
ERLAY_MAX_SNAPSHOT: Final = 2000  # (ext.) transactions in one sketch
SHORT_TX_ID_BYTES: Final = 6
COMPACT_BLOCK_MAX_MISSING_TXS: Final = 5
COMPACT_FRESH_SECS: Final = 2  # (ext.) since a transaction was first heard of
COMPACT_MAX_FRESH: Final = 4096  # (ext.)
COMPACT_PREFILL_BYTES: Final = 10_000  # (ext.) of transactions beyond those that must be prefilled
COMPACT_KEPT_BLOCKS: Final = 10  # (ext.)
COMPACT_KEPT_BYTES: Final = 67_108_864  # (ext.)
COMPACT_KEPT_SECS: Final = 600  # (ext.)
COMPACT_MATCH_SLICE: Final = 1000  # (ext.) hashes a reactor turn, less than 10 ms
COMPACT_MAX_REQUESTS: Final = 32  # (ext.) of 64 transactions each, for one block
COMPACT_MAX_REBUILDING: Final = 32  # (ext.)
COMPACT_MAX_REBUILDING_PER_PEER: Final = 3  # (ext.)
COMPACT_MAX_ANNOUNCERS: Final = 8  # (ext.)
COMPACT_MAX_KNOWN: Final = 1000  # (ext.) header hashes
COMPACT_REQUEST_TIMEOUT_SECS: Final = 5  # (ext.)

# Privacy and reachability
DANDELION_FLUFF_PROBABILITY: Final = 0.10
DANDELION_STEM_TIMEOUT_SECS: Final = 30
DANDELION_EPOCH_SECS: Final = 600
DANDELION_RELAYS: Final = 2  # (ext.)
DANDELION_MAX_STEMS: Final = 1000  # (ext.)
DANDELION_MAX_STEM_BYTES: Final = 16_777_216  # (ext.)
DANDELION_MAX_STEMS_PER_PEER: Final = 100  # (ext.)
DANDELION_MAX_PUBLIC: Final = 20_000  # (ext.) transactions remembered as announced
DANDELION_REST_SECS: Final = 2  # (ext.) mean time from an announcement to the end of its stem
DANDELION_HERALD_SECS: Final = 2  # (ext.) a herald has from once to twice as long to be heard of
DANDELION_RESEND_SECS: Final = 1  # (ext.) a relay that is lost sooner has not forwarded
DEFAULT_PEER_ID_ROTATION_SECS: Final = 86_400
HOLE_PUNCH_RETRY_SECS: Final = 300
DEFAULT_TOR_SOCKS5_PROXY: Final = "127.0.0.1:9050"
MAX_RELAY_DISCOVERY_FRAMES: Final = 64
