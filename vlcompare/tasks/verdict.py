"""What an answer is worth, as a value; `vlcompare.evaluate.verdicts` comes to it."""

from __future__ import annotations

from typing import Literal, NamedTuple

MARKS = {"good": "✓", "part": "≈", "bad": "✗"}


class Verdict(NamedTuple):
    """What an answer is worth, and why in a few words: "IoU 0.75", "as expected"."""

    kind: Literal["good", "part", "bad"]  # "part": right in part, or nearly
    words: str

    @property
    def text(self) -> str:
        return f"{MARKS[self.kind]} {self.words}"
