"""What an action changes on the compare tab: new markup by region, and the question that the form moves along to."""

from __future__ import annotations

from typing import TypedDict, cast

from vlcompare.errors import VLCompareError
from vlcompare.render.markup import Safe
from vlcompare.ui.compare.cards import message
from vlcompare.ui.compare.forms import AskForm


class CompareUpdate(TypedDict, total=False):
    """New markup by region; a region that is left out stays as it is."""

    state: Safe  # which run is shown, and whether it is running: what the style sheet and the script go by
    asked: Safe
    message: Safe
    board: Safe
    vote: Safe  # what became of a vote on what is shown
    finding: Safe  # what many such questions say, where they were asked
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
    history: Safe
    asks: AskForm  # no region: the question that the form's fields move along to


REGIONS = tuple(name for name in CompareUpdate.__annotations__ if name != "asks")


def error_update(error: VLCompareError) -> CompareUpdate:
    """The error's sentence, which the page's script puts beside the field that it is about."""
    return {"message": message(str(error), "error", error.field)}


def news(sent: CompareUpdate, page: CompareUpdate) -> CompareUpdate:
    """The regions of `page` that differ from what was `sent`; `sent` is updated."""
    new = cast(CompareUpdate, {name: view for name, view in page.items() if sent.get(name) != view})
    sent.update(new)
    return new
