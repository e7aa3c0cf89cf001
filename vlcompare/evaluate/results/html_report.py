"""One self-contained HTML page of a run: the headline, where the sides differ most, noted errors, samples, settings.

Whatever a model, a data set or a person wrote is escaped. The page loads nothing and runs no script, and its own
policy says so. What is long is folded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlcompare.evaluate.replies import read_reply
from vlcompare.evaluate.results.aspects import target_box
from vlcompare.evaluate.results.differences import METHOD, largest_differences
from vlcompare.evaluate.results.notes import Note
from vlcompare.evaluate.results.report_evidence import MAX_MAPPED, evidence_figures, evidence_of
from vlcompare.evaluate.results.slices import SliceRow, criterion, overall, scored, slice_figures
from vlcompare.evaluate.results.table import Rows, RunTable, summary_of
from vlcompare.evaluate.results.thumbnails import thumbnail_base64
from vlcompare.evaluate.statistics import Interval, caution
from vlcompare.render.charts import Measure, bar, histogram, interval, legend, scatter
from vlcompare.render.draw import STYLES, Mark, Role
from vlcompare.render.markup import Safe, el, join, shorten
from vlcompare.render.terms import abbreviation
from vlcompare.tasks.prompts import task_title
from vlcompare.types import SIDES
from vlcompare.units import fraction, fraction_interval, how_many

MAX_CARDS = 200
MAX_DIFFERENCES = 12
PICTURE = 320
MAX_BOXES = 20  # of a side, on a picture
MAX_NAME = 48
MAX_TEXT = 600  # characters of an answer
COLORS = f":root {{ --left: {STYLES['left'].color}; --right: {STYLES['right'].color} }}"
_DIFFERENCE = abbreviation("paired difference", "difference")
SHEET = Path(__file__).with_name("report.css")


def html_report(
    table: RunTable,
    samples: Rows | None = None,
    *,
    rows: Rows | None = None,
    title: str = "",
    filters: str = "",
    outcome: str = "",
    names: Sequence[str] = (),
    most: int = MAX_CARDS,
) -> str:
    """The page. Figures are over `rows` (all, by default); `samples` are shown as cards, `most` of them at most.

    filters: what `rows` were chosen by, in words. The largest differences are then left out: the rows may have been
    chosen because they differ.
    outcome: what the samples were chosen by besides, in words, such as who is right.
    names: what each side is called where both are of one checkpoint.
    """
    chosen, called = scored(table, rows), _called(table.names(names))
    title = title or f"Run {table.run.name}"
    body = el(
        "body",
        el("h1", title),
        el("p", "Only: ", el("b", filters), class_="quiet") if filters else None,
        _headline(table, called, chosen),
        _who_is_right(table, called, chosen),
        None if filters else _differences(table, called, chosen),
        _noted(table, rows),
        _samples(table, samples, outcome, most),
        _folded(
            f"Every task's own figures{', over the whole run' if filters else ''}",
            lambda: _every_task(summary_of(table.run)),
        ),
        _folded("Accuracy by slice", lambda: _slices(table, called, chosen)),
        _folded("Charts", lambda: _charts(table, called, chosen)),
        _settings(table),
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = el(
        "head",
        Safe('<meta charset="utf-8">'),
        el("title", title),
        Safe(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Safe('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        el("style", Safe(f"{COLORS}\n{SHEET.read_text(encoding='utf-8')}")),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _called(names: Sequence[str]) -> list[str]:
    """The names, cut where they are long: at the front where two would else become one."""
    cut = [shorten(name, MAX_NAME) for name in names]
    if len(set(cut)) == len(names):
        return cut
    return [name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}" for name in names]


def _folded(title: str, make: Callable[[], Safe | None]) -> Safe | None:
    content = make()
    return el("details", el("summary", title), content) if content else None


# ---- figures ---------------------------------------------------------------------------------------------------------


def _headline(table: RunTable, called: Sequence[str], rows: Rows) -> Safe:
    """Both sides' shares of right answers, their difference, and what is counted."""
    whole = overall(table, rows) if len(rows) else None
    if whole is None:
        return el("p", "No sample here has a right answer to compare with.", class_="quiet")
    names = el("p", *[el("b", name, class_=role) for role, name in zip(SIDES, called, strict=False)], class_="who")
    score: list[Any] = [el("b", fraction(whole.left), class_="left")]
    if whole.paired and whole.right is not None:
        score += [" against ", el("b", fraction(whole.right), class_="right"), ", "]
        score += [el("b", fraction(whole.paired.difference, signed=True)), " "]
    ci95 = whole.paired.ci95 if whole.paired else whole.left_ci95
    score.append(el("span", "(too few pictures for an interval)" if ci95.says_nothing else fraction_interval(*ci95)))
    counted = [
        f"Share of answers right, {criterion(table, rows)}",
        f"{whole.n:,} samples of {whole.n_images:,} pictures",
        join([abbreviation("interval", "95 % interval"), " over pictures"]),
        *filter(None, [caution(table.clusters[rows])]),
    ]
    return el("div", names, el("p", *score, class_="score"), el("p", join(counted, " · "), class_="quiet"))


def _who_is_right(table: RunTable, called: Sequence[str], rows: Rows) -> Safe | None:
    """One bar, split by which sides are right."""
    counts = table.quadrant_counts(rows)
    total = sum(counts.values())
    if not total:
        return None
    titles: tuple[str, ...] = ("both right", f"only {called[0]}", f"only {called[-1]}", "both wrong")
    if len(called) == 1:
        titles, counts = ("right", "wrong"), {name: counts[name] for name in ("both", "neither")}
    pairs = list(zip(titles, counts.values(), strict=True))
    shares = [f"{title}: {count:,} ({100 * count / total:.1f} %)" for title, count in pairs]
    return el("div", bar([(name, float(n), str(n)) for name, n in pairs], total), legend(shares), class_="who-is-right")


def _differences(table: RunTable, called: Sequence[str], rows: Rows) -> Safe | None:
    """The largest differences between the sides, those clear of chance first."""
    found = largest_differences(table, rows)
    if not found:
        return None
    clear = [one for one in found if one.clear]
    shown = (clear or found)[:MAX_DIFFERENCES]
    lines = [one.figures(table) for one in shown]
    names = [one.label for one in shown]
    chance = abbreviation("clear of chance")
    said = [chance] if clear else ["the largest, none of them ", chance]
    sentence = [f"{len(shown)} of {how_many(len(found), 'slice')} tested, ", *said, "."]
    return el(
        "section",
        el("h2", "Where they differ most"),
        el("p", *sentence, class_="quiet"),
        _slice_table(called, lines, names),
        el("details", el("summary", "How this is tested"), el("p", METHOD, class_="quiet")),
    )


def _slices(table: RunTable, called: Sequence[str], rows: Rows) -> Safe | None:
    parts = []
    for name, aspect in table.aspects.items():
        figures = slice_figures(table, name, rows)
        if figures:
            parts += [
                el("h3", aspect.title),
                _slice_table(called, figures, [aspect.value_title(row.value) for row in figures]),
            ]
    return join(parts) if parts else None


def _slice_table(called: Sequence[str], rows: Sequence[SliceRow], names: Sequence[str]) -> Safe:
    told = [row.paired.ci95 for row in rows if row.paired and not row.paired.ci95.says_nothing]
    bounds = [bound for ci95 in told for bound in ci95 if math.isfinite(bound)]
    reach = min(1.0, max(map(abs, bounds), default=1.0))
    lines = []
    for name, row in zip(names, rows, strict=True):
        cells: list[Any] = [name, f"{row.n:,}", _figure(row.left, row.left_ci95)]
        if row.paired and row.right is not None:
            difference, ci95 = row.paired.difference, row.paired.ci95
            cells += [_figure(row.right, row.right_ci95), _figure(difference, ci95, signed=True)]
            drawn = ci95 in told and all(map(math.isfinite, ci95))
            cells.append(interval(difference, *ci95, reach) if drawn else "")
        lines.append(cells)
    head: list[Any] = [
        "",
        "samples",
        *called,
        *([_DIFFERENCE, ""] if len(called) > 1 else []),
    ]
    return _table(head, lines, numbers_from=1)


def _every_task(summary: Mapping[str, Any]) -> Safe:
    """The summary's figures over all samples with their intervals, the paired differences, and the warnings."""
    sides, paired = summary.get("sides") or {}, summary.get("paired") or {}
    lines = []
    for task in dict.fromkeys(task for side in sides.values() for task in side["tasks"]):
        metrics = [name for side in sides.values() for name in side["tasks"].get(task, {}) if name not in ("n", "ci95")]
        for metric in dict.fromkeys(metrics):
            cells: list[Any] = [task_title(task), abbreviation(metric)]
            for side in sides.values():
                figures = side["tasks"].get(task) or {}
                cells.append(_figure(figures.get(metric), (figures.get("ci95") or {}).get(metric)))
            pair = paired.get(task, {}).get(metric)
            lines.append([*cells, _figure(pair["difference"], pair["ci95"], signed=True) if pair else ""])
    warnings = [el("li", str(text)) for text in summary.get("warnings", ())]
    return join(
        [
            _table(["task", "metric", *sides, _DIFFERENCE], lines, numbers_from=2),
            el("ul", *warnings),
        ]
    )


def _charts(table: RunTable, called: Sequence[str], rows: Rows) -> Safe | None:
    """How the scores are spread and, where there are two sides, the scores of each sample on both."""
    measure = Measure("score", "score")
    scores = [(role, table.score[side][rows]) for role, side in zip(SIDES, table.sides, strict=False)]
    if not len(rows) or not all(np.isfinite(column).any() for _, column in scores):
        return None
    drawn = [histogram(scores, measure)]
    if len(scores) == 2:
        drawn.append(scatter(scores[0][1], scores[1][1], rows.tolist(), measure, (called[0], called[1])))
    return el("div", *drawn, class_="charts")


def _settings(table: RunTable) -> Safe:
    """Each side's checkpoint and settings, as recorded."""
    recorded = [table.run.recorded(side) for side in table.sides]
    names = list(dict.fromkeys(key for settings in recorded for key in settings))
    lines = [[name, *[_said(settings.get(name)) for settings in recorded]] for name in names]
    return el("section", el("h2", "Settings"), _table(["", *table.sides], lines)) if lines else Safe("")


# ---- notes and samples -----------------------------------------------------------------------------------------------


def _noted(table: RunTable, rows: Rows | None) -> Safe | None:
    """How often each kind of error was noted in these rows; by default in all."""
    ids = {table.run.samples[i].id for i in (range(table.count) if rows is None else rows.tolist())}
    counts = Counter(tag for note in table.run.notes.all().values() if note.sample in ids for tag in note.tags)
    if not counts:
        return None
    tags = [el("li", el("b", f"{count:,}"), " ", tag) for tag, count in counts.most_common()]
    return el("section", el("h2", "Noted errors"), el("ul", *tags, class_="noted"))


def _samples(table: RunTable, rows: Rows | None, outcome: str, most: int) -> Safe | None:
    if rows is None or not len(rows):
        return None
    notes = table.run.notes.all()
    shown = [int(i) for i in rows[:most]]
    more = el("p", f"{len(rows) - len(shown)} more are not shown.", class_="quiet") if len(rows) > len(shown) else None
    evidence = {i: found for i in shown if (found := evidence_of(table, i))}
    mapped = list(evidence)[:MAX_MAPPED]
    cards = [
        _card(
            table,
            i,
            notes.get(table.run.samples[i].id),
            evidence_figures(table, i, evidence[i]) if i in mapped else None,
        )
        for i in shown
    ]
    left = len(evidence) - len(mapped)
    maps = el("p", f"Maps of what the answers rest on: {left} more are not drawn.", class_="quiet") if left else None
    heading = el("h2", f"Samples: {outcome}" if outcome else "Samples")
    return el("section", heading, el("div", *cards, class_="cards"), more, maps)


def _card(table: RunTable, i: int, note: Note | None, evidence: Safe | None) -> Safe:
    sample, cells = table.run.samples[i], table.cells(i)
    picture = thumbnail_base64(table.run, i, PICTURE, quality=82, marks=_marks(table, i))
    image = el("img", alt="", src=f"data:image/jpeg;base64,{picture}") if picture else None
    answers = []
    for name, side in zip(SIDES, table.sides, strict=False):
        verdict = {1: "✓ ", 0: "✗ "}.get(int(table.right[side][i]), "")
        score = cells[f"score_{name}"]
        figure = f" ({score:.2f})" if score is not None and sample.task == "grounding" else ""
        answers.append(el("p", el("b", verdict), cells[f"answer_{name}"][:MAX_TEXT], figure, class_=name))
    right = el("p", "Right: ", cells["reference"][:MAX_TEXT], class_="quiet") if cells["reference"] else None
    said = el("p", " · ".join(filter(None, (*note.tags, note.text))), class_="note") if note else None
    facts = el("p", f"{task_title(sample.task)} · {sample.id}", class_="quiet")
    question = el("h3", shorten(sample.text, 200)) if sample.text else None
    return el(
        "article", image or el("p", "no picture", class_="quiet"), question, facts, right, *answers, evidence, said
    )


def _marks(table: RunTable, i: int) -> list[Mark]:
    """The true box and both sides' boxes."""
    sample = table.run.samples[i]
    truth = target_box(sample)
    marks = [Mark(truth, "", "truth")] if truth else []
    roles: tuple[Role, ...] = ("left", "right")
    for role, side in zip(roles, table.sides, strict=False):
        reply = read_reply(sample, table.run.sides[side].rows[i])
        marks += [Mark(box, "", role) for box in reply.boxes[:MAX_BOXES]]
    return marks


# ---- tables ----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]], numbers_from: int = 99) -> Safe:
    top = [el("th", name, class_="n" if i >= numbers_from else None) for i, name in enumerate(head)]
    lines = [
        el("tr", *[el("td", cell, class_="n" if i >= numbers_from else None) for i, cell in enumerate(row)])
        for row in rows
    ]
    return el("div", el("table", el("tr", *top), *lines), class_="wide")


def _figure(value: float | None, bounds: Sequence[float | None] | Interval | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    low, high = bounds or (None, None)
    shown = fraction(value, signed=signed)
    if isinstance(bounds, Interval) and bounds.says_nothing:
        return f"{shown}, too few pictures"
    return shown if low is None or high is None else f"{shown} {fraction_interval(low, high)}".rstrip()


def _said(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
