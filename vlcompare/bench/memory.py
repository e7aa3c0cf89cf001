"""What models take of a process's resident memory: loaded from files one after the other, and kept together.

Checkpoints have random weights at the published shapes, with one frozen vision encoder as those have. Each is written,
loaded by a process of its own for the precision, and removed again, so that one of them is on the disk at a time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlcompare import terminal
from vlcompare.bench import random_checkpoint
from vlcompare.bench.models import SMALL, check_names
from vlcompare.errors import RequestError
from vlcompare.models.config import PRESETS, ModelConfig
from vlcompare.runtime.loading.quantize import METHODS
from vlcompare.units import format_bytes

COLUMNS = ("shape", "precision", "encoder", "load s", "weights GB", "together GB", "resident GB", "over final MB",
           "largest tensor MB")  # fmt: skip


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """The shapes are loaded in this order, in each precision anew."""

    shapes: tuple[str, ...] = SMALL
    precisions: tuple[str, ...] = ("bf16", "int8", "nf4")


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One model. Bytes of its own weights, of all weights so far, and of the process above its start, after loading.

    over_final_bytes: how much more the process held at its peak while it loaded this model. libraries_bytes: what that
    start holds more than torch and this package.
    """

    shape: str
    precision: str
    encoder: str
    load_s: float
    weights_bytes: int
    together_bytes: int
    resident_bytes: int
    libraries_bytes: int
    over_final_bytes: int
    largest_tensor_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryReport:
    options: MemoryOptions
    rows: tuple[MemoryRow, ...]

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, "options": asdict(self.options), "rows": [asdict(row) for row in self.rows]}


def run(
    options: MemoryOptions,
    progress: Callable[[str], None] = lambda sentence: None,
    presets: Mapping[str, ModelConfig] = PRESETS,
) -> MemoryReport:
    """Measure. Raises RequestError for what cannot be measured here: an unknown name, too little disk or memory."""
    check_names(options.shapes, options.precisions, presets)
    rows = []
    for precision in options.precisions:
        with tempfile.TemporaryDirectory(prefix="vlcompare-bench-") as folder:
            process = subprocess.Popen(
                [sys.executable, "-m", "vlcompare.bench.resident"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True,
            )  # fmt: skip
            try:
                for shape in options.shapes:
                    progress(f"{shape}, {precision}: writing random weights, then loading them.")
                    rows.append(_loaded(process, Path(folder) / shape, presets[shape], precision))
            finally:
                process.kill()
                process.communicate()
    return MemoryReport(options, tuple(rows))


def _loaded(process: subprocess.Popen[str], folder: Path, config: ModelConfig, precision: str) -> MemoryRow:
    assert process.stdin is not None and process.stdout is not None
    try:
        random_checkpoint.write(folder, config)
        quantization = precision if precision in METHODS else "none"
        dtype = "float32" if precision == "fp32" else "bfloat16"
        job = {"folder": str(folder), "quantization": quantization, "dtype": dtype}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except OSError as error:
        raise RequestError(f"{folder.name} cannot be measured: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = json.loads(answer or '{"error": "The process that loads it ended: there may be too little memory."}')
    if "error" in found:
        raise RequestError(f"{folder.name} in {precision} cannot be measured: {found['error']}")
    return MemoryRow(shape=folder.name, precision=precision, **found)


def table(report: MemoryReport) -> str:
    """A line a model, in the order of loading; what is resident holds the models before it as well."""
    rows = [
        (
            row.shape, row.precision, row.encoder, f"{row.load_s:.1f}",
            *(f"{value / 1e9:.2f}" for value in (row.weights_bytes, row.together_bytes, row.resident_bytes)),
            *(f"{value / 1e6:.0f}" for value in (row.over_final_bytes, row.largest_tensor_bytes)),
        )
        for row in report.rows
    ]  # fmt: skip
    note = (
        "Of each precision one process, which holds a model beside those before it. Resident: above the process with "
        "its libraries, before the first model. Over final: at the peak while the model was loaded."
    )
    if report.rows:
        libraries = max(row.libraries_bytes for row in report.rows)
        note += f" What loading imports and compiles takes {format_bytes(libraries)} besides, once."
    return "\n".join([terminal.stacked([COLUMNS, *rows], 3), "", terminal.wrapped(note)])
