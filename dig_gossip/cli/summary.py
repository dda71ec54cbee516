"""What a run of ``localnet`` came to."""

from __future__ import annotations

import attrs


@attrs.define
class Summary:
    """What a run came to."""

    nodes: int
    links: int
    messages: int
    deliveries: int
    missing: int
    repeated: int
    duplicates: int
    bytes_sent: int
    payload_size: int
    latencies: list[float]
    notes: list[str] = attrs.field(factory=list)

    @property
    def complete(self) -> bool:
        """Whether every node delivered every message exactly once."""
        return self.missing == 0 and self.repeated == 0

    @property
    def duplicates_per_delivery(self) -> float:
        """Full copies that came in vain, for each one that was wanted."""
        return self.duplicates / self.deliveries if self.deliveries else 0.0

    @property
    def byte_ratio(self) -> float:
        """All bytes sent, control included, over the payload bytes delivered."""
        useful = self.deliveries * self.payload_size
        return self.bytes_sent / useful if useful else 0.0

    def percentile(self, share: float) -> float:
        """Seconds from broadcast to delivery, at a share of 0..1."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
