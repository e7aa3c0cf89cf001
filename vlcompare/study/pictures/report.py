"""`study report` of trainings on pictures: report.md, tables (CSV) and figures (SVG) from finished rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.render.panels import stand_alone
from vlcompare.study.figures import NAMES
from vlcompare.study.pictures.figures import label, picture_figures
from vlcompare.study.pictures.folder import read_picture_rows
from vlcompare.study.pictures.gaps import Record
from vlcompare.study.pictures.grids import COMPARISONS
from vlcompare.study.pictures.settings import RECIPES
from vlcompare.study.tables import as_csv
from vlcompare.tasks.prompts import task_title
from vlcompare.training.progress import write_whole
from vlcompare.types import FAMILIES

_PAIR: dict[str, str] = {family: NAMES[family] for family in FAMILIES}


def write_picture_report(path: Path, out: Path, planned: int | None) -> str:
    """Write everything to `out` and return one line about it. Raises SampleError where there are no rows."""
    rows = read_picture_rows(path)
    if not rows:
        raise SampleError(f"{path} holds no finished rows; `study run pictures --out {path.parent}` makes them.")
    out.mkdir(parents=True, exist_ok=True)
    figures = picture_figures(rows)
    for figure in figures:
        write_whole(out / f"{figure.name}.svg", stand_alone(figure.title, figure.panels, _PAIR, columns=2))
        write_whole(out / f"{figure.name}.csv", as_csv(list(figure.records)))
    for name in {one.name for one in COMPARISONS} - {figure.name for figure in figures}:
        for suffix in ("svg", "csv"):
            (out / f"{name}.{suffix}").unlink(missing_ok=True)
    write_whole(out / "rows.csv", as_csv([_flat(row) for row in rows]))
    lines = [*_head(rows, planned)]
    for figure in figures:
        lines += [f"## {figure.title}", "", figure.reads, "", f"![{figure.title}]({figure.name}.svg)", ""]
        lines += [*_table(figure.records), ""]
    write_whole(out / "report.md", "\n".join(lines))
    return f"{len(rows)} rows, {len(figures)} comparisons: {out / 'report.md'}"


def _head(rows: Sequence[Mapping[str, Any]], planned: int | None) -> list[str]:
    lines = ["# The comparisons on pictures, in miniature", ""]
    if planned is not None and planned > len(rows):
        lines += [f"**This grid is unfinished: {len(rows)} of {planned} rows.**", ""]
    lines += [
        "Both families of a pair have matched parameters (within 3 %), see the same pictures and questions in the same "
        "order, and take the same number of steps; every layout is trained, not only asked. The vision encoder is the "
        "embedded pair's, frozen. Gap: Transformer minus Mamba over the same questions.",
        "",
    ]
    for name in dict.fromkeys(row["recipe"] for row in rows):
        lines += [f"Recipe `{name}`: `{json.dumps(RECIPES[name].as_json())}`", ""]
    return lines


def _table(records: Sequence[Record]) -> list[str]:
    names = ["", "group", "task", "type", "n", *(NAMES[family] for family in FAMILIES), "gap", "by seed"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for record in records:
        sides = [f"{record[f]:.3f} ({record[f'{f}_low']:.3f} to {record[f'{f}_high']:.3f})" for f in FAMILIES]
        gap = f"{record['gap']:+.3f} ({record['gap_low']:+.3f} to {record['gap_high']:+.3f})"
        first = [label(record["value"]), record["group"], task_title(record["task"]), record["type"], str(record["n"])]
        lines.append("| " + " | ".join([*first, *sides, gap, record["gap_by_seed"]]) + " |")
    return lines


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as one line: the share right of each task, without the single questions."""
    shares = {task: round(found["right"].count("1") / len(found["right"]), 4) for task, found in row["tasks"].items()}
    return {name: value for name, value in row.items() if not isinstance(value, (list, dict))} | shares
