"""The devices that models can run on, and how fast their memory is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from vlcompare.models.kernels.linear import native_bfloat16
from vlcompare.runtime.bandwidth import bandwidth
from vlcompare.runtime.doctor import software
from vlcompare.runtime.doctor.facts import Device, Rate
from vlcompare.runtime.memory import available_bytes

_MEGABYTES = {"cpu": 64, "cuda": 1024}  # of an array whose copying is timed: a short measurement
_NATIVE_BFLOAT16 = (8, 0)  # compute capability from which a GPU has units for it


def devices() -> tuple[tuple[Device, ...], list[str]]:
    """The CPU and every GPU that torch sees."""
    cpu = torch.device("cpu")
    instructions = torch.backends.cpu.get_cpu_capability()
    try:
        import psutil

        total, free = psutil.virtual_memory().total, available_bytes(cpu)
    except ImportError:  # a machine that runs on a GPU alone can do without
        total = free = 0
    found = [Device("cpu", software.processor_name(), total, free, instructions, native_bfloat16())]
    problems, driver = [], software.driver()
    for index in range(torch.cuda.device_count()):
        name = f"cuda:{index}"
        try:
            capability = torch.cuda.get_device_capability(index)
            free, total = torch.cuda.mem_get_info(index)
            found.append(
                Device(
                    name,
                    torch.cuda.get_device_name(index),
                    total,
                    free,
                    ".".join(map(str, capability)),
                    capability >= _NATIVE_BFLOAT16,
                    f"torch for CUDA {torch.version.cuda}" + (f", driver {driver}" if driver else ""),
                )  # fmt: skip
            )
        except RuntimeError as error:
            problems.append(f"{name} is listed but cannot be used: {software.reason(error)}.")
    if not torch.cuda.is_available() and _has_driver():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        problems.append(
            f"An NVIDIA driver is installed, but torch ({build}) finds no GPU: install the build that fits the driver."
        )
    return tuple(found), problems


def rates(devices: Sequence[Device]) -> tuple[tuple[Rate, ...], list[str]]:
    """Each device's bandwidth; a GPU without room for it is left out."""
    found, problems = [], []
    for device in devices:
        place = torch.device(device.name)
        try:
            measured = bandwidth(place, megabytes=_MEGABYTES[place.type], times=3)
            found.append(Rate(device.name, **{name: round(rate, 1) for name, rate in measured.items()}))
        except torch.OutOfMemoryError:
            continue  # others are using it
        except RuntimeError as error:
            problems.append(f"The bandwidth of {device.name} cannot be measured: {software.reason(error)}.")
    return tuple(found), problems


def _has_driver() -> bool:
    """Whether NVIDIA's driver is loaded (Linux), or its tool is there."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
