"""Files that a client names: they are opened here alone, once, and read with a bound.

A request carries a path, and whoever sends it may write any path. A file is opened only where it lies in the folder of
uploads or among the shipped examples. The folders on the way are opened one after the other without following links,
each below the one before (openat), so that nothing can be put in between a check and the opening; what is found must
be a regular file. Opening never waits (a pipe would). Whatever else was named (an absent path, a file elsewhere, a
folder, a device, an address) is refused with one and the same sentence, from which nothing can be learnt about the
machine's files. Knows nothing of gradio, whose folder of uploads this is.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO

from vlcompare.errors import RequestError
from vlcompare.ui import examples
from vlcompare.ui.settings import Limits

REFUSED = (
    "This file was not uploaded here, or is no longer kept: choose or upload it again. Addresses are not fetched, "
    "and a server's own files are not opened."
)
_ONE_BY_ONE = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")  # not on Windows
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)


def upload_folder() -> Path:
    """Where uploads are kept: gradio's rule, read anew at every call as gradio does."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def largest_upload(limits: Limits) -> int:
    """Bytes of the largest file that is taken, of whatever kind."""
    return max(limits.file_bytes, limits.upload_bytes)


@contextmanager
def open_file(path: str, most: int, kind: str = "file") -> Iterator[BinaryIO]:
    """The uploaded or shipped file at `path`, open for reading as long as the block lasts.

    most: bytes that it may have; kind: what the sentence about a larger one calls it. Raises RequestError, for
    everything but a file that is too large with the sentence REFUSED.
    """
    descriptor = _opened(path)
    with open(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size > most:
            raise RequestError(f"The {kind} is larger than {most // 2**20} MB.")
        yield file


def read_file(path: str, most: int, kind: str = "file") -> bytes:
    """The content of the uploaded or shipped file at `path`, as `open_file` opens it."""
    with open_file(path, most, kind) as file:
        data = file.read(most + 1)
    if len(data) > most:  # it has grown meanwhile
        raise RequestError(f"The {kind} is larger than {most // 2**20} MB.")
    return data


def _opened(path: str) -> int:
    """A descriptor of the regular file, or RequestError(REFUSED)."""
    for folder in (upload_folder(), examples.FOLDER):
        try:
            parts = _below(path, folder)
            descriptor = _open_below(folder, parts) if parts else -1
        except (OSError, ValueError):  # absent, unreadable, a link, a loop, too long, NUL, a lone surrogate
            continue
        if descriptor < 0:
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise RequestError(REFUSED)


def _below(path: str, folder: Path) -> tuple[str, ...]:
    """The path's parts below the folder, as it is named or as it really lies; empty where it is not below."""
    given = PurePath(path)
    for root in (folder.absolute(), folder.resolve()):
        if given.is_relative_to(root):
            parts = given.relative_to(root).parts
            return () if os.pardir in parts else parts
    return ()


def _open_below(folder: Path, parts: tuple[str, ...]) -> int:
    """Open folder/parts; no link is followed below the folder itself."""
    if not _ONE_BY_ONE:
        return _open_and_compare(folder, parts)
    inner = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
    here = os.open(folder, inner)
    try:
        for name in parts[:-1]:
            below = os.open(name, inner | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(parts[-1], _FLAGS | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
    finally:
        os.close(here)


def _open_and_compare(folder: Path, parts: tuple[str, ...]) -> int:
    """Where folders cannot be opened one by one: open, then compare with what really lies there."""
    path = folder.joinpath(*parts)
    descriptor = os.open(path, _FLAGS)
    real = path.resolve()
    if real.is_relative_to(folder.resolve()) and os.path.samestat(os.fstat(descriptor), real.stat()):
        return descriptor
    os.close(descriptor)
    raise ValueError("not below the folder")
