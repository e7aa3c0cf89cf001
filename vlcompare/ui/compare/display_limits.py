"""How much of an answer is drawn, so that any row of any file is on the page at once; what is left out is said.

The bounds are above what the page itself can ask for. Figures are of the whole answer; only what is drawn is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from vlcompare.render.markup import Safe, el

TOKENS = 1000
ALTERNATIVES = 10  # of a token
BOXES = 100
TURNS = 60
CHARACTERS = 20_000

Item = TypeVar("Item")


def cut(text: str, most: int = CHARACTERS) -> str:
    """The text's beginning, and how much was left out."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def left_out(items: Sequence[Item], most: int, what: str) -> Safe | None:
    """A line that says how many items are not drawn; None where all of them are."""
    more = len(items) - most
    return el("p", f"{more:,} more {what} are not shown.", class_="vl-note") if more > 0 else None
