"""What an action of the inspect tab changes, and what happens where it is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypedDict

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.results.notes import Note
from vlcompare.render.markup import Safe
from vlcompare.ui.compare.cards import message
from vlcompare.ui.inspect.query import Query
from vlcompare.ui.inspect.session import Inspection

P = ParamSpec("P")


class InspectUpdate(TypedDict, total=False):
    """What an action changes: new content of regions and fields. Whatever is left out stays as it is."""

    message: Safe
    offer: Safe
    head: Safe
    headline: Safe
    quadrants: Safe
    differences: Safe
    slices: Safe
    charts: Safe
    figures: Safe
    chips: Safe
    table: Safe
    picture: Safe
    sample: Safe
    note_state: Safe
    measure: str  # what the charts draw
    note: Note | None  # what the note's form shows; None: nothing
    form: Query  # what the filter form shows
    controls: bool  # the lists of runs, sides, slices and tags are filled again


Act = Callable[Concatenate[Inspection, P], InspectUpdate]


def action(act: Act[P]) -> Act[P]:
    """Run one action at a time. Where it raises VLCompareError nothing has changed, and the message says why."""

    @functools.wraps(act)
    def guarded(inspection: Inspection, /, *args: P.args, **kwargs: P.kwargs) -> InspectUpdate:
        try:
            with inspection.whole():
                return {"message": message(""), **act(inspection, *args, **kwargs)}
        except VLCompareError as error:
            return {"message": message(str(error), "error")}

    return guarded


def shows_lists(act: Act[P]) -> Act[P]:
    """An action of the lists: where nothing has changed, they show again what is open."""

    @functools.wraps(act)
    def acted(inspection: Inspection, /, *args: P.args, **kwargs: P.kwargs) -> InspectUpdate:
        return {"controls": True, **act(inspection, *args, **kwargs)}

    return acted
