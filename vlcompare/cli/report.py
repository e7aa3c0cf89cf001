"""Answers for the terminal and for files: a table of what was measured, JSON, and the result card.

Text that a model wrote is cleared of control characters before it reaches a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompare import terminal
from vlcompare.errors import RequestError, reason
from vlcompare.tasks.boxes import format_box
from vlcompare.types import Answer, Box, Request
from vlcompare.units import format_bytes, milliseconds, number

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlcompare.render.result_card import CardSide
    from vlcompare.repeats import Repeats
    from vlcompare.tasks.verdict import Verdict

Truth = tuple[Sequence[Box], Sequence[str]]  # the true boxes, and the expected answers

_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """Text without control characters, so that no answer can steer the terminal."""
    return text.translate(_CONTROLS)


def answers_table(
    answers: Mapping[str, Answer], verdicts: Mapping[str, Verdict | None] | None = None, title: str = ""
) -> str:
    """What each side read, ran on and took, one column a side, within the terminal's width.

    With two sides a last column sets the left's figures over the right's. A row in which no side has anything is left
    out. title: what the table is of, above its labels.
    """
    columns = {side: _column(answer) for side, answer in answers.items()}
    for side, found in (verdicts or {}).items():
        columns[side]["verdict"] = found.text if found else ""
    ratios = _ratios(*answers.values()) if len(answers) == 2 else {}
    labels = [label for label in _LABELS if any(column.get(label) for column in columns.values())]
    rows = [[label, *(column.get(label) or "-" for column in columns.values())] for label in labels]
    if ratios:
        rows = [[title, *answers, "left/right"], *([*row, ratios.get(row[0], "")] for row in rows)]
    return terminal.table(rows)


def repeats_table(repeats: Repeats) -> str:
    """Median and range of each side's times over the rounds, and what can be said of them."""
    from vlcompare.repeats import FIGURES

    names = {"ttft_ms": "first token", "token_ms": "a token"}
    rows = [[f"{len(repeats.rounds)} rounds", *repeats.sides, ""]]
    for figure in FIGURES:
        spreads = [repeats.spread(side, figure) for side in repeats.sides]
        cells = [
            f"{milliseconds(one.median)} ({milliseconds(one.low)} to {milliseconds(one.high)})" if one else "-"
            for one in spreads
        ]
        side = repeats.faster(figure)
        rows.append([names[figure], *cells, f"{side} is faster" if side else "no clear difference"])
    lines = [terminal.table(rows)]
    if repeats.busy:
        share = f"{100 * (repeats.cpu_share or 0):.0f} %"
        lines.append(terminal.wrapped(f"This machine is busy: the answers had a processor for {share} of their time."))
    return "\n".join(lines)


def write_json(target: str, value: Any) -> None:
    """Write JSON to a file, or to standard output for "-"."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise RequestError(f"{target} cannot be written ({error.strerror}).") from error


def save_card(
    target: str, image: Image, request: Request, sides: Mapping[str, CardSide], truth: Truth = ((), ())
) -> None:
    """Write the result card. Raises RequestError where the file cannot be written."""
    from vlcompare.render.result_card import result_card

    try:
        result_card(image, request, sides, truth=truth[0], references=truth[1]).save(target)
    except OSError as error:
        raise RequestError(f"{target} cannot be written ({reason(error)}).") from error
    print(f"The card is in {target}.", file=sys.stderr)


_LABELS = (
    "verdict", "answer", "ended", "model", "quantization", "runs on", "image size", "first token", "· picture",
    "· vision", "· prefill", "a token", "p95, max", "tokens/s", "total", "weights", "cache, state", "peak memory",
)  # fmt: skip
_ENDS = {
    "end": "by itself",
    "newline": "at the line's end",
    "limit": "at the token limit",
    "context": "context full",
    "cancelled": "stopped",
    "deadline": "at the time limit",
}


def _column(answer: Answer) -> dict[str, str]:
    """One side's cells, by label. A side that failed has its model alone."""
    timings, memory = answer.timings, answer.memory
    column = {"answer": _reading(answer), "model": answer.checkpoint}
    if answer.quantization != "none":
        column["quantization"] = answer.quantization
    if answer.error and not answer.tokens:
        return {**column, "answer": "failed, see above"}
    if answer.revision:
        column["model"] += f" @ {answer.revision[:10]}"
    runs = [answer.dtype, answer.device, *(["graphed"] if timings.graphed else [])]
    runs += [f"{timings.threads} thread{'s' * (timings.threads > 1)}"] * (timings.threads > 0)
    count = len(answer.tokens)
    ended = _ENDS.get(answer.stop_reason, answer.stop_reason)
    column |= {
        "ended": f"{ended}, {count} token{'s' * (count != 1)}",
        "runs on": ", ".join(runs),
        "image size": f"{answer.image_size} px",
        "first token": milliseconds(timings.ttft_ms),
        "· picture": milliseconds(timings.image_ms),
        "· vision": milliseconds(timings.vision_ms) + ", shared" * (timings.shared_ms > 0),
        "· prefill": milliseconds(timings.prefill_ms)
        + (f" for {len(answer.prompt.ids)} positions" if answer.prompt else ""),
        "total": milliseconds(timings.total_ms),
        "weights": format_bytes(memory.weights_bytes),
        "cache, state": f"{format_bytes(memory.state_bytes)} (formula: {format_bytes(memory.state_bytes_formula)})",
    }
    if answer.device != "cpu":  # on a CPU it is the whole process's
        column["peak memory"] = format_bytes(memory.peak_bytes)
    if timings.token_ms:
        column["a token"] = f"{milliseconds(timings.token_percentile(50))} (median)"
        column["p95, max"] = f"{milliseconds(timings.token_percentile(95))}, {milliseconds(max(timings.token_ms))}"
        column["tokens/s"] = number(timings.tokens_per_s)
    return column


def _ratios(left: Answer, right: Answer) -> dict[str, str]:
    """The left's figures over the right's, where both have them."""

    def figures(answer: Answer) -> dict[str, float]:
        timings, memory = answer.timings, answer.memory
        return {
            "first token": timings.ttft_ms,
            "· vision": 0.0 if timings.shared_ms else timings.vision_ms,  # encoded once, for both
            "· prefill": timings.prefill_ms,
            "a token": timings.token_percentile(50) if timings.token_ms else 0.0,
            "tokens/s": timings.tokens_per_s,
            "total": timings.total_ms,
            "weights": memory.weights_bytes,
            "cache, state": memory.state_bytes,
        }

    pairs = zip(figures(left).items(), figures(right).values(), strict=True)
    return {label: f"{ours / theirs:.2f}" for (label, ours), theirs in pairs if ours and theirs} or {"": ""}


def _reading(answer: Answer) -> str:
    if answer.parse == "unparseable":
        return f"could not be read: {plain(' '.join(answer.text.split()))[:60]}"
    boxes = [format_box(box) for box in answer.boxes]
    named = [f"{phrase} {box}" for phrase, box in zip(answer.phrases, boxes, strict=False)]
    return plain("; ".join(named or boxes) or " ".join(answer.text.split()))[:200]
