"""Answers for the terminal and for files: a table of what was measured, JSON, and the annotated picture.

Text that a model wrote is cleared of control characters before it reaches a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcompare.errors import RequestError
from vlcompare.tasks.boxes import format_box
from vlcompare.types import Answer, Request
from vlcompare.units import format_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlcompare.render.draw import Role
    from vlcompare.repeats import Repeats

_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """Text without control characters, so that no answer can steer the terminal."""
    return text.translate(_CONTROLS)


def table(answers: Mapping[str, Answer]) -> str:
    """What each side read, ran on and took, one column a side; a single side needs no heading."""
    columns = [_column(answer) for answer in answers.values()]
    rows = [[label, *(column[label] for column in columns)] for label in columns[0]]
    if len(answers) > 1:
        rows.insert(0, ["", *answers])
    return "\n".join(_in_columns(rows))


def _in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]


def repeats_table(repeats: Repeats) -> str:
    """Median and range of each side's times over the rounds, and what can be said of them."""
    from vlcompare.repeats import FIGURES

    names = {"ttft_ms": "first token", "token_ms": "a token"}
    rows = [[f"{len(repeats.rounds)} rounds", *repeats.sides, ""]]
    for figure in FIGURES:
        spreads = [repeats.spread(side, figure) for side in repeats.sides]
        cells = [f"{_ms(one.median)} ({_ms(one.low)} to {_ms(one.high)})" if one else "-" for one in spreads]
        side = repeats.faster(figure)
        rows.append([names[figure], *cells, f"{side} is faster" if side else "no clear difference"])
    lines = _in_columns(rows)
    if repeats.busy:
        share = f"{100 * (repeats.cpu_share or 0):.0f} %"
        lines.append(f"This machine is busy: the answers had a processor for {share} of their time.")
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


def save_picture(target: str, image: Image, request: Request, answers: Sequence[tuple[Role, str, Answer]]) -> None:
    """Write the picture with the question's boxes, every side's boxes, and each side's words below it."""
    from vlcompare.render.draw import annotate, answer_marks, request_marks

    marks = request_marks(request)
    legend = []
    for side, name, answer in answers:
        label = name or (request.text if request.task == "grounding" else "")
        marks += answer_marks(answer, side, label)
        words = answer.error or answer.text
        legend.append((side, f"{name}: {words}" if name else words))
    try:
        annotate(image, marks, legend).save(target)
    except OSError as error:
        raise RequestError(f"{target} cannot be written ({error}).") from error


def _column(answer: Answer) -> dict[str, str]:
    timings, memory = answer.timings, answer.memory
    gaps = timings.token_ms
    decode = f"{_ms(sum(gaps) / len(gaps))} a token, {timings.tokens_per_s:.1f} tokens/s" if gaps else "-"
    percentiles = (timings.token_percentile(50), timings.token_percentile(95), max(gaps)) if gaps else ()
    spread = " / ".join(map(_ms, percentiles)) or "-"
    state = f"{format_bytes(memory.state_bytes)} (by formula {format_bytes(memory.state_bytes_formula)})"
    settings = [answer.dtype, f"quantization {answer.quantization}", answer.device, f"{answer.image_size} px"]
    settings += ["graphed"] * timings.graphed
    settings += [f"{timings.threads} thread{'s' * (timings.threads > 1)}"] * (timings.threads > 0)
    column = {
        "read as": _reading(answer),
        "stopped": f"{answer.stop_reason} after {len(answer.tokens)} tokens",
        "model": answer.checkpoint + (f" @ {answer.revision[:10]}" if answer.revision else ""),
        "run in": ", ".join(settings),
        "picture": _ms(timings.image_ms),
        "vision": _ms(timings.vision_ms),
        "prefill": _ms(timings.prefill_ms) + (f" for {len(answer.prompt.ids)} positions" if answer.prompt else ""),
        "first token": _ms(timings.ttft_ms),
        "decode": decode,
        "p50/p95/max": spread,
        "total": _ms(timings.total_ms),
        "weights": format_bytes(memory.weights_bytes),
        "state": state,
        "peak": format_bytes(memory.peak_bytes),
    }
    if answer.error and not answer.tokens:
        return {**dict.fromkeys(column, "-"), "read as": "failed, see above", "model": answer.checkpoint}
    return column


def _reading(answer: Answer) -> str:
    if answer.parse == "unparseable":
        return "unparseable"
    boxes = [format_box(box) for box in answer.boxes]
    named = [f"{phrase} {box}" for phrase, box in zip(answer.phrases, boxes, strict=False)]
    return plain("; ".join(named or boxes) or " ".join(answer.text.split()))[:100]


def _ms(value: float) -> str:
    return f"{value:,.1f} ms" if value < 1000 else f"{value / 1000:,.2f} s"
