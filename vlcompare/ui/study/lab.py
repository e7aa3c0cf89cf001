"""The retrieval lab's requests: checked, answered without any state, one at a time.

torch and the models are loaded with the first of them.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vlcompare.errors import CheckpointError, RequestError, VLCompareError
from vlcompare.render.markup import Safe, el
from vlcompare.render.panels import Panel, Point, Series, drawn, key
from vlcompare.study.figures import NAMES, ORDER_NAMES, SHARES, share_text
from vlcompare.study.opened import SHIPPED, open_study, rows_file
from vlcompare.study.pictures.folder import holds_pictures
from vlcompare.study.seen import unlearnt
from vlcompare.study.tables import Row, for_lab
from vlcompare.study.tasks import ORDERS
from vlcompare.ui.server.redact import without_paths
from vlcompare.ui.study.session import version_of

if TYPE_CHECKING:
    from vlcompare.study.lab import Lab, Tally

MODELS = SHIPPED / "models"
WARM_LENGTHS = (10, 50)


class _Models(NamedTuple):
    """A lab, whose models it asks, and by order and length which of them have not learnt it, in sentences."""

    lab: Lab
    whose: str
    unlearnt: dict[tuple[str, int], str]


class LabRequests:
    """What one server's lab is asked: of the models in an operator's folder where they fit its rows, else of those that
    come with the project. A folder is read again where it has changed, as it does while a grid trains."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # one reading of the models, or one click's answer, at a time
        self._loaded: tuple[object, _Models] | None = None  # with the folder's version
        self._warming = threading.Event()

    def ask(self, request: Any) -> dict[str, Any]:
        """All models' answers: {"known", "lengths", "named", "whose", "unlearnt", "sides": {family: {"position",
        "shares"}}}, or {"error"}: a sentence, with what is "known" by then.

        request: {"sequence", "query", "order", "trained"}, as the page sends it; trained: the length at which the
        models were trained that are asked, by default the longest. known: symbols; lengths: those at which models were
        trained, by order; named: how many positions these models can name; whose: a sentence about the models, "" for
        those that come with the project where nothing else is open; unlearnt: one on those which had not learnt the
        task when their training ended, "" where all had.
        """
        known: dict[str, Any] = {}
        try:
            sequence = request.get("sequence") if isinstance(request, dict) else None
            if not isinstance(sequence, list) or not all(type(symbol) is int for symbol in sequence):
                raise RequestError("A sequence is a list of symbols' numbers.")
            order, query = _order(request), _whole(request, "query")
            with self._lock:
                lab, whose, missed = self._models()
                lengths = {one: lab.lengths(one) for one in ORDERS}
                known = {"known": lab.vocabulary, "lengths": lengths, "whose": whose}
                trained = lab.checked(len(sequence), order, _trained(request))
                answers = lab.ask(sequence, query, order, trained)
            sides = {
                family: {"position": answer.position, "shares": [round(share, 4) for share in answer.shares]}
                for family, answer in answers.items()
            }
            return {**known, "named": trained, "unlearnt": missed.get((order, trained), ""), "sides": sides}
        except VLCompareError as error:
            return {**known, "error": without_paths(str(error))}

    def round_of(self, request: Any) -> Safe:
        """Accuracy by position over a round of random sequences, as a chart with its figures, or a sentence.

        request: {"length", "order", "seed", "trained"}, the last as of `ask`.
        """
        try:
            length, seed = _whole(request, "length"), _whole(request, "seed")
            order = _order(request)
            with self._lock:
                lab = self._models().lab
            trained = lab.checked(length, order, _trained(request))
            tallies = lab.round(length, order, seed, trained=trained)  # takes seconds: clicks go on meanwhile
        except VLCompareError as error:
            return el("p", without_paths(str(error)), class_="vl-warn", role="alert")
        return _chart(tallies, length, order, trained)

    def length(self) -> int:
        """The trained length of the models that are asked first, found without loading them."""
        rows: list[Row] = []
        if self._folder is not None:
            with suppress(VLCompareError):  # the models that come with the project are asked
                rows = for_lab(open_study(self._folder).groups)
        names = [path.name.split("-") for path in MODELS.glob("*.safetensors")]
        lengths = [row["length"] for row in rows] or [int(name[1]) for name in names]
        return max(lengths, default=WARM_LENGTHS[0])

    def warm_up(self) -> None:
        """Load the models and ask each once, on a thread of its own, so that a click is answered at once.

        Later calls do nothing.
        """
        if not self._warming.is_set():
            self._warming.set()
            threading.Thread(target=self._warm_up, daemon=True, name="vlcompare-lab").start()

    def _warm_up(self) -> None:
        with suppress(VLCompareError):  # whoever asks is told
            with self._lock:
                lab = self._models().lab
            for order in ORDERS:
                for trained, length in product(lab.lengths(order), WARM_LENGTHS):
                    if length <= lab.longest:
                        with self._lock:  # anew each time: a click comes between two of them
                            lab.ask(range(length), 0, order, trained)

    def _models(self) -> _Models:
        """The models as they are now. Raises CheckpointError where none can be read."""
        files = () if self._folder is None else (rows_file(self._folder), _place(self._folder) / "weights")
        version = [version_of(file) for file in files]
        if self._loaded is None or self._loaded[0] != version:
            self._loaded = version, _opened(self._folder)
        return self._loaded[1]


def _place(folder: Path) -> Path:
    return rows_file(folder).resolve().parent


def _opened(folder: Path | None) -> _Models:
    from vlcompare.study.lab import Lab

    if folder is None:
        return _shipped("")
    name = _place(folder).name
    try:
        if holds_pictures(rows_file(folder)):
            raise CheckpointError("its rows are of trainings on pictures")
        study = open_study(folder)
        return _Models(Lab.of_rows(_place(folder), study.rows), f"These are the models of {name}.", unlearnt(study))
    except VLCompareError as error:
        why = without_paths(str(error)).rstrip(".")
        return _shipped(f"These models come with the program; those of {name} are not asked: {why}.")


def _shipped(whose: str) -> _Models:
    from vlcompare.study.lab import Lab

    told: dict[tuple[str, int], str] = {}
    with suppress(VLCompareError):  # the models are there without the rows, too
        told = unlearnt(open_study(SHIPPED / "cpu"))
    return _Models(Lab.open(MODELS), whose, told)


def _chart(tallies: dict[str, Tally], length: int, order: str, trained: int) -> Safe:
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
    title = f"Length {length}, {ORDER_NAMES[order]}" + (f", trained at {trained}" if trained != length else "")
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


def _trained(request: Any) -> int | None:
    """The trained length that a request asks for, None where it leaves that open."""
    return _whole(request, "trained") if isinstance(request, dict) and request.get("trained") is not None else None


def _whole(request: Any, name: str) -> int:
    """A whole number of the request; -1, which the lab refuses with its own sentence, for anything else."""
    value = request.get(name) if isinstance(request, dict) else None
    return value if type(value) is int else -1
