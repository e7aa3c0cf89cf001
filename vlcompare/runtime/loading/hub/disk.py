"""Room on the disk for a download, beside what other downloads of this process have still to write."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlcompare.errors import HubError
from vlcompare.units import format_bytes

_missing: dict[object, int] = {}  # bytes that downloads under way have still to write
_lock = threading.Lock()


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(parent for parent in (folder, *folder.parents) if parent.is_dir())


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk that holds a folder, which may not exist yet."""
    return shutil.disk_usage(existing(folder)).free


@contextmanager
def room(repository: str, folder: Path, missing: int) -> Iterator[Callable[[int], None]]:
    """Count `missing` bytes as taken until the block ends; yields what is told how many are missing still.

    folder: where they will be; it may not exist yet. Raises HubError where they do not fit on its disk.
    """
    own = object()
    with _lock:
        free = max(0, free_bytes(folder) - sum(_missing.values()))
        if missing > free:
            others = ", other downloads counted," if _missing else ""
            raise HubError(
                f"The disk is too full for {repository}: {format_bytes(missing)} are needed and "
                f"{format_bytes(free)} are free{others} in {existing(folder)}; free some, or set HF_HOME to "
                "another disk."
            )
        _missing[own] = missing

    def still_missing(count: int) -> None:
        _missing[own] = max(0, count)

    try:
        yield still_missing
    finally:
        with _lock:
            del _missing[own]
