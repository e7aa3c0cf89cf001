"""What an answer needs to be shown: its question and where its picture is. The picture is opened when it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompare.types import Answer, Request

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, eq=False)
class AnswerView:
    """The `view` of an Answer. `picture`: what was asked about: a path, bytes or a PIL image."""

    request: Request
    picture: Any

    @classmethod
    def of(cls, request: Request, picture: Any) -> AnswerView:
        """A path is kept as an absolute one, so that it stays true when the working directory changes."""
        return cls(request, Path(picture).absolute() if isinstance(picture, (str, Path)) else picture)

    def image(self, answer: Answer) -> Image.Image:
        """The result card of this answer alone. Raises ImageError where the picture is no longer there."""
        from vlcompare.render.result_card import CardSide, result_card
        from vlcompare.runtime.image import open_image

        return result_card(open_image(self.picture), self.request, {"left": CardSide(answer)})

    def html(self, answer: Answer) -> str | None:
        """For a notebook; None, which leaves the one-line form, where the picture is no longer there."""
        from vlcompare.errors import ImageError
        from vlcompare.render.notebook import answers_html
        from vlcompare.render.result_card import CardSide
        from vlcompare.runtime.image import open_image

        try:
            return answers_html(open_image(self.picture), self.request, {"left": CardSide(answer)})
        except ImageError:
            return None
