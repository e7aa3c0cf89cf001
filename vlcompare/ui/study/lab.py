"""The retrieval lab's requests: checked, answered without any state, one at a time.

torch and the models are loaded with the first of them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.render.markup import Safe, el
from vlcompare.render.panels import Panel, Point, Series, drawn, key
from vlcompare.study.figures import NAMES, ORDER_NAMES, SHARES, share_text
from vlcompare.study.opened import SHIPPED
from vlcompare.study.tasks import ORDERS
from vlcompare.ui.server.redact import without_paths

if TYPE_CHECKING:
    from vlcompare.study.lab import Lab, Tally

MODELS = SHIPPED / "models"
_lock = threading.Lock()  # one computation at a time, each of some milliseconds
_lab: list[Lab] = []


def lab() -> Lab:
    """The shipped models. Raises CheckpointError where they cannot be read."""
    if not _lab:
        from vlcompare.study.lab import Lab

        _lab.append(Lab.open(MODELS))
    return _lab[0]


def ask(request: Any) -> dict[str, Any]:
    """All models' answers: {"known", "named", "sides": {family: {"position", "shares"}}}, or {"error"}: a sentence.

    request: {"sequence", "query", "order"}, as the page sends it.
    """
    try:
        sequence = request.get("sequence") if isinstance(request, dict) else None
        if not isinstance(sequence, list) or not all(type(symbol) is int for symbol in sequence):
            raise RequestError("A sequence is a list of symbols' numbers.")
        order, query = _order(request), _whole(request, "query")
        with _lock:
            own = lab()
            answers = own.ask(sequence, query, order)
        sides = {
            family: {"position": answer.position, "shares": [round(share, 4) for share in answer.shares]}
            for family, answer in answers.items()
        }
        return {"known": own.vocabulary, "named": own.named(order), "sides": sides}
    except VLCompareError as error:
        return {"error": without_paths(str(error))}


def round_of(request: Any) -> Safe:
    """Accuracy by position over a round of random sequences, as a chart with its figures, or a sentence.

    request: {"length", "order", "seed"}.
    """
    try:
        length, seed = _whole(request, "length"), _whole(request, "seed")
        order = _order(request)
        with _lock:
            own = lab()
            tallies = own.round(length, order, seed)
    except VLCompareError as error:
        return el("p", without_paths(str(error)), class_="vl-warn", role="alert")
    return _chart(tallies, length, order)


def _chart(tallies: dict[str, Tally], length: int, order: str) -> Safe:
    series, figures = [], []
    for family, tally in tallies.items():
        points = tuple(
            Point(float(place + 1), right / asked, f"{NAMES[family]}: {right} of {asked} right at position {place + 1}")
            for place, (asked, right) in enumerate(zip(tally.asked, tally.right, strict=True))
            if asked
        )
        series.append(Series(family, points))
        right, asked = sum(tally.right), sum(tally.asked)
        figures.append(el("li", key(family, NAMES[family]), el("b", share_text(right / asked)), f" {right} of {asked}"))
    named = len(next(iter(tallies.values())).asked)
    step = -(-named // 10)
    ticks = {0.5: "", **{float(place): str(place) for place in range(1, named + 1, step)}, named + 0.5: ""}
    title = f"Length {length}, {ORDER_NAMES[order]}"
    panel = Panel(title, "position asked for", ticks, SHARES, tuple(series), chance=1 / named)
    asked_for = f"Asked for: the first {named} positions, which the models can name. " if named < length else ""
    return el(
        "div",
        drawn(panel),
        el("ul", *figures, class_="vs-totals"),
        el("p", asked_for, f"Dashed: guessing, {share_text(1 / named)}.", class_="vl-note"),
        class_="vs-round-result",
        role="status",
    )


def _order(request: Any) -> str:
    order = request.get("order") if isinstance(request, dict) else None
    if order not in ORDERS:
        raise RequestError(f"The order is {' or '.join(ORDERS)}.")
    return str(order)


def _whole(request: Any, name: str) -> int:
    """A whole number of the request; -1, which the lab refuses with its own sentence, for anything else."""
    value = request.get(name) if isinstance(request, dict) else None
    return value if type(value) is int else -1
