"""A request as token ids for one model: the turns, tokenised one by one, with the image's positions in their place.

The published models were trained on turns that were tokenised separately and concatenated (the paper's section 3 and
its public code), so token boundaries never cross a turn. User text cannot produce a special id: see
`runtime.tokenizer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlcompare.errors import RequestError
from vlcompare.tasks.prompts import build_turns
from vlcompare.tasks.sequence import IMAGE_MARK, image_ids, prompt_ids
from vlcompare.types import Prompt, Request

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model import Model


def encode_prompt(model: Model, request: Request) -> Prompt:
    """The whole prompt of a first question. Image positions hold -200.

    Raises RequestError where the prompt alone fills the model's context.
    """
    turns = build_turns(request)
    ids = encode_turns(model, turns)
    check_length(model, len(ids))
    return Prompt(tuple(turns), tuple(ids), request.prompt_order)


def encode_turns(model: Model, turns: tuple[str, ...] | list[str]) -> list[int]:
    """Token ids of the turns, each encoded on its own, the image's own ids in place of the turn "<image>"."""
    return list(prompt_ids(turns, model.tokenizer.encode, _image(model)))


def image_end(model: Model, turns: tuple[str, ...]) -> int:
    """The number of ids up to the end of the image when the image comes first; else 0 (no reusable prefix)."""
    return len(_image(model)) if turns and turns[0] == IMAGE_MARK else 0


def check_length(model: Model, length: int) -> None:
    """Raises RequestError when `length` positions leave no room for an answer."""
    limit = model.vlm.language_model.max_positions
    if limit is not None and length >= limit:
        raise RequestError(
            f"The prompt takes {length} positions and the model holds {limit}: shorten the text or use a smaller image."
        )


def _image(model: Model) -> tuple[int, ...]:
    rows, columns = model.vlm.vision_encoder.grid
    return image_ids(rows, columns, mark=model.tokenizer.mark_id, separator=model.tokenizer.separator_id)
