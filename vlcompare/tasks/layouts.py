"""Layouts of a prompt that models can be trained in, beyond the two orders that the published checkpoints know.

    image_first      the image, the instruction, the question         as most checkpoints
    template_first   the instruction, the image, the question         the task-aware encoding (arXiv 2409.05395)
    query_first      the instruction, the question, the image         nothing stands between the image and the answer
    image_twice      the image, the image, the instruction, the question
    query_around     the instruction, the question, the image, the instruction, the question

The last two follow "Just Read Twice" (arXiv 2407.05483): a recurrent model that reads its context again, or knows the
question beforehand, can choose what to keep of it.
"""

from __future__ import annotations

from typing import Literal, get_args

from vlcompare.errors import RequestError
from vlcompare.tasks.forms import form_of
from vlcompare.tasks.sequence import IMAGE_MARK
from vlcompare.types import Request

Layout = Literal["image_first", "template_first", "query_first", "image_twice", "query_around"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
IMAGE_LEADS = ("image_first", "image_twice")  # the prompt begins with the image
QUERY_LEADS = ("query_first", "query_around")  # it begins with the question: others can share nothing of it


def lay_out_turns(request: Request, layout: str, between: str = "") -> tuple[str, ...]:
    """The turns of a validated request's prompt in a layout, each tokenised on its own, IMAGE_MARK for each image.

    `between` is a text of its own behind the last image. Raises RequestError for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise RequestError(f"Unknown layout {layout!r}; the layouts are {', '.join(LAYOUTS)}.")
    instruction, *question = form_of(request).turns(request)
    turns = {
        "image_first": (IMAGE_MARK, instruction, *question),
        "template_first": (instruction, IMAGE_MARK, *question),
        "query_first": (instruction, *question, IMAGE_MARK),
        "image_twice": (IMAGE_MARK, IMAGE_MARK, instruction, *question),
        "query_around": (instruction, *question, IMAGE_MARK, instruction, *question),
    }[layout]
    if not between:
        return turns
    place = len(turns) - turns[::-1].index(IMAGE_MARK)
    return (*turns[:place], between, *turns[place:])
