"""What answers rest on, over the picture: a map for each side, beside each other and on one scale, with its figures."""

from __future__ import annotations

from collections.abc import Mapping

from vlcompare.evidence import EvidenceMap
from vlcompare.render.evidence_picture import FALL, NO_CHANGE, RISE, Place, evidence_scale, figures_in_words
from vlcompare.render.markup import Safe, el
from vlcompare.types import Box
from vlcompare.ui.compare.picture import box_mark, stage
from vlcompare.ui.compare.session import Picture

_SOLID = 0.85  # opacity at the end of the scale


def evidence_maps(
    picture: Picture,
    maps: Mapping[str, EvidenceMap],
    names: Mapping[str, str],
    place: Place,
    *,
    measuring: bool = False,
) -> Safe:
    """The maps by side, in the order of `names` (side -> the name above its map).

    place: what the question is about; measuring: more blocks are on their way.
    """
    scale = evidence_scale(maps)  # type: ignore[arg-type]
    done = sum(fall is not None for found in maps.values() for fall in found.falls)
    of = sum(len(found.falls) for found in maps.values())
    both = " of both sides, one scale for both" if len(maps) > 1 else ""
    head = f"{done} blocks measured" if measuring else f"{done} of {of} blocks{both}"
    figures = [_figure(picture, side, names[side], maps[side], scale, place) for side in names if side in maps]
    legend = el(
        "p",
        el("i", class_="vl-evidence-scale", style=f"background:linear-gradient(90deg,{RISE},{NO_CHANGE},{FALL})"),
        f"−{scale:.2f} to {scale:.2f} nats: how far the log-probability of the answer falls without the block",
        class_="vl-note",
    )
    return el(
        "div",
        el("p", head, class_="vl-repeats-head" + (" vl-busy" if measuring else ""), role="status"),
        el("div", *figures, class_="vl-evidence-pair"),
        legend if maps else None,
        class_="vl-evidence",
    )


def _figure(picture: Picture, side: str, name: str, found: EvidenceMap, scale: float, place: Place) -> Safe:
    blocks = zip(found.layout, found.falls, strict=True)
    marks = [
        _block(found.layout.box(block), fall, scale, block == found.largest)
        for block, fall in blocks
        if fall is not None
    ]
    marks += [box_mark(box, "", "vl-answer-box", title="the answer's box") for box in found.boxes]
    marks += [box_mark(box, place.badge, "vl-truth", title=place.name) for box in place.boxes]
    lines = figures_in_words(found, place)
    said = " ".join(line if line.endswith(".") else f"{line}." for line in lines)
    return el(
        "figure",
        el("figcaption", el("i", class_="vl-key"), name),
        stage(picture, *marks, label=f"What the answer of {name} rests on. {said}"),
        *(el("p", line, class_="vl-note") for line in lines),
        class_="vl-figure",
        data_side=side,
    )


def _block(box: Box, fall: float, scale: float, largest: bool) -> Safe:
    place = f"left:{100 * box.x0:.2f}%;top:{100 * box.y0:.2f}%"
    size = f"width:{100 * (box.x1 - box.x0):.2f}%;height:{100 * (box.y1 - box.y0):.2f}%"
    shade = f"background:{FALL if fall > 0 else RISE};opacity:{_SOLID * min(1.0, abs(fall) / scale):.3f}"
    frame = el("i", class_="vl-evidence-largest", style=f"{place};{size}") if largest else None
    shown = el("i", class_="vl-evidence-block", style=f"{place};{size};{shade}", title=f"{fall:.2f} nats")
    return el("span", shown, frame)
