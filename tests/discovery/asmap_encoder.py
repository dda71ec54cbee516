"""Compresses prefixes to an asmap, simply; Bitcoin Core's encoder finds shorter programs."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

#: The AS number of everything below, or the two halves.
Tree: TypeAlias = "int | tuple[Tree, Tree]"


def encode(prefixes: dict[str, int]) -> bytes:
    """The program that answers like the longest of some prefixes.

    An address without a prefix is answered by a MATCH that fails while the default is none.
    """
    ordered = []
    for text, number in prefixes.items():
        net = ipaddress.ip_network(text)
        start, length = int(net[0]), net.prefixlen
        if net.version == 4:
            start, length = start | 0xFFFF << 32, length + 96
        ordered.append((length, start, number))
    tree: Tree = 0
    for length, start, number in sorted(ordered):
        tree = _insert(tree, f"{start:0128b}"[:length], number)
    bits = _program(tree)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def _insert(tree: Tree, path: str, number: int) -> Tree:
    if not path:
        return number
    left, right = tree if isinstance(tree, tuple) else (tree, tree)
    if path[0] == "0":
        return _insert(left, path[1:], number), right
    return left, _insert(right, path[1:], number)


def _program(tree: Tree) -> str:
    """The bits for a tree, while the default is none."""
    needed = ""  # bits that an address must have to be answered at all
    while isinstance(tree, tuple) and 0 in tree:
        needed += "1" if tree[0] == 0 else "0"
        tree = tree[1] if tree[0] == 0 else tree[0]
    matches = ""
    for begin in range(0, len(needed), 8):
        pattern = "1" + needed[begin : begin + 8]
        matches += "110" + _number(int(pattern, 2), 2, range(1, 9))
    if isinstance(tree, int):
        if not tree:
            raise ValueError("an asmap must answer something")
        return matches + "0" + _number(tree, 1, range(15, 25))
    first = _program(tree[0])
    return matches + "10" + _number(len(first), 17, range(5, 31)) + first + _program(tree[1])


def _number(value: int, smallest: int, classes: range) -> str:
    value -= smallest
    bits = ""
    for size in classes:
        if value < 1 << size:
            last = size == classes[-1]
            return bits + ("" if last else "0") + (f"{value:0{size}b}" if size else "")
        value -= 1 << size
        bits += "1"
    raise ValueError("too large")
