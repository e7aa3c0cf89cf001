"""What the compare tab shows of a run, region by region: when it begins, as it grows, and whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from vlcompare.render.markup import Safe, el
from vlcompare.types import SIDES
from vlcompare.ui.compare import cards, figures, together, tokens
from vlcompare.ui.compare.finding import finding_view
from vlcompare.ui.compare.page_update import CompareUpdate
from vlcompare.ui.compare.picture import side_picture
from vlcompare.ui.compare.session import CompareSession, Run


def state(session: CompareSession, *, built: bool = False) -> Safe:
    """Which run is shown and whether one is running, for the style sheet, the script, and the check of belonging.

    Of a session's states the newest has the most changes, and of two with as many the one in which nothing is running:
    the script goes by that where they reach the page in another order.

    built: the page as it was built for everybody, before it has heard from the server what its own session shows.
    """
    run = session.shown
    running = None
    if session.cancel is not None:
        running = "shown" if session.shown is session.current else "other"
    return el(
        "i",
        data_run=run.id if run else None,
        data_session=session.id,
        data_changes=str(session.changes),
        data_running=running,
        data_hidden=bool(run and run.hidden),
        data_boxes=bool(run and together.has_boxes(run)),
        data_built=built,
    )


def empty(session: CompareSession) -> CompareUpdate:
    """Every region before the first question."""
    page = {name: cards.blank(name) for name in ("together", "figures", "charts", "prompts")}
    for side in SIDES:
        page[f"{side}_card"] = cards.card(None, side)
        page[f"{side}_picture"] = el("div")
        page[f"{side}_tokens"] = cards.blank("tokens")
    page |= {name: el("div") for name in ("asked", "board", "finding", "three")}
    page |= {"state": state(session), "message": cards.message(""), "vote": cards.message("")}
    return cast(CompareUpdate, page | {"history": cards.history_view(session.history, None)})


def opening(session: CompareSession, run: Run) -> CompareUpdate:
    """The page when a run begins: its question and picture over empty cards."""
    return {
        "state": state(session),
        "asked": cards.heading(run),
        "message": cards.message(""),
        "vote": cards.message(""),
        **answered(session, run, run.sides),
    }


def changes(session: CompareSession, run: Run, changed: set[str]) -> CompareUpdate:
    """Only what changed: the text while it streams, a side's pictures and figures once it has answered."""
    page = cast(CompareUpdate, {f"{side}_card": cards.card(run, side) for side in changed})
    page["board"] = cards.scoreboard(run)
    done = [side for side in changed if run.answer(side) is not None]
    return page | answered(session, run, done) if done else page


def whole(session: CompareSession, run: Run) -> CompareUpdate:
    """Every region, for a run that has ended or is restored."""
    page = opening(session, run)
    page["prompts"] = tokens.prompt_view(run)
    page["history"] = cards.history_view(session.history, run.id)
    return page


def ended(session: CompareSession, run: Run) -> CompareUpdate:
    """Every region of a run that has just ended, but the sentence on a vote, which may have been cast meanwhile."""
    page = whole(session, run)
    del page["vote"]
    return page


def answered(session: CompareSession, run: Run, sides: Iterable[str]) -> CompareUpdate:
    """The regions of these sides, and those that both sides share."""
    page: dict[str, Safe] = {}
    for side in sides:
        page[f"{side}_card"] = cards.card(run, side)
        name = cards.side_name(run, side)[0]
        page[f"{side}_picture"] = side_picture(run, side, name) if together.has_boxes(run) else el("div")
        page[f"{side}_tokens"] = tokens.tokens_view(run, side)
    return {
        **cast(CompareUpdate, page),
        "board": cards.scoreboard(run),
        "finding": finding_view(run),
        "three": together.three_view(session.group(run), run.id),
        "together": together.together(run),
        "figures": figures.figures_table(run) if not run.recorded else cards.blank("figures"),
        "charts": figures.charts(run) if not run.recorded else cards.blank("charts"),
    }
