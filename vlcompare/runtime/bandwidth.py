"""How fast a device's memory is, measured in a second or two, and the clock that waits for a device's work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from vlcompare.models.kernels.linear import linear
from vlcompare.runtime.memory import available_bytes

_T = TypeVar("_T")


def timed(work: Callable[[], _T], device: torch.device) -> tuple[float, _T]:
    """(seconds, what `work` returns); on CUDA the device's own work is waited for, before and after."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    start = time.perf_counter()
    result = work()
    wait()
    return time.perf_counter() - start, result


def bandwidth(device: torch.device, *, megabytes: int | None = None, times: int = 6) -> dict[str, float]:
    """GB/s of copying (bytes read and written) and of reading alone; best of several, on arrays no cache holds.

    On CPU also of a product of one row by the kernel that decoding uses: a plain sum does not reach what memory gives.
    megabytes: of each of the two arrays in MiB, by default 4096 on CUDA and 256 on a CPU; never more than a quarter of
    the memory that is free.
    """
    most = (megabytes or (4096 if device.type == "cuda" else 256)) << 20
    count = max(1, min(most, available_bytes(device) // 4) // 4 // 4096) * 4096
    source, target = torch.zeros(count, device=device), torch.zeros(count, device=device)

    def best(work: Callable[[], Any], size: int) -> float:
        return size / min(timed(work, device)[0] for _ in range(times)) / 1e9

    rates = {
        "copy": best(lambda: target.copy_(source), 2 * source.nbytes),
        "read": best(lambda: torch.sum(source), source.nbytes),
    }
    if device.type == "cpu":
        matrix, row = source.view(-1, 4096), torch.zeros(1, 4096)
        with torch.inference_mode():
            rates["product"] = best(lambda: linear(row, matrix), source.nbytes)
    return rates
