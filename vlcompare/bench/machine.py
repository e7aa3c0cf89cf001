"""The machine that is measured: its bandwidth, the kernels and versions in use, and the clock of its device."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from vlcompare.models import kernels
from vlcompare.models.kernels.linear import linear, native_bfloat16

_PACKAGES = ("torch", "transformers", "timm", "numba", "triton", "bitsandbytes", "mamba-ssm")
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


def bandwidth(device: torch.device) -> dict[str, float]:
    """GB/s of copying (bytes read and written) and of reading alone; best of several, on arrays no cache holds.

    On CPU also of a product of one row by the kernel that decoding uses: a plain sum does not reach what memory gives.
    """
    count = (1 << 30) if device.type == "cuda" else (1 << 26)
    source, target = torch.zeros(count, device=device), torch.zeros(count, device=device)

    def best(work: Callable[[], Any], size: int) -> float:
        return size / min(timed(work, device)[0] for _ in range(6)) / 1e9

    rates = {
        "copy": best(lambda: target.copy_(source), 2 * source.nbytes),
        "read": best(lambda: torch.sum(source), source.nbytes),
    }
    if device.type == "cpu":
        matrix, row = source.view(-1, 4096), torch.zeros(1, 4096)
        with torch.inference_mode():
            rates["product"] = best(lambda: linear(row, matrix), source.nbytes)
    return rates


def describe(device: torch.device) -> dict[str, Any]:
    """The machine, its bandwidth, the kernels and versions in use, as plain JSON values."""
    measured = bandwidth(device)
    # on a GPU the yardstick is copying; a CPU's copy reads what it overwrites, so plain reading may be nearer the truth
    reference = measured["copy"] if device.type == "cuda" else max(measured.values())
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "capability": str(capability),
        "native_bfloat16": cuda or native_bfloat16(),
        "kernels": {"used": kernels.active(device), "available": list(kernels.available(device))},
        "cache_policy": "static, filled slots only" + (", or windows of 128 in graphs of torch's attention" * cuda),
        "gbytes_per_s": reference,
        **{f"gbytes_per_s_{name}": rate for name, rate in measured.items()},
        "versions": {"python": platform.python_version(), **versions},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]} ({len(names)} cores seen)"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
