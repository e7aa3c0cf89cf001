"""Scoring of files: samples and predictions in, a summary out. The answers may come from any program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.predictions import Predictions, read_predictions
from vlcompare.evaluate.published import published_beside
from vlcompare.evaluate.readers import open_samples
from vlcompare.evaluate.run_files import PREDICTIONS, read_run, read_samples
from vlcompare.evaluate.schema import NO_SIDE
from vlcompare.evaluate.summary import evaluate, summarise

PROBLEMS_SHOWN = 20


def score_files(
    samples: str | Path, predictions: str | Path, *, side: str | None = None, **declared: Any
) -> dict[str, Any]:
    """The summary of a predictions file: {"tasks": ..} where its rows name no side, else {"sides": .., "paired": ..}.

    `declared` goes to `open_samples`. Raises SampleError where a file cannot be read, or where nothing can be scored.
    """
    given = read_predictions(predictions)
    if side is not None:
        if side not in given.sides:
            raise SampleError(f"{predictions} has no side {side!r}; it has {_names(given)}.")
        given.sides = {side: given.sides[side]}
    stream = open_samples(samples, **{"need_pictures": False, **declared})
    rows = list(stream)
    if not rows:
        raise SampleError(f"There is no sample to score in {samples}: {stream.report()}")
    if not given.sides:
        given.sides = {NO_SIDE: {}}
    results = evaluate(rows, given.sides)
    checkpoints = {name: _checkpoint(given, name) for name in given.sides}
    summary = summarise(
        results,
        list(given.sides),
        checkpoints=checkpoints,
        published=published_beside(results, checkpoints),
        notes=_notes(stream.report() if stream.skipped else "", given),
    )
    known = {sample.id for sample in rows}
    summary["samples"] = {
        "read": stream.read,
        "skipped": stream.skipped,
        "issues": [str(issue) for issue in stream.issues[:PROBLEMS_SHOWN]],
    }
    summary["predictions"] = {
        "rows": sum(map(len, given.sides.values())),
        "duplicates": given.duplicates,
        "unknown_ids": sum(key not in known for answers in given.sides.values() for key in answers),
        "problems": given.problems[:PROBLEMS_SHOWN],
    }
    if unknown := summary["predictions"]["unknown_ids"]:
        summary["warnings"].append(
            f"{unknown} predictions name an id that none of the samples read has, and are not counted."
        )
    if list(given.sides) == [NO_SIDE]:
        only = summary.pop("sides")[NO_SIDE]
        summary.pop("paired")
        summary = {"schema_version": summary.pop("schema_version"), **only, **summary}
    return summary


def _names(given: Predictions) -> str:
    return ", ".join(name or "rows without a side" for name in given.sides) or "no rows"


def _checkpoint(given: Predictions, side: str) -> str | None:
    """The checkpoint that a side's rows name, where they name one and the same."""
    named = {row["checkpoint"] for row in given.sides[side].values() if isinstance(row.get("checkpoint"), str)}
    return named.pop() or None if len(named) == 1 else None


def _notes(skipped: str, given: Predictions) -> list[str]:
    notes = [f"samples: {skipped}"] if skipped else []
    if given.problems:
        notes.append(f"predictions: {len(given.problems)} lines could not be used; first: {given.problems[0]}.")
    return notes


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
    if record["identity"]["data"].get("limit"):
        notes.append(f"Only the first {record['samples']['count']} samples were evaluated.")
    summary = summarise(
        results, sides, checkpoints=checkpoints, published=published_beside(results, checkpoints), notes=notes
    )
    summary["samples"] = record["samples"]
    return summary
