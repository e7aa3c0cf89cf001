"""Run archives: a run folder as one .zip, and back, with limits on entries, sizes and paths.

Only files that a run folder has are written or unpacked: no path leads anywhere else, no links, nothing that unpacks to
more than its limit. Notes travel as JSON: no database from elsewhere is opened.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vlcompare.errors import SampleError, VLCompareError
from vlcompare.evaluate import run_files, schema
from vlcompare.evaluate.readers import jsonl
from vlcompare.evaluate.readers.pictures import hashed
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.table import summary_of
from vlcompare.types import Sample

NOTES_JSON = "notes.json"
_NAME = re.compile(
    r"(?:run\.json|samples\.jsonl|predictions\.jsonl|summary\.json|notes\.json|images/[A-Za-z0-9_-]{1,64}\.(?:png|jpe?g|webp))"
)
_PIECE = 1 << 20
_SMALL = 1 << 20  # bytes that any archive may unpack to
_DAMAGES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_REASONS = (
    (NotImplementedError, "it is packed in a way that is not known here"),
    (OSError, "its files cannot be read or unpacked"),
)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    entries: int = 100_000
    total_bytes: int = 4 << 30
    file_bytes: int = 2 << 30
    ratio: int = 60  # unpacked to packed, of the whole; real runs have 5 to 20
    picture_bytes: int = 32 << 20
    samples: int = 200_000


DEFAULT_LIMITS = ArchiveLimits()


def write_archive(run: RunFolder, target: Path, *, pictures: bool = True) -> Path:
    """Write a run as a .zip. With `pictures` those that may be shown go in, so that it can be inspected anywhere.

    A picture that stays out keeps a name, so that the rows about it are still known to be about one picture.

    Raises SampleError where it cannot be written.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            _write_samples(run, archive, pictures)
            _write_predictions(run, archive)
            record = {**run.record, "images_root": None, "images_proof": None}
            if "identity" not in record:
                record |= {"schema_version": 1, "identity": {"sides": dict.fromkeys(run.sides)}, "samples": {}}
            archive.writestr(run_files.RUN, json.dumps(record, indent=2, ensure_ascii=False))
            archive.writestr(run_files.SUMMARY, json.dumps(summary_of(run), indent=2, ensure_ascii=False))
            notes = [note.to_json() for note in run.notes.all().values()]
            archive.writestr(NOTES_JSON, json.dumps(notes, indent=2, ensure_ascii=False))
        partial.replace(target)
    except OSError as error:
        raise SampleError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write_samples(run: RunFolder, archive: zipfile.ZipFile, pictures: bool) -> None:
    stored: dict[str, str] = {}  # picture -> its name in the archive
    lines = []
    for i, sample in enumerate(run.samples):
        key = str(sample.image)
        if key not in stored:
            stored[key] = (_store_picture(run, i, archive) if pictures else "") or _left_out(sample)
        lines.append(json.dumps(jsonl.to_row(sample, stored[key]), ensure_ascii=False))
    archive.writestr(run_files.SAMPLES, "\n".join(lines) + "\n")


def _left_out(sample: Sample) -> str:
    return f"{run_files.IMAGES}/left-out-{hashed(sample.image_key)}" if sample.image_key else ""


def _store_picture(run: RunFolder, i: int, archive: zipfile.ZipFile) -> str:
    from vlcompare.runtime.image import read_bytes

    try:
        source = run.picture(i)
        data = source if isinstance(source, bytes) else read_bytes(source)
    except VLCompareError:
        return ""
    suffix = next((suffix for start, suffix in run_files.SIGNATURES if data.startswith(start)), "")
    name = f"{run_files.IMAGES}/{hashed(data)}{suffix}"
    if not suffix:
        return ""
    if name not in archive.NameToInfo:
        archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_STORED)
    return name


def _write_predictions(run: RunFolder, archive: zipfile.ZipFile) -> None:
    with archive.open(run_files.PREDICTIONS, "w") as out:
        for side in run.sides:
            for i, sample in enumerate(run.samples):
                row = run.row(side, i)
                if row is not None:
                    out.write((json.dumps({**row, "id": sample.id, "side": side}, ensure_ascii=False) + "\n").encode())


def open_archive(
    source: Path | BinaryIO,
    into: Path,
    limits: ArchiveLimits = DEFAULT_LIMITS,
    reserve: Callable[[int], None] = lambda size: None,
) -> RunFolder:
    """Unpack an uploaded run into an empty folder and open it. It can name no file outside of that folder.

    source: the archive's path, or the archive opened for reading, which stays open. reserve: called with the bytes that
    it unpacks to, before any is written; what it raises is raised here.

    Raises SampleError with the first thing that is wrong, and removes what it unpacked.
    """
    if into.exists() and any(into.iterdir()):
        raise SampleError(f"{into} is not empty.")
    try:
        with zipfile.ZipFile(source) as archive:
            entries = _checked(archive, limits)
            reserve(sum(entry.file_size for entry in entries))
            into.mkdir(parents=True, exist_ok=True)
            left = limits.total_bytes
            for entry in entries:
                left = _unpack(archive, entry, into, left, limits)
        run = RunFolder.open(into, read_only=True, allowed=(), most=limits.samples)
        _take_notes(run)
        return run
    except (*_DAMAGES, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        shutil.rmtree(into, ignore_errors=True)
        if isinstance(error, VLCompareError):
            raise
        reason = next((words for kind, words in _REASONS if isinstance(error, kind)), "it is damaged")
        raise SampleError(f"This is not a run archive that can be read: {reason}.") from error
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def _checked(archive: zipfile.ZipFile, limits: ArchiveLimits) -> list[zipfile.ZipInfo]:
    """The archive's files, or SampleError with the first rule that they break."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > limits.entries:
        raise SampleError(f"The archive has {len(entries)} entries; {limits.entries} are allowed.")
    names = [entry.filename for entry in entries]
    if len({name.casefold() for name in names}) < len(names):
        raise SampleError("The archive holds the same name twice.")
    prefix = names[0].split("/")[0] + "/" if names and all("/" in name for name in names) else ""
    if prefix == f"{run_files.IMAGES}/":
        prefix = ""
    for entry in entries:
        if not _NAME.fullmatch(entry.filename.removeprefix(prefix)):
            raise SampleError(f"The archive holds {entry.filename[:80]!r}, which no run has.")
        if entry.flag_bits & 1:
            raise SampleError("The archive is encrypted.")
        if (entry.external_attr >> 16) & 0o170000 == 0o120000:
            raise SampleError(f"The archive holds a link, {entry.filename!r}.")
        entry.filename = entry.filename.removeprefix(prefix)
    assert archive.fp is not None
    total, packed = sum(entry.file_size for entry in entries), max(1, archive.fp.seek(0, os.SEEK_END))
    if total > limits.total_bytes or total > max(_SMALL, packed * limits.ratio):
        raise SampleError(f"The archive unpacks to {total:,} bytes, which is more than allowed.")
    return entries


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, into: Path, left: int, limits: ArchiveLimits) -> int:
    """Unpack one file, counting what really comes out; returns how many bytes may still come."""
    allowed = min(
        left, limits.picture_bytes if entry.filename.startswith(f"{run_files.IMAGES}/") else limits.file_bytes
    )
    target = into / entry.filename
    target.parent.mkdir(exist_ok=True)
    written = 0
    with archive.open(entry) as packed, target.open("wb") as out:
        while piece := packed.read(_PIECE):
            written += len(piece)
            if written > allowed:
                raise SampleError(f"{entry.filename} of the archive unpacks to more than {allowed:,} bytes.")
            out.write(piece)
    return left - written


def _take_notes(run: RunFolder) -> None:
    """The archive's notes on its own samples; all of them, or none where one is damaged."""
    if (run.path / NOTES_JSON).exists():
        rows = run_files.read_json(run.path, NOTES_JSON, schema.NOTES)
        run.notes.load(row for row in rows if row["sample"] in run.index)
