"""Which format a file is of, by the keys that are found in it, never by its name.

Where no signature of the table fits whole, the one that fits best is the nearest format, and what it lacks can be said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.format_table import AUTO, FORMATS, HUB, TABLE, Format
from vlcompare.evaluate.readers.opening import RowError, json_file, kind_of, rows_of
from vlcompare.evaluate.readers.tables import header_of

__all__ = ["AUTO", "FORMATS", "HUB", "detect", "LOOKS", "explain", "module_of", "of_keys", "other_format"]

LOOKS = "It looks like the format"
_LOOKED_AT = 60  # rows
_ENTRIES = 20  # of a list or an object
_ANSWERS = frozenset(("answer", "prediction", "caption", "text", "response", "filtered_resps", "resps"))
_ASKING = frozenset(
    ("image", "question", "img_path", "image_path", "file_name", "filename", "bbox", "choices", "options")
)
_PICTURES = frozenset(("image", "img", "image_path", "img_path", "file_name", "filename", "image_id", "imageId"))
_SHOWN = 12  # keys that a sentence names


def module_of(name: str, path: Path) -> str:
    """The module that reads a file of this format: it can depend on what the file is."""
    format = FORMATS[name]
    if path.is_dir():
        return format.folder_module or format.module
    kind = kind_of(path).name
    if name == "vlmevalkit" and kind in ("table", "lines", "line", "whole"):
        return "tsv"
    if kind == "table" and format.module in ("rows", "referring"):
        raise SampleError(f"{path} is a table with tabs, as VLMEvalKit has them: read it with --format vlmevalkit.")
    if kind in ("whole", "line") and format.whole_module and (not format.rows or _holds_lists(path)):
        return format.whole_module
    return format.module


def _holds_lists(path: Path) -> bool:
    """Whether a file of one JSON object is a whole set, and not one row."""
    value = json_file(path, keep=True)
    return isinstance(value, dict) and any(isinstance(item, (list, dict)) and item for item in value.values())


# ---- what a file is --------------------------------------------------------------------------------------------------


def detect(path: Path, task: str | None = None) -> str:
    """The format of a file or folder, by its keys. Raises SampleError with what was found and the nearest format."""
    if path.is_dir():
        return _of_folder(path)
    kind = kind_of(path)
    if kind.name == "table":
        columns = frozenset(header_of(kind.path))
        if "index" in columns and not ("prediction" in columns and not columns & {"image", "image_path"}):
            return "vlmevalkit"
        raise _unknown(str(path), columns, "columns")
    if kind.name == "sheet":
        raise SampleError(f"{path} is a spreadsheet, which holds answers, not samples: save it as TSV to read samples.")
    if kind.name in ("whole", "line"):
        value = json_file(path, keep=True)
        if isinstance(value, dict):
            found = keys_of(value)
            if format := _best(found, "whole"):
                return format.name
            if kind.name == "whole" or _holds_lists(path):
                _refuse_known(path, found)
                if not _best(frozenset(value), "rows"):
                    raise _unknown(str(path), found, "keys")
    return _of_rows(path, task)


def _of_rows(path: Path, task: str | None) -> str:
    found: dict[str, str] = {}
    union: set[str] = set()
    broken = ""
    if kind_of(path).name == "array":
        json_file(path, keep=True)
    for location, row in itertools.islice(rows_of(path), _LOOKED_AT):
        if isinstance(row, RowError):
            broken = broken or f"{location}: {row}"
            continue
        keys = frozenset(row)
        union |= keys
        if format := _best(keys, "rows"):
            found.setdefault(format.name, location)
    if kind_of(path).name == "array":
        json_file(path, keep=True)
    if len(found) > 1:  # a row that lacks all but its picture is a broken row of the others' format
        found = {name: location for name, location in found.items() if not FORMATS[name].only}
    if len(found) > 1:
        listed = ", ".join(f"{name} ({location})" for name, location in found.items())
        raise SampleError(
            f"{path} holds rows of {len(found)} formats: {listed}. Split it into files of one format each, or say with "
            "--format which rows are to be read."
        )
    if found:
        return next(iter(found))
    if not union:
        raise SampleError(
            f"{path} holds no rows that can be read{f' ({broken})' if broken else ''}: data are JSON, an object a "
            "line, parquet, or a table with tabs. A table with commas has to be saved with tabs (TSV)."
        )
    if task is not None and "id" in union:
        return "jsonl"
    raise _unknown(str(path), frozenset(union), "keys")


def of_keys(row: dict[str, Any], what: str) -> Format:
    """The format of one row. Raises SampleError with the nearest format."""
    format = _best(frozenset(row), "rows")
    if format is None:
        raise _unknown(what, frozenset(row), "fields")
    return format


def other_format(row: dict[str, Any], name: str) -> str:
    """The format that a row is of, where it is not the one that it was read as and fits none of its signature."""
    format = _best(frozenset(row), "rows")
    return format.name if format and format.name != name and _lacks(frozenset(row), FORMATS[name].rows) else ""


def _of_folder(path: Path) -> str:
    for format in TABLE:
        if format.folder and all(any((path / name).exists() for name in group.split("|")) for group in format.folder):
            return format.name
    for child in path.iterdir():
        if child.suffix.lower() in (".parquet", ".json", ".jsonl", ".tsv"):
            raise SampleError(f"{path} is a folder: give the file to read, such as {child}.")
    return "folder"


def keys_of(value: dict[str, Any]) -> frozenset[str]:
    """The keys of a JSON object, and of the first entries of its lists: `images`, `images[].caption`, `*.question`."""
    found = set(itertools.islice(value, 1000))
    for name, items in itertools.islice(value.items(), _ENTRIES):
        if isinstance(items, list):
            for item in items[:_ENTRIES]:
                if isinstance(item, dict):
                    found |= {f"{name}[].{key}" for key in item}
        elif isinstance(items, dict):
            found |= {f"*.{key}" for key in items}
    return frozenset(found)


def _may_have(format: Format, keys: frozenset[str]) -> bool:
    return not keys & format.without and (not format.only or keys <= format.only)


def _best(keys: frozenset[str], part: str) -> Format | None:
    fitting = [
        format
        for format in TABLE
        if (groups := getattr(format, part)) and _may_have(format, keys) and not _lacks(keys, groups)
    ]
    return max(fitting, key=lambda format: (format.name == "jsonl", len(getattr(format, part))), default=None)


def _lacks(keys: frozenset[str], groups: tuple[str, ...]) -> list[str]:
    return [group for group in groups if not keys.intersection(group.split("|"))]


# ---- messages for files of no known format ---------------------------------------------------------------------------


def _refuse_known(path: Path, keys: frozenset[str]) -> None:
    """Files that go with others: what they are, and how they are given."""
    if "annotations[].question_id" in keys and "annotations[].answers" in keys:
        raise SampleError(
            f"{path} holds VQA's answers, not its questions: give the questions' file, and this with --annotations."
        )
    if {"data[].ocr_tokens", "data[].image_id"} <= keys and "data[].question" not in keys:
        raise SampleError(f"{path} holds TextVQA's OCR tokens: give its questions' file, and this with --annotations.")
    if "annotations[].segments_info" in keys:
        raise SampleError(f"{path} holds panoptic segments, which are not boxes with phrases: give instances instead.")


def nearest(keys: frozenset[str]) -> tuple[Format, list[str]] | None:
    """(the format whose signature the keys fit best, what they lack of it); None where nothing fits at all."""
    best: tuple[float, Format, list[str]] | None = None
    for format in TABLE:
        for groups in (format.rows, format.whole):
            missing = _lacks(keys, groups)
            share = 1 - len(missing) / len(groups) if groups else 0.0
            if share > 0 and not format.only and (best is None or share > best[0]):
                best = (share, format, missing)
    return (best[1], best[2]) if best else None


def _unknown(what: str, keys: frozenset[str], noun: str) -> SampleError:
    shown = ", ".join(ascii(key[:40])[1:-1] for key in _most_telling(keys))
    if keys & _ANSWERS and not keys & _ASKING or "prediction" in keys and not keys & _PICTURES:
        return SampleError(
            f"{what} looks like a file of answers, with the {noun} {shown}: it is what `score SAMPLES PREDICTIONS` "
            "takes as PREDICTIONS, and the samples are the benchmark's own file."
        )
    close = nearest(keys)
    if close is None:
        known = ", ".join(FORMATS)
        return SampleError(
            f"{what} is of none of the formats that are read: it has the {noun} {shown}. The formats are {known}."
        )
    format, missing = close
    lacking = " and ".join(f"`{group.replace('|', '` or `')}`" for group in missing[:4])
    return SampleError(
        f"{what} is of none of the formats that are read: it has the {noun} {shown}. The nearest is {format.name} "
        f"({format.what}){f', which also needs {lacking}' if lacking else ''}: say the format with --format, or rename "
        "the fields to those of this project's own lines (id, image, task, text, references, boxes)."
    )


def _most_telling(keys: frozenset[str]) -> Iterator[str]:
    return itertools.islice(sorted(keys, key=lambda key: (key.startswith("*."), "[]" not in key, key)), _SHOWN)


def explain(path: Path, name: str) -> str:
    """What to say when a file gave no sample in the format that was declared: which format it is, if another."""
    try:
        found = detect(path)
    except SampleError as error:
        return str(error)
    return "" if found == name else f"{LOOKS} {found}: say --format {found}."
