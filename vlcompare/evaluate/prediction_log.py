"""Files of prediction rows that survive being killed: appended and synced batch by batch, repaired and merged after.

A line counts once its line break is written: a torn last line is cut off on opening, and its row is asked again. One
run at a time holds a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vlcompare.errors import SampleError
from vlcompare.evaluate.predictions import ByteSpan, Key, line_value

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]


def scan(path: Path) -> tuple[dict[Key, ByteSpan], int]:
    """(spans of all whole rows, bytes up to the end of the last one). The first row of a key counts.

    A row counts by its `side` and `id` alone, even where its other values cannot be used: it is not asked again.
    """
    spans: dict[Key, ByteSpan] = {}
    end = 0
    if not path.exists():
        return spans, 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            start, end = end, end + len(line)
            try:
                row = line_value(line)
                spans.setdefault((str(row["side"]), str(row["id"])), ByteSpan(path, start, len(line)))
            except (ValueError, KeyError, TypeError, RecursionError):  # a broken line
                continue
    return spans, end


def scan_all(parts: Iterable[Path]) -> dict[Key, ByteSpan]:
    """Places of the rows of several files; the first row of a key counts."""
    spans: dict[Key, ByteSpan] = {}
    for part in parts:
        spans = scan(part)[0] | spans
    return spans


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Create a folder where it is missing and lock it against other runs; remove what was created and stays empty.

    Raises SampleError where another run holds it. On a file system without locks nothing is locked.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if fcntl else None  # Windows opens no folders
    except OSError as error:
        raise SampleError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        if handle is not None:
            _lock(handle, folder)
        try:
            yield
        finally:
            with suppress(OSError):
                for each in made:
                    each.rmdir()  # an empty one only
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SampleError(f"Another run is writing to {folder}: wait for it to end, or stop it.") from None
    except OSError:  # a file system without locks
        return


class RowWriter:
    """Appends rows to one file; they are on the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        _, sound = scan(path)
        try:
            self._file: BinaryIO = path.open("ab")
            if self._file.tell() > sound:
                self._file.truncate(sound)
        except OSError as error:
            raise SampleError(f"{path} cannot be written: {error.strerror or error}.") from error

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows in one piece and wait until they are stored."""
        try:
            self._file.write(b"".join(_line(row) for row in rows))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise SampleError(f"{self._file.name} cannot be written: {error.strerror or error}.") from error

    def close(self) -> None:
        with suppress(OSError):  # `append` has already raised for what could not be stored
            self._file.close()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.close()


def merge(parts: Iterable[Path], order: Iterable[Key], target: Path) -> int:
    """Write the rows of all parts in one order to `target`, and remove the other parts. Returns how many there are."""
    parts = list(parts)
    spans = scan_all(parts)
    wanted = [spans[key] for key in order if key in spans]
    if not _already_in_order(wanted, target):
        _copy(wanted, target)
    for part in parts:
        if part != target:
            part.unlink(missing_ok=True)
    return len(wanted)


def _already_in_order(wanted: list[ByteSpan], target: Path) -> bool:
    """Whether `target` holds exactly these rows, one behind the other."""
    end = 0
    for span in wanted:
        if span.path != target or span.offset != end:
            return False
        end += span.length
    return target.exists() and target.stat().st_size == end


def _copy(wanted: list[ByteSpan], target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    files: dict[Path, BinaryIO] = {}
    try:
        with partial.open("wb") as out:
            for span in wanted:
                if span.path not in files:
                    files[span.path] = span.path.open("rb")
                file = files[span.path]
                file.seek(span.offset)
                out.write(file.read(span.length))
            out.flush()
            os.fsync(out.fileno())
    finally:
        for file in files.values():
            file.close()
    partial.replace(target)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
