"""A process that loads models when it is told to, one after the other, and says what they take of its resident memory.

Reads one JSON object a line, {"folder", "quantization", "dtype"}, and answers each with one. Resident memory is counted
above what the process holds with its libraries imported and the CPU's kernels compiled, before the first model. What
of that loading brings (the vision encoder's library, numba, machine code) is told, too.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from vlcompare.errors import VLCompareError

_INTERVAL = 0.003  # seconds between two looks at the process while it loads: reading a large tensor takes longer


@contextmanager
def _watched() -> Iterator[list[int]]:
    """The largest resident size inside the block, in bytes, as the only item of a list."""
    peak, ended = [_resident()], threading.Event()

    def watch() -> None:
        while not ended.wait(_INTERVAL):
            peak[0] = max(peak[0], _resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _prepare(dtype: str, quantization: str) -> tuple[int, int]:
    """Import and compile all that loading and answering need; the resident size after it, and how much of it is more
    than torch and this package.
    """
    from vlcompare.models.config import PRESETS
    from vlcompare.models.vlm import meta_model
    from vlcompare.runtime import engine  # noqa: F401
    from vlcompare.runtime.loading import load  # noqa: F401
    from vlcompare.runtime.loading.compile_ahead import compiling
    from vlcompare.runtime.loading.devices import resolve_dtype
    from vlcompare.runtime.memory import return_freed_memory

    before = _resident()
    meta_model(PRESETS["pythiavl_1b"])  # imports the vision encoder's library
    for family in ("pythia", "mamba"):
        compiling(family, resolve_dtype(dtype, torch.device("cpu"), 1 << 30), quantization).join()
    return_freed_memory(collect=False)
    return (after := _resident()), max(0, after - before)


def main() -> None:
    """Answer the lines of the standard input until it ends."""
    models: list[Any] = []  # all stay in memory
    prepared = None
    for line in sys.stdin:
        job = json.loads(line)
        prepared = prepared or _prepare(job["dtype"], job["quantization"])
        from vlcompare.runtime.loading.load import load
        from vlcompare.runtime.loading.shared_encoders import unique_bytes

        began = time.perf_counter()
        try:
            with _watched() as peak:
                model = load(job["folder"], device="cpu", dtype=job["dtype"], quantization=job["quantization"])
        except VLCompareError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            continue
        seconds, after = time.perf_counter() - began, _resident()
        start, libraries = prepared
        models.append(model)
        found = {
            "weights_bytes": model.weights_bytes, "together_bytes": unique_bytes(models),
            "resident_bytes": after - start, "libraries_bytes": libraries, "over_final_bytes": max(0, peak[0] - after),
            "largest_tensor_bytes": max(entry.bytes for entry in model.stored), "load_s": seconds,
            "encoder": str(model.vision_dtype).removeprefix("torch."),
        }  # fmt: skip
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
