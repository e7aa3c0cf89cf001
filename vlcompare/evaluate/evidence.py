"""Maps of what answers rest on, over a run: which samples get one, and what their rows hold."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vlcompare.errors import SampleError, VLCompareError
from vlcompare.evaluate.replies import request_of
from vlcompare.evaluate.results.aspects import target_box
from vlcompare.types import Answer, Sample, Side

if TYPE_CHECKING:
    from vlcompare.evaluate.results.table import RunTable

Explain = Callable[..., Any]


def chosen(samples: Iterable[Sample], count: int, seed: int | None) -> frozenset[str]:
    """Ids of `count` samples that have a true box: the first ones, or, with a seed, some at random.

    The same samples give the same ids, whatever was answered before. Raises SampleError where none has a box.
    """
    located = [sample.id for sample in samples if target_box(sample) is not None]
    if not located:
        raise SampleError(
            "--evidence compares with the true box, and none of these samples has one: use it on grounding or pointing."
        )
    taken = located[:count] if seed is None else random.Random(seed).sample(located, min(count, len(located)))
    return frozenset(taken)


def evidence_of(explain: Explain, model: Any, sample: Sample, options: Side, answer: Answer) -> dict[str, Any] | None:
    """The row's field: the map and its figures, a sentence where it could not be measured, None without an answer."""
    if answer.error or not answer.tokens:
        return None
    box = target_box(sample)
    try:
        image = sample.image() if callable(sample.image) else sample.image
        found = explain(model, image, options.request(request_of(sample)), answer)
    except VLCompareError as error:
        return {"error": str(error)[:2000]}
    return found.to_json(() if box is None else (box,))  # type: ignore[no-any-return]


def counts_in_words(table: RunTable) -> str:
    """How many right and how many wrong answers rest on the true box most, a side; "" where none was explained."""
    parts = []
    for side in table.sides:
        pairs = [
            (bool(right), bool(row["rests_on_target"]))
            for row, right in zip(table.run.sides[side].rows, table.right[side].tolist(), strict=True)
            if row is not None and "rests_on_target" in row and right >= 0
        ]
        right, wrong = ([rests for is_right, rests in pairs if is_right is wanted] for wanted in (True, False))
        if pairs:
            parts.append(f"{side} {sum(right)} of {len(right)} right answers, {sum(wrong)} of {len(wrong)} wrong ones")
    return f"The largest fall is in the true box: {'; '.join(parts)}." if parts else ""
