"""Opening data files: what a file holds by its first bytes, and its rows, whatever they are wrapped in.

Everything is bounded and typed. A `.gz` and a `.zip` with one member are unpacked into a temporary file within a limit
on what comes out, so that rows can be read again by their place. What cannot be read gives one sentence that says what
the file is; a pickle is never loaded.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.json_lines import each_line, exactly, whole, why

MAX_ROW_CHARACTERS = 64 * 1024 * 1024
MAX_WHOLE = 1 << 30  # bytes of a file whose JSON is one value: it is read whole
MAX_UNPACKED = 16 << 30  # bytes that a compressed file may unpack to
LEAST_FREE = 1 << 30  # bytes of the temporary disk that are left to other programs, by files larger than that
_HEAD = 64 * 1024
_PIECE = 1 << 20
_PARQUET_ROWS = 64  # rows held at a time
_NOISE = ("__MACOSX/", ".DS_Store")  # what some systems add to an archive

# first bytes -> what such a file is, and what to do with it
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"ARROW1", "an Arrow file: save it as parquet (`Dataset.to_parquet`)"),
    (b"PK\x05\x06", "an archive without a file in it"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed by xz: unpack it first"),
    (b"(\xb5/\xfd", "compressed by Zstandard: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture: give its folder, with --format folder"),
    (b"\xff\xd8\xff", "a picture: give its folder, with --format folder"),
    (b"RIFF", "a picture or a recording: give its folder, with --format folder"),
    (b"SQLite format", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\xff\xfe\0\0", "text in UTF-32: save it as UTF-8"),
    (b"\0\0\xfe\xff", "text in UTF-32: save it as UTF-8"),
    (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
)
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(lp", b"(dp", b"ccopy_reg")
UNPICKLE = (
    "a pickle, which can run code when it is loaded and is never opened here. Where you trust it, convert it once: "
    "python -c \"import json, pickle; json.dump(pickle.load(open('refs(unc).p', 'rb')), open('refs.json', 'w'))\", and "
    "give refs.json with --annotations instances.json"
)


_COMMAS = re.compile(rb"[\w\" -]{1,60}(?:,[\w\" -]{1,60})+\s*\Z")  # a line of columns' names
_PACKED = (b"\x1f\x8b", b"PK\x03\x04")


class RowError(ValueError):
    """One row cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file holds: `name` is "lines", "line" (one JSON object in one line), "whole" (one over several lines),
    "array", "parquet", "table" (with tabs) or "sheet" (XLSX); `path` is the file to read, unpacked where it was
    compressed."""

    name: str
    path: Path


# ---- what a file is --------------------------------------------------------------------------------------------------


def kind_of(path: Path) -> Kind:
    """What a file holds, by its content. Raises SampleError with a sentence for what cannot be read."""
    if path.exists() and not path.is_file():
        raise SampleError(f"{path} is a folder or a pipe, where a file is expected; save what a pipe gives as a file.")
    head, plain = _head(path), path
    if head[:4] == b"PK\x03\x04" and _is_spreadsheet(path):
        return Kind("sheet", path)
    if head[:2] == b"\x1f\x8b":
        plain = _unpacked(path, _gunzip)
    elif head[:4] == b"PK\x03\x04":
        plain = _unpacked(path, _unzip)
    head = _head(plain)
    if plain != path and head.startswith(_PACKED):
        raise SampleError(f"{path} is compressed twice: unpack it once, and give what comes out.")
    return Kind(_named(path, plain, head), plain)


def _named(path: Path, plain: Path, head: bytes) -> str:
    """The kind of what `plain` holds, whose first bytes are `head`; `path` is what messages call it."""
    if head[:4] == b"PAR1":
        return "parquet"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise SampleError(f"{path} is empty.")
    if head.startswith(_PICKLES):
        raise SampleError(f"{path} is {UNPICKLE}.")
    for signature, what in _FOREIGN:
        if head.startswith(signature):
            raise SampleError(f"{path} is {what}.")
    if head[257:262] == b"ustar":
        raise SampleError(f"{path} is a tar archive: unpack it first.")
    if start[:1] == b"<":
        raise SampleError(f"{path} is a page of HTML or XML, not data; a download that failed looks like this.")
    if head[:2].strip(b"\0") in (b"[", b"{") and b"\0" in head[:2]:
        raise SampleError(f"{path} is text in UTF-16 without a byte order mark: save it as UTF-8.")
    if b"\0" in head:
        raise SampleError(f"{path} is a binary file of no known format; data are JSON, parquet, or tables with tabs.")
    if start[:1] == b"[":
        return "array"
    if start[:1] == b"{":
        return _lines_or_whole(plain)
    first = start.partition(b"\n")[0]
    if b"\t" in first:
        return "table"
    if _COMMAS.match(first):
        raise SampleError(f"{path} is a table with commas (CSV): save it with tabs (TSV).")
    return "lines"


def _lines_or_whole(path: Path) -> str:
    """Whether a file that begins with `{` holds an object a line, or one object."""
    with _opened(path) as file:
        lines = (line for _, _, line in each_line(file, MAX_ROW_CHARACTERS) if line is None or line.strip())
        first, second = next(lines, None), next(lines, None)
    if first is None:
        return "whole"
    if second is None:
        return "line"
    try:
        exactly(first)
        return "lines"
    except (ValueError, RecursionError):
        pass
    # a broken first line among lines, or the first line of an object that is written over several
    broken = first.rstrip().endswith(b"}") or second.lstrip().startswith(b"{") and first.strip() != b"{"
    return "lines" if broken else "whole"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
    with file:
        yield file


def _head(path: Path) -> bytes:
    with _opened(path) as file:
        try:
            return file.read(_HEAD)
        except OSError as error:
            raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error


# ---- compressed files ------------------------------------------------------------------------------------------------

_copies: dict[tuple[str, int, int], Path] = {}
_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def _unpacked(path: Path, stream: Any) -> Path:
    """A temporary copy of what a compressed file holds; one a file and process."""
    status = path.stat()
    key = (str(path.resolve()), status.st_mtime_ns, status.st_size)
    if key not in _copies:
        if not _folders:
            _folders.append(tempfile.TemporaryDirectory(prefix="vlcompare-data-"))
        target = Path(_folders[0].name) / f"{len(_copies)}-{path.stem}"
        try:
            with stream(path) as packed, target.open("wb") as file:
                _copy(packed, file, path)
        except (OSError, EOFError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
            target.unlink(missing_ok=True)
            raise SampleError(f"{path} is damaged, cut off, or cannot be unpacked here ({error}).") from error
        except SampleError:
            target.unlink(missing_ok=True)
            raise
        _copies[key] = target
    return _copies[key]


def _copy(packed: IO[bytes], file: BinaryIO, path: Path) -> None:
    count = 0
    while piece := packed.read(_PIECE):
        count += len(piece)
        if count > MAX_UNPACKED:
            raise SampleError(f"{path} unpacks to more than {MAX_UNPACKED:,} bytes, the most that is read.")
        if shutil.disk_usage(file.name).free < min(count, LEAST_FREE):
            raise SampleError(
                f"{path} unpacks to more than the temporary disk has room for: set TMPDIR to a folder on another disk."
            )
        file.write(piece)


def _gunzip(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb")  # type: ignore[return-value]


@contextmanager
def _unzip(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [
            info
            for info in archive.infolist()
            if not info.is_dir() and not info.filename.startswith(_NOISE) and not info.filename.endswith(_NOISE)
        ]
        if len(members) != 1:
            named = ", ".join(ascii(info.filename[:40])[1:-1] for info in members[:3])
            raise SampleError(
                f"{path} is an archive of {len(members)} files ({named}{', ..' if len(members) > 3 else ''}): unpack "
                "it, and give the one that is to be read."
            )
        with archive.open(members[0]) as member:
            yield member


def _is_spreadsheet(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


# ---- rows ------------------------------------------------------------------------------------------------------------


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, object) of each row of a file of JSON lines, of one array, or of parquet.

    The object is a RowError for an unreadable row. A file that holds one object is one row.
    """
    kind = kind_of(path)
    if kind.name == "parquet":
        yield from parquet_rows(kind.path)
    elif kind.name in ("array", "whole"):  # which are read whole
        value = json_file(path)
        for number, row in enumerate(value if isinstance(value, list) else [value], 1):
            yield f"row {number}", row if isinstance(row, dict) else RowError("not a JSON object")
    else:
        yield from ((location, value) for location, _, value in json_lines_at(kind.path))


def json_lines_at(path: Path) -> Iterator[tuple[str, int, Any]]:
    """(location, byte offset, value) of each line, so that what is large in a line can be read again later; a line that
    is not a JSON object gives a RowError in its place."""
    with _opened(path) as file:
        for number, start, line in each_line(file, MAX_ROW_CHARACTERS):
            if line is not None and not line.strip():
                continue
            try:
                value = RowError(f"more than {MAX_ROW_CHARACTERS:,} bytes") if line is None else exactly(line)
            except (ValueError, RecursionError) as error:
                value = RowError(why(error))
            known = isinstance(value, (dict, RowError))
            yield f"line {number}", start, value if known else RowError("not a JSON object")


def parquet_rows(path: Path, columns: list[str] | None = None) -> Iterator[tuple[str, Any]]:
    """(location, row) of a parquet file, a few rows at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise SampleError(f"{path} is not a parquet file that can be read ({error}).") from error


# The value that was read last to see what a file is; the reader that follows takes it, and nothing is kept.
_kept: dict[tuple[str, int, int], Any] = {}


def json_file(path: Path, *, keep: bool = False) -> Any:
    """A whole JSON file, unpacked where it is compressed. `keep`: the next call for the same file takes this value.

    Halves of characters are left to the samples' own check: one of them is not a reason to refuse the other rows.
    Raises SampleError if the file is not JSON, or larger than can be read whole.
    """
    plain = kind_of(path).path
    status = plain.stat()
    key = (str(plain.resolve()), status.st_mtime_ns, status.st_size)
    value = _kept.pop(key, None)
    _kept.clear()
    if value is None:
        if status.st_size > MAX_WHOLE:
            raise SampleError(
                f"{path} holds {status.st_size:,} bytes, and a JSON file that is read whole may have "
                f"{MAX_WHOLE:,}: split it, or write an object a line."
            )
        try:
            value = whole(plain.read_bytes())
        except OSError as error:
            raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise SampleError(f"{path} is not a JSON file: {why(error)}.") from error
    if keep:
        _kept[key] = value
    return value


def json_object(path: Path) -> dict[str, Any]:
    """A whole JSON file that holds an object. Raises SampleError where it does not."""
    value = json_file(path)
    if not isinstance(value, dict):
        raise SampleError(f"{path} holds no JSON object; is the format the right one?")
    return value


def line_at(path: Path, offset: int) -> Any:
    """The value of the line that begins at `offset`."""
    with path.open("rb") as file:
        file.seek(offset)
        return json.loads(file.readline())
