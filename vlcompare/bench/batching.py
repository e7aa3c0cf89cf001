"""How much batches save in an evaluation: the same questions one by one and in batches, in turns, with their answers.

Rendered questions, asked of the embedded pair (or any two checkpoints) by the engine that `evaluate` uses. Blocks of
rows take turns, one by one and then batched, so that a busy machine is unfair to neither way.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.evaluate.readers import open_samples
from vlcompare.evaluate.replies import request_of
from vlcompare.evaluate.run import batches
from vlcompare.paths import EMBEDDED
from vlcompare.runtime.batch import generate_batch
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.picture_cache import PictureCache
from vlcompare.synth.scenes.dataset import write_scenes
from vlcompare.types import Answer, Sample

GOAL = 2.0  # times as fast as one by one


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What to measure: `count` rendered questions of a data set drawn from `seed`, in blocks that take turns."""

    checkpoints: tuple[str, ...] = EMBEDDED
    device: str = "cpu"
    count: int = 300
    batch_size: int = 16
    block: int = 64
    seed: int = 77


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One checkpoint: seconds for all questions each way, and how many answers are the same, token for token."""

    checkpoint: str
    count: int
    single_s: float
    batch_s: float
    same: int
    widest_gap: float  # between the log-probabilities of the same token

    @property
    def times(self) -> float:
        return self.single_s / self.batch_s


@dataclass(frozen=True, slots=True)
class BatchReport:
    options: BatchOptions
    rows: tuple[BatchRow, ...]

    def to_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), "times": row.times} for row in self.rows]
        return {"schema_version": 1, "options": asdict(self.options), "rows": rows}


def run(options: BatchOptions, progress: Callable[[str], None] = lambda sentence: None) -> BatchReport:
    """Measure every checkpoint. Raises RequestError for what cannot be measured."""
    if min(options.count, options.batch_size, options.block) < 1:
        raise RequestError("There must be at least one question, and one in a batch.")
    rows = []
    with tempfile.TemporaryDirectory(prefix="vlcompare-bench-") as folder:
        samples = _questions(Path(folder), options)
        for checkpoint in options.checkpoints:
            progress(f"{checkpoint}: {len(samples)} questions one by one and in batches of {options.batch_size}.")
            rows.append(_measure(load(checkpoint, device=options.device), checkpoint, samples, options))
    return BatchReport(options, tuple(rows))


def _questions(folder: Path, options: BatchOptions) -> list[Sample]:
    write_scenes(folder, max(1, -(-options.count // 10)), options.seed)
    return list(open_samples(folder / "samples.jsonl", limit=options.count))


def _measure(model: Any, checkpoint: str, samples: Sequence[Sample], options: BatchOptions) -> BatchRow:
    def ask(rows: Sequence[Sample], size: int, pictures: PictureCache) -> tuple[float, dict[str, Answer]]:
        start = time.perf_counter()
        answers: dict[str, Answer] = {}
        for batch in batches(iter(rows), size):
            made = generate_batch(model, [(s.image, request_of(s)) for s in batch], alternatives=1, pictures=pictures)
            answers |= {sample.id: answer for sample, answer in zip(batch, made, strict=True)}
        return time.perf_counter() - start, answers

    for size in (1, options.batch_size):
        ask(samples[: options.batch_size], size, PictureCache())  # compiles and warms
    kept = PictureCache(), PictureCache()
    single_s = batch_s = widest = 0.0
    same = 0
    for start in range(0, len(samples), options.block):
        rows = samples[start : start + options.block]
        seconds, single = ask(rows, 1, kept[0])
        single_s += seconds
        seconds, batched = ask(rows, options.batch_size, kept[1])
        batch_s += seconds
        for key, answer in single.items():
            same += _content(answer) == _content(batched[key])
            pairs = zip(answer.tokens, batched[key].tokens, strict=False)
            widest = max([widest, *(abs(a.logprob - b.logprob) for a, b in pairs if a.id == b.id)])
    return BatchRow(checkpoint, len(samples), single_s, batch_s, same, widest)


def _content(answer: Answer) -> tuple[Any, ...]:
    return answer.text, answer.boxes, answer.stop_reason, tuple(token.id for token in answer.tokens)


def table(report: BatchReport) -> str:
    """The figures beside their goal."""
    size = report.options.batch_size
    lines = []
    for row in report.rows:
        lines += [
            f"{row.checkpoint}: {row.count} questions",
            f"  one by one     {row.single_s:7.2f} s   {row.count / row.single_s:6.1f} a second",
            f"  batches of {size:<3} {row.batch_s:7.2f} s   {row.count / row.batch_s:6.1f} a second   "
            f"{row.times:.2f} times as fast (goal at least {GOAL:g})",
            f"  the same answers: {row.same} of {row.count}; log-probabilities differ by at most {row.widest_gap:.1e}",
        ]
    return "\n".join(lines)
