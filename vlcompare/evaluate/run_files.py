"""The files of a run folder and how a run writes them: run.json, samples.jsonl, images, predictions.

    run.json            what was asked, of which model, on what machine; written first, and again at the end
    samples.jsonl       every sample in the order asked; pictures by absolute path, or `images/..` inside the folder
    images/             pictures that had no file of their own (or all of them, with copying)
    predictions.jsonl   the answers; while several processes work, predictions.rank-K.jsonl beside it
    summary.json        the figures; notes.sqlite: notes and tags

`results.run_folder` reads the same files for inspection.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate import schema
from vlcompare.evaluate.fields import Check, described
from vlcompare.evaluate.prediction_log import scan_all
from vlcompare.evaluate.predictions import ByteSpan, Key
from vlcompare.evaluate.readers import SampleStream, jsonl
from vlcompare.evaluate.readers.json_lines import loads, why
from vlcompare.evaluate.readers.pictures import hashed
from vlcompare.evaluate.readers.source import DatasetSource, Issue, Located
from vlcompare.evaluate.schema import MAX_FILE, refused, typed
from vlcompare.types import Sample

RUN, SAMPLES, PREDICTIONS, SUMMARY, IMAGES = "run.json", "samples.jsonl", "predictions.jsonl", "summary.json", "images"
SIGNATURES = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp"))


def write_samples(folder: Path, stream: SampleStream, *, copy_images: bool) -> dict[str, Any]:
    """Write samples.jsonl (whole or not at all); returns {"count", "sha256", "skipped", "issues"} for run.json.

    Where it cannot be written whole, nothing of it stays, nor of the pictures that were stored for it.
    """
    partial = folder / f"{SAMPLES}.partial"
    digest, count = hashlib.sha256(), 0
    before = contents(folder)
    try:
        with partial.open("wb") as file:
            for sample in stream:
                row = jsonl.to_row(sample, _store(folder, sample, copy_images))
                line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
                digest.update(line)
                file.write(line)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        if not count:
            raise SampleError(f"There is nothing to evaluate: {stream.report()}")
    except BaseException:
        partial.unlink(missing_ok=True)
        discard(folder, before)
        raise
    partial.replace(folder / SAMPLES)
    issues = [str(issue) for issue in stream.issues]
    return {"count": count, "sha256": digest.hexdigest(), "skipped": stream.skipped, "issues": issues}


def contents(folder: Path) -> set[Path]:
    """What is in a run's folder and its pictures' folder."""
    return {*folder.glob("*"), *(folder / IMAGES).glob("*")}


def discard(folder: Path, before: Set[Path] = frozenset()) -> None:
    """Remove what a run that came to nothing has begun; what was there `before` stays."""
    for path in (*(folder / IMAGES).glob("*"), *(folder / name for name in (RUN, SAMPLES, SUMMARY, PREDICTIONS))):
        if path not in before:
            path.unlink(missing_ok=True)
    if folder / IMAGES not in before:
        with suppress(OSError):
            (folder / IMAGES).rmdir()


def _store(folder: Path, sample: Sample, copy: bool) -> str:
    """How a sample's picture is named in samples.jsonl."""
    if isinstance(sample.image, Path) and not copy:
        return str(sample.image.resolve())
    data = _bytes_of(sample.image)
    name = hashed(data) + next((suffix for start, suffix in SIGNATURES if data.startswith(start)), ".bin")
    target = folder / IMAGES / name
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.write_bytes(data)
        partial.replace(target)
    return f"{IMAGES}/{name}"


def _bytes_of(image: Any) -> bytes:
    if isinstance(image, Path):
        return image.read_bytes()
    return bytes(image() if callable(image) else image)


def member(folder: Path, name: str) -> Path:
    """The path of a run folder's own file, which need not be there. Raises SampleError where it is a link that leads
    out of the folder, or no file at all (a pipe, say)."""
    path = folder / name
    if path.exists() and not (path.is_file() and path.resolve().is_relative_to(folder.resolve())):
        raise refused(name, "it is not a file of this folder")
    return path


def read_json(folder: Path, name: str, check: Check) -> Any:
    """A JSON file of a run folder, typed by its shape. Raises SampleError with the first value that is not of it."""
    path = member(folder, name)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise refused(name, f"it has more than {MAX_FILE:,} bytes")
        value = loads(data)
    except OSError as error:
        raise SampleError(f"{name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise refused(name, why(error)) from error
    return typed(check, value, name)


def read_samples(folder: Path, most: int | None = None) -> Iterator[Sample]:
    """The samples of a run folder, in order; `most` at most. Pictures are paths that are not checked yet.

    Raises SampleError with the first row that cannot be one.
    """
    paths: dict[str, Path] = {}  # one object a picture, however many rows it has

    def picture(source: DatasetSource, name: str) -> tuple[Path, str]:
        if name not in paths:
            paths[name] = folder / name  # a relative name lies in the run folder
        return paths[name], name

    seen: set[str] = set()
    for item in jsonl.read(DatasetSource(member(folder, SAMPLES), need_pictures=False), picture, lines=True):
        if isinstance(item, Issue):
            raise SampleError(f"{SAMPLES} {item.location} is damaged: {item.reason}.")
        assert isinstance(item, Located)
        sample = item.sample
        if sample.id in seen:
            raise SampleError(
                f"{SAMPLES} {item.location} is damaged: `id` is {described(sample.id)}, as in an earlier row."
            )
        seen.add(sample.id)
        if most is not None and len(seen) > most:
            raise SampleError(f"{SAMPLES} has more than {most:,} rows, which is more than can be opened here.")
        yield sample


def asked_again(folder: Path) -> bool:
    """Whether any picture has several questions: a model's state after it is then worth keeping."""
    seen: set[Any] = set()
    for sample in read_samples(folder):
        picture = sample.image_key or sample.image
        if picture in seen:
            return True
        seen.add(picture)
    return False


def parts(folder: Path) -> list[Path]:
    """All files that hold predictions, the merged one first."""
    return [folder / PREDICTIONS, *sorted(folder.glob("predictions.rank-*.jsonl"))]


def part_of(folder: Path, rank: int, count: int) -> Path:
    """The file that a process appends to."""
    return folder / PREDICTIONS if count == 1 else folder / f"predictions.rank-{rank}.jsonl"


def answered(folder: Path) -> dict[Key, ByteSpan]:
    """The location of each row in the file."""
    return scan_all(parts(folder))


def read_run(folder: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """run.json, typed. Raises SampleError where it is missing, damaged, or lacks what is `required`."""
    if not (folder / RUN).exists():
        raise SampleError(f"{folder} is not a run folder: it has no {RUN}.")
    value: dict[str, Any] = read_json(folder, RUN, _of_this_version)
    for name in required:
        if value.get(name) is None:
            raise refused(RUN, f"`{name}` is missing")
    return value


def _of_this_version(value: Any, path: str) -> Any:
    if not isinstance(value, dict) or value.get("schema_version") != 1:
        raise SampleError(f"{RUN} is of another version than this program reads.")
    return schema.RUN(value, path)
