"""Charts of answers, both sides on one axis: time to first token in its parts, latency per token, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlcompare.render.charts import Curve, bar, curves, legend
from vlcompare.render.markup import Safe, el
from vlcompare.types import Answer
from vlcompare.units import format_bytes, milliseconds


def latency_chart(gaps: Mapping[str, Sequence[float]]) -> Safe:
    """Milliseconds before the second and every further token; the first is in the chart of first tokens."""
    lines = [Curve(side, [(i + 2, gap) for i, gap in enumerate(own)]) for side, own in gaps.items() if own]
    return curves(lines, "Milliseconds before each token", milliseconds, start=2)


def memory_chart(answers: Mapping[str, Answer | None], formulas: Mapping[str, Sequence[tuple[float, float]]]) -> Safe:
    """Cache or state over the positions seen: measured at every token as a line, the formula dashed from the start.

    formulas: side -> (positions, bytes) by the formula.
    """
    lines = []
    for side, answer in answers.items():
        if answer is None or answer.prompt is None:
            continue
        if formulas.get(side):
            lines.append(Curve(side, formulas[side], "dash"))
        start = len(answer.prompt.ids)
        measured = [(start + index, count) for index, count in enumerate(answer.memory.state_trace)]
        if not measured and answer.memory.state_bytes:
            measured = [(positions_of(answer), answer.memory.state_bytes)]
        if measured:
            lines.append(Curve(side, measured, "measured"))
    return curves(lines, "Bytes of cache or state over positions", format_bytes)


def positions_of(answer: Answer) -> int:
    """How many positions the cache or state had seen at the end: the last token is not run through it."""
    return len(answer.prompt.ids if answer.prompt else ()) + max(0, len(answer.tokens) - 1)


def first_token_bars(answers: Mapping[str, Answer | None]) -> Safe:
    """Time to first token, one bar a side on one axis: preparing the picture, vision encoder, prefill, the rest."""
    names = ("picture", "vision", "prefill", "first token")
    timings = {side: answer.timings for side, answer in answers.items() if answer and answer.timings.ttft_ms}
    if not timings:
        return el("p", "No first token was measured.", class_="vl-empty")
    longest = max(timing.ttft_ms for timing in timings.values())
    rows = []
    for side, t in timings.items():
        rest = max(0.0, t.ttft_ms - t.image_ms - t.vision_ms - t.prefill_ms)
        lengths = (t.image_ms, t.vision_ms, t.prefill_ms, rest)
        parts = [(name, length, milliseconds(length)) for name, length in zip(names, lengths, strict=True)]
        total = el("span", milliseconds(t.ttft_ms), class_="vl-bar-total")
        rows.append(el("div", bar(parts, longest, side), total, class_="vl-bar-row"))
    notes = []
    if any(timing.shared_ms for timing in timings.values()):
        notes.append("Both look with equal encoders: the picture was encoded once, and its time counts for both.")
    if any(timing.known_positions for timing in timings.values()):
        notes.append("The picture's positions were known from an earlier question.")
    note = el("p", " ".join(notes), class_="vl-note") if notes else None
    return el("div", *rows, legend(names), note, class_="vl-bars")
