"""A log of ``twistd`` for machines: one JSON object a record, on standard output.

``twistd --logger tests.interop.event_log.observer …``. A record has its own fields (``event``
first of all), ``level`` and ``text``, and ``traceback`` if it tells of a failure.
"""

from __future__ import annotations

import json
import sys

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, formatEvent


def observer() -> ILogObserver:
    """Make the observer; ``twistd`` calls this before it takes standard output for its log."""
    return FileLogObserver(sys.stdout, format_record)


def format_record(event: LogEvent) -> str:
    """Turn one record into a line."""
    fields = {
        key: value
        for key, value in event.items()
        if not key.startswith("log_") and isinstance(value, str | int | float | None)
    }
    fields["level"] = event["log_level"].name
    fields["text"] = formatEvent(event)
    if "log_failure" in event:
        fields["traceback"] = event["log_failure"].getTraceback()
    return json.dumps(fields) + "\n"
