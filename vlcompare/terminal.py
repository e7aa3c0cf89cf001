"""What commands print: tables that fit the terminal, progress bars of one style, and lines that replace themselves."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

GAP = "  "
NO_BREAK = "\u00a0"  # a space at which a cell is not wrapped
_NARROWEST = 7  # characters of a column, however narrow the terminal is


def width() -> int:
    """Characters of a line: the terminal's, or 80 where the output is not one."""
    return shutil.get_terminal_size((80, 24)).columns


def table(rows: Sequence[Sequence[str]], most: int | None = None) -> str:
    """Rows in columns, at most `most` characters wide (default: `width()`); cells that do not fit are wrapped."""
    most = width() if most is None else most
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = most - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths[1:], default=0) > _NARROWEST:
        widest = max(range(1, len(widths)), key=lambda i: widths[i])  # the first column, of names, stays whole
        widths[widest] -= 1
    lines: list[str] = []
    for row in rows:
        cells = [textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths, strict=True)]
        for i in range(max(map(len, cells))):
            parts = (cell[i] if i < len(cell) else "" for cell in cells)
            lines.append(GAP.join(part.ljust(size) for part, size in zip(parts, widths, strict=True)).rstrip())
    return "\n".join(lines).replace(NO_BREAK, " ")


def stacked(rows: Sequence[Sequence[str]], names: int, most: int | None = None) -> str:
    """Rows of figures as one table, or as several below each other where they are wider than `most` (default:
    `width()`).

    Each table begins with the first `names` columns; figures are set to the right, and the first row's words wrap.
    """
    most = width() if most is None else most
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns[:names]]
    widths += [max(len(word) for cell in column for word in cell.split(" ")) for column in columns[names:]]
    groups: list[list[int]] = []
    room = 0
    for place in range(names, len(columns)):
        if not groups or room < len(GAP) + widths[place]:
            groups.append([])
            room = most - sum(widths[:names]) - len(GAP) * (names - 1)
        groups[-1].append(place)
        room -= len(GAP) + widths[place]
    return "\n\n".join(_figures(rows, [*range(names), *group], names, widths) for group in groups)


def _figures(rows: Sequence[Sequence[str]], places: Sequence[int], names: int, widths: Sequence[int]) -> str:
    lines = []
    for row in rows:
        cells = [textwrap.wrap(row[place], max(1, widths[place])) or [""] for place in places]
        tall = max(map(len, cells))
        padded = [[""] * (tall - len(cell)) + cell for cell in cells]  # a head's words stand above their column
        for parts in zip(*padded, strict=True):
            pairs = zip(parts, places, strict=True)
            texts = [text.ljust(widths[place]) if place < names else text.rjust(widths[place]) for text, place in pairs]
            lines.append(GAP.join(texts).rstrip())
    return "\n".join(lines)


def wrapped(sentence: str, indent: str = "") -> str:
    """A sentence on lines of at most `width()` characters, the further ones indented."""
    return textwrap.fill(sentence, max(20, width()), subsequent_indent=indent, break_on_hyphens=False)


def progress_bar(total: int, label: str, unit: str, *, shown: bool = True) -> Any:
    """A bar on a terminal, with time left; nothing elsewhere. unit: " samples", or "B" for bytes, written as 2.1 GB."""
    from tqdm import tqdm

    return tqdm(
        total=total, desc=label, unit=unit, unit_scale=unit == "B", disable=None if shown else True, dynamic_ncols=True,
        leave=False,
    )  # fmt: skip


def status(sentence: str) -> None:
    """A line on a terminal that the next output replaces; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{sentence[: width() - 1]}\033[K\r", end="", file=sys.stderr, flush=True)


class Progress:
    """Sentences with bytes done: a bar for what has a total, each other sentence once."""

    def __init__(self) -> None:
        self._sentence, self._bar = "", None

    def __call__(self, sentence: str, done: int, total: int) -> None:
        if sentence != self._sentence:
            self.close()
            self._sentence = sentence
            if total:
                self._bar = progress_bar(total, sentence, "B")
            if not (total and sys.stderr.isatty()):
                print(sentence, file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done >= total:
                self.close()

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
