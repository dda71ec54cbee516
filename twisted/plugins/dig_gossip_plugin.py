"""Tell ``twistd`` and ``twist`` about the programs. Nothing else is imported here."""

from twisted.application.service import ServiceMaker

dig_gossip = ServiceMaker(
    "dig-gossip",
    "dig_gossip.tap",
    "A node of the DIG Network's peer-to-peer gossip layer.",
    "dig-gossip",
)

dig_introducer = ServiceMaker(
    "dig-introducer",
    "dig_gossip.introducer_tap",
    "A server that introduces nodes of the DIG Network to each other.",
    "dig-introducer",
)

dig_relay = ServiceMaker(
    "dig-relay",
    "dig_gossip.relay_tap",
    "A server through which nodes of the DIG Network reach each other.",
    "dig-relay",
)
