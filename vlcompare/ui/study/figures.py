"""Figures of trainings as markup: their panels, the numbers behind them as a table and as CSV, the trainings, the
commands. On the phone a figure's panels are swiped, and all figures but the first ones are folded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlcompare.render.markup import Safe, el
from vlcompare.render.panels import drawn, key
from vlcompare.study.extent import fairness, state
from vlcompare.study.figures import NAMES, Figure
from vlcompare.study.opened import Study
from vlcompare.study.rates import RULE
from vlcompare.study.seen import Needed, needed, practice, seen
from vlcompare.units import how_many

MAX_PANELS = 12  # of a figure in the page; the report draws all
MAX_LISTED = 40  # rows of a table in the page; the CSV has all
MAX_PROBLEMS = 10
_TRAINING = ("task", "order", "length", "family", "learning_rate", "seed", "parameters", "examples", "accuracy",
             "seconds", "device")  # fmt: skip


def figures(study: Study, *, of_the_lab: bool = False) -> Safe:
    """Every figure of trainings on text, what they say in words first.

    of_the_lab: the lab's models are of these rows.
    """
    shown = [el("p", state(study)), *problems(study.problems)]
    if study.unfinished:
        shown[0] = el("p", f"{study.name}: {state(study)}", class_="vl-warn")
    if said := fairness(study):
        shown.append(el("p", said, class_="vl-note"))
    if told := seen(study):
        shown.append(_settings(needed(study), practice(study) if of_the_lab else "", told))
    command = "study run cpu" if study.planned is not None else "study run GRID"
    drawn_ones = [
        figure(one, behind(one, [row for group in one.groups for row in group.rows], command), folded=index > 0)
        for index, one in enumerate(study.figures)
    ]
    there = {group.key["family"] for one in study.figures for group in one.groups}
    families = legend(family for family in NAMES if family in there)
    return el("div", *shown, families, el("div", *drawn_ones, class_="vs-figures"))


def _settings(lines: Sequence[Needed], note: str, told: Sequence[str]) -> Safe:
    """The settings as a table, where there are both families to compare, and in words; folded on the phone."""
    listed = el("ul", *[el("li", sentence) for sentence in told], class_="vs-seen")
    body = [
        _needed(lines) if lines else None,
        el("p", note, class_="vl-note") if note else None,
        el("details", el("summary", "Each setting in words"), listed, class_="vs-fold"),
    ]
    return el("div", unfold("Setting by setting", True), el("div", *body, class_="vs-settings"), data_folded="true")


def _needed(lines: Sequence[Needed]) -> Safe:
    """Who needs how many examples, a line for each setting."""
    families = [family for family in NAMES if any(family in line.amounts for line in lines)]
    title = "Examples until .95, least to most of the seeds"
    names = [el("th", key(family, NAMES[family]), scope="col") for family in families]
    head = el("tr", el("th", title, scope="col"), *names, el("th", "Fewer: Transformer or Mamba?", scope="col"))
    body = []
    for line in lines:
        ahead = next((family for family in families if NAMES[family] == line.fewer), None)
        cells = [el("td", line.amounts.get(family, "–")) for family in families]
        verdict = el("td", key(ahead, NAMES[ahead]) if ahead else line.fewer)
        body.append(el("tr", el("th", line.where, scope="row"), *cells, verdict))
    whole = el("table", el("thead", head), el("tbody", *body), class_="vl-table vs-needed")
    return el("div", whole, class_="vl-scroll", tabindex="0", role="group", aria_label=title)


def legend(families: Iterable[str]) -> Safe:
    return el("div", *[key(family, NAMES[family]) for family in families], class_="vs-legend")


def problems(sentences: Sequence[str]) -> list[Safe]:
    """What is wrong with a file's lines, the first sentences of it."""
    shown = [el("p", sentence, class_="vl-warn") for sentence in sentences[:MAX_PROBLEMS]]
    if len(sentences) > MAX_PROBLEMS:
        shown.append(el("p", f"{len(sentences) - MAX_PROBLEMS:,} more lines are damaged.", class_="vl-warn"))
    return shown


def figure(one: Figure, runs: Safe, *, folded: bool, found: Safe | None = None) -> Safe:
    """One figure with its numbers.

    runs: what `behind` made of the trainings; folded: on the phone, until asked for; found: what stands above the
    panels.
    """
    shown = one.panels[:MAX_PANELS]
    more = len(one.panels) - len(shown)
    rest = f" {more} more panels are in the report." if more else ""
    panels = el(
        "div",
        *[drawn(panel) for panel in shown],
        class_="vs-panels",
        tabindex="0" if len(shown) > 1 else None,
        role="group",
        aria_label=f"{one.title}, {len(shown)} panels",
    )
    csv = el("button", "CSV", type="button", data_pick=f"csv:{one.name}", class_="vi-chip",
             aria_label=f"{one.title}: data as CSV")  # fmt: skip
    swiped = el("span", f" Swipe: {len(shown)} panels.", class_="vs-swipe") if len(shown) > 1 else None
    body = [
        el("p", one.reads, rest, swiped, class_="vl-note"),
        found,
        panels,
        el("div", _numbers(one), runs, csv, class_="vs-under"),
    ]
    return el(
        "figure",
        el("figcaption", el("h3", el("span", one.title), unfold(one.title, folded))),
        el("div", *body, class_="vs-body"),
        class_="vs-figure",
        data_folded="true" if folded else "false",
    )


def unfold(title: str, folded: bool) -> Safe:
    """The heading of what is folded on the phone, as a button; `study.js` opens and closes what it stands in."""
    return el("button", title, type="button", class_="vs-unfold", aria_expanded="false" if folded else "true")


def _numbers(one: Figure) -> Safe:
    """The figure's table, without what all its lines share."""
    records = one.records
    varying = [name for name in records[0] if len({str(record[name]) for record in records}) > 1] or list(records[0])
    listed = table(varying, [[cell(record[name]) for name in varying] for record in records[:MAX_LISTED]])
    more = len(records) - MAX_LISTED
    rest = el("p", f"{more:,} more lines are in the CSV file.", class_="vl-note") if more > 0 else None
    return el("details", el("summary", "Numbers"), listed, rest, class_="vs-fold")


def behind(
    one: Figure, rows: Sequence[Mapping[str, Any]], command: str, names: Sequence[str] = _TRAINING, rule: str = RULE
) -> Safe:
    """The trainings that a figure was made of, and the commands that make them and it again.

    names: of the rows' fields; rule: how these rows were chosen among all, "" where they are all.
    """
    listed = table(names, [[cell(row.get(name)) for name in names] for row in rows[:MAX_LISTED]])
    chosen = f": {rule}; with all of its seeds" if rule else ""
    more = f", of which {MAX_LISTED} are listed" if len(rows) > MAX_LISTED else ""
    commands = f"python -m vlcompare {command} --out DIR\npython -m vlcompare study report DIR --out figures"
    return el(
        "details",
        el("summary", "The runs behind this"),
        el("p", f"{how_many(len(rows), 'training')}{more}{chosen}.", class_="vl-note"),
        listed,
        el("pre", el("code", commands)),
        class_="vs-fold",
    )


def table(names: Sequence[str], cells: Sequence[Sequence[str]]) -> Safe:
    head = el("tr", *[el("th", name.replace("_", " "), scope="col") for name in names])
    body = [el("tr", *[el("td", value) for value in line]) for line in cells]
    whole = el("table", el("thead", head), el("tbody", *body), class_="vl-table")
    return el("div", whole, class_="vl-scroll", tabindex="0", role="group", aria_label="Table")


def cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:g}"
    return f"{int(value):,}" if isinstance(value, (int, float)) else str(value).replace("_", " ")
