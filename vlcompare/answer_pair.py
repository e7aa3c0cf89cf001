"""Two models asked the same, and their answers as one value that shows itself: a line, HTML, a picture."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompare.comparison import compare
from vlcompare.errors import RequestError, VLCompareError
from vlcompare.evaluate.verdicts import read_truth, verdict
from vlcompare.render.notebook import answers_html
from vlcompare.render.result_card import CardSide, result_card
from vlcompare.tasks.prompts import validate
from vlcompare.tasks.verdict import Verdict
from vlcompare.types import SIDES, Answer, Box, Mode, ModelSpec, Notify, Request, Side

if TYPE_CHECKING:
    from PIL import Image

    from vlcompare.runtime.loading.model import Model
    from vlcompare.runtime.loading.model_pool import ModelPool

_GIVEN = "given:"  # begins a revision that no repository can have
_SHOWN = 1600  # pixels of the longer side of the picture that a pair keeps


@dataclass(frozen=True, slots=True, eq=False)
class AnswerPair:
    """Both sides' answers to one question about one picture; `truth` and `references` are () where not known."""

    left: Answer
    right: Answer
    request: Request
    picture: Image.Image = field(repr=False)  # upright, reduced where it is large
    truth: tuple[Box, ...] = ()
    references: tuple[str, ...] = ()
    created: float = field(default_factory=time.time)

    def verdict(self, side: str) -> Verdict | None:
        """What the answer of "left" or "right" is worth; None where that cannot be said."""
        return verdict(self.request, getattr(self, side), truth=self.truth, references=self.references)

    def image(self) -> Image.Image:
        """The result card: question, both answers, their boxes, the truth, verdicts and times as one picture."""
        return result_card(
            self.picture, self.request, self._sides(), truth=self.truth, references=self.references,
            created=self.created,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """`{"sides": {"left": .., "right": ..}}`, each side as `Answer.to_json` gives it."""
        return {"sides": {side: getattr(self, side).to_json() for side in SIDES}}

    def __repr__(self) -> str:
        return f"<AnswerPair of {self.request.task}: left {self.left!r}, right {self.right!r}>"

    def _repr_html_(self) -> str:
        return answers_html(self.picture, self.request, self._sides(), self.truth)

    def _sides(self) -> dict[str, CardSide]:
        return {side: CardSide(getattr(self, side), verdict=self.verdict(side)) for side in SIDES}


def _with_fields_of_request(function: Callable[..., AnswerPair]) -> Callable[..., AnswerPair]:
    """Show the question's fields, which the function takes as `**question`, in its signature."""
    signature = inspect.signature(function)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    asked = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, annotation=f.type,
            default=inspect.Parameter.empty if f.default is dataclasses.MISSING else f.default,
        )
        for f in dataclasses.fields(Request)
    ]  # fmt: skip
    positional = [parameter for parameter in own if parameter.kind == parameter.POSITIONAL_OR_KEYWORD]
    rest = [parameter for parameter in own if parameter.kind == parameter.KEYWORD_ONLY]
    function.__signature__ = signature.replace(parameters=[*positional, *asked, *rest])  # type: ignore[attr-defined]
    return function


@_with_fields_of_request
def compare_models(
    left: str | Path | Side | Model,
    right: str | Path | Side | Model,
    image: Any,
    *,
    truth: Any = None,
    mode: Mode = "measure",
    pool: ModelPool | None = None,
    **question: Any,
) -> AnswerPair:
    """Ask two models the same question about the same picture, and wait for both answers.

    left, right: a checkpoint's name, folder or Hub id; a `Side`, which has further settings; or a loaded `Model`, which
    is not loaded again for the next question. image: a path, bytes, or a PIL image. The question is that of `generate`:
    task, text, choices, ... truth: the right answer, where it is known: a box (x0, y0, x1, y1) or a text, or several.
    mode: "measure" (one after the other, warmed up) or "race". pool: keeps loaded what is named, from call to call.

    A side that fails has its sentence in `.error`, and the other its answer. Raises RequestError or ImageError where
    the question or the picture is refused.
    """
    from vlcompare.runtime.answer_view import AnswerView
    from vlcompare.runtime.image import open_image
    from vlcompare.runtime.loading.model_pool import ModelPool

    request = validate(Request(**question))
    boxes, references = read_truth(request, truth)
    picture = open_image(image)
    picture.thumbnail((_SHOWN, _SHOWN))
    given = dict(zip(SIDES, (left, right), strict=True))
    models = {side: value for side, value in given.items() if not isinstance(value, (str, Path, Side))}
    sides = {side: _side(side, value) for side, value in given.items()}
    own = _Loaded(models, pool or ModelPool()) if models else pool
    events = compare(image, request, sides, mode=mode, pool=own)  # type: ignore[arg-type]
    answers = {event.side: event.value for event in events if isinstance(event.value, Answer)}
    shown = {
        side: dataclasses.replace(answer, view=AnswerView.of(sides[side].request(request), picture))
        for side, answer in answers.items()
    }
    return AnswerPair(shown["left"], shown["right"], request, picture, boxes, references)


class _Loaded:
    """A pool for models that the caller has loaded, by side; what is named comes from another pool."""

    def __init__(self, models: Mapping[str, Any], others: ModelPool) -> None:
        self._models, self._others = models, others

    def check_together(
        self, specs: Iterable[ModelSpec], say: Notify = lambda sentence: None
    ) -> dict[ModelSpec, VLCompareError]:
        named = [spec for spec in specs if not (spec.revision or "").startswith(_GIVEN)]
        return self._others.check_together(named, say)

    def missing(self, spec: ModelSpec) -> bool:
        return not (spec.revision or "").startswith(_GIVEN) and self._others.missing(spec)

    def fetch(self, spec: ModelSpec, *how: Any) -> None:
        self._others.fetch(spec, *how)

    def acquire(self, spec: ModelSpec, *how: Any) -> AbstractContextManager[Any]:
        model = (
            self._models.get((spec.revision or "").removeprefix(_GIVEN))
            if (spec.revision or "").startswith(_GIVEN)
            else None
        )
        return self._others.acquire(spec, *how) if model is None else nullcontext(model)


def _side(side: str, given: Any) -> Side:
    """The settings of a side. Of a loaded model, `revision` says which side it is, for `_Loaded`."""
    if isinstance(given, Side):
        return given
    if isinstance(given, (str, Path)):
        return Side(str(given))
    if not hasattr(given, "checkpoint") or not hasattr(given, "quantization"):
        raise RequestError(f"The {side} side is a checkpoint, a Side or a loaded model, not {ascii(given)[:60]}.")
    return Side(given.checkpoint, given.quantization, revision=_GIVEN + side)
