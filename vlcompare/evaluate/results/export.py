"""Exports of a run, whole or of chosen rows: CSV, JSON, and LLM Comparator's JSON. The report is in `report`.

Knows a run's table and notes; each export is a text. LLM Comparator's format is that of its README ("JSON Data Format",
github.com/PAIR-code/llm-comparator): metadata, models, examples with a score from -1.5 (B is better) to 1.5 (A is).
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.results.slices import overall, slice_figures
from vlcompare.evaluate.results.table import Rows, RunTable
from vlcompare.evaluate.summary import plain

EXPORT_VERSION = 1
COMPARATOR_RANGE = 1.5
COMPARATOR_PICTURES = 500  # examples that bring their picture along
THUMBNAIL = 256
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(table: RunTable, rows: Rows | None = None) -> str:
    """One line a sample: question, both answers, scores, slices, note and tags.

    A text cell that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    notes = table.run.notes.all()
    names = ["id", "image", "task", "question", "reference", "quadrant"]
    for side in table.sides:
        names += [f"answer_{side}", f"score_{side}", f"confidence_{side}"]
    aspects = [name for name in table.aspects if name != "task"]
    names += [*aspects, "note", "tags"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore")  # its "\r\n" makes it quote a lone "\r", too
    writer.writeheader()
    for i in _rows(table, rows):
        sample = table.run.samples[i]
        shown = table.cells(i)
        cells: dict[str, Any] = {**shown, "image": sample.image_key}
        for name, side in zip(("left", "right"), table.sides, strict=False):
            confidence = float(table.confidence[side][i])
            cells[f"answer_{side}"] = shown[f"answer_{name}"]
            cells[f"score_{side}"] = shown[f"score_{name}"]
            cells[f"confidence_{side}"] = "" if math.isnan(confidence) else round(confidence, 4)
        cells |= {name: _aspect(table, name, i) for name in aspects}
        note = notes.get(sample.id)
        cells |= {"note": note.text if note else "", "tags": "; ".join(note.tags) if note else ""}
        writer.writerow({key: _safe(value) for key, value in cells.items()})
    return out.getvalue()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def to_json(table: RunTable, rows: Rows | None = None) -> str:
    """The run's record, figures by slice, and the rows with their whole answers, notes and tags."""
    run = table.run
    notes = run.notes.all()
    chosen = _rows(table, rows)
    everything = overall(table, rows)
    value = {
        "schema_version": EXPORT_VERSION,
        "run": run.record,
        "checkpoints": {side: run.checkpoint(side) for side in table.sides},
        "quadrants": table.quadrant_counts(rows),
        "overall": asdict(everything) if everything else None,
        "slices": {name: [asdict(row) for row in slice_figures(table, name, rows)] for name in table.aspects},
        "samples": [
            {
                **table.cells(i),
                "image": run.samples[i].image_key,
                "references": list(run.samples[i].references),
                "boxes": [list(box) for box in run.samples[i].boxes],
                "tags": run.samples[i].tags,
                "sides": {side: _without_ids(run.row(side, i)) for side in table.sides},
                "note": notes[run.samples[i].id].to_json() if run.samples[i].id in notes else None,
            }
            for i in chosen
        ],
    }
    return json.dumps(plain(value), ensure_ascii=False, indent=1)


def _without_ids(row: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {key: value for key, value in row.items() if key not in ("id", "side")}


def to_llm_comparator(table: RunTable, rows: Rows | None = None, *, pictures: bool = True) -> str:
    """LLM Comparator's JSON. Needs two sides; a run of one is compared with an empty answer."""
    run, notes = table.run, table.run.notes.all()
    names = [run.checkpoint(side) for side in table.sides]
    if len(names) == 1:
        names.append("(no second model)")
    fields = [("id", "string"), ("task", "category"), ("quadrant", "category"), ("reference", "text"), ("note", "text")]
    fields += [(name, "category") for name in table.aspects if name != "task"]
    fields += [("score", "per_model_number"), ("right", "per_model_boolean")]
    chosen = _rows(table, rows)
    if pictures:
        fields.append(("picture", "image_byte"))
    examples = [
        _example(table, i, notes, with_picture=pictures and number < COMPARATOR_PICTURES)
        for number, i in enumerate(chosen)
    ]
    value = {
        "metadata": {
            "source_path": run.name,
            "custom_fields_schema": [{"name": name, "type": kind} for name, kind in fields],
        },
        "models": [{"name": name} for name in names],
        "examples": examples,
    }
    return json.dumps(plain(value), ensure_ascii=False, indent=1)


def _example(table: RunTable, i: int, notes: dict[str, Any], *, with_picture: bool) -> dict[str, Any]:
    sample, cells = table.run.samples[i], table.cells(i)
    scores = [cells.get("score_left"), cells.get("score_right")]
    note = notes.get(sample.id)
    rights = [bool(table.right[side][i] == 1) for side in table.sides]
    fields: dict[str, Any] = {
        "id": sample.id,
        "task": sample.task,
        "quadrant": cells["quadrant"],
        "reference": cells["reference"],
        "note": note.text if note else "",
        **{name: _aspect(table, name, i) for name in table.aspects if name != "task"},
        "score": scores,
        "right": [*rights, False][:2],
    }
    if with_picture:
        fields["picture"] = _thumbnail(table, i)
    return {
        "input_text": sample.text or sample.task.replace("_", " "),
        "tags": [sample.task, *(note.tags if note else ())],
        "output_text_a": cells["answer_left"],
        "output_text_b": cells.get("answer_right", ""),
        "score": _preference(scores),
        "individual_rater_scores": [],
        "custom_fields": fields,
    }


def _preference(scores: list[float | None]) -> float | None:
    """From -1.5 (the right side is better) to 1.5; null where a side is not scored."""
    left, right = scores
    if left is None or right is None:
        return None
    return round(COMPARATOR_RANGE * max(-1.0, min(1.0, left - right)), 4)


def _thumbnail(table: RunTable, i: int) -> str:
    """A small JPEG in base64, or "" where the picture cannot be shown."""
    from vlcompare.render.draw import thumbnail
    from vlcompare.runtime.image import open_image

    try:
        picture = thumbnail(open_image(table.run.picture(i)), THUMBNAIL)
    except VLCompareError:
        return ""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


def _aspect(table: RunTable, name: str, i: int) -> str:
    code = int(table.aspects[name].codes[i])
    return table.aspects[name].values[code] if code >= 0 else ""


def _rows(table: RunTable, rows: Rows | None) -> list[int]:
    return list(range(table.count)) if rows is None else [int(i) for i in rows]
