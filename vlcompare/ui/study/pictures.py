"""The study tab's section on pictures: the paper's comparisons as trained grids, and which of them are not trained."""

from __future__ import annotations

from vlcompare.render.markup import Safe, el
from vlcompare.study.figures import Figure
from vlcompare.study.opened import PictureStudy
from vlcompare.study.pictures.grids import COMPARISONS, Comparison
from vlcompare.study.pictures.settings import SETTING_FIELDS
from vlcompare.types import FAMILIES
from vlcompare.ui.study.figures import behind, figure, legend, problems

ABOUT = (
    "Small language models of both families, matched in size, trained from nothing behind a frozen encoder: on the "
    "same drawn pictures and questions, in the same order, for the same number of steps. Gaps are Transformer minus "
    "Mamba."
)
_RESULTS = ("parameters", "steps", "questions", "seconds", "device")


def section(study: PictureStudy) -> Safe:
    """The comparisons that have rows, as figures, and a line for each other one."""
    made = {one.name: one for one in study.figures}
    counts = {one.name: study.progress(one) for one in COMPARISONS}
    there = [one for one in COMPARISONS if one.name in made]
    shown = [_figure(study, made[one.name], one, folded=one is not there[0]) for one in there]
    rest = [_untrained(one, *counts[one.name]) for one in COMPARISONS if one.name not in made]
    done = [f"{one.title} {counts[one.name][0]} of {counts[one.name][1]}" for one in COMPARISONS if counts[one.name][0]]
    state = f"{study.name}: {len(study.rows)} trainings are finished. {', '.join(done)}." if study.rows else None
    return el(
        "div",
        el("p", ABOUT, class_="vl-note vs-about"),
        el("p", state, class_="vl-note") if state else None,
        *problems(study.problems),
        legend(FAMILIES) if shown else None,
        el("div", *shown, class_="vs-figures") if shown else None,
        el("ul", *rest, class_="vs-untrained") if rest else None,
        class_="vs-pictures",
    )


def _figure(study: PictureStudy, one: Figure, comparison: Comparison, *, folded: bool) -> Safe:
    rows = study.behind(comparison)
    varied = [name for name in SETTING_FIELDS if len({str(row.get(name)) for row in rows}) > 1 or name == "recipe"]
    runs = behind(one, rows, f"study run {one.name}", (*varied, *_RESULTS), "")
    return figure(one, runs, folded=folded)


def _untrained(comparison: Comparison, done: int, asked: int) -> Safe:
    """What is missing of a comparison, and the command that trains it."""
    values = ", ".join(str(value).replace("_", " ") for value in comparison.values)
    state = f"{done} of {asked} trainings are finished, too few to compare" if done else f"not trained yet ({values})"
    command = f"python -m vlcompare study run {comparison.name} --out DIR"
    return el("li", el("b", comparison.title), f": {state}. ", el("code", command))
