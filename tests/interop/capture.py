"""Prints which flows cross the interfaces of a network namespace, loopback included.

``python -m tests.interop.capture`` reads every IP packet from an ``AF_PACKET`` socket, so it sees
what the kernel sends and receives, whoever asked for it. One JSON line for each new flow. Linux,
root.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
from typing import NamedTuple

_EVERYTHING = 0x0003
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17


class Flow(NamedTuple):
    """Who sends to whom; the ports are 0 where there are none."""

    protocol: int
    source: str
    source_port: int
    target: str
    target_port: int


def read_flow(ethertype: int, packet: bytes) -> Flow | None:
    """Read the head of an IP packet; None if it is none."""
    if ethertype == _IPV4 and len(packet) >= 20:
        protocol, rest = packet[9], packet[(packet[0] & 15) * 4 :]
        source, target = packet[12:16], packet[16:20]
    elif ethertype == _IPV6 and len(packet) >= 40:
        protocol, rest = packet[6], packet[40:]
        source, target = packet[8:24], packet[24:40]
    else:
        return None
    ports = (0, 0)
    if protocol in (_TCP, _UDP) and len(rest) >= 4:
        ports = struct.unpack("!HH", rest[:4])
    hosts = [str(ipaddress.ip_address(raw)) for raw in (source, target)]
    return Flow(protocol, hosts[0], ports[0], hosts[1], ports[1])


def main() -> None:
    """Capture until killed."""
    seen: set[Flow] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERYTHING)) as capture:
        print(json.dumps({"event": "capturing"}), flush=True)
        while True:
            packet, (_interface, ethertype, *_) = capture.recvfrom(65_535)
            flow = read_flow(ethertype, packet)
            if flow is not None and flow not in seen:
                seen.add(flow)
                print(json.dumps({"event": "flow", **flow._asdict()}), flush=True)


if __name__ == "__main__":
    main()
