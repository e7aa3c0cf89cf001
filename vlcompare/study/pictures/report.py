"""`study report` of trainings on pictures: report.md, tables (CSV) and figures (SVG) from finished rows alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.render.panels import stand_alone
from vlcompare.study.figures import NAMES
from vlcompare.study.lines import left_out, told
from vlcompare.study.pictures.figures import baseline_says, label, picture_figures
from vlcompare.study.pictures.folder import parse_picture_rows, planned_settings
from vlcompare.study.pictures.gaps import progress
from vlcompare.study.pictures.grids import COMPARISONS
from vlcompare.study.pictures.measured import Record, Row, right
from vlcompare.study.pictures.pilot import RULE, above_text, pilots
from vlcompare.study.pictures.settings import RECIPES, PictureSetting, picture_setting_of
from vlcompare.study.rows import whole_rows
from vlcompare.study.tables import as_csv
from vlcompare.tasks.prompts import task_title
from vlcompare.types import FAMILIES
from vlcompare.units import how_many
from vlcompare.whole_files import write_whole

_PAIR: dict[str, str] = {family: NAMES[family] for family in FAMILIES}


def write_picture_report(path: Path, out: Path) -> str:
    """Write everything to `out` and return what is to be told: one line, and the damaged lines that are left out.

    Raises SampleError where there are no rows.
    """
    whole, problems = whole_rows(path, parse_picture_rows)
    if not whole:
        none = f"{path} holds no finished rows; `study run pictures --out {path.parent}` makes them."
        raise SampleError(problems[0] if problems else none)
    rows = rows_with_floors(whole)
    out.mkdir(parents=True, exist_ok=True)
    figures = picture_figures(rows)
    for figure in figures:
        write_whole(out / f"{figure.name}.svg", stand_alone(figure.title, figure.panels, _PAIR, columns=2))
        write_whole(out / f"{figure.name}.csv", as_csv(list(figure.records)))
    possible = {f"{one.name}{recipe}" for one in COMPARISONS for recipe in ("", *(f"-{name}" for name in RECIPES))}
    for name in possible - {figure.name for figure in figures}:
        for suffix in ("svg", "csv"):
            (out / f"{name}.{suffix}").unlink(missing_ok=True)
    write_whole(out / "rows.csv", as_csv(_flat(rows)))
    lines = [*_head(rows), *_state(rows, planned_settings(path.parent)), *left_out(problems), *_pilot(rows)]
    if not figures and (said := baseline_says(rows)):
        lines += ["## The baseline alone", "", *(f"- {sentence}" for sentence in said), ""]
    for figure in figures:
        lines += [
            f"## {figure.title}",
            "",
            figure.reads,
            "",
            *(f"- {said}" for said in figure.says),
            "",
            f"![{figure.title}]({figure.name}.svg)",
            "",
        ]
        lines += [*_table(figure.records), ""]
    write_whole(out / "report.md", "\n".join(lines))
    return told(f"{how_many(len(rows), 'row')}, {how_many(len(figures), 'comparison')}: {out / 'report.md'}", problems)


def rows_with_floors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each task with its floor; those of earlier programs hold none."""
    if all("floor" in found for row in rows for found in row["tasks"].values()):
        return rows
    from vlcompare.study.pictures.floors import with_floors  # torch, which is not needed otherwise

    return with_floors(rows)


def _head(rows: Sequence[Row]) -> list[str]:
    lines = [
        "# The comparisons on pictures, in miniature",
        "",
        "Both families of a pair have matched parameters (within 3 %), see the same pictures and questions in the same "
        "order, and take the same number of steps; every layout is trained, not only asked. The vision encoder is "
        "frozen: the embedded pair's, or at a larger size one that is finetuned from it. Gap: Transformer minus Mamba "
        "over the same questions. Floor: the share of them that the most frequent answer in training to questions "
        "alike (of one type, naming the same kinds of things) gets right. Intervals are over held-out pictures of all "
        "their seeds; what other trainings would give, the single seeds' gaps say.",
        "",
    ]
    for name in dict.fromkeys(row["recipe"] for row in rows):
        lines += [f"Recipe `{name}`: `{json.dumps(RECIPES[name].as_json())}`", ""]
    return lines


def _state(rows: Sequence[Row], planned: Sequence[PictureSetting]) -> list[str]:
    """What is finished of what was last asked for, and of every comparison that is begun."""
    known = {picture_setting_of(dict(row)) for row in rows}
    lines = []
    if missing := sum(setting not in known for setting in planned):
        lines += [f"**This grid is unfinished: {len(planned) - missing} of {len(planned)} rows.**", ""]
    for found in progress(rows):
        if found.finished < found.asked:
            lines.append(f"- **Unfinished: {found.comparison}, {found.finished} of {found.asked} rows.**")
        else:
            lines.append(f"- Finished: {found.comparison}, {found.asked} rows.")
    return [*lines, ""]


def _pilot(rows: Sequence[Row]) -> list[str]:
    """What the pilot says about the tasks that are reported only where they are learnt."""
    lines = []
    for pilot in pilots(rows):
        lines += [f"## The pilot of `{pilot.recipe}`", "", f"The rule: {RULE}.", ""]
        names = ["task", "", "seed", "n", "right", "floor", "above the floor"]
        lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        for one in pilot.records:
            shares = ["–" if one[name] is None else f"{one[name]:.3f}" for name in ("right", "floor")]
            cells = [task_title(one["task"]), NAMES[one["family"]], one["seed"], one["n"], *shares, above_text(one)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines += ["", *(f"- {task_title(task)}: {verdict}." for task, verdict in pilot.verdicts.items()), ""]
    return lines


def _table(records: Sequence[Record]) -> list[str]:
    names = ["", "group", "task", "type", "n", "floor", *(NAMES[family] for family in FAMILIES), "gap", "by seed"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for record in records:
        sides = [_with_interval(record, family, ".3f") for family in FAMILIES]
        gap = _with_interval(record, "gap", "+.3f")
        floor = "-" if record["floor"] is None else f"{record['floor']:.3f}"
        first = [label(record["value"]), record["group"], task_title(record["task"]), record["type"], str(record["n"])]
        first.append(floor)
        lines.append("| " + " | ".join([*first, *sides, gap, record["gap_by_seed"]]) + " |")
    return lines


def _with_interval(record: Record, name: str, form: str) -> str:
    low, high = record[f"{name}_low"], record[f"{name}_high"]
    interval = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{record[name]:{form}}{interval}"


def _flat(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each row, all with the same columns: the share right of each task, without the single questions."""
    tasks = dict.fromkeys(task for row in rows for task in row["tasks"])
    out = []
    for row in rows:
        shares = {task: round(float(right(found).mean()), 4) for task, found in row["tasks"].items()}
        plain = {name: value for name, value in row.items() if not isinstance(value, (list, dict))}
        # a field that an earlier program did not write has its default
        out.append({**asdict(picture_setting_of(dict(row))), **plain, **dict.fromkeys(tasks), **shares})
    return out
