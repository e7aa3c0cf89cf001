"""Both sides' figures and charts, as markup: what was measured, in numbers and in curves. Pure functions of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlcompare.render.answer_charts import first_token_bars, latency_chart, memory_chart
from vlcompare.render.markup import Safe, el, join
from vlcompare.render.terms import known_term, term
from vlcompare.types import Answer
from vlcompare.ui.checkpoint_names import QUANTIZATION_NAMES, memory_curves, name_of
from vlcompare.ui.compare.cards import side_name
from vlcompare.ui.compare.session import Run, SideRun
from vlcompare.units import format_bytes, milliseconds, number


def figures_table(run: Run) -> Safe:
    """Both sides' figures beside each other: time to first token in parts, gaps, rate, memory, settings."""
    answers = {side: run.answer(side) for side in run.sides}
    if run.hidden:
        return el("p", "Figures: after your vote, since they give the architectures away.", class_="vl-empty")
    rows: list[Safe] = []
    for name, read in _FIGURES:
        cells = [read(answer) if answer and _measured(answer) else "–" for answer in answers.values()]
        if name in _OPTIONAL and set(cells) == {"–"}:
            continue
        head = el("th", _EXPLAINED.get(name, name), scope="row")
        rows.append(el("tr", head, *[el("td", cell) for cell in cells]))
    sides = [el("th", side_name(run, side)[0], scope="col", data_side=side) for side in run.sides]
    note = None
    if run.mode == "race":
        said = "Race: both sides shared the machine, so these times are contended: do not compare them."
        note = el("p", said, class_="vl-warn")
    table = el("table", el("thead", el("tr", el("td", ""), *sides)), el("tbody", *rows), class_="vl-table vl-figures")
    return el("div", note, el("div", table, class_="vl-scroll"))


def _measured(answer: Answer) -> bool:
    """Whether it holds figures: a side that was stopped before its turn has none, which is not the same as 0."""
    return not answer.error and answer.timings.total_ms > 0


def gaps_of(part: SideRun) -> Sequence[float]:
    """Milliseconds between the tokens so far."""
    if part.answer is not None:
        return part.answer.timings.token_ms
    return [1e3 * step.seconds for step in part.steps[1:]]


def _gaps(answer: Answer) -> str:
    timings = answer.timings
    if not timings.token_ms:
        return "–"
    shown = (timings.token_percentile(50), timings.token_percentile(95), max(timings.token_ms))
    return " / ".join(map(number, shown)) + " ms"


def _state_bytes(answer: Answer) -> str:
    kind = {"pythia": "cache", "mamba": "state"}.get(name_of(answer.checkpoint).family, "cache or state")
    measured, formula = answer.memory.state_bytes, answer.memory.state_bytes_formula
    return f"{format_bytes(measured)} {kind}" + (f" (formula {format_bytes(formula)})" if formula else "")


def _peak(answer: Answer) -> str:
    """Of the device's memory: on a CPU the peak is the whole process's, and says nothing about this model."""
    peak = answer.memory.peak_bytes if answer.device.startswith("cuda") else 0
    return format_bytes(peak) if peak else "–"


def _run_as(answer: Answer) -> Safe:
    threads = answer.timings.threads
    count = f"{threads} thread{'s' * (threads > 1)}" if threads else ""
    method = answer.quantization
    kind = known_term(method, QUANTIZATION_NAMES.get(method)) if method != "none" else ""
    return join([part for part in (kind, answer.dtype, answer.device, count) if part], " · ")


def _prefill(answer: Answer) -> str:
    known = answer.timings.known_positions
    return milliseconds(answer.timings.prefill_ms) + (f" ({known} positions known)" if known else "")


_FIGURES = (
    ("Time to first token", lambda a: milliseconds(a.timings.ttft_ms) if a.timings.ttft_ms else "–"),
    ("· picture", lambda a: milliseconds(a.timings.image_ms)),
    ("· vision encoder", lambda a: milliseconds(a.timings.vision_ms) + " (shared)" * (a.timings.shared_ms > 0)),
    ("· prefill", _prefill),
    ("Gap between tokens, p50 / p95 / max", _gaps),
    ("Tokens per second", lambda a: number(a.timings.tokens_per_s) if a.timings.tokens_per_s else "–"),
    ("Tokens: prompt + answer", lambda a: f"{len(a.prompt.ids) if a.prompt else 0} + {len(a.tokens)}"),
    ("Total", lambda a: milliseconds(a.timings.total_ms)),
    ("Weights", lambda a: format_bytes(a.memory.weights_bytes)),
    ("Cache or state, measured", _state_bytes),
    ("Peak", _peak),
    ("Runs as", _run_as),
    ("Model input", lambda a: f"{a.image_size}×{a.image_size}, squeezed" if a.image_size else "–"),
    ("Revision", lambda a: a.revision or "–"),
)
_OPTIONAL = ("Peak", "Model input", "Revision")
_EXPLAINED = {
    "Time to first token": term("first token", "Time to first token"),
    "· picture": join(["· ", term("picture")]),
    "· vision encoder": join(["· ", term("vision encoder")]),
    "· prefill": join(["· ", term("prefill")]),
    "Gap between tokens, p50 / p95 / max": join(
        [term("token time", "Gap between tokens"), ", ", term("p50"), " / ", term("p95"), " / max"]
    ),
    "Tokens per second": term("tokens per second", "Tokens per second"),
    "Tokens: prompt + answer": join([term("token", "Tokens"), ": prompt + answer"]),
    "Weights": term("weights", "Weights"),
    "Cache or state, measured": join([term("cache or state", "Cache or state"), ", measured"]),
    "Peak": term("peak", "Peak"),
}


def _memory_note(answers: Mapping[str, Answer | None]) -> Safe:
    """What is dashed and what is solid, and both sides' memory at the end."""
    ends = [_state_bytes(answer) for answer in answers.values() if answer and answer.memory.state_bytes]
    return join(["Dashed: by the formula. Solid: measured at every token. ", "; ".join(ends), "." if ends else ""])


def charts(run: Run) -> Safe:
    """The three charts, both sides on one axis each."""
    if run.hidden:
        return el("p", "Charts: after your vote.", class_="vl-empty")
    answers = {side: run.answer(side) for side in run.sides}
    legend = el(
        "div",
        *[el("span", el("i", class_="vl-key", data_side=side), side_name(run, side)[0]) for side in run.sides],
        class_="vl-legend",
    )
    gaps, memory = {side: gaps_of(part) for side, part in run.sides.items()}, memory_curves(answers)
    blocks = (
        (term("first token", "Time to first token"), first_token_bars(answers), None),
        (term("token time", "Time of each token"), latency_chart(gaps), None),
        (term("cache or state", "Memory of cache or state"), memory_chart(answers, memory), _memory_note(answers)),
    )
    return el(
        "div",
        legend,
        el(
            "div",
            *[
                el("figure", el("figcaption", name), drawn, el("p", note, class_="vl-note") if note else None)
                for name, drawn, note in blocks
            ],
            class_="vl-chart-row",
        ),
        class_="vl-charts",
    )
