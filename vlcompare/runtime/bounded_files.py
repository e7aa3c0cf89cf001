"""Files that somebody else wrote, read with a bound: only regular ones, never more of them than was asked for.

A path is opened once and checked afterwards, so that what is read is what was checked: a pipe, a device or a folder is
refused without waiting for it, and a file that grows ends at its limit.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from vlcompare.errors import CheckpointError

LARGEST_CONFIG = 1 << 20  # bytes of a config.json; the published ones have 1 KB
LARGEST_TOKENIZER = 16 << 20  # bytes of a tokenizer.json; that of GPT-NeoX has 2.5 MB


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading bytes without a buffer.

    Raises OSError where it cannot be opened, and CheckpointError for a pipe, a device or a folder.
    """
    # without O_NONBLOCK opening a pipe waits for its writer
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path.name} is not a regular file but a pipe, a device or a folder; put a file there.")
    return os.fdopen(descriptor, "rb", buffering=0)


def read_bytes(path: Path, most: int) -> bytes:
    """All of a regular file. Raises OSError where it cannot be read, CheckpointError where it has over `most` bytes."""
    found = bytearray()
    with open_regular(path) as stream:
        # never by the size that the system gives: for some files that is 0, and a file may grow meanwhile
        while len(found) <= most and (part := stream.read(min(1 << 20, most + 1 - len(found)))):
            found += part
    if len(found) > most:
        raise CheckpointError(f"{path.name} is larger than {most >> 20} MiB, too large for this file of a checkpoint.")
    return bytes(found)


def read_json(path: Path, most: int) -> Any:
    """The value of a JSON file in UTF-8. Raises as `read_bytes`, and ValueError or RecursionError for other content."""
    return json.loads(read_bytes(path, most).decode("utf-8"))


def is_there(path: Path) -> bool:
    """Whether anything has this name, be it a pipe or a link to nowhere: what is there is read or refused by name."""
    return os.path.lexists(path)
