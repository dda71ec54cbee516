"""What a DNS response says about a name, and nothing that it says about others.

No answer is trusted: a record counts only if it belongs to the name that was asked, or to what its
CNAME records lead to. Source: behaviour DSC-003; RFC 1034 §3.6.2.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.names import dns
from twisted.python.failure import Failure

from dig_gossip.constants import MAX_ADDRESSES_PER_DNS_NAME
from dig_gossip.errors import DiscoveryError, GossipError

MAX_CNAMES: Final = 8

#: Asks for the records of one type, and returns the whole response.
Query = Callable[[bytes, int], Awaitable[dns.Message]]


def read_answer(message: dns.Message, name: bytes, kind: int) -> tuple[list[str], bytes | None]:
    """Read the addresses of ``name`` out of a response, following its CNAME records.

    :param kind: ``dns.A`` or ``dns.AAAA``.
    :returns: at most 256 IP literals; if there are none, the name at which the chain ends, unless
        that is ``name`` itself.
    :raises DiscoveryError: the server refuses, or answers another question.
    """
    if message.rCode != dns.OK:
        raise DiscoveryError(f"the name server answers with code {message.rCode}")
    wanted = name = name.lower()
    if [query.name.name.lower() for query in message.queries] not in ([], [name]):
        raise DiscoveryError("the name server answers another question")
    for _ in range(MAX_CNAMES):
        records: list[tuple[int, Any]] = [  # Any: the payload's class goes with the type
            (record.type, record.payload)
            for record in message.answers
            if record.name.name.lower() == wanted and record.cls == dns.IN
        ]
        found = {
            str(ipaddress.ip_address(data.address)) for rtype, data in records if rtype == kind
        }
        if found:
            return sorted(found)[:MAX_ADDRESSES_PER_DNS_NAME], None
        aliases = [data.name.name.lower() for rtype, data in records if rtype == dns.CNAME]
        if not aliases:
            break
        wanted = aliases[0]
    return [], None if wanted == name else wanted


async def find_addresses(query: Query, name: str) -> list[str]:
    """Find the addresses of a name, IPv6 and IPv4 at once.

    :param query: fails with a :class:`GossipError` when there is no response.
    :returns: at most 256 IP literals, IPv6 first.
    :raises DiscoveryError: neither question was answered.
    """
    outcomes: list[tuple[bool, Any]] = await DeferredList(  # Any: addresses, or a failure
        [Deferred.fromCoroutine(_find(query, name.encode(), kind)) for kind in (dns.AAAA, dns.A)],
        consumeErrors=True,
    )
    found: list[str] = []
    failures: list[Failure] = []
    for succeeded, outcome in outcomes:
        if succeeded:
            found += outcome
        else:
            failures.append(outcome)
    for failure in failures:
        if len(failures) == len(outcomes) or not failure.check(GossipError):
            failure.raiseException()
    return found[:MAX_ADDRESSES_PER_DNS_NAME]


async def _find(query: Query, name: bytes, kind: int) -> list[str]:
    for _ in range(MAX_CNAMES):
        found, alias = read_answer(await query(name, kind), name, kind)
        if found or alias is None:
            return found
        name = alias  # the server left the rest of the chain to us
    raise DiscoveryError(f"more than {MAX_CNAMES} CNAME records")
