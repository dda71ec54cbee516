"""The ``dig-gossip`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dig_gossip._version import __version__
from dig_gossip.cli import addrbook, lab


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the verbs.

    :returns: the process's exit status.
    """
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dig-gossip",
        description="Tools around a node of the DIG Network's gossip layer. "
        "The node itself is run by «twistd -n dig-gossip».",
    )
    parser.add_argument("--version", action="version", version=f"dig-gossip {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    localnet = verbs.add_parser(
        "localnet",
        help="run a small network on this machine and watch it gossip",
        description="Run an introducer and nodes in one process, over real TLS sockets on "
        "loopback. The nodes know the introducer and nothing else, and find each other through "
        "it; then a random node broadcasts a message every second. Ends with a summary on Ctrl-C, "
        "or after --seconds.",
    )
    localnet.add_argument("--nodes", type=_at_least(2), default=8, help="how many (default 8)")
    localnet.add_argument(
        "--degree", type=_at_least(1), default=4, help="links per node, roughly (4)"
    )
    localnet.add_argument("--seconds", type=float, help="stop after this long")
    localnet.add_argument("--interval", type=float, default=1.0, help="seconds per message (1)")
    localnet.add_argument("--size", type=_at_least(32), default=512, help="payload bytes (512)")
    localnet.add_argument(
        "--nat",
        action="store_true",
        help="nodes that nobody can dial at first: they meet through a relay, then leave it",
    )
    localnet.add_argument("--seed", type=int, help="for the origins of messages")
    localnet.add_argument("--plain", action="store_true", help="lines instead of a live table")
    localnet.add_argument(
        "--once",
        action="store_true",
        help="send a fixed number of messages, then exit with status 0 only if every node "
        "delivered every message exactly once",
    )
    localnet.add_argument(
        "--messages", type=_at_least(1), default=50, help="how many with --once (50)"
    )
    localnet.add_argument(
        "--transactions",
        action="store_true",
        help="transactions and blocks instead of attestations: ERLAY, Dandelion++ and compact "
        "blocks at work",
    )
    localnet.set_defaults(run=_localnet)
    addrbook.add_verb(verbs)
    lab.add_verb(verbs)
    return parser


def _at_least(minimum: int) -> _AtLeast:
    return _AtLeast(minimum)


class _AtLeast:
    def __init__(self, minimum: int) -> None:
        self._minimum = minimum

    def __call__(self, text: str) -> int:
        value = int(text)
        if value < self._minimum:
            raise argparse.ArgumentTypeError(f"must be at least {self._minimum}")
        return value

    def __repr__(self) -> str:
        return "integer"


def _localnet(options: argparse.Namespace) -> int:
    from dig_gossip.cli.localnet import Localnet, run

    if not options.transactions:
        return run(options, Localnet)
    from dig_gossip.cli.transactions import TransactionNet

    return run(options, TransactionNet)


if __name__ == "__main__":
    sys.exit(main())
