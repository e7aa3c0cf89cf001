"""What each precision takes beside the others: a prompt, and a step of one row and of several, on CPU.

All precisions of a shape are held at once, with random weights, and take turns (A B C A B C): a processor's speed for
large products changes from one second to the next, so only what stands side by side can be compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vlcompare import terminal
from vlcompare.bench.contestants import build
from vlcompare.bench.machine import describe
from vlcompare.bench.models import SMALL, check_names
from vlcompare.errors import RequestError
from vlcompare.models.config import PRESETS, ModelConfig
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.bandwidth import timed
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.memory import check_room

COLUMNS = ("shape", "precision", "work", "ms", "ratio", "quickest")
_CPU = torch.device("cpu")
_BEFORE = 4  # positions that a row has behind it when its steps begin
_STEPS = 4  # of which the median counts


@dataclass(frozen=True, slots=True)
class PrecisionOptions:
    """The first precision is what the others are compared with. rows: of a batch, whose steps are timed."""

    shapes: tuple[str, ...] = SMALL
    precisions: tuple[str, ...] = ("bf16", "int8", "nf4")
    prompt: int = 620
    rows: tuple[int, ...] = (1, 8, 16, 32)
    repeats: int = 5


@dataclass(frozen=True, slots=True)
class PrecisionRow:
    """Median milliseconds. ratio: the median of the rounds' own, to the first precision; quickest: of the minima."""

    shape: str
    precision: str
    work: str
    milliseconds: float
    ratio: float
    quickest_ratio: float


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    machine: dict[str, Any]
    options: PrecisionOptions
    rows: tuple[PrecisionRow, ...]

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, **asdict(self)}


def run(
    options: PrecisionOptions,
    progress: Callable[[str], None] = lambda sentence: None,
    presets: Mapping[str, ModelConfig] = PRESETS,
) -> PrecisionReport:
    """Measure. Raises RequestError for what is not known or makes no sense, DeviceMemoryError for what has no room."""
    check_names(options.shapes, options.precisions, presets)
    for precision in options.precisions:
        if precision in quantize.METHODS and not quantize.has_kernels(precision, _CPU):
            raise RequestError(f"There are no kernels for {precision} on this processor: leave it out of --precisions.")
    if min(options.prompt, options.repeats, *options.rows) < 1:
        raise RequestError("Prompt, rows and repeats must each be at least 1.")
    rows: list[PrecisionRow] = []
    with torch.inference_mode():
        for shape in options.shapes:
            models = {}
            for precision in options.precisions:
                progress(f"{shape}, {precision}: filling with random weights.")
                models[precision] = _language_model(presets[shape], shape, precision)
            work = {f"prompt of {options.prompt}": _prompt(options.prompt)}
            work |= {f"step of {count} row{'s' * (count > 1)}": _steps(count) for count in options.rows}
            for name, measured in work.items():
                progress(f"{shape}: {name}, {options.repeats} rounds.")
                rows += _compared(shape, name, measured, models, options.repeats)
    return PrecisionReport(describe(_CPU), options, tuple(rows))


def _language_model(config: ModelConfig, shape: str, precision: str) -> Any:
    width = 4 if precision == "fp32" else 2
    count = sum(value.numel() for value in meta_model(config).parameters())
    check_room(f"{shape} in {precision}", count * width, _CPU)
    return build(config, precision, _CPU).language_model


def _embeddings(model: Any, *shape: int) -> Tensor:
    table = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, model.config.hidden_size, generator=generator).to(table.dtype)


def _prompt(length: int) -> Callable[[Any], float]:
    """Seconds of a prompt, up to the logits of what follows it."""

    def measured(model: Any) -> float:
        x, state = _embeddings(model, 1, length), model.new_state(1, length + 1)
        return timed(lambda: model.logits(model(x, state)[:, -1]), _CPU)[0]

    return measured


def _steps(rows: int) -> Callable[[Any], float]:
    """Median seconds of a step of so many rows, up to their logits."""

    def measured(model: Any) -> float:
        state = model.new_state(rows, _BEFORE + _STEPS + 1)
        model(_embeddings(model, rows, _BEFORE), state)
        x = _embeddings(model, rows)
        model.step(x, state)
        return statistics.median(timed(lambda: model.logits(model.step(x, state)), _CPU)[0] for _ in range(_STEPS))

    return measured


def _compared(
    shape: str, work: str, measured: Callable[[Any], float], models: Mapping[str, Any], repeats: int
) -> list[PrecisionRow]:
    times: dict[str, list[float]] = {precision: [] for precision in models}
    for number in range(repeats + 1):
        for precision, model in models.items():
            seconds = measured(model)
            if number:  # the first round compiles and allocates
                times[precision].append(seconds)
    first = next(iter(times.values()))
    return [
        PrecisionRow(
            shape, precision, work, 1e3 * statistics.median(own),
            statistics.median(mine / other for mine, other in zip(own, first, strict=True)), min(own) / min(first),
        )
        for precision, own in times.items()
    ]  # fmt: skip


def table(report: PrecisionReport) -> str:
    """A line for each precision and piece of work."""
    cells = [
        (row.shape, row.precision, row.work, f"{row.milliseconds:.1f}", f"{row.ratio:.2f}", f"{row.quickest_ratio:.2f}")
        for row in report.rows
    ]
    machine = report.machine
    note = (
        f"{machine['device']}, {machine['threads']} threads, {machine['capability']}. Medians of "
        f"{report.options.repeats} rounds in which every precision had its turn. Ratio: to "
        f"{report.options.precisions[0]}, the median of the rounds' own; quickest: of each one's quickest round."
    )
    return "\n".join([terminal.stacked([COLUMNS, *cells], 3), "", terminal.wrapped(note)])
