"""What an action changes on the compare tab: new markup by region."""

from __future__ import annotations

from typing import TypedDict, cast

from vlcompare.errors import VLCompareError
from vlcompare.render.markup import Safe
from vlcompare.ui.compare.cards import message


class CompareUpdate(TypedDict, total=False):
    """New markup by region; a region that is left out stays as it is."""

    message: Safe
    three: Safe
    left_card: Safe
    left_picture: Safe
    left_tokens: Safe
    right_card: Safe
    right_picture: Safe
    right_tokens: Safe
    together: Safe
    figures: Safe
    charts: Safe
    prompts: Safe
    scores: Safe
    history: Safe


REGIONS = tuple(CompareUpdate.__annotations__)


def error_update(error: VLCompareError) -> CompareUpdate:
    """The error's sentence in the message line."""
    return {"message": message(str(error), "error")}


def news(sent: CompareUpdate, page: CompareUpdate) -> CompareUpdate:
    """The regions of `page` that differ from what was `sent`; `sent` is updated."""
    new = cast(CompareUpdate, {name: view for name, view in page.items() if sent.get(name) != view})
    sent.update(new)
    return new
