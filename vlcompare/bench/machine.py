"""The machine that is measured: its bandwidth, and the kernels and versions in use."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from vlcompare.models.kernels import dispatch
from vlcompare.models.kernels.linear import native_bfloat16
from vlcompare.runtime.bandwidth import bandwidth

_PACKAGES = ("torch", "transformers", "timm", "numba", "triton", "bitsandbytes", "mamba-ssm")


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
        "kernels": {"used": dispatch.active(device), "available": list(dispatch.available(device))},
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
