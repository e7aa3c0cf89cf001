"""What can be guessed without looking: the most frequent answer in training to questions like the one that is asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from vlcompare.synth.scenes.phrases import plural, words_of
from vlcompare.synth.scenes.questions import ask
from vlcompare.synth.scenes.scene import Sampling, Scene, lay_out
from vlcompare.synth.scenes.shapes import KINDS, SIGN
from vlcompare.synth.train.encoded_questions import answer_of
from vlcompare.tasks.boxes import format_box
from vlcompare.types import Box, Sample

Likeness = Callable[[Sample], Hashable]  # equal for questions that count as alike
_LEAST = 5  # questions that must be alike, where there is a coarser likeness to fall back to


def of_type(sample: Sample) -> Hashable:
    """Questions of one task and type are alike."""
    return sample.task, str(sample.tags.get("type"))


def of_type_and_kind(sample: Sample) -> Hashable:
    """Questions of one task and type that name the same kinds of things are alike."""
    words = words_of(sample.text)
    return (of_type(sample), *(kind for kind in (*KINDS, SIGN) if kind in words or plural(kind) in words))


def prior_answers(
    samples: Sequence[Sample],
    scenes: int = 1500,
    *,
    sampling: Sampling = "balanced",
    tasks: Sequence[str] | None = None,
    alike: Sequence[Likeness] = (of_type,),
) -> dict[str, dict[str, Any]]:
    """For every sample, by its id, the most frequent answer to questions like it in training scenes; of boxes, the
    median.

    alike: from the finest likeness to the coarsest; a finer one counts where training has enough questions like that.
    """
    answers: dict[Hashable, Counter[str]] = defaultdict(Counter)
    boxes: dict[Hashable, list[Box]] = defaultdict(list)
    for seed in range(scenes):
        ground, objects, document = lay_out(seed, "training", sampling)
        for sample in ask(Scene(None, objects, document, ground, seed, "training"), tasks):  # type: ignore[arg-type]
            for key in _keys(sample, alike):
                if sample.task == "grounding":
                    boxes[key].append(Box(*sample.boxes[0]))
                else:
                    answers[key][answer_of(sample).strip()] += 1
    constant = {key: format_box(_median(found)) + "." for key, found in boxes.items()}
    rows = {}
    for sample in samples:
        *finer, last = _keys(sample, alike)
        if sample.task == "grounding":
            chosen = next((key for key in finer if len(boxes[key]) >= _LEAST), last)
            text = constant.get(chosen, "")
        else:
            chosen = next((key for key in finer if answers[key].total() >= _LEAST), last)
            common = answers[chosen].most_common(1)
            text = common[0][0].removesuffix(".") if common else ""
        rows[sample.id] = {"id": sample.id, "text": text}
    return rows


def _keys(sample: Sample, alike: Sequence[Likeness]) -> list[Hashable]:
    return [(level, likeness(sample)) for level, likeness in enumerate(alike)]


def _median(boxes: Sequence[Box]) -> Box:
    columns = [sorted(values) for values in zip(*boxes, strict=True)]
    return Box(*(values[len(values) // 2] for values in columns))
