"""The authors' published figures beside ours, for rows that belong to a benchmark they reported.

A row's declared source and split decide, never a file's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlcompare.tasks.prompts import SPECS, Group
from vlcompare.types import Sample

if TYPE_CHECKING:
    from vlcompare.evaluate.summary import TaskResult

# (task, source in letters and digits, split pattern) -> benchmark as the registry names it; the first that fits counts
_BENCHMARKS: tuple[tuple[str, str, str, str], ...] = (
    ("captioning", "nocaps", "", "NoCaps"),
    ("captioning", "textcaps", "", "TextCaps"),
    ("captioning", "coco", "", "COCO"),
    ("vqa", "vqav2", "", "VQAv2"),
    ("vqa", "gqa", "", "GQA"),
    ("vqa", "pope", "", "POPE"),
    ("vqa", "textvqa", "", "TextVQA"),
    ("multiple_choice", "visual7w|v7w", "", "V7W-T"),
    ("multiple_choice", "ai2d", "", "AI2D"),
    ("pointing", "visual7w|v7w", "", "V7W-P"),
    ("image_text_match", "vsr|visualspatialreasoning", "", "VSR"),
    ("grounding", "refcocog", "", "RefCOCOg"),
    ("grounding", r"refcoco\+|refcocoplus", "testa", "RefCOCO+ A"),
    ("grounding", r"refcoco\+|refcocoplus", "testb", "RefCOCO+ B"),
    ("grounding", r"refcoco(?!\+|plus|g)", "testa", "RefCOCO A"),
    ("grounding", r"refcoco(?!\+|plus|g)", "testb", "RefCOCO B"),
)

# benchmarks that the published table puts in another group than their task: three need text in the picture to be read,
# and V7W-T counts as question answering
_GROUPS: dict[str, Group] = {"TextCaps": "reading", "TextVQA": "reading", "AI2D": "reading", "V7W-T": "summary"}


def group_of(benchmark: str) -> Group:
    """The group of a published benchmark: retrieval, reading or summary. Raises KeyError for an unknown name."""
    task = {name: task for task, _, _, name in _BENCHMARKS}[benchmark]
    return _GROUPS.get(benchmark, SPECS[task].group)


def benchmark_of(sample: Sample) -> str | None:
    """The published benchmark a row belongs to, from its task, source and split; None for other rows."""
    source = re.sub(r"[^a-z0-9+]", "", (sample.source or "").lower())
    split = re.sub(r"[^a-z]", "", (sample.split or "").lower())
    for task, pattern, wanted, name in _BENCHMARKS:
        if task == sample.task and re.match(f"(?:{pattern})", source) and wanted in split + source:
            return name
    return None


def published_beside(results: Sequence[TaskResult], checkpoints: Mapping[str, str | None]) -> dict[str, Any]:
    """{"source", "url", "rows": [{side, benchmark, task, metric, published, ours, difference, times, n, note}]}.

    `published` is on the source's scale, which is `times` ours; `difference` is ours * times - published.
    """
    from vlcompare.runtime.loading.registry import registry

    known = registry()
    rows = []
    for result in results:
        names = np.array([benchmark_of(sample) or "" for sample in result.samples])
        for side, scores in result.scores.items():
            checkpoint = known.find(checkpoints.get(side) or "")
            for benchmark in known.benchmarks:
                mask = names == benchmark.name
                if not mask.any() or checkpoint is None or benchmark.name not in (checkpoint.scores or {}):
                    continue
                metric = benchmark.metric or "accuracy"
                published = float((checkpoint.scores or {})[benchmark.name])
                ours = float(scores.values[metric][mask].mean())
                rows.append(
                    {
                        "side": side,
                        "checkpoint": checkpoint.name,
                        "benchmark": benchmark.name,
                        "task": result.task,
                        "metric": metric,
                        "published": published,
                        "ours": ours,
                        "times": benchmark.times,
                        "difference": ours * benchmark.times - published,
                        "n": int(mask.sum()),
                        "note": _note(benchmark.metric, checkpoint.doubtful.get(benchmark.name), int(mask.sum())),
                    }
                )
    return {"source": known.score_source, "url": known.score_url, "rows": rows} if rows else {}


def _note(metric: str | None, doubt: str | None, count: int) -> str:
    notes = [f"comparable only where these {count} rows are the benchmark's whole split"]
    if metric is None:
        notes.append("the source does not say whether this is accuracy or F1")
    if doubt:
        notes.append(f"doubtful: {doubt}")
    return "; ".join(notes)
