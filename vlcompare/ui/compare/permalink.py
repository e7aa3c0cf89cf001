"""Permalinks: the settings and the example as the query of the page's URL.

Only what differs from the defaults is written. A link holds no picture but an example's. Reading never fails: what
cannot be used keeps its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import urlencode

from vlcompare.types import DTYPES, MODES, PROMPT_ORDERS, QUANTIZATIONS, SIDES, TASKS, Side
from vlcompare.ui.compare.forms import DEVICES, NUMBER_NAMES, SIDE_FIELDS, AskForm, says_nothing, shown_side
from vlcompare.ui.settings import AppSettings

MAX_CHARACTERS = 4000
ALLOWED = {
    "task": TASKS,
    "mode": MODES,
    "quantization": QUANTIZATIONS,
    "prompt_order": PROMPT_ORDERS,
    "device": DEVICES,
    "dtype": DTYPES,
}


@dataclass(frozen=True, slots=True)
class Link:
    """The content of a permalink."""

    ask: AskForm = AskForm()
    sides: Mapping[str, Side] = field(default_factory=dict)
    example: str | None = None


def default_sides(settings: AppSettings) -> dict[str, Side]:
    """Both sides as the page opens with them."""
    return {
        "left": shown_side(Side(settings.left, settings.quantization)),
        "right": shown_side(Side(settings.right, settings.quantization)),
    }


def write(link: Link, settings: AppSettings) -> str:
    """The query, beginning with "?"; texts that are too long for a link are left out, not shortened."""
    found: dict[str, str] = {}
    for f in fields(AskForm):
        value = getattr(link.ask, f.name)
        if value != f.default:
            found[f.name] = str(value)
    for side, default in default_sides(settings).items():
        form = link.sides.get(side, default)
        for name in SIDE_FIELDS:
            value = getattr(form, name)
            if value != getattr(default, name) and not says_nothing(name, value):
                found[_key(side, name)] = f"{value:g}" if isinstance(value, float) else str(value)
    if link.example:
        found["example"] = link.example
    query = urlencode(found)
    while len(query) > MAX_CHARACTERS and found:
        found.pop(max(found, key=lambda name: len(found[name])))
        query = urlencode(found)
    return "?" + query


def read(query: Mapping[str, Any], settings: AppSettings) -> Link:
    """A link's content; unknown names and values that are not allowed are ignored."""
    ask = AskForm()
    for f in fields(AskForm):
        value = _text(query.get(f.name))
        if value is not None and value in ALLOWED.get(f.name, (value,)):
            ask = replace(ask, **{f.name: value})
    sides = default_sides(settings)
    for side in SIDES:
        for name in SIDE_FIELDS:
            value = _text(query.get(_key(side, name)))
            if value is None or says_nothing(name, value) or value not in ALLOWED.get(name, (value,)):
                continue
            changed: dict[str, Any] = {name: value}
            if name in NUMBER_NAMES:
                try:
                    number = float(value)
                except ValueError:
                    continue
                if number != number or abs(number) > 1e12:
                    continue
                changed = {name: int(number) if number == int(number) else number}
                sides[side] = replace(sides[side], **changed)
            elif name != "checkpoint" or not settings.offered or value in settings.offered:
                sides[side] = replace(sides[side], **changed)
    return Link(ask, sides, _text(query.get("example")))


def _key(side: str, name: str) -> str:
    return side if name == "checkpoint" else f"{side}.{name}"


def _text(value: Any) -> str | None:
    return value[:MAX_CHARACTERS] if isinstance(value, str) and value else None
