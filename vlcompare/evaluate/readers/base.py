"""What readers share: rows into samples, and typed values of their fields.

A reader is a function from a DatasetSource to an iterator of samples (Located), Issues and rows that are LeftOut; it
holds one row at a time.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.fields import FieldError, described
from vlcompare.evaluate.readers.opening import RowError
from vlcompare.evaluate.readers.source import BOX_FORMATS, BOX_SCALES, DatasetSource, Issue, LeftOut, Located
from vlcompare.types import Box, Sample

MAX_LITERAL = 20_000  # characters of a list of answers in Python's notation
Item = Located | Issue | LeftOut


def each(
    source: DatasetSource, rows: Iterable[tuple[str, Any]], make: Callable[[DatasetSource, str, Any], Any]
) -> Iterator[Item]:
    """Samples of every row; a row that raises RowError, or has an unexpected shape, becomes an Issue.

    `make(source, location, row)` gives a Sample, a LeftOut, or several Samples.
    """
    for location, row in rows:
        if isinstance(row, RowError):
            yield Issue(location, str(row))
            continue
        try:
            made = make(source, location, row)
            if isinstance(made, LeftOut):
                yield made
                continue
            samples = [made] if isinstance(made, Sample) else list(made)
        except (RowError, FieldError) as error:
            yield Issue(location, str(error))
        except KeyError as error:
            yield Issue(location, f"no field `{str(error.args[0])[:60]}`")
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError):
            yield Issue(location, f"a value is not of the kind that the format {source.format} has there")
        else:
            yield from (Located(location, sample) for sample in samples)


def numbered(rows: Any, what: str) -> Iterator[tuple[str, Any]]:
    """(location, row) of a list inside a JSON file."""
    if not isinstance(rows, list):
        raise SampleError(f"The file has no list of {what}s; is the format the right one?")
    return ((f"{what} {number}", row) for number, row in enumerate(rows, 1))


# ---- values ----------------------------------------------------------------------------------------------------------


def text_of(row: Any, *names: str, required: bool = True) -> str:
    """The first of these fields that holds text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
    if required:
        raise RowError(f"no text in {' / '.join(names)}")
    return ""


def is_id(value: Any) -> bool:
    """A text or a whole number that can name a row."""
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


def id_of(row: Any, *names: str, default: str | None = None) -> str:
    """The first of these fields that names the row: a text or a whole number."""
    value = next((row[name] for name in names if is_id(row.get(name))), default)
    if value is None:
        raise RowError(f"no {' / '.join(names)} that names the row")
    return str(value)


def texts_of(value: Any, what: str) -> tuple[str, ...]:
    """A text, or a list of texts (numbers allowed)."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in values):
        raise RowError(f"{what} is not a text or a list of texts")
    return tuple(str(item) for item in values)


def answers_of(row: Mapping[str, Any], *names: str, required: bool = True) -> tuple[str, ...]:
    """The right answers in the first of these fields that has any: a text, texts, or objects {answer} / {raw}."""
    for name in names:
        value = row.get(name)
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
            value = [item.get("answer", item.get("raw")) for item in value]  # an answer may be empty
        if value not in (None, "", [], ()):
            return texts_of(value, f"`{name}`")
    if required:
        raise RowError(f"none of the fields {', '.join(names)}")
    return ()


def literal_texts(value: str) -> tuple[str, ...]:
    """The texts of `['a', 'b']`, or the value itself where it is not a list in Python's notation; never evaluated."""
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return (text,) if text else ()
    if len(text) > MAX_LITERAL:
        raise RowError(f"the list of answers is longer than {MAX_LITERAL} characters")
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return (text,)
    return tuple(str(item) for item in items if isinstance(item, (str, int, float)))


# ---- boxes -----------------------------------------------------------------------------------------------------------


def declared_box(source: DatasetSource, value: Any, size: Callable[[], tuple[float, float]]) -> Box:
    """A box in the declared format, as shares of the picture, xyxy. `size` gives (width, height) where it is needed."""
    if source.box_format is None or source.box_scale is None:
        raise undeclared(source)
    return box_in(source.box_format, source.box_scale, value, size)


def box_in(format: str, scale: str, value: Any, size: Callable[[], tuple[float, float]]) -> Box:
    """A box of this format and scale (see BOX_FORMATS and BOX_SCALES), as shares of the picture, xyxy."""
    if not isinstance(value, (list, tuple)):
        raise RowError(f"a box has four finite numbers, not {described(value)}")
    try:
        numbers = [float(item) for item in value]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != 4 or not all(-1e7 < number < 1e7 for number in numbers):
        raise RowError(f"a box has four finite numbers, not {ascii(value)[:80]}")
    x0, y0, x1, y1 = numbers
    if format == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    width, height = {"relative": (1.0, 1.0), "thousandths": (1000.0, 1000.0)}.get(scale) or size()
    if width <= 0 or height <= 0:
        raise RowError(f"the picture's size is {width} x {height}")
    return checked_box((x0 / width, y0 / height, x1 / width, y1 / height))


def checked_box(values: Any) -> Box:
    """A valid box: four finite shares of the picture, with an area, within 0..1 (a rounding step over is clipped)."""
    if not isinstance(values, (list, tuple)) or len(values) != 4:
        raise RowError("a box is [x0, y0, x1, y1]")
    if not all(type(item) in (float, int) and abs(item) < 1e300 for item in values):
        shown = "large numbers" if all(type(item) in (float, int) for item in values) else ascii(values)[:80]
        raise RowError(f"a box has four numbers, not {shown}")
    x0, y0, x1, y1 = map(float, values)
    box = Box(x0, y0, x1, y1)
    if 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1:
        return box
    if not all(-0.02 <= item <= 1.02 for item in box):
        raise RowError(f"the box {_short(box)} is not within 0..1 of the picture")
    if x0 >= x1 or y0 >= y1 or box.clip().area <= 0:
        raise RowError(f"the box {_short(box)} is inverted or empty")
    return box.clip()


def undeclared(source: DatasetSource) -> SampleError:
    return SampleError(
        f"The boxes of {source.path.name} can be xyxy or xywh, in pixels or as shares of the picture: say which with "
        f"--box-format {'|'.join(BOX_FORMATS)} and --box-scale {'|'.join(BOX_SCALES)}; it is never guessed."
    )


def row_size(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """(width, height) of the picture in pixels, if the row gives it: `width` and `height`, or `hw`."""
    for width, height in (("width", "height"), ("image_width", "image_height")):
        values: list[Any] = [row.get(width), row.get(height)]
        if all(type(value) in (int, float) and 0 < value < 1e7 for value in values):
            return float(values[0]), float(values[1])
    hw = row.get("hw")
    if isinstance(hw, (list, tuple)) and len(hw) == 2 and all(type(v) in (int, float) and 0 < v < 1e7 for v in hw):
        return float(hw[1]), float(hw[0])
    return None


def _short(box: Box) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in box) + "]"
