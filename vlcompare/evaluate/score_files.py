"""Scoring of files: samples and predictions in, a summary out. The answers may come from any program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.exchange import box_units, submission
from vlcompare.evaluate.exchange.answer_files import AnswerFile, read_answers
from vlcompare.evaluate.exchange.matching import Matched, match
from vlcompare.evaluate.predictions import read_predictions
from vlcompare.evaluate.published import published_beside
from vlcompare.evaluate.readers import SampleStream, is_scorable, open_samples
from vlcompare.evaluate.run_files import PREDICTIONS, read_run, read_samples
from vlcompare.evaluate.schema import NO_SIDE
from vlcompare.evaluate.summary import evaluate, summarise
from vlcompare.types import Sample
from vlcompare.units import how_many

PROBLEMS_SHOWN = 20

Sides = Mapping[str, Mapping[str, Mapping[str, Any]]]  # prediction rows by side and sample id


def score_files(
    samples: str | Path,
    predictions: str | Path,
    *,
    side: str | None = None,
    answer_box_scale: str = "auto",
    answer_box_format: str = "auto",
    answer_box_size: str = box_units.ORIGINAL,
    submit: tuple[str, Path] | None = None,
    **declared: Any,
) -> dict[str, Any]:
    """The summary of a predictions file: {"tasks": ..} where its rows name no side, else {"sides": .., "paired": ..}.

    The `answer_box_` options say how predicted boxes are, see `exchange.box_units`. `submit` is
    (format, file), to write a result file as well. `declared` goes to `open_samples`. Raises SampleError where a file
    cannot be read, where no answer belongs to a sample, or where nothing can be scored (and nothing is submitted).
    """
    size = box_units.check(answer_box_scale, answer_box_size, answer_box_format)
    given = read_answers(predictions)
    if side is not None:
        _keep_side(given, side)
    stream = open_samples(samples, **{"need_pictures": False, **declared})
    rows = list(stream)
    if not rows:
        raise SampleError(f"There is no sample to score in {samples}: {stream.report()}")
    if answer_box_scale == "pixel" and size is None:
        stream, rows = _with_sizes(samples, stream, rows, declared)
    matched = match(rows, given)
    sides = _in_shares(rows, matched.sides, (answer_box_scale, answer_box_format), size)
    written = [] if submit is None else _submitted(rows, sides, *submit)
    if not any(map(is_scorable, rows)) and not written:
        raise SampleError(
            f"{samples} has no right answers, so nothing can be scored: --submission FORMAT writes the answers as the "
            "benchmark's server takes them."
        )
    return _summary(rows, sides, matched, stream, written, (answer_box_scale, answer_box_format))


def _summary(
    rows: Sequence[Sample],
    sides: Sides,
    matched: Matched,
    stream: SampleStream,
    written: list[str],
    boxes: tuple[str, str],
) -> dict[str, Any]:
    results = evaluate(rows, sides)
    checkpoints = {name: _checkpoint(answers) for name, answers in sides.items()}
    alerts, notes = matched.notes(len(rows))
    for name, answers in sides.items():
        alerts += box_units.warnings(rows, answers, name, *boxes)
    summary = summarise(
        results,
        list(sides),
        checkpoints=checkpoints,
        published=published_beside(results, checkpoints),
        notes=[*alerts, *_notes(stream, matched), *notes],
    )
    summary["samples"] = {
        "read": stream.read,
        "skipped": stream.skipped,
        "left_out": dict(stream.left_out),
        "format": stream.format,
        "issues": [str(issue) for issue in stream.issues[:PROBLEMS_SHOWN]],
    }
    summary["predictions"] = {
        "rows": matched.rows,
        "matched": sum(map(len, sides.values())),
        "matched_by": matched.by,
        "duplicates": matched.duplicates,
        "contradicting": matched.contradicting,
        "unknown_ids": matched.unknown,
        "ambiguous": matched.ambiguous,
        "problems": matched.problems[:PROBLEMS_SHOWN],
    }
    summary["alerts"] = alerts
    if written:
        summary["submissions"] = written
    if list(sides) == [NO_SIDE]:
        only = summary.pop("sides")[NO_SIDE]
        summary.pop("paired")
        summary = {"schema_version": summary.pop("schema_version"), **only, **summary}
    return summary


def _keep_side(given: AnswerFile, side: str) -> None:
    names = ", ".join(name or "rows without a side" for name in dict.fromkeys(row.side for row in given.rows))
    given.rows = [row for row in given.rows if row.side == side]
    if not given.rows:
        raise SampleError(f"{given.path} has no side {side!r}; it has {names}.")


def _with_sizes(
    samples: str | Path, stream: SampleStream, rows: list[Sample], declared: Mapping[str, Any]
) -> tuple[SampleStream, list[Sample]]:
    """The samples with their pictures' sizes: as the data say them, else the pictures are opened."""
    if all(sample.size for sample in rows if sample.task in box_units.BOX_TASKS):
        return stream, rows
    stream = open_samples(samples, **{**declared, "need_pictures": True})
    rows = list(stream)
    if not rows:
        raise SampleError(
            f"Boxes in pixels need the pictures' sizes, and {samples} does not say them: give the pictures' folder "
            f"with --images. {stream.report()}"
        )
    return stream, rows


def _size_of(sample: Sample) -> tuple[float, float]:
    from vlcompare.runtime.image import open_image

    if sample.size:
        return sample.size
    width, height = open_image(sample.image() if callable(sample.image) else sample.image).size
    return float(width), float(height)


def _in_shares(
    rows: Sequence[Sample], sides: Sides, declared: tuple[str, str], size: tuple[float, float] | None
) -> Sides:
    scale, format = declared[0], "xyxy" if declared[1] == "auto" else declared[1]
    by_id = {sample.id: sample for sample in rows}
    return {
        name: {
            id: box_units.in_shares(row, by_id[id], scale, lambda s: size or _size_of(s), format)
            for id, row in given.items()
        }
        for name, given in sides.items()
    }


def _submitted(rows: Sequence[Sample], sides: Sides, format: str, path: Path) -> list[str]:
    """A result file for each side; with several, their names are in the files' names."""
    paths = {name: path if len(sides) == 1 else path.with_name(f"{path.stem}-{name}{path.suffix}") for name in sides}
    return [submission.write(format, rows, answers, paths[name]) for name, answers in sides.items()]


def _checkpoint(answers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The checkpoint that a side's rows name, where they name one and the same."""
    named = {row["checkpoint"] for row in answers.values() if isinstance(row.get("checkpoint"), str)}
    return named.pop() or None if len(named) == 1 else None


def _notes(stream: SampleStream, matched: Matched) -> list[str]:
    notes = [f"samples: {stream.report()}"] if stream.skipped or stream.left_out else []
    if matched.problems:
        rows = how_many(len(matched.problems), "row")
        notes.append(f"predictions: {rows} left out; first: {matched.problems[0]}.")
    return notes


def submit_run(folder: Path, format: str) -> list[str]:
    """Write a run's answers as result files into its folder, one a side; returns a sentence for each."""
    answers = read_predictions(folder / PREDICTIONS)
    path = folder / f"submission-{format}{submission.SUBMISSIONS[format].suffix}"
    paths = {side: path.with_name(f"{path.stem}-{side}{path.suffix}") for side in answers.sides}
    rows = list(read_samples(folder))
    return [submission.write(format, rows, answers.sides[side], paths[side]) for side in answers.sides]


def summarise_run(folder: Path) -> dict[str, Any]:
    """The summary of a run folder's own samples and predictions."""
    record = read_run(folder, ("identity", "samples", "sides"))
    given = read_predictions(folder / PREDICTIONS)
    samples = list(read_samples(folder))
    sides = list(record["identity"]["sides"])
    results = evaluate(samples, {side: given.sides.get(side, {}) for side in sides})
    checkpoints = {side: (record["sides"].get(side) or {}).get("checkpoint") for side in sides}
    skipped = record["samples"]["skipped"]
    notes = [f"samples: {skipped} broken rows of the data set were skipped."] if skipped else []
    if not any(map(is_scorable, samples)):
        notes.append("The data set has no right answers: nothing is scored.")
    if record["identity"]["data"].get("limit"):
        notes.append(f"Only the first {record['samples']['count']} samples were evaluated.")
    summary = summarise(
        results, sides, checkpoints=checkpoints, published=published_beside(results, checkpoints), notes=notes
    )
    summary["samples"] = record["samples"]
    return summary
