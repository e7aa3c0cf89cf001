"""Make the page's examples from a finished run: a dozen pictures with their truth and both recorded answers.

    python examples/make_examples.py RUN OUT

The choice is a fixed rule over the run, so that nothing is picked by hand: for each line of PLAN, the picture with most
objects that is not chosen yet, among the rows of the first quadrant that has one.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError, VLCompareError
from vlcompare.evaluate.readers.pictures import hashed
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.table import QUADRANTS, RunTable
from vlcompare.tasks.prompts import SPECS

_FILE_NAME = re.compile(r"[\w-][\w.-]{0,99}")

# (task, quadrants in order of preference)
PLAN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("grounding", ("only_left", "both")),
    ("grounding", ("both", "neither")),
    ("grounding", ("only_right", "both")),
    ("vqa", ("both",)),
    ("vqa", ("only_right", "only_left", "both")),
    ("captioning", ("both", "only_left", "only_right")),
    ("document_vqa", ("both", "only_left", "only_right", "neither")),
    ("grounded_captioning", ("both", "only_left", "only_right", "neither")),
    ("pointing", ("only_left", "only_right", "both")),
    ("multiple_choice", ("both",)),
    ("region_description", ("both",)),
    ("image_text_match", ("only_left", "only_right", "both")),
    ("vqa", ("neither", "only_left", "both")),
)


def choose(table: RunTable) -> list[int]:
    """Rows of the run, one for each line of PLAN for which the run has one; no two share a picture."""
    chosen: list[int] = []
    pictures: set[Any] = set()
    for task, quadrants in PLAN:
        row = next(_candidates(table, task, quadrants, pictures), None)
        if row is not None:
            chosen.append(row)
            pictures.add(table.clusters[row])
    return chosen


def write_examples(run: RunFolder, out: Path) -> int:
    """Write `examples.json` and the pictures to `out`; returns how many examples there are.

    Raises SampleError where the run has one side only, or no row for any line of PLAN.
    """
    table = RunTable(run)
    if len(table.sides) < 2:
        raise SampleError(f"{run.path} has one side only; an example shows two.")
    rows = choose(table)
    if not rows:
        raise SampleError(f"{run.path} holds none of the tasks that examples are made of.")
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    examples = [_example(table, row, pictures) for row in rows]
    text = json.dumps({"examples": examples}, indent=1, ensure_ascii=False) + "\n"
    (out / "examples.json").write_text(text, encoding="utf-8")
    return len(examples)


def _candidates(table: RunTable, task: str, quadrants: tuple[str, ...], pictures: set[Any]) -> Iterator[int]:
    """Rows of a task whose picture is not chosen yet: quadrant by quadrant, those with most objects first."""
    for quadrant in quadrants:
        rows = [
            row
            for row in range(table.count)
            if table.task[row] == task
            and table.quadrant[row] == QUADRANTS.index(quadrant)
            and table.clusters[row] not in pictures
        ]
        yield from sorted(rows, key=lambda row: (-len(table.run.samples[row].objects), row))


def _example(table: RunTable, row: int, pictures: Path) -> dict[str, Any]:
    run, sample = table.run, table.run.samples[row]
    source = run.picture(row)
    # an id may be any text: one that is not a plain file name could lead out of the folder
    name = f"{sample.id if _FILE_NAME.fullmatch(sample.id) else hashed(sample.id)}.png"
    if isinstance(source, Path):
        shutil.copyfile(source, pictures / name)
    else:
        (pictures / name).write_bytes(source)
    quadrant = QUADRANTS[table.quadrant[row]]
    example: dict[str, Any] = {
        "id": sample.id,
        "title": f"{SPECS[sample.task].title}: {sample.text}" if sample.text else SPECS[sample.task].title,
        "image": f"pictures/{name}",
        "task": sample.task,
        "text": sample.text,
        "choices": sample.choices,
        "references": sample.references,
        "boxes": sample.boxes,
        "objects": [_described(thing) for thing in sample.objects],
        "right": {"both": ["left", "right"], "only_left": ["left"], "only_right": ["right"], "neither": []}[quadrant],
        "answers": {side: _recorded(run, side, row) for side in table.sides},
    }
    return {key: value for key, value in example.items() if value or key in ("right", "text")}


def _described(thing: Mapping[str, Any]) -> dict[str, Any]:
    """What captions say of an object: its kind, colour, size and text."""
    return {name: value for name, value in thing.items() if name != "box" and value is not None}


def _recorded(run: RunFolder, side: str, row: int) -> dict[str, Any]:
    answer = run.answer(side, row)
    if answer is None:
        return {}
    read = {"boxes": answer.boxes, "parse": answer.parse}
    if answer.phrases:
        read["phrases"] = answer.phrases
    return {"checkpoint": run.checkpoint(side), "text": answer.text, **read}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python examples/make_examples.py", description="Make the page's examples from a finished run."
    )
    parser.add_argument("run", type=Path, help="a finished run folder of rendered scenes with two sides")
    parser.add_argument("out", type=Path, help="where examples.json and pictures/ go")
    args = parser.parse_args(argv)
    try:
        count = write_examples(RunFolder.open(args.run), args.out)
    except VLCompareError as error:
        print(f"make_examples: {error}", file=sys.stderr)
        return 2
    print(f"{args.out / 'examples.json'}: {count} examples.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
