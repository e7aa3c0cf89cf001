"""One self-contained HTML page of a run: settings, figures, charts, slices, and chosen samples with their pictures.

Whatever a model, a data set or a person wrote is escaped. The page loads nothing and runs no script, and its own
policy says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from vlcompare.evaluate.results.slices import SliceRow, overall, slice_figures
from vlcompare.evaluate.results.table import Rows, RunTable, summary_of
from vlcompare.evaluate.results.thumbnails import thumbnail_base64
from vlcompare.render.charts import Measure, bar, histogram, interval, legend, scatter
from vlcompare.render.draw import STYLES, Mark
from vlcompare.render.markup import Safe, el, shorten
from vlcompare.render.markup import text as escaped
from vlcompare.types import SIDES

MAX_SAMPLES = 200
PICTURE = 320
_COLORS = f":root {{ --left: {STYLES['left'].color}; --right: {STYLES['right'].color} }}"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1040px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0; width: 100% }
td, th { padding: .25rem .6rem; text-align: left; overflow-wrap: anywhere }
td:first-child { white-space: nowrap; overflow-wrap: normal }
tr { border-bottom: 1px solid #e3e6e8 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.sample { display: grid; grid-template-columns: 340px 1fr; gap: 1rem; border-top: 1px solid #ccc; padding: 1rem 0 }
.sample img { max-width: 100% } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 }
.left { color: #00598c } .right { color: #9a6a00 } .note { background: #fff6d6; padding: .3rem .6rem }
.quiet { color: #666 }
[data-side="left"] { --side: var(--left) } [data-side="right"] { --side: var(--right) }
.vl-chart { width: 420px; max-width: 100%; overflow: visible } .vl-chart text { font-size: 11px; fill: #444 }
.vl-grid, .vi-zero { stroke: #d5d9dc } .vi-diagonal { stroke: #888; stroke-dasharray: 3 4 }
.vi-point, .vi-dot { fill: var(--side, #777) } circle.vi-point { fill-opacity: .45 }
.vi-whisker { stroke: var(--side, #777); stroke-width: 2.5 } .vi-interval { vertical-align: middle }
.vl-bar { display: flex; height: 28px } .vl-piece { background: #8a9096 } .vl-piece-0 { background: #009e73 }
.vl-piece-1 { background: var(--left) } .vl-piece-2 { background: var(--right) }
.vl-legend { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; margin: .4rem 0 }
.vl-legend i { display: inline-block; width: 12px; height: 12px; margin-right: 6px }
th { overflow-wrap: break-word } @media (min-width: 900px) { td.n { white-space: nowrap } }
@media (max-width: 700px) { .sample { grid-template-columns: 1fr } .vi-interval { display: none } }
"""


def html_report(table: RunTable, samples: Rows | None = None, *, rows: Rows | None = None, title: str = "") -> str:
    """The page. Figures are over `rows` (all, by default); `samples` are shown one by one, MAX_SAMPLES at most."""
    run = table.run
    names = (shorten(run.checkpoint(table.sides[0]), 48), shorten(run.checkpoint(table.sides[-1]), 48))
    chosen = np.arange(table.count) if rows is None else rows
    body = [
        f"<h1>{escape(title or f'Run {run.name}')}</h1>",
        _settings(table),
        _figures(summary_of(run)),
        "<h2>Who is right</h2>",
        _quadrants(table.quadrant_counts(rows), names),
        _charts(table, chosen, names),
        _slices(table, rows),
        _samples(table, samples),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title or run.name)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_COLORS}{_STYLE}</style></head>\n'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _settings(table: RunTable) -> str:
    """Each side's checkpoint and settings, as recorded."""
    recorded = [table.run.recorded(side) for side in table.sides]
    names = list(dict.fromkeys(key for settings in recorded for key in settings))
    lines = [("samples", [str(table.count)] * len(table.sides))]
    lines += [(name, [_shown(settings.get(name)) for settings in recorded]) for name in names]
    head = "".join(f'<th class="{escape(side)}">{escape(side)}</th>' for side in table.sides)
    return f"<table><tr><th></th>{head}</tr>{''.join(_line([name, *cells]) for name, cells in lines)}</table>"


def _figures(summary: Mapping[str, Any]) -> str:
    """The summary's figures with their intervals, the paired differences, and the warnings."""
    sides, paired = summary.get("sides") or {}, summary.get("paired") or {}
    head = "".join(f'<th class="n">{escape(side)}</th>' for side in sides)
    lines = []
    for task in dict.fromkeys(task for side in sides.values() for task in side["tasks"]):
        metrics = [name for side in sides.values() for name in side["tasks"].get(task, {}) if name not in ("n", "ci95")]
        notes = (summary.get("ci95_notes") or {}).get(task) or {}
        for metric in dict.fromkeys(metrics):
            cells = [task.replace("_", " "), f"{metric} ({notes[metric]})" if metric in notes else metric]
            for side in sides.values():
                figures = side["tasks"].get(task) or {}
                cells.append(_interval(figures.get(metric), (figures.get("ci95") or {}).get(metric)))
            pair = paired.get(task, {}).get(metric)
            cells.append(_interval(pair["difference"], pair["ci95"], "+") if pair else "")
            lines.append(_line(cells, numbers_from=2))
    warnings = "".join(f"<li>{escape(str(text))}</li>" for text in summary.get("warnings", ()))
    return (
        f'<h2>Figures</h2><p class="quiet">With 95 % intervals, clustered by picture.</p><table><tr><th>task</th>'
        f'<th>metric</th>{head}<th class="n">difference</th></tr>{"".join(lines)}</table><ul>{warnings}</ul>'
    )


def _quadrants(counts: Mapping[str, int], names: tuple[str, str]) -> Safe:
    """One bar, split by which sides are right."""
    total = sum(counts.values()) or 1
    titles = ("both right", f"only {names[0]}", f"only {names[1]}", "both wrong")
    shares = [
        f"{title}: {count} ({100 * count / total:.1f} %)" for title, count in zip(titles, counts.values(), strict=True)
    ]
    parts = [(title, float(count), str(count)) for title, count in zip(titles, counts.values(), strict=True)]
    return el("div", bar(parts, total), legend(shares))


def _charts(table: RunTable, rows: Rows, names: tuple[str, str]) -> str:
    """How the scores are spread and, where there are two sides, the scores of each sample on both."""
    measure = Measure("score", "score")
    scores = [(role, table.score[side][rows]) for role, side in zip(SIDES, table.sides, strict=False)]
    if not all(np.isfinite(column).any() for _, column in scores):
        return ""
    drawn = [el("h2", "Scores"), histogram(scores, measure)]
    if len(scores) == 2:
        drawn.append(scatter(scores[0][1], scores[1][1], rows.tolist(), measure, names))
    return "".join(drawn)


def _slices(table: RunTable, rows: Rows | None) -> str:
    parts = ['<h2>By slice</h2><p class="quiet">Shares of rows that are right, by each task\'s own measure.</p>']
    everything = overall(table, rows)
    for name, aspect in table.aspects.items():
        figures = slice_figures(table, name, rows)
        if not figures:
            continue
        parts.append(f"<h3>{escape(aspect.title)}</h3>")
        parts.append(_slice_table(figures if everything is None else [*figures, everything], table))
    return "".join(parts)


def _slice_table(rows: Sequence[SliceRow], table: RunTable) -> str:
    head = "".join(f'<th class="n">{escape(table.run.checkpoint(side))}</th>' for side in table.sides)
    bounds = [bound for row in rows if row.paired for bound in row.paired.ci95 if math.isfinite(bound)]
    reach = min(1.0, max(map(abs, bounds), default=1.0))
    lines = []
    for row in rows:
        cells = [row.value, str(row.n), str(row.n_images), _interval(row.left, row.left_ci95)]
        if row.paired and row.right is not None:
            difference, ci95 = row.paired.difference, row.paired.ci95
            cells += [_interval(row.right, row.right_ci95), _interval(difference, ci95, "+")]
            cells.append(interval(difference, *ci95, reach) if all(map(math.isfinite, ci95)) else "")
        lines.append(_line(cells, numbers_from=1))
    last = '<th class="n">difference</th><th></th>' if len(table.sides) > 1 else ""
    top = f'<tr><th></th><th class="n">rows</th><th class="n">pictures</th>{head}{last}</tr>'
    return f"<table>{top}{''.join(lines)}</table>"


def _samples(table: RunTable, rows: Rows | None) -> str:
    if rows is None or not len(rows):
        return ""
    notes = table.run.notes.all()
    shown = [int(i) for i in rows[:MAX_SAMPLES]]
    more = f'<p class="quiet">{len(rows) - len(shown)} more are not shown.</p>' if len(rows) > len(shown) else ""
    return "<h2>Samples</h2>" + "".join(_sample(table, i, notes) for i in shown) + more


def _sample(table: RunTable, i: int, notes: Mapping[str, Any]) -> str:
    sample, cells = table.run.samples[i], table.cells(i)
    picture = thumbnail_base64(table.run, i, PICTURE, quality=85, marks=_marks(table, i))
    image = f'<img alt="" src="data:image/jpeg;base64,{picture}">' if picture else '<p class="quiet">no picture</p>'
    lines = [f"<h3>{escape(sample.id)}</h3>", f'<p class="quiet">{escape(sample.task.replace("_", " "))}'
             f" · {escape(str(cells['quadrant']).replace('_', ' '))}</p>"]  # fmt: skip
    if sample.text:
        lines.append(f"<p>{escape(sample.text)}</p>")
    if cells["reference"]:
        lines.append(f"<p>Right: {escape(cells['reference'])}</p>")
    for name, side in zip(SIDES, table.sides, strict=False):
        score = cells[f"score_{name}"]
        label = escape(table.run.checkpoint(side)) + ("" if score is None else f" ({score:.2f})")
        lines.append(f'<div class="{name}">{label}<pre>{escape(cells[f"answer_{name}"])}</pre></div>')
    note = notes.get(sample.id)
    if note:
        lines.append(f'<p class="note">{escape(" · ".join((*note.tags, note.text)))}</p>')
    return f'<div class="sample"><div>{image}</div><div>{"".join(lines)}</div></div>'


def _marks(table: RunTable, i: int) -> list[Mark]:
    """The true box and both sides' boxes."""
    from vlcompare.evaluate.replies import read_reply
    from vlcompare.evaluate.results.aspects import target_box

    sample = table.run.samples[i]
    truth = target_box(sample)
    marks = [Mark(truth, "", "truth")] if truth else []
    for name, side in zip(SIDES, table.sides, strict=False):
        reply = read_reply(sample, table.run.sides[side].rows[i])
        marks += [Mark(box, "", name) for box in reply.boxes[:20]]  # type: ignore[arg-type]
    return marks


def _line(cells: Iterable[str], numbers_from: int = 99) -> str:
    return "<tr>" + "".join(
        f'<td{" class=n" if i >= numbers_from else ""}>{escaped(cell)}</td>' for i, cell in enumerate(cells)
    ) + "</tr>"  # fmt: skip


def _interval(value: float | None, interval: Any, sign: str = "") -> str:
    if value is None:
        return ""
    low, high = interval or (None, None)
    return f"{value:{sign}.3f}" + (
        f" [{low:{sign}.3f}, {high:{sign}.3f}]" if low is not None and high is not None else ""
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
