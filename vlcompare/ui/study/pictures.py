"""The study tab's section on pictures: the paper's comparisons as trained grids, and which of them are not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlcompare.render.markup import Safe, el
from vlcompare.study.figures import NAMES, Figure
from vlcompare.study.opened import PictureStudy
from vlcompare.study.pictures.figures import baseline_says, beside_claims, label, shares_read, who_is_ahead
from vlcompare.study.pictures.grids import COMPARISONS, Comparison
from vlcompare.study.pictures.measured import Record
from vlcompare.study.pictures.pilot import RULE, Pilot, above_text, pilots
from vlcompare.study.pictures.settings import SETTING_FIELDS
from vlcompare.tasks.prompts import task_title
from vlcompare.types import FAMILIES
from vlcompare.ui.study.figures import behind, cell, figure, legend, problems, table, unfold
from vlcompare.units import fraction, fraction_interval, how_many

ABOUT = (
    "Small language models of both families, matched in size, trained from nothing behind a frozen encoder: on the "
    "same drawn pictures and questions, in the same order, for the same number of steps. Gaps are Transformer minus "
    "Mamba."
)
BASELINE = "The baseline alone, which every comparison varies in one thing:"
APART = "Trained by another recipe, on another budget: not to be set beside the figures above."
_RESULTS = ("parameters", "steps", "questions", "seconds", "device")


def section(study: PictureStudy) -> Safe:
    """The comparisons that have rows, as figures, and a line for each other one; what another recipe made stands apart,
    and what a pilot says about further tasks."""
    shown = [(one, figure) for one in COMPARISONS for figure in study.figures if one.name == figure.name]
    apart = [(one, figure) for one in COMPARISONS for figure in study.figures if figure.name.startswith(f"{one.name}-")]
    counts = {one.name: study.progress(one) for one in COMPARISONS}
    alone = [] if shown else baseline_says(study.rows)  # nothing to compare it with yet
    drawn = [one for one, _ in shown]
    alike = len({shares_read(one.records) for _, one in shown}) == 1
    known = shares_read(shown[0][1].records) if alike else ""
    rest = [_untrained(one, *counts[one.name], bool(alone)) for one in COMPARISONS if one not in drawn]
    done = [f"{one.title} {counts[one.name][0]} of {counts[one.name][1]}" for one in COMPARISONS if counts[one.name][0]]
    whole = all(count == of for count, of in counts.values())
    compared = " Every comparison is whole." if whole else f" {', '.join(done)}." if done else ""
    count = sum(not (row.get("tested_size") or row.get("tested_sampling")) for row in study.rows)
    trained = "1 training is" if count == 1 else f"{count} trainings are"
    tests = len(study.rows) - count  # of models that were trained for another row
    trained += f" finished, and {how_many(tests, 'test')} of these on other pictures" if tests else " finished"
    again = "; the baseline's count in each comparison" if sum(n for n, _ in counts.values()) > len(study.rows) else ""
    state = f"{study.name}: {trained}{again}.{compared}" if study.rows else None
    return el(
        "div",
        el("p", ABOUT, class_="vl-note vs-about"),
        el("p", state, class_="vl-note") if state else None,
        *problems(study.problems),
        el("p", BASELINE, class_="vl-note") if alone else None,
        el("ul", *[el("li", sentence) for sentence in alone], class_="vs-seen") if alone else None,
        el("p", known, class_="vl-note vs-about") if known else None,
        legend(FAMILIES) if shown else None,
        _figures(study, shown, known) if shown else None,
        _untrained_ones(rest) if rest else None,
        *([el("h3", "By another recipe"), el("p", APART, class_="vl-note"), _figures(study, apart)] if apart else []),
        *[_pilot(pilot) for pilot in pilots(study.rows)],
        class_="vs-pictures",
    )


def _figures(study: PictureStudy, shown: Sequence[tuple[Comparison, Figure]], known: str = "") -> Safe:
    """known: words on how they are read that stand above them."""
    made = []
    for index, (comparison, one) in enumerate(shown):
        rows = study.behind(comparison, one.records[0]["recipe"])
        varied = [name for name in SETTING_FIELDS if len({str(row.get(name)) for row in rows}) > 1 or name == "recipe"]
        runs = behind(one, rows, f"study run {comparison.name}", (*varied, *_RESULTS), "")
        own = replace(one, reads=one.reads.removeprefix(known).strip())
        made.append(figure(own, runs, folded=index > 0, found=_gaps(one, comparison)))
    return el("div", *made, class_="vs-figures")


def _gaps(one: Figure, comparison: Comparison) -> Safe:
    """The gap in each task at each value, in the colour of who is ahead, and what is claimed of the comparison."""
    whole = [record for record in one.records if record["type"] == "all"]
    values = list(dict.fromkeys(record["value"] for record in whole))
    head = [el("th", words, scope="col") for words in ("Transformer − Mamba", *map(label, values))]
    body = []
    for task in dict.fromkeys(record["task"] for record in whole):
        mine = {record["value"]: record for record in whole if record["task"] == task}
        group = next(iter(mine.values()))["group"]
        cells = [_gap(mine[value]) if value in mine else el("td", "–") for value in values]
        body.append(el("tr", el("th", task_title(task), el("small", f" {group}"), scope="row"), *cells))
    listed = el("table", el("thead", el("tr", *head)), el("tbody", *body), class_="vl-table vs-gaps")
    said = [el("p", sentence, class_="vl-note") for sentence in beside_claims(one.records, comparison)]
    title = f"{one.title}: Transformer minus Mamba"
    return el("div", el("div", listed, class_="vl-scroll", tabindex="0", role="group", aria_label=title), *said)


def _gap(record: Record) -> Safe:
    low, high = record["gap_low"], record["gap_high"]
    interval = "" if None in (low, high) else fraction_interval(low, high)
    side = {1: "left", -1: "right", 0: None}[who_is_ahead(record)]
    gap, seeds = fraction(record["gap"], signed=True), f"by seed: {record['gap_by_seed']}"
    return el("td", el("b", gap), " ", el("small", interval), data_side=side, title=seeds)


def _pilot(pilot: Pilot) -> Safe:
    """Which further tasks are reported, and the shares that decide it."""
    names = ("task", "model", "seed", "n", "right", "floor", "above the floor")
    lines = [
        [task_title(one["task"]), NAMES[one["family"]], *(cell(one[name]) for name in ("seed", "n", "right", "floor")),
         above_text(one)]
        for one in pilot.records
    ]  # fmt: skip
    verdicts = [el("li", el("b", task_title(task)), f": {verdict}.") for task, verdict in pilot.verdicts.items()]
    return el(
        "details",
        el("summary", f"Further tasks: the pilot of {pilot.recipe}"),
        el("p", f"The rule: {RULE}.", class_="vl-note"),
        el("ul", *verdicts),
        table(names, lines),
        class_="vs-fold vs-pilot",
    )


def _untrained_ones(lines: Sequence[Safe]) -> Safe:
    return el("div", unfold("Not trained yet", True), el("ul", *lines, class_="vs-untrained"), data_folded="true")


def _untrained(comparison: Comparison, done: int, asked: int, baseline: bool) -> Safe:
    """What is missing of a comparison, and the command that trains it. baseline: whether that is trained."""
    but = " but for the baseline" if baseline else ""
    values = ", ".join(map(label, comparison.values))
    state = (
        f"{done} of {asked} trainings are finished, too few to compare" if done else f"not trained yet{but} ({values})"
    )
    command = f"python -m vlcompare study run {comparison.name} --out DIR"
    return el("li", el("b", comparison.title), f": {state}. ", el("code", command))
