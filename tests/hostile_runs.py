"""Every field of a good small run, each with many wrong values, one at a time. Nothing here is a test."""

from __future__ import annotations

import copy
import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAW = {"lone surrogate": '"\\ud800"', "huge": "1" + "0" * 400, "deep": "[" * 3000 + "]" * 3000, "NaN": "NaN"}
MISSING = "a field that is left out"
WRONG: dict[str, Any] = {
    "missing": MISSING,
    "null": None,
    "true": True,
    "negative": -7,
    "float": 0.5,
    "infinity": math.inf,
    "huge": RAW["huge"],
    "NaN": RAW["NaN"],
    "empty text": "",
    "text": "x",
    "nul": "a\0b",
    "long text": "y" * 150_000,
    "lone surrogate": RAW["lone surrogate"],
    "markup": "<script>alert(1)</script>",
    "path": "../../etc/passwd",
    "empty list": [],
    "list": [None, 1, "x", {}],
    "long list": [0] * 70_000,
    "deep": RAW["deep"],
    "object": {"a": {"b": [1]}},
}
_MARK = "@@{}@@"


@dataclass(frozen=True)
class Case:
    """One wrong value at one place of one file."""

    file: str
    path: tuple[str | int, ...]
    value: str

    def __str__(self) -> str:
        return f"{self.file}:{'.'.join(map(str, self.path))}={self.value}"


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a JSON value; of those that are alike (items of a list, metrics, sides) the first alone."""
    if path:
        yield path
    if isinstance(value, dict):
        shapes = []
        for name, item in value.items():
            shape = shape_of(item)
            if isinstance(item, (dict, list)) and item and shape in shapes:
                continue
            shapes.append(shape)
            yield from places(item, (*path, name))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def shape_of(value: Any) -> Any:
    """The same for values that a file means alike."""
    if isinstance(value, dict):
        return {name: shape_of(item) for name, item in value.items()}
    return type(value).__name__


def cases(files: dict[str, Any]) -> Iterator[Case]:
    """All of them. files: name -> its JSON value (of files of lines, a list of rows, whose first is changed)."""
    for name, value in files.items():
        rows = name.endswith(".jsonl")
        for path in places(value[:1] if rows else value):
            for wrong in WRONG:
                yield Case(name, path, wrong)
    for name in files:
        yield from (Case(name, (), wrong) for wrong in WRONG if wrong != "missing")


def changed(value: Any, case: Case) -> str:
    """The file's text with the wrong value in its place."""
    wrong = WRONG[case.value]
    raw = case.value in RAW
    mark = _MARK.format(case.value)
    copied = copy.deepcopy(value)
    rows = case.file.endswith(".jsonl")
    if not case.path:
        copied = [mark if raw else wrong] if rows else (mark if raw else wrong)
    else:
        place = copied
        for step in case.path[:-1]:
            place = place[step]
        if wrong is MISSING:
            del place[case.path[-1]]
        else:
            place[case.path[-1]] = mark if raw else wrong
    text = "\n".join(map(json.dumps, copied)) if rows else json.dumps(copied)
    return text.replace(f'"{mark}"', RAW[case.value]) if raw else text


def read(folder: Path) -> dict[str, Any]:
    """The JSON files of a run folder, with a note."""
    files: dict[str, Any] = {}
    for name in ("run.json", "summary.json"):
        files[name] = json.loads((folder / name).read_text())
    for name in ("samples.jsonl", "predictions.jsonl"):
        files[name] = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    files["notes.json"] = [{"sample": files["samples.jsonl"][0]["id"], "text": "a note", "tags": ["counting"]}]
    return files


def write_zip(target: Path, folder: Path, files: dict[str, Any], case: Case | None = None) -> Path:
    """The run as an archive, with one file changed."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in files.items():
            own = case is not None and case.file == name
            sound = "\n".join(map(json.dumps, value)) if name.endswith(".jsonl") else json.dumps(value)
            archive.writestr(name, changed(value, case) if own and case else sound)
        for picture in (folder / "images").iterdir():
            archive.write(picture, f"images/{picture.name}", zipfile.ZIP_STORED)
    return target
