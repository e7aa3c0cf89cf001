"""Many questions in one batch, for evaluation: left-padded, by the same decode loop, with the same answers as singly.

Padding is exact for both architectures: masked positions neither enter attention nor change a state. A row that is
refused (a broken picture, a prompt that is too long) gets an answer with the error, and the others go on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlcompare.errors import VLCompareError
from vlcompare.models.kernels.cpu.openmp import at_most
from vlcompare.runtime.answer_builder import AnswerBuilder, describe
from vlcompare.runtime.clock import Clock
from vlcompare.runtime.decode_loop import decode
from vlcompare.runtime.encode_prompt import encode_prompt
from vlcompare.runtime.image import open_image
from vlcompare.runtime.memory import PeakMemory, check_room
from vlcompare.runtime.sampling import Sampler, Sampling
from vlcompare.runtime.step_graphs import release_unused, step_runner
from vlcompare.tasks.prompts import validate
from vlcompare.types import Answer, Memory, Request, Timings

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model


class Features:
    """Cache of the image features of recent pictures for one model, so that they are not encoded again.

    Bounded by bytes on the model's device; the least recently used picture is evicted first. Only pictures given as
    file paths are cached, by path: the files must not change meanwhile.
    """

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, image: Any) -> Tensor | None:
        """The features (P, D) of a picture, or None."""
        features = self._kept.get(str(image)) if isinstance(image, (str, Path)) else None
        if features is not None:
            self._kept.move_to_end(str(image))
        return features

    def put(self, image: Any, features: Tensor) -> None:
        """Cache the features (P, D) of a picture."""
        if isinstance(image, (str, Path)):
            self._kept[str(image)] = features.clone()
            while len(self._kept) > 1 and self.nbytes() > self._most:
                self._kept.popitem(last=False)

    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept.values())


@torch.inference_mode()
def generate_batch(
    model: Model,
    asked: Sequence[tuple[Any, Request]],
    *,
    alternatives: int = 5,
    graphs: bool = True,
    features: Features | None = None,
) -> list[Answer]:
    """Answers in the order of `asked`, each (picture, request); one forward pass for all.

    features: a cache that the caller reuses from batch to batch, for questions about the same pictures. All rows of a
    batch share its times, which are marked with mode "batch": they are not latencies.
    """
    with at_most(model.most_threads):
        return _generate(model, asked, alternatives, graphs, features)


def _generate(
    model: Model,
    asked: Sequence[tuple[Any, Request]],
    alternatives: int,
    graphs: bool,
    features: Features | None,
) -> list[Answer]:
    """`generate_batch`, in the calling thread's number of threads."""
    clock = Clock(model.device)
    features = Features() if features is None else features
    answers: list[Answer | None] = [None] * len(asked)
    rows: dict[int, AnswerBuilder] = {}
    known: dict[Any, Tensor] = {}  # (P, D) of pictures that were encoded before
    pixels: dict[Any, tuple[Any, Tensor]] = {}  # one entry a picture, for all questions about it
    for index, (image, request) in enumerate(asked):
        try:
            request, key = validate(request), _key(image)
            if key not in known and key not in pixels:
                cached = features.get(image)
                if cached is None:
                    pixels[key] = image, torch.as_tensor(model.preprocess(open_image(image)))
                else:
                    known[key] = cached
            rows[index] = AnswerBuilder(model, request, encode_prompt(model, request))
        except VLCompareError as error:
            answers[index] = _refused(model, request, str(error))
    if rows:
        image_ms = 1e3 * clock.lap()
        try:
            known |= _encoded(model, pixels, features)
            vision_ms = 1e3 * clock.lap()
            group = list(rows)
            while group:
                stacked = torch.stack([known[_key(asked[index][0])] for index in group])  # (B, P, D)
                group_rows = [rows[index] for index in group]
                results = _answer_rows(model, group_rows, stacked, clock, image_ms, vision_ms, alternatives, graphs)
                for index, answer in zip(group, results, strict=True):
                    answers[index] = answer
                group = _cut_short(rows, group)
                rows |= {index: AnswerBuilder(model, rows[index].request, rows[index].prompt) for index in group}
        except torch.OutOfMemoryError:
            release_unused()  # so that the caller can retry with fewer rows
            raise
    return [answer for answer in answers if answer is not None]


def _encoded(model: Model, pixels: dict[Any, tuple[Any, Tensor]], features: Features) -> Iterable[tuple[Any, Tensor]]:
    """(key, (P, D)) of each picture, which are also cached for later batches.

    On a GPU all pictures take one pass of the encoder. On a CPU, where that is no faster, they are encoded one by one,
    so that results are bit-identical whichever pictures were cached before.
    """
    if not pixels:
        return []
    stacked = torch.stack([part for _, part in pixels.values()]).to(model.device, model.vision_dtype)  # (N, 3, H, W)
    together = len(stacked) if model.device.type == "cuda" else 1
    encoded = [one for part in stacked.split(together) for one in model.vlm.encode_image(part)]
    for (image, _), one in zip(pixels.values(), encoded, strict=True):
        features.put(image, one)
    return zip(pixels, encoded, strict=True)


def _cut_short(rows: dict[int, AnswerBuilder], group: list[int]) -> list[int]:
    """Rows of a finished batch that ended only because longer rows filled the context, to be run again without those.

    A batch's context is full when that of its longest row is, which seldom happens before all answers have ended.
    """
    lengths = {index: len(row.prompt.ids) for index in group if (row := rows[index]).prompt}
    longest = max(lengths.values(), default=0)
    return [index for index, length in lengths.items() if length < longest and not rows[index].stop_reason]


def _answer_rows(
    model: Model,
    rows: list[AnswerBuilder],
    features: Tensor,
    clock: Clock,
    image_ms: float,
    vision_ms: float,
    alternatives: int,
    graphs: bool,
) -> list[Answer]:
    """Prefill and decode valid rows. features (B, P, D)."""
    lm: Any = model.vlm.language_model
    peak = PeakMemory(model.device)
    lengths = [len(row.prompt.ids) for row in rows if row.prompt]
    longest = max(lengths)
    capacity = min(longest + max(row.limit for row in rows), lm.max_positions or 1 << 62)
    needed = lm.state_bytes_formula(capacity, len(rows))
    check_room(f"A batch of {len(rows)} for {model.checkpoint}", needed, model.device)
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
    runner = step_runner(lm, state, graphs=graphs, tail=sampler.tail)
    before = 0.0
    for choices in decode(runner, logits, sampler, state_full=lambda: state.length >= state.capacity):
        clock.lap()
        seconds, before = clock.total - before, clock.total
        for row, choice in zip(rows, choices, strict=True):
            if not row.stop_reason:
                row.take(choice, seconds, state.nbytes() // len(rows))
        if all(row.stop_reason for row in rows):
            break
    timings = Timings(image_ms, vision_ms, prefill_ms, total_ms=1e3 * clock.total, mode="batch", graphed=runner.graphed)
    answers = []
    for row, length in zip(rows, lengths, strict=True):
        formula = lm.state_bytes_formula(length + max(0, len(row.tokens) - 1))
        memory = Memory(model.weights_bytes, state.nbytes() // len(rows), formula, peak.measure())
        answers.append(row.answer(timings, memory))
    return answers


def _key(image: Any) -> Any:
    return str(image) if isinstance(image, (str, Path)) else id(image)


def _refused(model: Model, request: Request, sentence: str) -> Answer:
    return replace(describe(model, request), stop_reason="error", error=sentence)
