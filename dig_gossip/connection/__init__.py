"""From a TCP connection to a session, and back to nothing.

Decisions are pure (``admission``, ``handshake``, ``peer_table``, ``requests``, ``keepalive``,
``reputation``, ``backoff``); the other modules move bytes and hold timers.
"""
