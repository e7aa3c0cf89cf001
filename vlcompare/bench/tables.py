"""A benchmark's report as text, and as a plot of milliseconds a token."""

from __future__ import annotations

from pathlib import Path

from vlcompare import terminal
from vlcompare.bench.models import ModelReport, ModelRow
from vlcompare.errors import RequestError, reason
from vlcompare.render.plots import new_figure

COLUMNS = (
    "shape", "precision", "who", "load s", "vision ms", "prefill ms", "first token ms", "ms/token", "GB/s", "share",
    "state MB", "held GB", "peak GB",
)  # fmt: skip


def table(report: ModelReport) -> str:
    """The machine, then one line a contestant, then ratios of ours to theirs."""
    machine = report.machine
    lines = [
        f"{machine['device']}, {machine['threads']} threads, {machine['capability']}"
        + ("" if machine["native_bfloat16"] else ", no bfloat16 instructions: torch emulates them"),
        f"scan: {machine['kernels']['used']}; cache: {machine['cache_policy']}",
        f"memory: {machine['gbytes_per_s']:.1f} GB/s measured; " + ", ".join(
            f"{name} {version}" for name, version in machine["versions"].items()
        ),
        f"prompt of {report.options.prompt} positions, {report.options.tokens} tokens, "
        f"medians of {report.options.repeats}",
        "",
    ]  # fmt: skip
    lines = [terminal.wrapped(line, "  ") for line in lines]
    lines.append(terminal.stacked([COLUMNS, *(_cells(row) for row in report.rows)], 3))
    notes = [f"{row.shape}, {row.precision}, {row.who}: {row.note}" for row in report.rows if row.note]
    return "\n".join([*lines, "", *(terminal.wrapped(line, "  ") for line in (*ratios(report), *notes))])


def _cells(row: ModelRow) -> tuple[str, ...]:
    def text(value: float | None, digits: int, scale: float = 1.0) -> str:
        return "-" if value is None else f"{value * scale:.{digits}f}"

    return (
        row.shape, row.precision, row.who, text(row.load_s, 1), text(row.vision_ms, 1), text(row.prefill_ms, 1),
        text(row.ttft_ms, 1), text(row.token_ms, 2), text(row.gbytes_per_s, 1), text(row.bandwidth_share, 2),
        text(row.state_bytes, 1, 1e-6), text(row.resident_bytes, 2, 1e-9), text(row.peak_bytes, 2, 1e-9),
    )  # fmt: skip


def ratios(report: ModelReport) -> list[str]:
    """Ours over theirs, of the same shape and precision in the same run: below 1 is faster."""
    lines = []
    for theirs in report.rows:
        if theirs.who.startswith("vlcompare") or theirs.note:
            continue
        for ours in report.rows:
            same = (ours.shape, ours.precision) == (theirs.shape, theirs.precision)
            if not same or not ours.who.startswith("vlcompare"):
                continue
            parts = [
                f"{label} {mine / other:.2f}x"
                for label, mine, other in (
                    ("vision", ours.vision_ms, theirs.vision_ms),
                    ("prefill", ours.prefill_ms, theirs.prefill_ms),
                    ("token", ours.token_ms, theirs.token_ms),
                )
                if mine is not None and other
            ]
            lines.append(f"{ours.shape}, {ours.precision}: {ours.who} / {theirs.who}: {', '.join(parts)}")
    return lines


def plot(report: ModelReport, path: Path) -> None:
    """Milliseconds a token as bars, one for each contestant, as a PNG."""
    rows = [row for row in report.rows if row.token_ms is not None]
    if not rows:
        raise RequestError("Nothing was measured, so there is nothing to plot.")
    figure = new_figure((9, 1.2 + 0.4 * len(rows)))
    axes = figure.subplots()
    colors = {"vlcompare": "#0072b2", "vlcompare, graphed": "#009e73"}
    positions = range(len(rows))
    bars = axes.barh(positions, [row.token_ms or 0 for row in rows], color=[colors.get(r.who, "#999999") for r in rows])
    axes.bar_label(bars, labels=[_bar_label(row) for row in rows], padding=3)
    axes.set_yticks(positions, [f"{row.shape}, {row.precision}, {row.who}" for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlabel("milliseconds a token (shorter is faster)")
    axes.set_title(f"{report.machine['device']}, {report.machine['gbytes_per_s']:.0f} GB/s", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise RequestError(f"The plot cannot be written to {path} ({reason(error)}).") from error


def _bar_label(row: ModelRow) -> str:
    share = "" if row.bandwidth_share is None else f" ({row.bandwidth_share:.0%} of bandwidth)"
    return f"{row.token_ms:.1f}{share}"
