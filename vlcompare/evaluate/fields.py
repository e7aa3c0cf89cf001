"""Values from JSON, typed: small checks that `schema` combines into a file's schema.

A check takes a value and its path within the file, and returns the value, or raises FieldError with the field, its
value and what was expected. A bool does not count as a number, numbers are finite and at most 1e15 (whole numbers
2**63 - 1), and lengths of texts, lists and objects are bounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MAX_NUMBER = 1e15
MAX_WHOLE = 2**63 - 1
MAX_NESTING = 12  # levels of lists and objects in a value without a schema
MAX_VALUES = 20_000  # numbers, texts, lists and objects in such a value
MAX_TEXT = 100_000  # characters
MAX_NAME = 300

Check = Callable[[Any, str], Any]
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class FieldError(ValueError):
    """A value does not fit its field; the message completes a sentence such as "line 3: ..."."""

    def __init__(self, path: str, actual: str, expected: str) -> None:
        super().__init__(f"{f'`{path}`' if path else 'it'} is {actual}; expected {expected}")


def wrong(path: str, value: Any, expected: str) -> FieldError:
    """The error for a value of the wrong type or out of range."""
    return FieldError(path, described(value), expected)


def described(value: Any) -> str:
    """A JSON value in a few words: its type, and the value itself if it is short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {ascii(value[:40])}{'..' if len(value) > 40 else ''}"
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        return f"a whole number of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    if isinstance(value, (int, float)):
        return f"the number {value!r}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


# ---- single values ---------------------------------------------------------------------------------------------------


def text(most: int = MAX_TEXT) -> Check:
    """A text of at most `most` characters."""

    def check(value: Any, path: str) -> str:
        if type(value) is not str:
            raise wrong(path, value, "a text")
        if len(value) > most:
            raise FieldError(path, f"a text of {len(value):,} characters", f"at most {most:,}")
        return value

    return check


def name(most: int = MAX_NAME) -> Check:
    """A short text that names something: not empty, no control characters."""
    short = text(most)

    def check(value: Any, path: str) -> str:
        checked: str = short(value, path)
        if not checked or _CONTROLS.search(checked):
            raise wrong(path, value, "a name without control characters")
        return checked

    return check


def number(low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> Check:
    """A finite number within bounds, as a float or an int."""

    def check(value: Any, path: str) -> float:
        if type(value) not in (float, int):
            raise wrong(path, value, "a number")
        if not low <= value <= high:  # False for NaN, and exact for whole numbers of any length
            raise wrong(path, value, f"a number from {low:g} to {high:g}")
        return value  # type: ignore[no-any-return]

    return check


def whole(low: int = 0, high: int = MAX_WHOLE) -> Check:
    """A whole number within bounds."""

    def check(value: Any, path: str) -> int:
        if type(value) is not int:
            raise wrong(path, value, "a whole number")
        if not low <= value <= high:
            raise wrong(path, value, f"a whole number from {low} to {high}")
        return value

    return check


def flag(value: Any, path: str) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise wrong(path, value, "true or false")
    return value


def one_of(*known: str) -> Check:
    """One of these texts."""

    def check(value: Any, path: str) -> str:
        if type(value) is not str or value not in known:
            raise wrong(path, value, f"one of {', '.join(known)}")
        return value

    return check


def optional(check: Check) -> Check:
    """The same, or null."""
    return lambda value, path: None if value is None else check(value, path)


_any_name = name()


# ---- several values --------------------------------------------------------------------------------------------------


def bounded(value: Any, path: str, most: int, least: int = 0) -> list[Any]:
    """`value` as a list of `least` to `most` items, which are not checked."""
    if type(value) is not list:
        raise wrong(path, value, "a list")
    if not least <= len(value) <= most:
        wanted = f"{least:,}" if least == most else f"at most {most:,}" if len(value) > most else f"at least {least:,}"
        raise FieldError(path, f"a list of {len(value):,}", wanted)
    return value


def listed(check: Check, most: int, least: int = 0) -> Check:
    """A list of `least` to `most` values, each checked by `check`."""

    def checked(value: Any, path: str) -> list[Any]:
        items, passed = bounded(value, path, most, least), []
        try:
            for item in items:
                passed.append(check(item, path))
        except FieldError:  # the path with the index is made for the wrong value only, since lists are long
            check(items[len(passed)], f"{path}[{len(passed)}]")
            raise
        return passed

    return checked


def mapping(check: Check, most: int, key: Check = _any_name) -> Check:
    """An object with any names: each name is checked by `key`, each value by `check`."""

    def checked(value: Any, path: str) -> dict[str, Any]:
        items = _object(value, path, most)
        return {key(each, path or "a name"): check(item, joined(path, each)) for each, item in items.items()}

    return checked


def record(checks: Mapping[str, Check], required: Iterable[str] = (), rest: Check | None = None) -> Check:
    """An object with these fields. Other fields are checked by `rest`, and dropped if that is None."""
    needed = tuple(required)

    def checked(value: Any, path: str) -> dict[str, Any]:
        items = _object(value, path, 1000)
        for each in needed:
            if each not in items:
                raise FieldError(joined(path, each), "missing", "a value")
        chosen = ((each, item, checks.get(each, rest)) for each, item in items.items())
        return {each: check(item, joined(path, each)) for each, item, check in chosen if check is not None}

    return checked


def free(value: Any, path: str) -> Any:
    """Any JSON value whose nesting, number of values and lengths of texts are within bounds."""
    pending, count = [(value, 1)], 0
    while pending:
        item, level = pending.pop()
        count += 1
        if count > MAX_VALUES or level > MAX_NESTING:
            raise FieldError(path, "too large or too deeply nested", f"at most {MAX_VALUES:,} values")
        if isinstance(item, str):
            if len(item) > MAX_TEXT:
                raise FieldError(path, f"a text of {len(item):,} characters", f"at most {MAX_TEXT:,}")
        elif isinstance(item, dict):
            if max(map(len, item), default=0) > MAX_NAME:
                raise FieldError(path, "an object with a very long name", f"at most {MAX_NAME} characters")
            pending += [(each, level + 1) for each in item.values()]
        elif isinstance(item, list):
            pending += [(each, level + 1) for each in item]
    return value


def _object(value: Any, path: str, most: int) -> dict[str, Any]:
    if type(value) is not dict:
        raise wrong(path, value, "an object")
    if len(value) > most:
        raise FieldError(path, f"an object of {len(value):,} names", f"at most {most:,}")
    return value


def joined(path: str, each: str) -> str:
    """The path of a field; a name with control characters is escaped, and long names are cut."""
    shown = ascii(each[:60]) if _CONTROLS.search(each) else each[:60]
    return f"{path}.{shown}" if path else shown
