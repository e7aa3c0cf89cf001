"""The engine: one picture and one question in, a timed stream of tokens and one answer out, the same for both families.

    request -> ids -> picture -> vision -> prefill -> decode loop (`runtime.decode`) -> answer

Knows a loaded model; knows nothing of pages, sides or data sets. Times are the engine's own: what the consumer of a
stream does between two tokens is not counted, and on CUDA every lap waits for the device. A stream that is closed, or
whose `cancel` is set, ends within one token and frees its memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from vlcompare.errors import DeviceMemoryError, RequestError
from vlcompare.runtime.answer_builder import Row
from vlcompare.runtime.batch import generate_batch
from vlcompare.runtime.decode_loop import Clock, decode
from vlcompare.runtime.encode_prompt import check_length, encode_prompt, encode_turns, image_end
from vlcompare.runtime.image import open_image
from vlcompare.runtime.memory import PeakMemory
from vlcompare.runtime.sampling import Sampler, Sampling
from vlcompare.runtime.step_graphs import StepRunner, let_go_of_free_homes, step_runner
from vlcompare.tasks.prompts import SPECS, build_turns, validate
from vlcompare.tasks.sequence import IMAGE_MARK
from vlcompare.types import Answer, Memory, Prompt, PromptOrder, Request, Step, Timings

if TYPE_CHECKING:
    from vlcompare.runtime.loading.load import Model

__all__ = ["Cancel", "Session", "generate", "generate_batch", "stream", "stream_request"]

FollowUp = Literal["continue", "anew"]


class Cancel(Protocol):
    """Whatever tells that the work is no longer wanted; `threading.Event` is one."""

    def is_set(self) -> bool: ...


@dataclass
class Session:
    """What stays of one picture on one side, so that it can be asked again without encoding it again.

    Filled by the first question that is given it. "anew" goes on from the snapshot after the image (image first) or
    from the image's features (instruction first); "continue" goes on after the earlier question and answer.
    """

    features: Tensor | None = None  # (1, P, D)
    snapshot: Any = None  # the state after the image's positions, where the image came first
    state: Any = None  # the state after everything so far
    turns: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)  # everything so far, answers with it
    model: Callable[[], Model | None] = lambda: None  # a weak reference: what is kept keeps no weights in memory

    def keep(self, model: Model, features: Tensor, snapshot: Any, state: Any, prompt: Prompt, row: Row) -> None:
        """Take over what a question leaves behind, all of it at once: one that is broken off changes nothing."""
        self.model, self.features, self.snapshot, self.state = weakref.ref(model), features, snapshot, state
        self.turns = [*prompt.turns, "".join(token.text for token in row.tokens)]
        self.ids = [*prompt.ids, *(token.id for token in row.tokens)]

    def close(self) -> None:
        """Let go of the tensors."""
        self.features = self.snapshot = self.state = None
        self.model = lambda: None
        self.turns, self.ids = [], []


def stream(
    model: Model,
    image: Any,
    *,
    task: str,
    text: str = "",
    choices: Sequence[Any] | None = None,
    box: Sequence[float] | None = None,
    ocr_text: str | None = None,
    history: Sequence[tuple[str, str]] | None = None,
    source: str | None = None,
    prompt_order: PromptOrder = "image_first",
    max_new_tokens: int | None = None,
    stop_at_end: bool = True,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    **how: Any,
) -> Iterator[Step | Answer]:
    """Ask one question; yields a Step for each token and, last, the Answer.

    image: a path, bytes, or a PIL image. The tasks and what each takes are in `vlcompare.tasks.prompts.SPECS`.
    `how` goes to `stream_request`: cancel, deadline, session, follow_up, mode, graphs, alternatives.
    Raises RequestError or ImageError before the first token when the request or the picture is refused, and
    DeviceMemoryError where the device's memory does not suffice.
    """
    request = Request(
        task=task,
        text=text,
        choices=choices,  # type: ignore[arg-type]  # `validate` brings these into their types, or says what is wrong
        box=box,  # type: ignore[arg-type]
        ocr_text=ocr_text,
        history=history or (),  # type: ignore[arg-type]
        source=source,
        prompt_order=prompt_order,
        max_new_tokens=max_new_tokens,
        stop_at_end=stop_at_end,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
    )
    return (item for item in stream_request(model, image, validate(request), **how) if not isinstance(item, Prompt))


def generate(model: Model, image: Any, **fields: Any) -> Answer:
    """The blocking form of `stream`: the same arguments, only the Answer."""
    *_, answer = stream(model, image, **fields)
    return answer  # type: ignore[return-value]


def stream_request(
    model: Model,
    image: Any,
    request: Request,
    *,
    cancel: Cancel | None = None,
    deadline: float | None = None,
    session: Session | None = None,
    follow_up: FollowUp | None = None,
    mode: str = "single",
    graphs: bool = True,
    alternatives: int = 5,
) -> Iterator[Prompt | Step | Answer]:
    """`stream` for a validated Request; the Prompt comes first, before any work on the device.

    deadline: seconds of work after which the answer ends as it stands. session: kept for follow-ups; with `follow_up`
    the picture is not opened again (`image` may be None; where it is given, "anew" also works on a session that a
    broken-off question left empty, or whose model has been loaded again since). graphs: capture CUDA graphs where the
    device has them.
    """
    run = _Run(model, request, cancel, deadline, session, follow_up, mode, graphs, alternatives)
    return run.stream(image)


@dataclass
class _Run:
    """One question on its way through the engine."""

    model: Model
    request: Request
    cancel: Cancel | None
    deadline: float | None
    session: Session | None
    follow_up: FollowUp | None
    mode: str
    graphs: bool
    alternatives: int

    @torch.inference_mode()
    def stream(self, image: Any) -> Iterator[Prompt | Step | Answer]:
        clock = Clock(self.model.device)
        peak = PeakMemory(self.model.device)
        try:
            prompt, new_ids, start = self._plan(image)
            row = Row(self.model, self.request, prompt)
            clock.leave()
            yield prompt
            clock.come_back()
            row.stop_reason, laps = self._interrupted(clock), Timings()
            if not row.stop_reason:
                features, laps = self._look(image, start, clock)
                row.stop_reason = self._interrupted(clock)
            if row.stop_reason:  # before the first token: the prompt is not worth its seconds any more
                laps = replace(laps, total_ms=1e3 * clock.total, mode=self.mode)
                yield row.answer(laps, Memory(self.model.weights_bytes, peak_bytes=peak.look()))
                return
            state, logits, snapshot = self._prefill(prompt, new_ids, start, features, row.limit)
            laps = replace(laps, prefill_ms=1e3 * clock.lap())
            sampler = Sampler([Sampling.of(self.request)], self.model.device, self.alternatives)
            runner = step_runner(self.model.vlm.language_model, state, graphs=self.graphs, tail=sampler.tail)
            yield from self._speak(row, runner, sampler, logits, state, clock, peak)
            if self.session is not None and row.error is None:
                self.session.keep(self.model, features, snapshot, state, prompt, row)
            timings = replace(laps, total_ms=1e3 * clock.total, mode=self.mode, graphed=runner.graphed)
            yield row.answer(timings, self._memory(state, peak))
        except torch.OutOfMemoryError as error:
            let_go_of_free_homes()  # so that the next attempt has their room
            raise DeviceMemoryError(
                f"The device ran out of memory while answering with {self.model.checkpoint}: "
                "choose a smaller checkpoint, nf4, or a lower resolution."
            ) from error

    def _look(self, image: Any, start: _Start, clock: Clock) -> tuple[Tensor, Timings]:
        """The picture's features (1, P, D), from the follow-up's start where it has them, and what that took."""
        if start.features is not None:
            return start.features, Timings()
        pixels = torch.as_tensor(self.model.preprocess(open_image(image)))[None]  # (1, 3, H, W)
        image_ms = 1e3 * clock.lap()
        features = self.model.vlm.encode_image(pixels.to(self.model.device, self.model.vision_dtype))
        return features, Timings(image_ms=image_ms, vision_ms=1e3 * clock.lap())

    def _speak(
        self, row: Row, runner: StepRunner, sampler: Sampler, logits: Tensor, state: Any, clock: Clock, peak: PeakMemory
    ) -> Iterator[Step]:
        """The answer's tokens; leaves the loop as soon as the row has a reason to stop."""
        before = 0.0
        for (choice,) in decode(runner, logits, sampler, state_full=lambda: state.length >= state.capacity):
            clock.lap()
            step = row.take(choice, clock.total - before, state.nbytes())
            before = clock.total
            if step is None:
                return
            peak.watch()
            clock.leave()
            yield step
            clock.come_back()
            row.stop_reason = row.stop_reason or self._interrupted(clock)
            if row.stop_reason:
                return
            if step.index == 0:
                clock.leave()  # graphs are captured once for all answers of a shape: no token's own time
                runner.prepare(row.limit - 1)
                clock.come_back()

    def _interrupted(self, clock: Clock) -> str:
        if self.cancel is not None and self.cancel.is_set():
            return "cancelled"
        if self.deadline is not None and clock.total >= self.deadline:
            return "deadline"
        return ""

    def _plan(self, image: Any) -> tuple[Prompt, list[int], _Start]:
        """What has to be run: the prompt as shown, the ids that are new to the state, and where to start from."""
        session = self.session
        usable = session is not None and session.features is not None and session.model() is self.model
        if self.follow_up is None or (self.follow_up == "anew" and image is not None and not usable):
            prompt = encode_prompt(self.model, self.request)
            return prompt, list(prompt.ids), _Start()
        if session is None or session.features is None:
            raise RequestError("There is no earlier question to follow up: ask a first question on this picture.")
        if session.model() is not self.model:
            raise RequestError("A follow-up needs the same model as the first question: ask a first question again.")
        if self.follow_up == "anew":
            prompt = encode_prompt(self.model, self.request)
            if image_end(self.model, prompt.turns) and session.snapshot is not None:
                return prompt, list(prompt.ids[session.snapshot.length :]), _Start(session.features, session.snapshot)
            return prompt, list(prompt.ids), _Start(session.features)
        turns = _continued(session.turns, self.request)
        ids = session.ids + encode_turns(self.model, turns)
        check_length(self.model, len(ids))
        prompt = Prompt((*session.turns, *turns), tuple(ids), self.request.prompt_order)
        return prompt, ids[session.state.length :], _Start(session.features, session.state)

    def _prefill(
        self, prompt: Prompt, new_ids: list[int], start: _Start, features: Tensor, limit: int
    ) -> tuple[Any, Tensor, Any]:
        """Run the new ids from where the state is.

        Returns the state, the logits (1, V) of the last position, and the snapshot after the image for the session.
        """
        lm = self.model.vlm.language_model
        capacity = min(len(prompt.ids) + max(limit, 1), lm.max_positions or 1 << 62)
        state = lm.new_state(1, capacity, device=self.model.device, dtype=self.model.dtype)
        if start.state is not None:
            state.copy_(start.state)
        end, snapshot = image_end(self.model, prompt.turns), None
        if self.session is not None and start.state is not None:
            snapshot = self.session.snapshot
        elif self.session is not None and 0 < end < len(new_ids):
            self._forward(new_ids[:end], features, state)
            snapshot, new_ids = state.snapshot(), new_ids[end:]
        hidden = self._forward(new_ids, features, state)
        return state, lm.logits(hidden[:, -1]), snapshot

    def _forward(self, ids: list[int], features: Tensor, state: Any) -> Tensor:
        """Hidden states (1, L, D) of `ids`, which hold all image positions or none."""
        holds_image = any(id < 0 for id in ids)
        embeddings = self.model.vlm.embed(
            torch.tensor([ids], device=self.model.device), features if holds_image else None
        )
        return self.model.vlm.language_model.forward(embeddings, state)

    def _memory(self, state: Any, peak: PeakMemory) -> Memory:
        formula = self.model.vlm.language_model.state_bytes_formula(state.length)
        return Memory(self.model.weights_bytes, state.nbytes(), formula, peak.look())


@dataclass(frozen=True)
class _Start:
    """What is already known of the picture."""

    features: Tensor | None = None
    state: Any = None


def _continued(earlier: Sequence[str], request: Request) -> list[str]:
    """The turns of a further question in the same context: no second image, no instruction that stands there already.

    So were several questions on one picture trained: the instruction once, then question and answer in turn. Of a chat
    only what is said now: the rest is in the context, and the form of its very first turn is no other one's.
    """
    if SPECS[request.task].history:
        return list(build_turns(replace(request, history=(("", ""),)))[-1:])
    new = [turn for turn in build_turns(request) if turn != IMAGE_MARK]
    return new[1:] if len(new) > 1 and new[0] in earlier else new
