"""One row's way from chosen tokens to an answer: text, log-probabilities, and when to stop.

Knows one request and a tokenizer; knows neither tensors nor where the time goes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from vlcompare.runtime.sampling import Choice
from vlcompare.runtime.tokenizer import StreamDecoder
from vlcompare.tasks.prompts import SPECS, default_max_new_tokens
from vlcompare.tasks.reading import read_answer
from vlcompare.types import Alternative, Answer, Memory, Prompt, Request, Step, Timings, Token

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model


_NOT_FINITE = (
    "{name} gave scores that are not numbers, so there is no answer: its weights are damaged or overflow in {dtype}; "
    "`checkpoints verify` tells more{advice}."
)


class AnswerBuilder:
    """Collects one answer. `stop_reason` is "" for as long as more tokens are wanted, `error` what ended it."""

    def __init__(self, model: Model, request: Request, prompt: Prompt | None) -> None:
        self.request = request
        self.prompt = prompt
        self.stop_reason = ""
        self.error: str | None = None
        self.tokens: list[Token] = []
        self.gaps: list[float] = []  # seconds, the time to first token first
        self.state_trace: list[int] = []
        self.limit = default_max_new_tokens(request) if request.max_new_tokens is None else request.max_new_tokens
        self._model = model
        self._text = StreamDecoder(model.tokenizer)
        self._pieces: list[str] = []
        self._newline_stops = SPECS[request.task].stops_at_newline

    def take(self, choice: Choice, seconds: float, state_bytes: int = 0) -> Step | None:
        """Add one token and decide whether it was the last; returns what is streamed for it.

        None where the scores are not numbers: a choice from them is not an answer.
        """
        if not math.isfinite(choice.logprob):
            self.stop_reason = "error"
            precision = str(self._model.dtype).split(".")[-1]
            if self._model.quantization != "none":
                precision = f"{self._model.quantization} with {precision}"
            advice = ", and float32 does not overflow" if "float16" in precision.split() else ""
            self.error = _NOT_FINITE.format(name=self._model.checkpoint, dtype=precision, advice=advice)
            return None
        tokenizer = self._model.tokenizer
        ended = choice.id == tokenizer.end_id and self.request.stop_at_end
        piece = "" if choice.id == tokenizer.end_id else self._text.push(choice.id)
        alternatives = tuple(
            Alternative(id, tokenizer.decode([id]), logprob)
            for id, logprob in zip(choice.top_ids, choice.top_logprobs, strict=True)
        )
        if ended:
            self.stop_reason = "end"
        elif self._newline_stops and "\n" in piece:
            piece = piece[: piece.index("\n")]
            self.stop_reason = "newline"
        elif len(self.tokens) + 1 >= self.limit:
            self.stop_reason = "limit"
        if self.stop_reason in ("end", "limit"):
            piece += self._text.flush()
        self._pieces.append(piece)
        self.gaps.append(seconds)
        self.state_trace.append(state_bytes)
        self.tokens.append(Token(choice.id, piece, choice.logprob, alternatives))
        return Step(len(self.tokens) - 1, choice.id, piece, choice.logprob, alternatives, seconds, state_bytes)

    def answer(self, timings: Timings, memory: Memory) -> Answer:
        """What came of it, read as the task asks."""
        reading = read_answer(self.request, "".join(self._pieces))
        mean = sum(self.gaps[1:]) / len(self.gaps[1:]) if len(self.gaps) > 1 else 0.0
        timings = replace(
            timings,
            ttft_ms=1e3 * self.gaps[0] if self.gaps else 0.0,
            token_ms=tuple(1e3 * gap for gap in self.gaps[1:]),
            tokens_per_s=1 / mean if mean else 0.0,
            threads=self._model.threads_in_use,
        )
        return replace(
            describe(self._model, self.request),
            text=reading.text,
            boxes=reading.boxes,
            phrases=reading.phrases,
            parse=reading.parse,
            tokens=tuple(self.tokens),
            prompt=self.prompt,
            stop_reason=self.stop_reason or "context",
            error=self.error,
            timings=timings,
            memory=replace(memory, state_trace=tuple(self.state_trace)),
        )


def describe(model: Model, request: Request) -> Answer:
    """An empty answer that says which model, at which settings, was asked."""
    return Answer(
        checkpoint=model.checkpoint,
        revision=model.revision,
        quantization=model.quantization,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        image_size=model.config.image_size,
        seed=request.seed,
    )


def failed(error: str, request: Request, **known: object) -> Answer:
    """The answer of a side that could not answer: the sentence, and what is known of the side."""
    return replace(Answer(seed=request.seed, stop_reason="error", error=error), **known)  # type: ignore[arg-type]
