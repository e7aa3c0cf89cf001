"""The summary of a run: figures with intervals for each side, paired differences, warnings, and what everything means.

The shape is the one of `summary.json`:

    {"sides": {SIDE: {"checkpoint", "tasks": {TASK: {"n", METRIC.., "ci95": {METRIC: [low, high]}}}, "report"}},
     "paired": {TASK: {METRIC: {"difference", "ci95", "n", "n_images", "both", "only_left", "only_right", "neither"}}},
     "pair", "n_images": {TASK: count}, "main": {TASK: METRIC}, "ci95_notes": {TASK: {METRIC: sentence}}, "definitions",
     "warnings", "published"}

`ci95_notes` marks the intervals that rest on few pictures, and says so.

A sample without an answer counts as wrong, and is counted in "report". Fractions are 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompare.evaluate import statistics
from vlcompare.evaluate.metrics.objects import Words
from vlcompare.evaluate.readers import is_scorable
from vlcompare.evaluate.replies import MAX_SCORED_TEXT, Reply, read_reply
from vlcompare.evaluate.scoring import Scores, metric_of, score
from vlcompare.evaluate.statistics import Interval
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES, TASKS, Sample
from vlcompare.units import how_many

SUMMARY_VERSION = 1

RowsById = Mapping[str, Mapping[str, Any]]  # prediction rows by sample id


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task's rows, with every side's replies and scores over them."""

    task: str
    samples: tuple[Sample, ...]
    clusters: NDArray[np.int64]
    replies: dict[str, tuple[Reply, ...]]
    scores: dict[str, Scores]


def evaluate(samples: Sequence[Sample], sides: Mapping[str, RowsById]) -> list[TaskResult]:
    """Read and score every side's rows, task by task, in the order of `vlcompare.types.TASKS`.

    Samples that say nothing about a right answer (chat, a folder of pictures) are in no result.
    """
    words = Words.of(sample.objects for sample in samples)
    results = []
    for task in TASKS:
        mine = tuple(sample for sample in samples if sample.task == task and is_scorable(sample))
        if not mine:
            continue
        replies = {
            side: tuple(read_reply(sample, rows.get(sample.id)) for sample in mine) for side, rows in sides.items()
        }
        scores = {side: score(task, mine, given, words) for side, given in replies.items()}
        known = {side: value for side, value in scores.items() if value is not None}
        clusters = statistics.cluster_codes([sample.image_key or sample.id for sample in mine])
        results.append(TaskResult(task, mine, clusters, replies, known))
    return results


def summarise(
    results: Sequence[TaskResult],
    sides: Sequence[str],
    *,
    checkpoints: Mapping[str, str | None] | None = None,
    published: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The whole summary as plain JSON values."""
    summary: dict[str, Any] = {"schema_version": SUMMARY_VERSION, "sides": {}}
    for side in sides:
        summary["sides"][side] = {
            "checkpoint": (checkpoints or {}).get(side),
            "tasks": {r.task: task_figures(r, side) for r in results if side in r.scores},
            "report": {r.task: _report(r, side) for r in results},
        }
    pair = pair_of(sides)
    summary["paired"] = {}
    if pair:
        summary["pair"] = list(pair)
        summary["paired"] = {r.task: paired_figures(r, *pair) for r in results if r.scores}
    summary["n_images"] = {r.task: len(np.unique(r.clusters)) for r in results}
    summary["main"] = {r.task: next(iter(r.scores.values())).main for r in results if r.scores}
    noted = {r.task: interval_notes(r) for r in results}
    summary["ci95_notes"] = {task: found for task, found in noted.items() if found}
    summary["definitions"] = _definitions(results)
    summary["warnings"] = [*notes, *warnings(results)]
    if published:
        summary["published"] = dict(published)
    return plain(summary)


def pair_of(sides: Sequence[str]) -> tuple[str, str] | None:
    """Which two sides are compared: left and right, or the only two there are."""
    if set(SIDES) <= set(sides):
        return SIDES
    return (sides[0], sides[1]) if len(sides) == 2 else None


def task_figures(result: TaskResult, side: str) -> dict[str, Any]:
    """{"n", METRIC.., "ci95"} of one side."""
    scores = result.scores[side]
    figures: dict[str, Any] = {"n": int(_rows_of(result, scores, scores.main).sum())}
    intervals: dict[str, Interval] = {}
    for metric in scores.values:
        figures[metric] = scores.figure(metric)
        intervals[metric] = _interval(result, scores, metric)
    return {**figures, "ci95": intervals}


def _interval(result: TaskResult, scores: Scores, metric: str) -> Interval:
    mask = _rows_of(result, scores, metric)
    clusters = result.clusters[mask]
    if metric in scores.corpus:
        columns, corpus_figure = scores.corpus[metric]
        return statistics.corpus_interval(corpus_figure, columns[mask], clusters)
    fraction = metric_of(result.task, metric).fraction
    return statistics.mean_interval(scores.values[metric][mask], clusters, fraction=fraction)


def _rows_of(result: TaskResult, scores: Scores, metric: str) -> NDArray[np.bool_]:
    return scores.only.get(metric, np.ones(len(result.samples), dtype=bool))


def paired_figures(result: TaskResult, left: str, right: str) -> dict[str, dict[str, Any]]:
    """Left minus right for every metric."""
    return {metric: asdict(paired_metric(result, metric, left, right)) for metric in result.scores[left].values}


def paired_metric(result: TaskResult, metric: str, left: str, right: str) -> statistics.Paired:
    """One metric's paired difference, clustered by picture."""
    ours, theirs = result.scores[left], result.scores[right]
    mask = _rows_of(result, ours, metric)
    clusters, kind = result.clusters[mask], metric_of(result.task, metric)
    plain = statistics.paired(
        ours.values[metric][mask], theirs.values[metric][mask], clusters, fraction=kind.fraction, right_at=kind.right_at
    )
    if metric not in ours.corpus:
        return plain
    (columns, corpus_figure), (other, _) = ours.corpus[metric], theirs.corpus[metric]
    interval = statistics.corpus_paired_interval(corpus_figure, columns[mask], other[mask], clusters)
    return replace(plain, difference=ours.figure(metric) - theirs.figure(metric), ci95=interval)


def interval_notes(result: TaskResult) -> dict[str, str]:
    """What to say beside the intervals of each metric; those that need no word are left out."""
    notes = {}
    for scores in list(result.scores.values())[:1]:  # all sides have the same rows
        for metric in scores.values:
            if note := statistics.caution(result.clusters[_rows_of(result, scores, metric)]):
                notes[metric] = note
    return notes


def _report(result: TaskResult, side: str) -> dict[str, int]:
    """How many rows have no answer, an error, an empty text, no readable structure, or an invalid box."""
    replies = result.replies[side]
    answered = [reply for reply in replies if reply.status == "ok"]
    report = {
        "n": len(replies),
        "answered": len(answered),
        "missing": sum(reply.status == "missing" for reply in replies),
        "errors": sum(reply.status == "error" for reply in replies),
        "empty": sum(not reply.text.strip() and not reply.boxes for reply in answered),
    }
    if SPECS[result.task].structured:
        report["unparseable"] = sum(not reply.readable for reply in answered)
    if SPECS[result.task].truth == "box":
        report["no_area"] = sum(reply.box is not None and reply.box.area == 0 for reply in answered)
    return report


def _definitions(results: Sequence[TaskResult]) -> dict[str, dict[str, str]]:
    metrics = {r.task: next(iter(r.scores.values())).values for r in results if r.scores}
    return {
        "interval": {"ci95": "95 %, clustered by picture; see vlcompare/evaluate/intervals.py for the method"},
        **{task: {name: metric_of(task, name).definition for name in names} for task, names in metrics.items()},
    }


def warnings(results: Sequence[TaskResult]) -> list[str]:
    """Sentences on figures that do not mean what they seem to."""
    sentences = []
    for result in results:
        count, task = len(result.samples), result.task
        if task == "captioning":
            sentences.append(
                f"captioning: CIDEr-D takes its document frequencies from the {how_many(count, 'row')} scored, so it "
                "is comparable with a published figure on the whole published split only."
            )
        sources = {sample.source or "" for sample in result.samples}
        if len(sources) > 1:
            sentences.append(f"{task}: rows of {len(sources)} sources are joined in one figure.")
        if task == "vqa" and any(1 < len(s.references) < 10 for s in result.samples):
            sentences.append("vqa: some questions have fewer than ten references, see the definition of accuracy.")
        for side, replies in result.replies.items():
            sentences += _warn_side(task, side, replies)
    return sentences


def _warn_side(task: str, side: str, replies: Sequence[Reply]) -> list[str]:
    sentences, of = [], f"{task}, {side}" if side else task
    missing = sum(reply.status != "ok" for reply in replies)
    if missing:
        sentences.append(f"{of}: {missing} of {len(replies)} rows have no answer and count as wrong.")
    if any(len(reply.text) >= MAX_SCORED_TEXT for reply in replies):
        sentences.append(f"{of}: answers longer than {MAX_SCORED_TEXT} characters were cut there.")
    return sentences


def plain(value: Any) -> Any:
    """JSON values: tuples become lists, and what is not a finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
