"""What many questions say where one was asked: the figures of the run that comes with the project, for its pair.

Shown below one picture's answers, as a sentence and the way to the run. Computed from the run's own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.results.run_folder import RunFolder, find_runs
from vlcompare.evaluate.results.slices import SliceRow, row_figures, scored
from vlcompare.evaluate.results.table import RunTable
from vlcompare.render.markup import Safe, el
from vlcompare.types import SIDES, Side
from vlcompare.ui import examples
from vlcompare.ui.compare.cards import side_name
from vlcompare.ui.compare.example_questions import find_example, same_question
from vlcompare.ui.compare.session import Run
from vlcompare.units import fraction

TO_RUN = "run"  # what the button that leads to the run sends


@dataclass(frozen=True, slots=True)
class Finding:
    """A task's figures in the shipped run. swapped: the page's left side is the run's right one."""

    folder: Path
    task: str
    figures: SliceRow
    swapped: bool

    @property
    def shares(self) -> dict[str, float]:
        """The page's sides -> the share of answers that are right."""
        shares = (self.figures.left, self.figures.right or 0.0)
        return dict(zip(SIDES, reversed(shares) if self.swapped else shares, strict=True))


def finding_of(run: Run) -> Finding | None:
    """The finding on a run's task; None for other models or settings than the shipped run's, for a question that is not
    an example's own (the run's are such questions about such scenes), and for a blind run."""
    shipped, example = _shipped(examples.FOLDER), find_example(run.example)
    if shipped is None or run.hidden or example is None or set(run.sides) != set(SIDES):
        return None
    if run.request.history or run.follow_up == "continue" or not same_question(example, run.request):
        return None
    table, tasks = shipped
    figures = tasks.get(run.request.task)
    made = [table.run.recorded(side) for side in table.sides]
    own = [run.sides[side].settings for side in SIDES]
    for swapped in (False, True):
        if figures and all(map(_same, reversed(own) if swapped else own, made)):
            return Finding(table.run.path, run.request.task, figures, swapped)
    return None


def finding_view(run: Run) -> Safe:
    """The finding in a sentence, and a button that opens the run, filtered by the task; empty where there is none."""
    found = finding_of(run)
    if found is None:
        return el("div")
    said: list[Any] = []
    for side, share in found.shares.items():
        name = el("span", side_name(run, side)[0], class_="vl-finding-name")
        said += [" against " if said else None, name, " ", el("b", fraction(share), data_side=side)]
    one = el("span", "This is one picture. ", class_="vl-finding-one")  # a phone has no room for it
    return el(
        "p",
        el("span", one, f"On {found.figures.n:,} such questions: ", *said, " right."),
        el("button", "See the run →", type="button", data_pick=TO_RUN, class_="vl-to-run"),
        class_="vl-finding",
    )


@lru_cache(maxsize=2)
def _shipped(folder: Path) -> tuple[RunTable, dict[str, SliceRow]] | None:
    """The first run of two sides below the folder of examples, and each task's figures in it."""
    for path in find_runs(folder, 1):
        try:
            table = RunTable(RunFolder.open(path, read_only=True))
        except VLCompareError:
            continue
        if len(table.sides) == 2:
            rows = scored(table, None)
            by_task = {task: rows[[table.task[i] == task for i in rows]] for task in dict.fromkeys(table.task)}
            return table, {task: row_figures(table, "task", task, own) for task, own in by_task.items() if len(own)}
    return None


def _same(side: Side, recorded: Mapping[str, Any]) -> bool:
    """Whether a side is what a run recorded: the same checkpoint, read and decoded alike."""
    order = side.prompt_order or "image_first"
    return (
        side.checkpoint == recorded.get("checkpoint")
        and side.quantization == recorded.get("quantization")
        and order == recorded.get("prompt_order")
        and side.dtype in ("auto", recorded.get("dtype"))
        and side.image_size in (None, 0, recorded.get("image_size"))
        and side.max_new_tokens in (None, 0, recorded.get("max_new_tokens"))
        and not side.temperature
        and not recorded.get("temperature")
    )
