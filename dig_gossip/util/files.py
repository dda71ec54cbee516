"""Files that are whole or not there: written beside their place, put into it in one step.

What a crash, a full disk or another program has spoiled is moved aside, not deleted, and never
keeps a node from starting.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Final

#: How many spoiled files of one name are kept.
MAX_QUARANTINED: Final = 3


def write_atomically(path: str, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file, or make it; whatever happens, the old content or the new is there.

    Missing folders are made, for the owner only.

    :param mode: who may read and write the file; by default its owner only.
    :raises OSError: it cannot be written; the old file, if any, is as it was.
    Cost: waits for the disk twice.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if mode != 0o600:  # which it has already
                os.chmod(temporary, mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def read_at_most(path: str, limit: int) -> bytes | None:
    """The content of a file; None if there is none.

    :param limit: bytes that it may have.
    :raises ValueError: it has more.
    :raises OSError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data


def quarantine(path: str, unix: float) -> str:
    """Move a spoiled file aside, to ``<path>.corrupt-<unix>``; only the newest three are kept.

    :param unix: Unix seconds, now.
    :returns: where it is now.
    :raises OSError: it cannot be moved.
    """
    target = f"{path}.corrupt-{int(unix)}"
    os.replace(path, target)
    folder, name = os.path.split(os.path.abspath(path))
    prefix = f"{name}.corrupt-"
    kept = sorted(
        (int(suffix), entry)
        for entry in os.listdir(folder)
        if entry.startswith(prefix)
        and (suffix := entry.removeprefix(prefix)).isascii()
        and suffix.isdigit()
    )
    for _, entry in kept[:-MAX_QUARANTINED]:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, entry))
    return target


def _sync_folder(folder: str) -> None:
    # So that the rename survives a power cut, where platform and file system can.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # Windows opens no folders
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
