"""Frozen values that all parts share: which model, how it decodes, what is asked, streamed and answered.

Standard library only. Boxes are 0..1 of the original picture, xyxy, until they are drawn. Times are milliseconds,
memory is bytes, probabilities are natural logarithms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from vlcompare.errors import RequestError

SCHEMA_VERSION = 1

TASKS = (
    "captioning", "grounded_captioning", "region_description", "vqa", "document_vqa", "multiple_choice", "pointing",
    "grounding", "image_text_match", "chat",
)  # fmt: skip

Family = Literal["pythia", "mamba"]
PromptOrder = Literal["image_first", "instruction_first"]
Quantization = Literal["none", "int8", "nf4"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Norm = Literal["auto", "layernorm", "rmsnorm"]
FollowUp = Literal["continue", "anew"]
Mode = Literal["measure", "race"]
FAMILIES: tuple[Family, ...] = get_args(Family)
PROMPT_ORDERS: tuple[str, ...] = get_args(PromptOrder)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
DTYPES: tuple[str, ...] = get_args(Dtype)
NORMS: tuple[str, ...] = get_args(Norm)
MODES: tuple[str, ...] = get_args(Mode)
SIDES = ("left", "right")
CUT_SHORT = ("cancelled", "deadline")  # stop reasons of answers of which only a part is there: they are not judged
Parse = Literal["ok", "none", "unparseable"]
Notify = Callable[[str], None]  # is given a sentence for the user


class Box(NamedTuple):
    """A rectangle (x0, y0, x1, y1), each 0..1 of the picture's width or height, top left to bottom right."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        """Area as a share of the picture; 0 for an inverted or empty box."""
        return max(0.0, self.x1 - self.x0) * max(0.0, self.y1 - self.y0)

    @property
    def center(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def clip(self) -> Box:
        """The same box with every coordinate brought into 0..1."""
        return Box(*(min(1.0, max(0.0, value)) for value in self))

    def iou(self, other: Box) -> float:
        """Area of intersection over area of union; 0 where either box is inverted or empty."""
        if not self.area or not other.area:
            return 0.0
        shared = Box(
            max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1)
        ).area
        return shared / (self.area + other.area - shared)

    def contains(self, x: float, y: float) -> bool:
        return self.x0 <= x <= self.x1 and self.y0 <= y <= self.y1


@dataclass(frozen=True, slots=True)
class Request:
    """One question about one picture, the same for every side. Checked and turned into turns by `vlcompare.tasks`."""

    task: str
    text: str = ""
    choices: tuple[Any, ...] | None = None  # strings, or Box values for the task "pointing"
    box: Box | None = None
    ocr_text: str | None = None
    history: tuple[tuple[str, str], ...] = ()  # earlier (question, answer) pairs of a chat
    source: str | None = None  # a benchmark's own prompt form: "gqa", "pope", "textvqa", "vsr", ...
    prompt_order: PromptOrder = "image_first"
    max_new_tokens: int | None = None  # None: the task's own limit
    stop_at_end: bool = True
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that makes two loaded models different; fields as in `vlcompare.load`."""

    checkpoint: str
    quantization: Quantization = "none"
    device: str = "auto"
    dtype: str = "auto"
    image_size: int | None = None  # pixels; None: as trained
    revision: str | None = None
    tokenizer: str | None = None
    norm: Norm = "auto"


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is decoded; fields as in `Request`."""

    prompt_order: PromptOrder = "image_first"
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: the fields of a ModelSpec and of a Decoding. What is None follows the request."""

    checkpoint: str
    quantization: Quantization = "none"
    prompt_order: PromptOrder | None = None
    image_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    revision: str | None = None
    tokenizer: str | None = None
    norm: Norm = "auto"

    @property
    def model(self) -> ModelSpec:
        """What to load for this side."""
        return ModelSpec(**{name: getattr(self, name) for name in MODEL_FIELDS})

    @property
    def decoding(self) -> Decoding:
        """This side's own decoding, with the defaults for what is None."""
        return Decoding(**self._own_decoding())

    def request(self, request: Request) -> Request:
        """The shared request with this side's own settings."""
        return dataclasses.replace(request, **self._own_decoding())

    def _own_decoding(self) -> dict[str, Any]:
        return {name: value for name in DECODING_FIELDS if (value := getattr(self, name)) is not None}


MODEL_FIELDS = tuple(f.name for f in dataclasses.fields(ModelSpec))
DECODING_FIELDS = tuple(f.name for f in dataclasses.fields(Decoding))


class Alternative(NamedTuple):
    """One of the likeliest tokens at a step."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Step:
    """One token as it came out of the decode loop."""

    index: int
    id: int
    text: str  # what this token adds to the answer; "" while a multi-byte character is incomplete
    logprob: float  # of the chosen token, under the model's own distribution (temperature 1)
    top: tuple[Alternative, ...]  # best first
    seconds: float  # since the token before; for the first token, since the request (time to first token)
    state_bytes: int = 0  # cache or state that is filled when the token is out, measured


@dataclass(frozen=True, slots=True)
class Token:
    id: int
    text: str
    logprob: float
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    turns: tuple[str, ...]  # "<image>" marks where the image positions are
    ids: tuple[int, ...]  # image positions hold -200
    order: PromptOrder


@dataclass(frozen=True, slots=True)
class Timings:
    image_ms: float = 0.0  # opening, resizing and normalising the picture
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    ttft_ms: float = 0.0  # request until the first token
    token_ms: tuple[float, ...] = ()  # token_ms[i]: gap before token i + 1 (the first token is in ttft_ms)
    total_ms: float = 0.0
    tokens_per_s: float = 0.0  # 1000 / mean of token_ms; 0 with fewer than two tokens
    mode: str = "single"  # "single", "measure", "race" or "batch": only the first two give figures
    graphed: bool = False
    threads: int = 0  # that computed on the CPU; 0 where the model was on another device, or it was not recorded
    cpu_ms: float = 0.0  # of total_ms, CPU time of the thread that answered; 0 as for `threads`
    shared_ms: float = 0.0  # of image_ms and vision_ms, spent by the other side on this question, for both
    known_positions: int = 0  # of the prompt, whose state an earlier question on the picture had left

    def token_percentile(self, percent: float) -> float:
        """Milliseconds that `percent` % of the gaps between tokens stay below, interpolated between the closest ranks.

        Raises ValueError where there is no gap: fewer than two tokens.
        """
        if not self.token_ms:
            raise ValueError("Fewer than two tokens have no gap between them.")
        ordered = sorted(self.token_ms)
        rank = (len(ordered) - 1) * percent / 100
        low, high = math.floor(rank), math.ceil(rank)
        return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


@dataclass(frozen=True, slots=True)
class Memory:
    weights_bytes: int = 0
    state_bytes: int = 0  # measured: filled cache, or state, at the end of the answer
    state_bytes_formula: int = 0
    peak_bytes: int = 0
    state_trace: tuple[int, ...] = ()  # measured state_bytes at each token: the curve beside the formula


@dataclass(frozen=True, slots=True)
class Answer:
    """One side's whole answer. `to_json` and `from_json` are each other's inverse, but for `view`."""

    text: str = ""
    boxes: tuple[Box, ...] = ()
    phrases: tuple[str, ...] = ()  # beside `boxes`
    parse: Parse = "none"  # "none": the task reads no structure out of the text
    tokens: tuple[Token, ...] = ()
    prompt: Prompt | None = None
    stop_reason: str = (
        ""  # "end", "limit", "newline", "context", "error", one of CUT_SHORT, or "recorded" with an example
    )
    error: str | None = None
    timings: Timings = field(default_factory=Timings)
    memory: Memory = field(default_factory=Memory)
    checkpoint: str = ""
    revision: str | None = None
    quantization: str = "none"
    dtype: str = ""
    device: str = ""
    image_size: int = 0
    seed: int = 0
    view: Any = field(default=None, compare=False)  # how it is shown with its picture; `runtime.answer_view` makes it

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 80 else self.text[:79] + "…"
        parts = [f"{len(self.tokens)} tokens", *([f"{len(self.boxes)} boxes"] if self.boxes else [])]
        parts += [f"first token {self.timings.ttft_ms:.1f} ms"] if self.timings.ttft_ms else []
        shown = ", ".join([f"failed: {self.error}" if self.error else repr(text), *parts])
        return f"<Answer of {self.checkpoint or 'an unnamed model'}: {shown}>"

    def image(self) -> Any:
        """The answer as one picture (PIL): question, text, boxes and times. Raises RequestError without a picture."""
        if self.view is None:
            raise RequestError("This answer does not know its picture: one of `generate`, `stream` or a pair does.")
        return self.view.image(self)

    def _repr_html_(self) -> str | None:
        return None if self.view is None else self.view.html(self)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values, `schema_version` first."""
        return {"schema_version": SCHEMA_VERSION, **{name: _plain(getattr(self, name)) for name in _STORED}}

    @classmethod
    def from_json(cls, data: Any) -> Answer:
        """Read what `to_json` wrote.

        Raises RequestError with one sentence when `data` is of another version or shape.
        """
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            version = data.get("schema_version") if isinstance(data, dict) else type(data).__name__
            raise RequestError(f"This is not an answer of schema version {SCHEMA_VERSION} (found {version!r}).")
        try:
            prompt = data.get("prompt")
            timings = dict(data.get("timings") or {})
            timings["token_ms"] = tuple(float(value) for value in timings.get("token_ms", ()))
            memory = dict(data.get("memory") or {})
            memory["state_trace"] = tuple(int(value) for value in memory.get("state_trace", ()))
            plain = {key: value for key, value in data.items() if key in _STORED}
            plain.update(
                boxes=tuple(Box(*(float(value) for value in box)) for box in data.get("boxes", ())),
                phrases=tuple(data.get("phrases", ())),
                tokens=tuple(_token(token) for token in data.get("tokens", ())),
                prompt=Prompt(tuple(prompt["turns"]), tuple(prompt["ids"]), prompt["order"]) if prompt else None,
                timings=Timings(**timings),
                memory=Memory(**memory),
            )
            return cls(**plain)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise RequestError("This answer is damaged and cannot be read.") from error


_STORED = tuple(f.name for f in dataclasses.fields(Answer) if f.name != "view")


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a data set: a picture, a question, and what a right answer is."""

    id: str
    image: Any  # a path, raw bytes, or a callable that returns bytes; opened when it is used
    task: str
    text: str = ""
    choices: tuple[Any, ...] | None = None
    references: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    source: str | None = None
    split: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    ocr_text: str | None = None
    objects: tuple[dict[str, Any], ...] = ()  # rendered scenes only: {kind, color, size, box, text}
    image_key: str = ""  # what the paired difference is clustered by: the picture's path or its hash
    size: tuple[float, float] | None = None  # (width, height) of the picture in pixels, where the data say it


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Alternative):
        return value._asdict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _token(data: dict[str, Any]) -> Token:
    top = tuple(Alternative(item["id"], item["text"], item["logprob"]) for item in data.get("top", ()))
    return Token(data["id"], data["text"], data["logprob"], top)
