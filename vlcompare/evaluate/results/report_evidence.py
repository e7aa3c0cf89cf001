"""What answers rest on, in the HTML report: for each side a small picture under its map's colours, on one scale."""

from __future__ import annotations

import base64
import io

from PIL import Image

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.results.aspects import target_box
from vlcompare.evaluate.results.table import RunTable
from vlcompare.evidence import EvidenceMap
from vlcompare.render.draw import Mark, Role, annotate, thumbnail
from vlcompare.render.evidence_picture import Place, evidence_overlay, evidence_scale, figures_in_words, place_of
from vlcompare.render.markup import Safe, el

MAX_MAPPED = 60  # samples of a report whose maps are drawn: some 20 kB each
_SIDE = 240  # pixels of a map's picture
_ROLES: tuple[Role, ...] = ("left", "right")


def evidence_of(table: RunTable, i: int) -> dict[Role, EvidenceMap | str]:
    """By role each side's map of a sample, or the sentence that says why there is none."""
    found = {role: table.run.evidence(side, i) for role, side in zip(_ROLES, table.sides, strict=False)}
    return {role: one for role, one in found.items() if one is not None}


def evidence_figures(table: RunTable, i: int, found: dict[Role, EvidenceMap | str]) -> Safe | None:
    """The maps of a sample, folded; None where `evaluate` measured none, or its picture cannot be shown."""
    from vlcompare.runtime.image import open_image

    maps = {role: one for role, one in found.items() if isinstance(one, EvidenceMap)}
    try:
        picture = thumbnail(open_image(table.run.picture(i)), _SIDE) if maps else None
    except VLCompareError:
        return None
    sample = table.run.samples[i]
    box = target_box(sample)
    place, scale = place_of(sample.task, (box,) if box else ()), evidence_scale(maps)
    shown = [_figure(picture, role, found_map, place, scale) for role, found_map in maps.items() if picture]
    why = [el("p", one, class_="quiet") for one in found.values() if isinstance(one, str)]
    if not shown and not why:
        return None
    note = f"Purple: without this block the answer is less likely; green: more; full at {scale:.2f} nats."
    legend = el("p", note, class_="quiet") if shown else None
    return el("details", el("summary", "What the answers rest on"), *shown, *why, legend, class_="maps")


def _figure(picture: Image.Image, role: Role, found: EvidenceMap, place: Place, scale: float) -> Safe:
    marks = [Mark(box, "", role) for box in found.boxes] + [Mark(box, "", "truth") for box in place.boxes]
    out = io.BytesIO()
    annotate(evidence_overlay(picture, found, scale), marks).save(out, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    lines = figures_in_words(found, place)
    return el(
        "figure", el("img", alt=". ".join(lines), src=source), el("figcaption", "; ".join(lines[1:])), class_=role
    )
