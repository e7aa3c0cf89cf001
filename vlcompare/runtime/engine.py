"""The engine: a picture and a question in, a timed stream of tokens and an answer out, the same for both families.

    request -> ids -> picture -> vision -> prefill -> decode loop -> answer

Times are the engine's own: what the consumer of a stream does between two tokens is not counted, and on CUDA every lap
waits for the device. A stream that is closed ends within one token and frees its memory; so does one whose `cancel` is
set or whose deadline is over, and before the first token between two layers of the vision encoder or of the prefill.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from vlcompare.errors import DeviceMemoryError
from vlcompare.models.interruption import Interrupted, check, interruptible
from vlcompare.models.kernels.cpu.openmp import each_at_most
from vlcompare.runtime.answer_builder import AnswerBuilder
from vlcompare.runtime.answer_view import AnswerView
from vlcompare.runtime.batch import generate_batch
from vlcompare.runtime.clock import Clock
from vlcompare.runtime.decode_loop import decode
from vlcompare.runtime.encode_prompt import image_end
from vlcompare.runtime.image import open_image
from vlcompare.runtime.memory import PeakMemory
from vlcompare.runtime.picture_cache import Encoded, PictureCache
from vlcompare.runtime.sampling import Sampler, Sampling
from vlcompare.runtime.session import FollowUp, Session, Start, start
from vlcompare.runtime.step_graphs import StepRunner, release_unused, step_runner
from vlcompare.tasks.prompts import validate
from vlcompare.types import Answer, Memory, Prompt, PromptOrder, Request, Step, Timings

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model

__all__ = ["Cancel", "Session", "generate", "generate_batch", "stream", "stream_request"]


Progress = Callable[[str, int, int], None]  # what is done, layers run so far, and all
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def with_parameters_of(
    source: Callable[Parameters, Any],
) -> Callable[[Callable[..., Result]], Callable[Parameters, Result]]:
    """A decorator for a function that hands its arguments on to `source`: editors and `help` show what it takes."""

    def decorate(function: Callable[..., Result]) -> Callable[Parameters, Result]:
        own = inspect.signature(function).return_annotation
        function.__signature__ = inspect.signature(source).replace(return_annotation=own)  # type: ignore[attr-defined]
        return function

    return decorate


class Cancel(Protocol):
    """Tells whether the answer is no longer wanted; `threading.Event` is one."""

    def is_set(self) -> bool: ...


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
    cancel: Cancel | None = None,
    deadline: float | None = None,
    session: Session | None = None,
    follow_up: FollowUp | None = None,
    mode: str = "single",
    graphs: bool = True,
    alternatives: int = 5,
) -> Iterator[Step | Answer]:
    """Ask one question; yields a Step for each token and, last, the Answer.

    image: a path, bytes, or a PIL image. The tasks and what each takes are in `vlcompare.tasks.prompts.SPECS`; from
    `cancel` on, the arguments are those of `stream_request`. The Answer knows its picture, so that it can be shown.
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
    request = validate(request)
    view = None if image is None else AnswerView.of(request, image)
    items = stream_request(
        model, image, request, cancel=cancel, deadline=deadline, session=session, follow_up=follow_up, mode=mode,
        graphs=graphs, alternatives=alternatives,
    )  # fmt: skip
    return (
        replace(item, view=view) if isinstance(item, Answer) else item for item in items if not isinstance(item, Prompt)
    )


@with_parameters_of(stream)
def generate(*args: Any, **fields: Any) -> Answer:
    """The blocking form of `stream`: the same arguments, only the Answer."""
    *_, answer = stream(*args, **fields)
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
    pictures: PictureCache | None = None,
    progress: Progress | None = None,
) -> Iterator[Prompt | Step | Answer]:
    """`stream` for a validated Request; the Prompt comes first, before any work on the device.

    deadline: seconds of work after which decoding ends and the answer so far is given. session: kept for follow-ups;
    with `follow_up` the picture is not opened again (`image` may be None; where it is given, "anew" also works on a
    session that is empty, or whose model has been loaded again since). graphs: capture CUDA graphs where the device
    has them. pictures: what one user keeps of pictures; it then serves "anew" in place of the session. progress: called
    between the layers of the vision encoder and of the prefill, in the thread that computes.
    """
    model.prepare()
    run = _Run(
        model, request, cancel, deadline, session, follow_up, mode, graphs, alternatives, pictures, progress
    )  # fmt: skip
    return each_at_most(run.stream(image), model.most_threads)


@dataclass
class _Run:
    """One question, from request to answer."""

    model: Model
    request: Request
    cancel: Cancel | None
    deadline: float | None
    session: Session | None
    follow_up: FollowUp | None
    mode: str
    graphs: bool
    alternatives: int
    pictures: PictureCache | None
    progress: Progress | None
    _laps: Timings = field(default_factory=Timings, init=False)

    @torch.inference_mode()
    def stream(self, image: Any) -> Generator[Prompt | Step | Answer, None, None]:
        clock = Clock(self.model.device)
        peak = PeakMemory(self.model.device)
        try:
            begin = start(self.model, self.request, self.session, self.follow_up, image, self.pictures)
            row = AnswerBuilder(self.model, self.request, begin.prompt)
            with clock.paused():
                yield begin.prompt
            try:
                vlm = self.model.vlm
                with interruptible(self._asked("Picture", vlm.vision_encoder.checks, clock)):
                    features = self._encode_image(image, begin, clock)
                with interruptible(self._asked("Prompt", vlm.language_model.checks, clock)):
                    state, logits, snapshot = self._prefill(begin, features, row.limit)
                    self._laps = replace(self._laps, prefill_ms=1e3 * clock.lap())
            except Interrupted:
                row.stop_reason = self._interrupted(clock) or "cancelled"
                clock.lap()
                laps = replace(self._laps, total_ms=1e3 * clock.total, cpu_ms=1e3 * clock.cpu, mode=self.mode)
                yield row.answer(laps, Memory(self.model.weights_bytes, peak_bytes=peak.measure()))
                return
            sampler = Sampler([Sampling.of(self.request)], self.model.device, self.alternatives)
            runner = step_runner(
                self.model.vlm.language_model, state, graphs=self.graphs, tail=sampler.tail, alone=self.mode != "race",
                outlives=self.session is not None,
            )  # fmt: skip
            yield from self._decode(row, runner, sampler, logits, state, clock, peak)
            if self.session is not None and row.error is None:
                if self.pictures is not None:  # there the picture is kept
                    features = snapshot = None
                self.session.keep(self.model, features, snapshot, state, begin.prompt, row.tokens)
            timings = replace(
                self._laps, total_ms=1e3 * clock.total, cpu_ms=1e3 * clock.cpu, mode=self.mode, graphed=runner.graphed,
                known_positions=len(begin.prompt.ids) - len(begin.new_ids),
            )  # fmt: skip
            formula = self.model.vlm.language_model.state_bytes_formula(state.length)
            yield row.answer(timings, Memory(self.model.weights_bytes, state.nbytes(), formula, peak.measure()))
        except torch.OutOfMemoryError as error:
            release_unused()  # so that the next attempt has their room
            rounded = "" if self.model.quantization == "nf4" else ", nf4"
            raise DeviceMemoryError(
                f"The device ran out of memory while answering with {self.model.checkpoint}: "
                f"choose a smaller checkpoint{rounded} or a lower resolution."
            ) from error

    def _encode_image(self, image: Any, begin: Start, clock: Clock) -> Tensor | None:
        """The picture's features (1, P, D), where the prompt still needs them; the session's where it has them."""
        check()
        if begin.features is not None or begin.state is not None:
            return begin.features
        encoded = self.pictures.encoded(begin.picture, self.model) if self.pictures is not None else None
        if encoded is None:
            features_bpc = self._see(image, begin, clock)
        else:
            features_bpc = encoded.features[None]
            if self.pictures is not None and encoded.question == self.pictures.question:
                self._share(encoded, clock)
        features = self.model.vlm.connect(features_bpc)
        self._laps = replace(self._laps, vision_ms=self._laps.vision_ms + 1e3 * clock.lap())
        return features

    def _see(self, image: Any, begin: Start, clock: Clock) -> Tensor:
        """Open the picture and run the encoder: features (1, P, C), which are kept."""
        cpu = clock.cpu
        pixels = torch.as_tensor(self.model.preprocess(open_image(image)))[None]  # (1, 3, H, W)
        image_seconds = clock.lap()
        self._laps = replace(self._laps, image_ms=1e3 * image_seconds)
        features_bpc = self.model.vlm.vision_features(pixels.to(self.model.device, self.model.vision_dtype))
        vision_seconds = clock.lap()
        self._laps = replace(self._laps, vision_ms=1e3 * vision_seconds)
        if self.pictures is not None:
            spent = image_seconds, vision_seconds, clock.cpu - cpu
            self.pictures.keep_encoded(begin.picture, self.model, features_bpc[0], spent)
        return features_bpc

    def _share(self, encoded: Encoded, clock: Clock) -> None:
        """Count what another side has spent on this question's picture for this side, too: so that figures compare."""
        clock.credit(encoded.image_seconds + encoded.vision_seconds, encoded.cpu_seconds)
        image_ms, vision_ms = 1e3 * encoded.image_seconds, 1e3 * encoded.vision_seconds
        self._laps = Timings(image_ms=image_ms, vision_ms=vision_ms, shared_ms=image_ms + vision_ms)

    def _prefill(self, begin: Start, features: Tensor | None, limit: int) -> tuple[Any, Tensor, Any]:
        """Run the new ids, from the state that is known where there is one.

        Returns the state, the logits (1, V) of the last position, and the snapshot after the image for the session.
        """
        check()
        lm, (prompt, new_ids, _, known, picture) = self.model.vlm.language_model, begin
        capacity = min(len(prompt.ids) + max(limit, 1), lm.max_positions or 1 << 62)
        state = lm.new_state(1, capacity, device=self.model.device, dtype=self.model.dtype)
        if known is not None:
            state.copy_(known)
        end, snapshot = image_end(self.model, prompt.turns), None
        if self.session is not None and known is not None:
            snapshot = self.session.snapshot
        elif known is None and self._keeps_prefix() and 0 < end < len(new_ids):
            self._forward(new_ids[:end], features, state)
            snapshot, new_ids = state.snapshot(), new_ids[end:]
            if self.pictures is not None:
                self.pictures.keep_prefix(picture, self.model, snapshot)
        hidden = self._forward(new_ids, features, state)
        return state, lm.logits(hidden[:, -1]), snapshot

    def _keeps_prefix(self) -> bool:
        """Whether the state after the picture is kept: the prompt is then read in two parts."""
        return self.pictures.prefixes if self.pictures is not None else self.session is not None

    def _forward(self, ids: list[int], features: Tensor | None, state: Any) -> Tensor:
        """Hidden states (1, L, D) of `ids`, which hold all image positions or none."""
        holds_image = any(id < 0 for id in ids)
        embeddings = self.model.vlm.embed(
            torch.tensor([ids], device=self.model.device), features if holds_image else None
        )
        return self.model.vlm.language_model.forward(embeddings, state)

    def _decode(
        self,
        row: AnswerBuilder,
        runner: StepRunner,
        sampler: Sampler,
        logits: Tensor,
        state: Any,
        clock: Clock,
        peak: PeakMemory,
    ) -> Iterator[Step]:
        """The answer's tokens; ends as soon as the row has a reason to stop."""
        before = 0.0
        with closing(decode(runner, logits, sampler, state_full=lambda: state.full, clock=clock)) as tokens:
            for (choice,) in tokens:
                step = row.take(choice, clock.total - before, state.nbytes())
                before = clock.total
                if step is None:
                    return
                peak.sample()
                with clock.paused():
                    yield step
                row.stop_reason = row.stop_reason or self._interrupted(clock)
                if row.stop_reason:
                    return
                if step.index == 0:
                    with clock.paused():  # graphs are captured once for all answers of a shape: no token's own time
                        runner.prepare(row.limit - 1)

    def _asked(self, what: str, layers: int, clock: Clock) -> Callable[[], str]:
        """What the layers of a pass ask before they run: the reason to stop. It also tells how far the pass is."""
        asked = itertools.count()

        def unwanted() -> str:
            if self.progress is not None:
                with clock.paused():
                    self.progress(what, min(next(asked), layers), layers)
            return self._interrupted(clock)

        return unwanted

    def _interrupted(self, clock: Clock) -> str:
        """Why the caller or the deadline stops the answer; "" if neither does."""
        if self.cancel is not None and self.cancel.is_set():
            return "cancelled"
        if self.deadline is not None and clock.so_far() >= self.deadline:
            return "deadline"
        return ""
