"""Opens the files that clients name: only here, once, and with a limit of their size.

A request holds a path, which the client chooses. A file is opened only in gradio's upload folder or among the shipped
examples. Each folder on the way is opened relative to the one before without following links (openat), so that nothing
can be swapped between a check and the opening; the result must be a regular file. Opening never blocks, as it would on
a pipe. Anything else (an absent path, a file elsewhere, a folder, a device, a URL) is refused with the same sentence,
which reveals nothing about the machine's files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO

from vlcompare.errors import RequestError
from vlcompare.ui import examples
from vlcompare.ui.server.upload_folder import upload_folder
from vlcompare.ui.settings import Limits

REFUSED = (
    "This file was not uploaded here, or is no longer kept: choose or upload it again. Addresses are not fetched, "
    "and a server's own files are not opened."
)
_HAS_OPENAT = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")  # not on Windows
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)


def largest_upload(limits: Limits) -> int:
    """Bytes of the largest file of any kind."""
    return max(limits.file_bytes, limits.upload_bytes, limits.import_bytes)


@contextmanager
def open_file(path: str, most: int, kind: str = "file") -> Iterator[BinaryIO]:
    """The uploaded or shipped file at `path`, open for reading inside the block.

    most: its size in bytes at most; kind: its name in the sentence about a larger one. Raises RequestError, with the
    sentence REFUSED unless the file is too large.
    """
    descriptor = _opened(path)
    with open(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size > most:
            raise _too_large(kind, most)
        yield file


def read_file(path: str, most: int, kind: str = "file") -> bytes:
    """The content of the uploaded or shipped file at `path`, as `open_file` opens it."""
    with open_file(path, most, kind) as file:
        data = file.read(most + 1)
    if len(data) > most:  # the file has grown since it was opened
        raise _too_large(kind, most)
    return data


def _too_large(kind: str, most: int) -> RequestError:
    return RequestError(f"The {kind} is larger than {most // 2**20} MiB.")


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
    """The path's parts below the folder, as named or with links resolved; empty if it is not below."""
    given = PurePath(path)
    for root in (folder.absolute(), folder.resolve()):
        if given.is_relative_to(root):
            parts = given.relative_to(root).parts
            return () if os.pardir in parts else parts
    return ()


def _open_below(folder: Path, parts: tuple[str, ...]) -> int:
    """Open folder/parts without following links below the folder."""
    if not _HAS_OPENAT:
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
    """Without openat: open, then compare with the file at the resolved path."""
    path = folder.joinpath(*parts)
    descriptor = os.open(path, _FLAGS)
    real = path.resolve()
    if real.is_relative_to(folder.resolve()) and os.path.samestat(os.fstat(descriptor), real.stat()):
        return descriptor
    os.close(descriptor)
    raise ValueError("not below the folder")
