"""The files of a run folder, opened for inspection: samples, answers by their place in the file, pictures, notes.

`table` has the columns and figures, and `slices` the statistics over them. A folder may be a run of this program, or
just samples.jsonl and predictions.jsonl made elsewhere. Nothing is written to it except notes, and to a read-only one
nothing at all. Two sides of different runs over the same samples can be joined.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlcompare.errors import ImageError, RequestError, SampleError, reason
from vlcompare.evaluate import run_files, schema
from vlcompare.evaluate.fields import FieldError
from vlcompare.evaluate.predictions import read_row
from vlcompare.evaluate.readers.opening import RowError
from vlcompare.evaluate.replies import read_reply
from vlcompare.evaluate.results import origin
from vlcompare.evaluate.results.notes import Notes
from vlcompare.evaluate.results.side_rows import SideRows, read_sides
from vlcompare.evidence import EvidenceMap
from vlcompare.paths import data_folder
from vlcompare.types import Answer, Sample
from vlcompare.units import listed

MAX_SAMPLES = 2_000_000
MAX_NAMED = 5  # half runs in a sentence
MAX_MAP_BOXES = 26  # of an answer, whose figures on its map are computed when it is shown
NOTES = "notes.sqlite"
NOT_OWN = (
    "Pictures outside of the run's folder are not shown, since this user's own `evaluate` on this machine did not make "
    "it as it is: give their folder with `inspect --images` if they may be."
)


@contextmanager
def without_collecting() -> Iterator[None]:
    """No garbage collection while very many small objects are made that all stay: it visits them again and again, which
    takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class RunFolder:
    """An opened run. `samples[i]` and `sides[name].rows[i]` belong together."""

    path: Path
    record: dict[str, Any]  # run.json, {} without such a file
    samples: tuple[Sample, ...]
    sides: dict[str, SideRows]
    read_only: bool = False
    allowed: tuple[Path, ...] = ()  # folders outside of the run whose pictures may be shown
    problems: list[str] = field(default_factory=list)
    parts: tuple[RunFolder, ...] = ()  # of two sides that were set beside each other: the run of each

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool | None = None,
        allowed: Iterable[Path] | None = None,
        pictures: Iterable[Path] = (),
        most: int = MAX_SAMPLES,
    ) -> RunFolder:
        """Open a run folder of at most `most` samples.

        Pictures outside of it are shown where they lie below one of `allowed`; by default that is the folder that the
        run took them from if this user made it (see `origin`), and those of `pictures`. An uploaded run is opened with
        `allowed=()`, so that it can name no file of ours. Raises SampleError where it is not a run folder or damaged.
        """
        folder, problems = Path(path), list[str]()
        if not (folder / run_files.SAMPLES).is_file():
            raise SampleError(f"{folder.name} is not a run folder: it has no {run_files.SAMPLES}.")
        record = run_files.read_run(folder) if (folder / run_files.RUN).exists() else {}
        with without_collecting():
            samples = tuple(run_files.read_samples(folder, most))
            if allowed is None:
                root = origin.own_root(record, folder / run_files.SAMPLES)
                allowed = (root, *pictures) if root else tuple(pictures)
                if record.get("images_root") and not allowed:
                    problems.append(NOT_OWN)
            if read_only is None:
                read_only = not os.access(folder, os.W_OK)
            roots = tuple(Path(root).resolve() for root in allowed)
            run = cls(folder, record, samples, {}, read_only, roots, problems)
            run.stored_summary()  # a damaged one is refused now, not when it is shown
            run.sides = read_sides(folder, record, run.index, problems)
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def complete(self) -> bool:
        return bool(self.record.get("complete", True))

    @cached_property
    def index(self) -> dict[str, int]:
        """Sample id -> row."""
        return {sample.id: i for i, sample in enumerate(self.samples)}

    def recorded(self, side: str) -> dict[str, Any]:
        """A side's checkpoint and settings as run.json has them; {} where it has none."""
        return (self.record.get("sides") or {}).get(side) or {}

    def checkpoint(self, side: str) -> str:
        """The checkpoint of a side, or the side's own name where it is not recorded."""
        return str(self.recorded(side).get("checkpoint") or side)

    def stored_summary(self) -> dict[str, Any] | None:
        """summary.json, typed; None if it is missing or was computed from other rows."""
        if self.parts or not (self.path / run_files.SUMMARY).exists():
            return None
        return dict(run_files.read_json(self.path, run_files.SUMMARY, schema.SUMMARY))

    # ---- one sample --------------------------------------------------------------------------------------------------

    def row(self, side: str, i: int) -> dict[str, Any] | None:
        """The whole prediction row of a sample, read from the file now."""
        span = self.sides[side].spans[i]
        if span is None:
            return None
        try:
            with span.path.open("rb") as file:
                file.seek(span.offset)
                return read_row(file.read(span.length))[2]
        except (OSError, ValueError, RecursionError) as error:
            raise SampleError(f"{span.path.name} was changed while it was open: open the run again.") from error

    def answer(self, side: str, i: int) -> Answer | None:
        """The same as an Answer; rows from elsewhere give what they have."""
        return self.answer_and_problem(side, i)[0]

    def answer_and_problem(self, side: str, i: int) -> tuple[Answer | None, str]:
        """(the answer as far as it can be read, what is wrong with the rest: "" or a sentence)."""
        row = self.row(side, i)
        if row is None:
            return None, ""
        problem = ""
        try:
            return schema.answer(row), ""
        except FieldError as error:
            problem = f"Tokens, prompt and times of this answer are not shown: {error}."
        except RequestError:  # of another schema version, or of none: a row that others wrote
            pass
        reply = read_reply(self.samples[i], row)
        return Answer(str(row.get("text") or ""), reply.boxes, reply.phrases, error=row.get("error") or None), problem

    def evidence(self, side: str, i: int) -> EvidenceMap | str | None:
        """What this answer rests on: its map, or the sentence that says why there is none; None where none was asked
        for."""
        row = self.row(side, i)
        stored = (row or {}).get("evidence_map")
        if row is None or stored is None:
            return None
        if "error" in stored:
            return str(stored["error"])
        boxes = read_reply(self.samples[i], row).boxes[:MAX_MAP_BOXES]
        return EvidenceMap.from_json(stored, answer=str(row.get("text") or ""), boxes=boxes)

    def picture(self, i: int) -> Path | bytes:
        """A sample's picture, for `open_image`. Raises ImageError where it lies outside of what may be shown."""
        image = self.samples[i].image
        if callable(image):
            try:
                return bytes(image())
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                why = str(error) if isinstance(error, RowError) else "its row was changed"
                raise ImageError(f"The picture of this sample cannot be read: {why}.") from error
        if not isinstance(image, Path):
            raise ImageError("This sample has no picture.")
        roots = (self.path.resolve(), *self.allowed)
        try:
            path = image.resolve()
            inside, exists = any(path.is_relative_to(root) for root in roots), path.is_file()
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
            raise ImageError("The picture of this sample has a name that no file can have.") from None
        if not inside:
            raise ImageError("This picture lies outside the run folder and the picture folders that are allowed.")
        if not exists:
            raise ImageError(f"The picture {path.name} is no longer there.")
        return path

    @cached_property
    def notes(self) -> Notes:
        """Notes and tags; beside the run, or in the data folder for a run that cannot be written to.

        Two sides of one run have that run's; sides of two runs have notes of their own, whichever is left.
        """
        if self.parts:
            if len({part.path for part in self.parts}) == 1:
                return self.parts[0].notes
            both = "\n".join(sorted(part._fingerprint() for part in self.parts))
            name = hashlib.sha256(both.encode()).hexdigest()[:32]
            return Notes(data_folder() / "notes" / f"{name}.sqlite")
        if not self.read_only:
            return Notes(run_files.member(self.path, NOTES))
        return Notes(data_folder() / "notes" / f"{self._fingerprint()}.sqlite")

    def _fingerprint(self) -> str:
        """The same for the same samples and answers, wherever the folder lies."""
        digest = hashlib.sha256()
        for name in (run_files.SAMPLES, run_files.PREDICTIONS):
            path = self.path / name
            if path.exists():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:32]


def join(left: tuple[RunFolder, str], right: tuple[RunFolder, str]) -> RunFolder:
    """Two sides of two runs over the same samples as one run; samples that only one of them has are left out.

    Raises SampleError where they share no sample. The joined run is the left one's folder, and is read-only.
    """
    (first, side_a), (second, side_b) = left, right
    for run, side in (left, right):
        if side not in run.sides:
            raise SampleError(f"{run.name} has no side {side!r}; it has {', '.join(run.sides)}.")
    shared = [(i, second.index[s.id]) for i, s in enumerate(first.samples) if s.id in second.index]
    shared = [(i, j) for i, j in shared if _same_question(first.samples[i], second.samples[j])]
    if not shared:
        raise SampleError(f"{first.name} and {second.name} have no sample in common.")
    joined = RunFolder(
        first.path,
        {"sides": {"left": _recorded(first, side_a), "right": _recorded(second, side_b)}},
        tuple(first.samples[i] for i, _ in shared),
        {
            "left": _chosen(first.sides[side_a], [i for i, _ in shared]),
            "right": _chosen(second.sides[side_b], [j for _, j in shared]),
        },
        read_only=True,
        allowed=first.allowed,
        parts=(first, second),
    )
    left_out = len(first.samples) + len(second.samples) - 2 * len(shared)
    if left_out:
        joined.problems.append(f"{left_out} samples are in one of the two runs only and are left out")
    return joined


def _same_question(a: Sample, b: Sample) -> bool:
    return (a.task, a.text, a.choices, a.references, a.boxes) == (b.task, b.text, b.choices, b.references, b.boxes)


def _recorded(run: RunFolder, side: str) -> dict[str, Any]:
    return {**run.recorded(side), "checkpoint": run.checkpoint(side), "run": run.name}


def _chosen(rows: SideRows, indices: Sequence[int]) -> SideRows:
    return SideRows([rows.rows[i] for i in indices], [rows.spans[i] for i in indices])


def find_runs(folder: Path, depth: int = 2) -> list[Path]:
    """Run folders at or below a folder, by name; nothing outside of it, and no links are followed."""
    return [run for run, problem in _runs(folder, depth) if problem is None]


def half_runs(folder: Path, depth: int = 2) -> str:
    """A sentence about the folders where `find_runs` looks that hold one of a run's two files, or that cannot be read;
    "" without any."""
    halves = [f"{run.resolve().name} {problem}" for run, problem in _runs(folder, depth) if problem]
    if not halves:
        return ""
    more = len(halves) - MAX_NAMED
    return f"Not listed: {listed(halves[:MAX_NAMED] + ([f'{more:,} more'] if more > 0 else []))}."


def _runs(folder: Path, depth: int) -> Iterator[tuple[Path, str | None]]:
    """(folder, None or what is wrong with it) of every folder that holds one or both of a run's two files, or that
    cannot be read."""
    try:
        missing = [name for name in (run_files.SAMPLES, run_files.PREDICTIONS) if not (folder / name).is_file()]
        inside = sorted(folder.iterdir()) if missing and depth and folder.is_dir() else []
        folders = [entry for entry in inside if entry.is_dir() and not entry.is_symlink() and entry.name[0] != "."]
    except OSError as error:
        yield folder, f"cannot be read ({reason(error)})"
        return
    if len(missing) < 2:
        yield folder, f"has no {missing[0]}" if missing else None
    for entry in folders:
        yield from _runs(entry, depth - 1)
