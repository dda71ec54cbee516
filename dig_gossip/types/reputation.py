"""Misbehavior and what it costs."""

from __future__ import annotations

import enum
import math

import attrs

from dig_gossip.constants import PENALTY_BAN_THRESHOLD


class PenaltyReason(enum.Enum):
    """Why a peer is charged; :attr:`points` says how much. A ban follows at 100 points."""

    INVALID_BLOCK = "invalid_block"
    INVALID_ATTESTATION = "invalid_attestation"
    CONSENSUS_ERROR = "consensus_error"
    SPAM = "spam"
    CONNECTION_ISSUE = "connection_issue"
    PROTOCOL_VIOLATION = "protocol_violation"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    MALFORMED_MESSAGE = "malformed_message"

    @property
    def points(self) -> int:
        """Penalty points, 1..100."""
        return _POINTS[self]


_POINTS = {
    PenaltyReason.INVALID_BLOCK: 100,
    PenaltyReason.INVALID_ATTESTATION: 50,
    PenaltyReason.CONSENSUS_ERROR: 100,
    PenaltyReason.SPAM: 25,
    PenaltyReason.CONNECTION_ISSUE: 10,
    PenaltyReason.PROTOCOL_VIOLATION: 50,
    PenaltyReason.RATE_LIMIT_EXCEEDED: 15,
    PenaltyReason.MALFORMED_MESSAGE: 20,
}


@attrs.frozen(kw_only=True)
class PeerReputation:
    """A snapshot of how a peer has behaved.

    :ivar penalty_points: 0 and up; 100 is a ban.
    :ivar ban_expiry: Unix seconds, None when not banned.
    :ivar avg_rtt_ms: mean of the last ten round trips in milliseconds, at least 1, or None.
    Source: behaviour API-006, PRF-001.
    """

    penalty_points: int = 0
    is_banned: bool = False
    ban_expiry: int | None = None
    ban_count: int = 0
    last_penalty_reason: PenaltyReason | None = None
    avg_rtt_ms: int | None = None
    rtt_history: tuple[float, ...] = ()
    as_number: int | None = None

    @property
    def score(self) -> float:
        """Trust over round trip time; 0.0 without a sample, never NaN."""
        return peer_score(self.penalty_points, self.avg_rtt_ms)


def peer_score(penalty_points: int, avg_rtt_ms: float | None) -> float:
    """Score = trust x (1 / RTT): higher is better.

    Source: behaviour PRF-001.
    """
    if not avg_rtt_ms or not math.isfinite(avg_rtt_ms):
        return 0.0
    trust = max(0.0, 1.0 - penalty_points / PENALTY_BAN_THRESHOLD)
    return trust / max(1.0, avg_rtt_ms)
