"""Many questions in one batch, for evaluation: left-padded, by the same decode loop, with the same answers as singly.

Padding is exact for both architectures: masked positions neither enter attention nor change a state. A row that is
refused (a broken picture, a prompt that is too long) gets an answer with the error, and the others go on.

Where the image comes first, its positions are read once a picture, and every row begins with a copy of the state after
them; rows whose texts have one length are then read together, without padding. Whether that state was kept from another
batch changes no bit of an answer on a CPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlcompare.errors import VLCompareError
from vlcompare.models.kernels.cpu.openmp import at_most
from vlcompare.runtime.answer_builder import AnswerBuilder, describe
from vlcompare.runtime.clock import Clock
from vlcompare.runtime.decode_loop import decode
from vlcompare.runtime.encode_prompt import encode_prompt, image_end
from vlcompare.runtime.image import open_image
from vlcompare.runtime.memory import PeakMemory, check_room
from vlcompare.runtime.picture_cache import PictureCache, picture_key
from vlcompare.runtime.sampling import Sampler, Sampling
from vlcompare.runtime.step_graphs import release_unused, step_runner
from vlcompare.tasks.prompts import validate
from vlcompare.types import Answer, Memory, Request, Timings

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model


_TOGETHER = 8  # pictures whose positions are read in one pass on a GPU


@torch.inference_mode()
def generate_batch(
    model: Model,
    asked: Sequence[tuple[Any, Request]],
    *,
    alternatives: int = 5,
    graphs: bool = True,
    pictures: PictureCache | None = None,
) -> list[Answer]:
    """Answers in the order of `asked`, each (picture, request); one forward pass for all.

    pictures: a cache that the caller reuses from batch to batch, for questions about the same pictures; without one,
    questions of this batch share what is made of a picture. All rows of a batch share its times, which are marked with
    mode "batch": they are not latencies.
    """
    model.prepare()
    with at_most(model.most_threads):
        return _Batch(model, alternatives, graphs, pictures).answers(asked)


@dataclass
class _Row:
    """One question that can be asked."""

    builder: AnswerBuilder
    ids: tuple[int, ...]
    picture: Any  # tells pictures apart
    end: int  # how many ids stand up to and with the image, where it comes first; else 0


class _Batch:
    """One call of `generate_batch`."""

    def __init__(self, model: Model, alternatives: int, graphs: bool, pictures: PictureCache | None) -> None:
        self.model, self.alternatives, self.graphs = model, alternatives, graphs
        self.pictures = PictureCache(prefixes=False) if pictures is None else pictures
        self.features: dict[Any, Tensor] = {}  # (P, C) by picture
        self.states: dict[Any, Any] = {}  # after the image's positions, by picture
        self.shared = False  # whether the image's positions are read once for all questions about it
        self.clock = Clock(model.device)

    def answers(self, asked: Sequence[tuple[Any, Request]]) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(asked)
        rows: dict[int, _Row] = {}
        for index, (image, request) in enumerate(asked):
            try:
                request = validate(request)
                rows[index] = self._row(request, image)
            except VLCompareError as error:
                answers[index] = _refused(self.model, request, str(error))
        self.shared = self.pictures.prefixes and all(row.end for row in rows.values())
        pixels: dict[Any, Tensor] = {}  # (3, H, W) by picture
        for index, row in list(rows.items()):
            try:
                self._look_up(row.picture, asked[index][0], pixels)
            except VLCompareError as error:
                answers[index] = _refused(self.model, rows.pop(index).builder.request, str(error))
        if rows:
            image_ms = 1e3 * self.clock.lap()
            try:
                self._encode(pixels)
                vision_ms = 1e3 * self.clock.lap()
                group = list(rows)
                while group:
                    group.sort(key=lambda index: len(rows[index].ids))
                    results = self._answer_rows([rows[index] for index in group], image_ms, vision_ms)
                    for index, answer in zip(group, results, strict=True):
                        answers[index] = answer
                    group = _cut_short(rows, group)
                    for index in group:
                        old = rows[index].builder
                        rows[index].builder = AnswerBuilder(self.model, old.request, old.prompt)
            except torch.OutOfMemoryError:
                release_unused()  # so that the caller can retry with fewer rows
                raise
        return [answer for answer in answers if answer is not None]

    def _row(self, request: Request, image: Any) -> _Row:
        prompt = encode_prompt(self.model, request)
        picture = picture_key(image) or object()
        builder = AnswerBuilder(self.model, request, prompt)
        return _Row(builder, prompt.ids, picture, image_end(self.model, prompt.turns))

    def _look_up(self, picture: Any, image: Any, pixels: dict[Any, Tensor]) -> None:
        """What is kept of a picture, or else its pixels: one entry a picture, for all questions about it."""
        if picture in pixels or picture in self.features or picture in self.states:
            return
        state = self.pictures.prefix(picture, self.model) if self.shared else None
        encoded = self.pictures.encoded(picture, self.model) if state is None else None
        if state is not None:
            self.states[picture] = state
        elif encoded is not None:
            self.features[picture] = encoded.features
        else:
            pixels[picture] = torch.as_tensor(self.model.preprocess(open_image(image)))

    def _encode(self, pixels: dict[Any, Tensor]) -> None:
        """Features (P, C) of each picture, which are also kept for later batches.

        On a GPU all pictures take one pass of the encoder. On a CPU, where that is no faster, they are encoded one by
        one, so that results are bit-identical whichever pictures were kept before.
        """
        if not pixels:
            return
        model = self.model
        stacked = torch.stack(list(pixels.values())).to(model.device, model.vision_dtype)  # (N, 3, H, W)
        together = len(stacked) if model.device.type == "cuda" else 1
        encoded = [one for part in stacked.split(together) for one in model.vlm.vision_features(part)]
        for picture, one in zip(pixels, encoded, strict=True):
            self.features[picture] = one = one.clone()  # not a view of all
            self.pictures.keep_encoded(picture, model, one)

    def _answer_rows(self, rows: list[_Row], image_ms: float, vision_ms: float) -> list[Answer]:
        """Prefill and decode; rows in the order of their prompts' lengths."""
        model, clock, builders = self.model, self.clock, [row.builder for row in rows]
        lm: Any = model.vlm.language_model
        peak = PeakMemory(model.device)
        capacity = min(len(rows[-1].ids) + max(row.limit for row in builders), lm.max_positions or 1 << 62)
        needed = lm.state_bytes_formula(capacity, len(rows))
        check_room(f"A batch of {len(rows)} for {model.checkpoint}", needed, model.device)
        state = lm.new_state(len(rows), capacity, device=model.device, dtype=model.dtype)
        hidden = self._after_pictures(rows, state) if self.shared else self._padded(rows, state)  # (B, D)
        logits = lm.logits(hidden)
        prefill_ms = 1e3 * clock.lap()
        sampler = Sampler([Sampling.of(row.request) for row in builders], model.device, self.alternatives)
        runner = step_runner(lm, state, graphs=self.graphs, tail=sampler.tail, outlives=False)
        before = 0.0
        with closing(decode(runner, logits, sampler, state_full=lambda: state.full, clock=clock)) as tokens:
            for choices in tokens:
                seconds, before = clock.total - before, clock.total
                for row, choice in zip(builders, choices, strict=True):
                    if not row.stop_reason:
                        row.take(choice, seconds, state.nbytes() // len(rows))
                if all(row.stop_reason for row in builders):
                    break
        total_ms = 1e3 * clock.total
        timings = Timings(image_ms, vision_ms, prefill_ms, total_ms=total_ms, mode="batch", graphed=runner.graphed)
        answers = []
        for length, row in zip((len(row.ids) for row in rows), builders, strict=True):
            formula = lm.state_bytes_formula(length + max(0, len(row.tokens) - 1))
            memory = Memory(model.weights_bytes, state.nbytes() // len(rows), formula, peak.measure())
            answers.append(row.answer(timings, memory))
        return answers

    def _padded(self, rows: list[_Row], state: Any) -> Tensor:
        """Read all prompts at once, left-padded; hidden states (B, D) of their last positions."""
        model, longest = self.model, len(rows[-1].ids)
        padded = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for index, row in enumerate(rows):
            padded[index, longest - len(row.ids) :] = torch.tensor(row.ids)
            mask[index, longest - len(row.ids) :] = True
        connected = {picture: self._connected(picture) for picture in {row.picture: None for row in rows}}
        features = torch.stack([connected[row.picture] for row in rows])  # (B, P, D)
        embeddings = model.vlm.embed(padded.to(model.device), features)  # (B, L, D)
        hidden = model.vlm.language_model.forward(embeddings, state, None if mask.all() else mask.to(model.device))
        return hidden[:, -1]

    def _connected(self, picture: Any) -> Tensor:
        """What stands at the picture's positions, (P, D)."""
        return self.model.vlm.connect(self.features[picture][None])[0]

    def _after_pictures(self, rows: list[_Row], state: Any) -> Tensor:
        """Read the pictures once each and the rows' texts after them; hidden states (B, D) of the last positions."""
        vlm, end = self.model.vlm, rows[0].end
        for picture, snapshot in self._read_pictures({row.picture: row.ids[:end] for row in rows}):
            for index, row in enumerate(rows):
                if row.picture == picture:
                    state.rows(index, index + 1).copy_(snapshot)
        state.length, begin, last = end, 0, list[Tensor]()
        for _, same in itertools.groupby(rows, key=lambda row: len(row.ids)):
            ids = torch.tensor([row.ids[end:] for row in same], device=self.model.device)
            part = state.rows(begin, begin + len(ids))
            last.append(vlm.language_model.forward(vlm.embed(ids), part)[:, -1])
            begin += len(ids)
        state.length, state.ragged = len(rows[-1].ids), len(last) > 1
        return torch.cat(last)

    def _read_pictures(self, wanted: dict[Any, tuple[int, ...]]) -> Iterator[tuple[Any, Any]]:
        """(picture, state of one row after its positions) of each; on a GPU several new ones in a pass."""
        model, new = self.model, [picture for picture in wanted if picture not in self.states]
        yield from ((picture, state) for picture, state in self.states.items() if picture in wanted)
        together = _TOGETHER if model.device.type == "cuda" else 1
        for begin in range(0, len(new), together):
            part = new[begin : begin + together]
            ids = torch.tensor([wanted[picture] for picture in part], device=model.device)
            features = torch.stack([self._connected(picture) for picture in part])
            state: Any = model.vlm.language_model.new_state(
                len(part), ids.shape[1], device=model.device, dtype=model.dtype
            )
            model.vlm.language_model.forward(model.vlm.embed(ids, features), state)
            for index, picture in enumerate(part):
                one = state if len(part) == 1 else state.rows(index, index + 1).snapshot()
                self.pictures.keep_prefix(picture, model, one)
                yield picture, one


def _cut_short(rows: dict[int, _Row], group: list[int]) -> list[int]:
    """Rows of a finished batch that ended only because longer rows filled the context, to be run again without those.

    A batch's context is full when that of its longest row is, which seldom happens before all answers have ended.
    """
    lengths = {index: len(rows[index].ids) for index in group}
    longest = max(lengths.values(), default=0)
    return [index for index, length in lengths.items() if length < longest and not rows[index].builder.stop_reason]


def _refused(model: Model, request: Request, sentence: str) -> Answer:
    return replace(describe(model, request), stop_reason="error", error=sentence)
