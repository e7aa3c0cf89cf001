"""Many questions in one go, for evaluation: left-padded, through the same decode loop, with the answers of one by one.

Padding is exact for both architectures: masked positions neither enter attention nor touch a state. A row that is
refused (a broken picture, a prompt that is too long) gets an answer that says so, and the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlcompare.errors import VLCompareError
from vlcompare.runtime.answering import Row, describe
from vlcompare.runtime.decode import Clock, decode
from vlcompare.runtime.graphs import step_runner
from vlcompare.runtime.image import open_image
from vlcompare.runtime.memory import PeakMemory
from vlcompare.runtime.prompt import encode_prompt
from vlcompare.runtime.sampling import Sampler, Sampling
from vlcompare.tasks.prompts import validate
from vlcompare.types import Answer, Memory, Request, Timings

if TYPE_CHECKING:
    from vlcompare.runtime.load import Model


@torch.inference_mode()
def generate_batch(
    model: Model, asked: Sequence[tuple[Any, Request]], *, alternatives: int = 5, graphs: bool = True
) -> list[Answer]:
    """Answers in the order of `asked`, each (picture, request); one forward pass for all.

    Times of a batch are shared by its rows and marked with mode "batch": they are no latency figures.
    """
    clock = Clock(model.device)
    answers: list[Answer | None] = [None] * len(asked)
    rows: dict[int, Row] = {}
    pixels: dict[Any, Tensor] = {}  # one entry a picture, however many questions are asked about it
    for index, (image, request) in enumerate(asked):
        try:
            request = validate(request)
            if _key(image) not in pixels:
                pixels[_key(image)] = torch.as_tensor(model.preprocess(open_image(image)))
            rows[index] = Row(model, request, encode_prompt(model, request))
        except VLCompareError as error:
            answers[index] = _refused(model, request, str(error))
    if rows:
        image_ms = 1e3 * clock.lap()
        order = {key: position for position, key in enumerate(pixels)}
        picture_of = [order[_key(asked[index][0])] for index in rows]
        stacked = torch.stack(list(pixels.values())).to(model.device, model.vision_dtype)  # (N, 3, H, W)
        features = model.vlm.encode_image(stacked)[torch.tensor(picture_of, device=model.device)]  # (B, P, D)
        vision_ms = 1e3 * clock.lap()
        for index, answer in zip(
            rows,
            _answer_rows(model, list(rows.values()), features, clock, image_ms, vision_ms, alternatives, graphs),
            strict=True,
        ):
            answers[index] = answer
    return [answer for answer in answers if answer is not None]


def _answer_rows(
    model: Model,
    rows: list[Row],
    features: Tensor,
    clock: Clock,
    image_ms: float,
    vision_ms: float,
    alternatives: int,
    graphs: bool,
) -> list[Answer]:
    """Prefill and decode rows that are known to be sound. features (B, P, D)."""
    lm: Any = model.vlm.language_model
    peak = PeakMemory(model.device)
    lengths = [len(row.prompt.ids) for row in rows if row.prompt]
    longest = max(lengths)
    capacity = min(longest + max(row.limit for row in rows), lm.max_positions or 1 << 62)
    state = lm.new_state(len(rows), capacity, device=model.device, dtype=model.dtype)
    padded = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        padded[index, longest - lengths[index] :] = torch.tensor(row.prompt.ids if row.prompt else ())
        mask[index, longest - lengths[index] :] = True
    embeddings = model.vlm.embed(padded.to(model.device), features)  # (B, L, D)
    hidden = lm.forward(embeddings, state, None if bool(mask.all()) else mask.to(model.device))
    logits = lm.logits(hidden[:, -1])
    prefill_ms = 1e3 * clock.lap()
    sampler = Sampler([Sampling.of(row.request) for row in rows], model.device, alternatives)
    runner = step_runner(lm, state, graphs=graphs)
    spoken = 0.0
    for choices in decode(runner, logits, sampler, state_full=lambda: state.length >= state.capacity):
        clock.lap()
        seconds, spoken = clock.total - spoken, clock.total
        for row, choice in zip(rows, choices, strict=True):
            if not row.stop_reason:
                row.take(choice, seconds, state.nbytes() // len(rows))
        if all(row.stop_reason for row in rows):
            break
    timings = Timings(image_ms, vision_ms, prefill_ms, total_ms=1e3 * clock.total, mode="batch", graphed=runner.graphed)
    answers = []
    for row, length in zip(rows, lengths, strict=True):
        formula = lm.state_bytes_formula(length + max(0, len(row.tokens) - 1))
        memory = Memory(model.weights_bytes, state.nbytes() // len(rows), formula, peak.look())
        answers.append(row.answer(timings, memory))
    return answers


def _key(image: Any) -> Any:
    return str(image) if isinstance(image, (str, Path)) else id(image)


def _refused(model: Model, request: Request, sentence: str) -> Answer:
    return replace(describe(model, request), stop_reason="error", error=sentence)
