"""The inspect page's headline: how much each model answers right on what is selected, and whether they differ.

Whether they differ by more than chance is what the ranking of slices says, so that the two never contradict each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlcompare.evaluate.results.differences import Difference
from vlcompare.evaluate.results.slices import SliceRow, criterion, overall, scored
from vlcompare.evaluate.results.table import Rows
from vlcompare.evaluate.statistics import Paired, caution
from vlcompare.render.markup import Safe, el
from vlcompare.render.terms import term
from vlcompare.tasks.prompts import task_title
from vlcompare.types import FAMILIES
from vlcompare.ui.checkpoint_names import name_of
from vlcompare.ui.inspect.figures import pictures_of, told
from vlcompare.ui.inspect.query import Query, chips
from vlcompare.ui.inspect.selection import Names, Opened, Selection
from vlcompare.ui.inspect.views import chip_buttons
from vlcompare.units import fraction, fraction_interval


def headline(opened: Opened, names: Names, selection: Selection, tested: Sequence[Difference]) -> Safe:
    """Both sides' shares of right answers and their difference, over the selection without its outcome's filters.

    tested: every slice whose difference was tested together with the others'.
    """
    table, query = opened.table, selection.query
    rows = scored(table, selection.base)
    whole = overall(table, rows)
    kept = filters_of(opened, query)
    filters = el("div", *chip_buttons(kept), class_="vi-chips") if kept else None
    if whole is None:
        sentence = "No sample of this selection has a right answer to compare with."
        if not len(selection.base):
            sentence = "No sample fits these filters."
        return el("div", el("p", sentence, class_="vl-empty"), filters, class_="vi-headline")
    said: Safe | None = None
    leads = None
    if whole.paired:
        leads, said = _verdict(whole.paired, rows, bool(query.slices), tested, names)
    counted = [
        f"Share of answers right, {criterion(table, rows)}",
        pictures_of(whole.n_images),
        "left minus right with its 95 % interval over pictures" if names.both else "95 % interval over pictures",
        *filter(None, [caution(table.clusters[rows])]),
    ]
    return el(
        "div",
        _score(whole, leads, names, what_is_selected(opened, rows, [text for text, _ in kept])),
        said,
        _to_study(opened, query),
        el("p", " · ".join(counted), class_="vl-note"),
        filters,
        class_="vi-headline",
    )


def _to_study(opened: Opened, query: Query) -> Safe | None:
    """Where a Transformer and a state-space model locate things: the way to the study of why they may differ."""
    families = {name_of(opened.run.checkpoint(side)).family for side in opened.roles.values()}
    if families != set(FAMILIES) or ("task", "grounding") not in query.slices:
        return None
    button = el("button", "Why may that be? See the study →", type="button", data_tab="Study", class_="vi-link")
    return el("p", button, class_="vi-why")


def _score(whole: SliceRow, leads: str | None, names: Names, where: str) -> Safe:
    """ "Tiny Pythia-VL .958 against Tiny Mamba-VL .750 on 72 Locate samples: +.208 [.025, .358]"."""
    parts: list[Any] = []
    for (side, name), value in zip(names.sides.items(), (whole.left, whole.right), strict=False):
        figure = el("b", fraction(value if value is not None else float("nan")), data_side=side)
        parts += [" against " if parts else None, el("span", name, class_="vi-who", data_side=side), " ", figure]
    parts.append(f" on {where}")
    ci95 = whole.paired.ci95 if whole.paired else whole.left_ci95
    if whole.paired:
        difference = fraction(whole.paired.difference, signed=True)
        parts += [": ", el("b", difference, data_side=leads, class_="vi-lead")]
    known = fraction_interval(*ci95) if told(ci95) else "(too few pictures for an interval)"
    return el("p", *parts, " ", el("span", known, class_="vi-bounds"), class_="vi-score")


def filters_of(opened: Opened, query: Query) -> list[tuple[str, str]]:
    """Those filters, as `query.chips` gives them, that the headline's figures are narrowed by."""
    kept = chips(replace(query, quadrant="", disagree=False, ranges=query.wide.ranges), opened.slice_title)
    titles = {text for text, _ in kept}
    return [pair for pair in chips(query, opened.slice_title) if pair[0] in titles]


def what_is_selected(opened: Opened, rows: Rows, filters: Sequence[str]) -> str:
    """ "72 Locate samples", "80 samples (Size: medium)", "337 samples": what the figures are over."""
    tasks = {opened.table.task[i] for i in rows.tolist()}
    task = task_title(next(iter(tasks))) if len(tasks) == 1 else ""
    words = [f"{len(rows):,}", task, "sample" if len(rows) == 1 else "samples"]
    others = ", ".join(text for text in filters if text != f"Task: {task}")
    return " ".join(filter(None, [*words, f"({others})" if others else ""]))


def _verdict(
    pair: Paired, rows: Rows, sliced: bool, tested: Sequence[Difference], names: Names
) -> tuple[str | None, Safe]:
    """(the side that leads beyond chance, the sentence on it). A slice is judged as among all that were tested."""
    side = "left" if pair.difference > 0 else "right"
    better = [el("b", names.sides[side], data_side=side), " is better here"]
    clear, count = term("clear of chance"), f"{len(tested):,} slices"
    ordered = np.sort(rows)
    one = next((one for one in tested if np.array_equal(one.rows, ordered)), None)
    leads = False
    if not told(pair.ci95):
        words: list[Any] = ["There are too few pictures to say which is better."]
    elif pair.ci95.low <= 0 <= pair.ci95.high:
        words = ["Neither is clearly better here: the interval holds 0."]
    elif not sliced:
        leads, words = True, [*better, "."]
    elif one is None:
        words = [f"A hint only: this selection is none of the {count} that are tested together."]
    elif one.clear:
        leads, words = True, [*better, ": ", clear, f", among {count} tested."]
    else:
        words = ["Not ", clear, f": of {count} tested, some look this different by luck."]
    return side if leads else None, el("p", *words, class_="vi-verdict-line")
