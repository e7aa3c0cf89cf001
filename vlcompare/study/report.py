"""`study report`: report.md, tables (CSV) and figures (SVG) from finished rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.render.panels import stand_alone
from vlcompare.study.figures import NAMES, all_figures
from vlcompare.study.lines import left_out, told
from vlcompare.study.opened import planned_rows
from vlcompare.study.pictures.folder import holds_pictures
from vlcompare.study.pictures.report import write_picture_report
from vlcompare.study.rates import RULE
from vlcompare.study.rows import rows_in, whole_rows
from vlcompare.study.tables import TABLES, Row, as_csv, groups
from vlcompare.units import how_many
from vlcompare.whole_files import write_whole

_HIDDEN = ("width", "layers", "recipe", "budget", "rates_tried")  # columns that only the CSV files have
_TITLES = {
    "examples_to_95": "Examples needed to reach .95",
    "query_first_against_last": "Query first against query last",
    "state_size": "Mamba by state size",
    "extrapolation": "Longer than trained",
}


def write_report(source: Path, out: Path) -> str:
    """Write everything to `out` and return what is to be told: one line, and the damaged lines that are left out.

    Raises SampleError where there are no rows.
    """
    path = rows_in(source)
    if holds_pictures(path):
        return write_picture_report(path, out)
    rows, problems = whole_rows(path)
    if not rows:
        folder = path.parent if path.suffix == ".jsonl" else path
        none = f"{path} holds no finished rows; `study run GRID --out {folder}` makes them."
        raise SampleError(problems[0] if problems else none)
    out.mkdir(parents=True, exist_ok=True)
    settings = groups(rows)
    tables = {name: table(settings) for name, table in TABLES.items()}
    for name, records in {**tables, "rows": [_flat(row) for row in rows]}.items():
        if records:
            write_whole(out / f"{name}.csv", as_csv(records))
        else:
            (out / f"{name}.csv").unlink(missing_ok=True)
    figures = []
    for figure in all_figures(settings):
        figures.append(f"{figure.name}.svg")
        write_whole(out / figures[-1], stand_alone(figure.title, figure.panels, NAMES))
    for name in set(TABLES) - {Path(figure).stem for figure in figures}:
        (out / f"{name}.svg").unlink(missing_ok=True)
    state = _state(rows, planned_rows(path.parent), problems)
    write_whole(out / "report.md", _text(rows, tables, figures, state))
    return told(f"{how_many(len(rows), 'row')} in {how_many(len(settings), 'setting')}: {out / 'report.md'}", problems)


def _flat(row: Row) -> Row:
    """A row without its lists: the curve and the places have tables of their own."""
    return {name: value for name, value in row.items() if not isinstance(value, (list, dict))}


def _state(rows: Sequence[Row], planned: int | None, problems: Sequence[str]) -> list[str]:
    """Whether the grid is finished, and which lines of the file are left out."""
    unfinished = planned is not None and planned > len(rows)
    said = [f"**This grid is unfinished: {len(rows)} of {planned} rows.**", ""] if unfinished else []
    return [*said, *left_out(problems)]


def _text(rows: Sequence[Row], tables: dict[str, list[Row]], figures: Sequence[str], state: Sequence[str]) -> str:
    budgets = " and ".join(f"{budget:,}" for budget in sorted({row["budget"] for row in rows}))
    tried = max(record["rates_tried"] for record in tables["examples_to_95"])
    rates = f"; the rate of each setting is, {RULE}. All rows are in rows.csv, those at other rates too"
    rates = rates if tried > 1 else ". All rows are in rows.csv"
    lines = ["# In-context retrieval, learnt from nothing", "", *state]
    lines += [
        f"{how_many(len(rows), 'training')} of at most {budgets} examples each; a training stops when it is right on "
        ".95 of held-out items. Parameters of the families are matched. Medians over seeds, with the least and the "
        f"most{rates}.",
        "",
    ]
    lines += [line for name in figures for line in (f"![{Path(name).stem.replace('_', ' ')}]({name})", "")]
    for name, title in _TITLES.items():
        if tables[name]:
            lines += [f"## {title}", "", *_markdown(tables[name]), ""]
    return "\n".join(lines)


def _markdown(records: Sequence[Row]) -> list[str]:
    names = [name for name in records[0] if name not in _HIDDEN]
    head = "| " + " | ".join(name.replace("_", " ") for name in names) + " |"
    body = ["| " + " | ".join(_cell(name, record[name]) for name in names) + " |" for record in records]
    return [head, "|" + "---|" * len(names), *body]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "not reached" if "examples" in name else "-"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:g}"
    return f"{int(value):,}" if isinstance(value, (int, float)) else str(value)
