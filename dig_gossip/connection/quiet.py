"""Autobahn's methods without what they format for logs that nobody reads.

For each connection Autobahn pretty-prints its options, what it knows of the transport and, colored
for a terminal, the names of its own methods, and hands them to a logger that is switched off. That
takes as long as the TLS handshake. Here are the same methods, with the same code, for which these
functions do nothing. Source: design §5.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, Final

_METHODS: Final = (
    "connectionMade",
    "connectionLost",
    "_connectionMade",
    "_connectionLost",
    "startHandshake",
    "_actuallyStartHandshake",
    "processHandshake",
    "sendData",
)


def _silence(*_args: object, **_options: object) -> str:
    return ""


_SILENT: Final = dict.fromkeys(("pformat", "hl", "hltype", "hlval", "hlid"), _silence)


def quiet(protocol: type[Any]) -> type[Any]:  # Any: Autobahn has no types
    """Derive a class whose methods format nothing when a connection begins or ends.

    Options are copied from the factory as Autobahn does it, by the first method of all.

    :param protocol: one of Autobahn's protocol classes.
    :returns: a subclass of it, with copies of its methods, of those that it has.
    """
    methods: dict[str, Any] = {}
    for name in _METHODS:
        method = getattr(protocol, name, None)
        if isinstance(method, FunctionType):
            methods[name] = _copy(method)
    options: tuple[str, ...] = tuple(protocol.CONFIG_ATTRS)
    begin = methods["_connectionMade"]

    def _connectionMade(self: Any) -> None:
        factory = self.factory
        for name in options:
            if not hasattr(self, name):
                setattr(self, name, getattr(factory, name))
        begin(self)

    # Autobahn would go through them once more, only to print them.
    methods |= {"CONFIG_ATTRS": [], "_connectionMade": _connectionMade}
    return type(f"Quiet{protocol.__name__}", (protocol,), methods)


def _copy(method: FunctionType) -> FunctionType:
    # What the module defines later, it defines for the original only; but modules are complete.
    copy = FunctionType(
        method.__code__,
        method.__globals__ | _SILENT,
        method.__name__,
        method.__defaults__,
        method.__closure__,
    )
    copy.__kwdefaults__ = method.__kwdefaults__
    return copy
