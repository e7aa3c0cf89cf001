"""The inspect page's run, quadrants, filters, and the offer of a run that was added, as markup.

`markup.el` escapes all text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vlcompare.render.markup import Safe, el
from vlcompare.types import SIDES
from vlcompare.ui.inspect.query import QUADRANT_TITLES, Query, chips
from vlcompare.ui.inspect.selection import Names, Opened
from vlcompare.ui.inspect.session import recorded_of


def nothing(*sentences: str) -> Safe:
    """Sentences in place of a region that has nothing to show."""
    return el("div", *[el("p", sentence, class_="vl-empty") for sentence in sentences], class_="vi-nothing")


def figures_button() -> Safe:
    """In place of figures that no file holds: a button that computes them."""
    button = el("button", "Compute them", type="button", data_pick="figures:", class_="vi-chip")
    return el("p", "These two sides have no summary yet. ", button, class_="vl-empty")


def offer(key: str, sides: Sequence[tuple[str, str]]) -> Safe:
    """A run that was just added, and the ways to show it. sides: (value, title) of each of its sides."""
    if not key:
        return Safe("")
    buttons = [_put(f"{title} on the {role}", f"put:{role}:{value}") for value, title in sides for role in SIDES]
    if len(sides) > 1:
        buttons.insert(0, _put("Show this run", f"put:show:{key}"))
    buttons.append(_put("Not now", "put:later"))
    return el("div", el("b", f"{key} is open."), *buttons, class_="vi-chips vi-offer", role="status")


def _put(title: str, pick: str) -> Safe:
    return el("button", title, type="button", class_="vi-chip", data_pick=pick)


# ---- the run ---------------------------------------------------------------------------------------------------------


def head(opened: Opened, names: Names) -> Safe:
    """The run's name, its sides, what it was made from, and what to beware of."""
    run, record, count = opened.run, opened.run.record, opened.table.count
    sides = []
    for role, side in opened.roles.items():
        recorded, _ = recorded_of(run, side)
        settings = " · ".join(str(recorded[name]) for name in ("dtype", "device") if recorded.get(name))
        key, title = el("i", class_="vl-key", data_side=role), el("b", names.sides[role])
        sides.append(el("span", key, title, el("span", settings, class_="vl-muted"), class_="vi-side-name"))
    pictures = int(opened.table.clusters.max()) + 1 if count else 0
    origin = str(((record.get("identity") or {}).get("data") or {}).get("from") or "")
    sessions = record.get("sessions") or []
    ended = str(sessions[-1].get("ended", "")) if sessions and isinstance(sessions[-1], dict) else ""
    about = [f"{count:,} samples of {pictures:,} pictures", origin.rsplit("/", 1)[-1], ended]
    incomplete = "This run is not complete: samples without an answer count as wrong."
    return el(
        "div",
        el("h2", names.run, class_="vi-run"),
        el("div", *sides, class_="vi-sides"),
        _about(opened, " · ".join(fact for fact in about if fact)),
        None if run.complete else el("p", incomplete, class_="vl-warn"),
        class_="vi-head",
    )


def _about(opened: Opened, facts: str) -> Safe:
    """Folded: what the run was made from, what was wrong with its files, and its summary's warnings where known."""
    warnings = [*opened.run.problems[:20], *(opened.summary.get("warnings", ()) if opened.summary_known else ())]
    count = f" · {len(warnings)} {'warning' if len(warnings) == 1 else 'warnings'}" if warnings else ""
    listed = el("ul", *[el("li", str(each)) for each in warnings]) if warnings else None
    return el("details", el("summary", f"About this run{count}"), el("p", facts), listed, class_="vi-warnings")


# ---- the quadrants ---------------------------------------------------------------------------------------------------


def quadrants(counts: Mapping[str, int], names: Names, query: Query) -> Safe:
    """The first filter: who is right. With one side only: right and wrong."""
    total = sum(counts.values())
    if not total:
        return Safe("")  # the headline says so
    shown = dict(QUADRANT_TITLES) if names.both else {"both": "Right", "neither": "Wrong"}
    buttons = []
    for name, title in shown.items():
        share = counts.get(name, 0) / total
        marks = [
            el("i", class_=f"vi-mark vi-{'right' if name in ('both', f'only_{side}') else 'wrong'}", data_side=side)
            for side in names.sides
        ]
        buttons.append(
            el(
                "button",
                el("span", *marks, title, class_="vi-quadrant-name"),
                el("b", f"{counts.get(name, 0):,}"),
                el("span", f"{100 * share:.1f} %", class_="vl-muted"),
                el("span", el("i", style=f"width:{100 * share:.1f}%"), class_="vi-share"),
                type="button",
                class_="vi-quadrant",
                data_pick=f"quadrant:{name}",
                data_quadrant=name,
                aria_pressed="true" if query.quadrant == name else "false",
            )
        )
    return el("div", *buttons, class_="vi-quadrants", role="group", aria_label="Who is right")


# ---- the filters -----------------------------------------------------------------------------------------------------


def chip_buttons(filters: Sequence[tuple[str, str]]) -> list[Safe]:
    """Each filter as a button that drops it; filters: as `query.chips` gives them."""
    buttons = [
        el(
            "button",
            text[:80],
            el("span", "×", aria_hidden="true"),
            type="button",
            class_="vi-chip",
            data_pick=f"drop:{what}",
            aria_label=f"Drop the filter {text[:80]}",
        )
        for text, what in filters
    ]
    if len(buttons) > 1:
        buttons.append(el("button", "Drop all", type="button", class_="vi-chip vi-all", data_pick="drop:all"))
    return buttons


def chips_view(query: Query, count: int, total: int, slice_title: Callable[[str, str], str]) -> Safe:
    """How many samples are left, and each filter."""
    buttons = chip_buttons(chips(query, slice_title))
    samples = "sample" if total == 1 else "samples"
    whole = f"{total:,} {samples}" if total == 1 else f"All {total:,} {samples}"
    shown = f"{count:,} of {total:,} {samples}" if query.narrowed else whole
    return el("div", el("b", shown, role="status"), *buttons, class_="vi-chips")
