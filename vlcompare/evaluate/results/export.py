"""Exports of a run, whole or of chosen rows, as texts: CSV, JSON, and LLM Comparator's JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vlcompare.evaluate.results import llm_comparator
from vlcompare.evaluate.results.slices import overall, slice_figures
from vlcompare.evaluate.results.table import Rows, RunTable
from vlcompare.evaluate.results.thumbnails import thumbnail_base64
from vlcompare.evaluate.summary import plain
from vlcompare.tasks.boxes import format_box
from vlcompare.tasks.prompts import SPECS, task_title
from vlcompare.types import SIDES

EXPORT_VERSION = 1
COMPARATOR_RANGE = 1.5
COMPARATOR_PICTURES = 500  # examples that bring their picture along
THUMBNAIL = 256
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(table: RunTable, rows: Rows | None = None) -> str:
    """One line a sample: question, both models and their answers, scores, confidences, slices, note and tags.

    A confidence is the geometric mean of the tokens' probabilities. Without a reference the true boxes stand there.

    A text cell that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    notes = table.run.notes.all()
    names = ["id", "image", "task", "question", "reference", "quadrant"]
    for side in table.sides:
        names += [f"checkpoint_{side}", f"answer_{side}", f"score_{side}", f"confidence_{side}"]
    aspects = [name for name in table.aspects if name != "task"]
    names += [*aspects, "note", "tags"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore")  # its "\r\n" makes it quote a lone "\r", too
    writer.writeheader()
    for i in _rows(table, rows):
        sample = table.run.samples[i]
        shown = table.cells(i)
        true = () if SPECS[sample.task].box else sample.boxes  # else they are the region that is asked about
        reference = shown["reference"] or " ".join(map(format_box, true))
        cells: dict[str, Any] = {**shown, "image": sample.image_key, "reference": reference}
        for name, side in zip(SIDES, table.sides, strict=False):
            confidence = float(table.confidence[side][i])
            cells[f"answer_{side}"] = shown[f"answer_{name}"]
            cells[f"score_{side}"] = shown[f"score_{name}"]
            cells[f"confidence_{side}"] = "" if math.isnan(confidence) else round(math.exp(confidence), 4)
            cells[f"checkpoint_{side}"] = table.run.checkpoint(side)
        cells |= {name: table.aspects[name].value_of(i) for name in aspects}
        note = notes.get(sample.id)
        cells |= {"note": note.text if note else "", "tags": "; ".join(note.tags) if note else ""}
        writer.writerow({key: _safe(value) for key, value in cells.items()})
    return out.getvalue()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def to_json(table: RunTable, rows: Rows | None = None, *, figures: Rows | None = None) -> str:
    """The run's record, figures by slice, and the rows with their whole answers, notes and tags.

    Figures are over the rows `figures`, by default over those that are given: rows that were chosen by how they were
    answered have figures that are true by construction.
    """
    run = table.run
    notes = run.notes.all()
    figures = rows if figures is None else figures
    everything = overall(table, figures)
    value = {
        "schema_version": EXPORT_VERSION,
        "run": run.record,
        "checkpoints": {side: run.checkpoint(side) for side in table.sides},
        "quadrants": table.quadrant_counts(figures),
        "overall": asdict(everything) if everything else None,
        "slices": {name: [asdict(row) for row in slice_figures(table, name, figures)] for name in table.aspects},
        "samples": [
            {
                **table.cells(i),
                "image": run.samples[i].image_key,
                "references": list(run.samples[i].references),
                "boxes": [list(box) for box in run.samples[i].boxes],
                "tags": run.samples[i].tags,
                "sides": {side: _answer(table, side, i) for side in table.sides},
                "note": notes[run.samples[i].id].to_json() if run.samples[i].id in notes else None,
            }
            for i in _rows(table, rows)
        ],
    }
    return json.dumps(plain(value), ensure_ascii=False, indent=1)


def _answer(table: RunTable, side: str, i: int) -> dict[str, Any] | None:
    row = table.run.row(side, i)
    return None if row is None else {key: value for key, value in row.items() if key not in ("id", "side")}


def to_llm_comparator(
    table: RunTable, rows: Rows | None = None, *, pictures: bool = True, names: Sequence[str] = ()
) -> str:
    """LLM Comparator's JSON. Needs two sides; a run of one is compared with an empty answer.

    names: what each side is called where both are of one checkpoint.
    """
    run, notes = table.run, table.run.notes.all()
    kinds = {"id": "string", "task": "category", "quadrant": "category", "reference": "text", "note": "text"}
    kinds |= dict.fromkeys((name for name in table.aspects if name != "task"), "category")
    kinds |= {"score": "per_model_number", "right": "per_model_boolean"}
    if pictures:
        kinds["picture"] = "image_byte"
    value = llm_comparator.comparison(
        run.name,
        [*table.names(names), "(no second model)"][:2],
        kinds,
        [
            _example(table, i, notes, with_picture=pictures and number < COMPARATOR_PICTURES)
            for number, i in enumerate(_rows(table, rows))
        ],
    )
    return json.dumps(plain(value), ensure_ascii=False, indent=1)


def _example(table: RunTable, i: int, notes: dict[str, Any], *, with_picture: bool) -> dict[str, Any]:
    sample, cells = table.run.samples[i], table.cells(i)
    scores = [cells.get("score_left"), cells.get("score_right")]
    note = notes.get(sample.id)
    rights = [bool(table.right[side][i] == 1) for side in table.sides]
    fields: dict[str, Any] = {
        **{name: cells[name] for name in ("id", "task", "quadrant", "reference")},
        "note": note.text if note else "",
        **{name: table.aspects[name].value_of(i) for name in table.aspects if name != "task"},
        "score": scores,
        "right": [*rights, False][:2],
    }
    if with_picture:
        fields["picture"] = thumbnail_base64(table.run, i, THUMBNAIL, quality=80)
    return llm_comparator.example(
        sample.text or task_title(sample.task),
        [sample.task, *(note.tags if note else ())],
        [cells["answer_left"], cells.get("answer_right", "")],
        _preference(scores),
        fields,
    )


def _preference(scores: list[float | None]) -> float | None:
    """From -1.5 (the right side is better) to 1.5; null where a side is not scored."""
    left, right = scores
    if left is None or right is None:
        return None
    return round(COMPARATOR_RANGE * max(-1.0, min(1.0, left - right)), 4)


def _rows(table: RunTable, rows: Rows | None) -> list[int]:
    return list(range(table.count)) if rows is None else [int(i) for i in rows]
