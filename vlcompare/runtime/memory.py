"""Peak memory of an answer, and free memory of a device.

Peak on CUDA: the allocator's own, which is one for the process: of answers that are made at the same time (both sides
of a race) each has the peak of all since the first of them began. On CPU: the largest resident size of the process
among the samples, which includes the interpreter and every loaded model. Free memory on CPU is the least of what the
machine, the process' control groups (containers) and its own limits allow: a process that takes more is killed without
a message.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading
import weakref
from pathlib import Path

import torch

from vlcompare.errors import DeviceMemoryError
from vlcompare.machine import cgroups
from vlcompare.units import format_bytes

_lock = threading.Lock()
_measuring: weakref.WeakSet[PeakMemory] = weakref.WeakSet()  # on CUDA: not yet measured


class PeakMemory:
    """Peak bytes since construction."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak = 0
        if device.type == "cuda":
            with _lock:
                if not any(other._device == device for other in _measuring):
                    torch.cuda.reset_peak_memory_stats(device)
                _measuring.add(self)
        self.sample()

    def sample(self) -> None:
        """Record what is in use now, for every token. Nothing to do on CUDA, whose allocator keeps its own peak."""
        if self._device.type != "cuda":
            import psutil  # here, since a machine that runs on a GPU alone can do without

            self._peak = max(self._peak, psutil.Process().memory_info().rss)

    def measure(self) -> int:
        """The peak so far in bytes, what is in use now included."""
        self.sample()
        with _lock:
            _measuring.discard(self)
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else self._peak


def return_freed_memory(*, collect: bool = True) -> None:
    """Give the system back what this process has freed on the CPU, so that its resident size is what it holds.

    The C library keeps freed memory for later, where a new model would take it without the process growing. Does
    nothing where the C library is not GNU's (malloc_trim(3)). collect: look for cycles of unused objects first.
    """
    if collect:
        gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no such function; no such library
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes(device: torch.device) -> int:
    """Bytes that a new model may take on the device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    limits = [psutil.virtual_memory().available, _left_in_groups(), _left_of_own_limits()]
    return max(0, min(limit for limit in limits if limit is not None))


def check_room(name: str, needed: int, device: torch.device, or_else: str = "") -> None:
    """Raise DeviceMemoryError where fewer than `needed` bytes are free on the CPU.

    There the kernel kills a process that takes too much, without a message; on a GPU the allocation fails by itself.
    or_else: what else would help, from a verb on.
    """
    if device.type != "cpu":
        return
    free = available_bytes(device)
    if needed > free:
        helps = ["close other programs", "raise the container's limit", *([or_else] if or_else else [])]
        raise DeviceMemoryError(
            f"{name} needs about {format_bytes(needed)} of memory and {format_bytes(free)} are free: "
            f"{', '.join(helps[:-1])} or {helps[-1]}."
        )


def _left_in_groups(root: Path = cgroups.ROOT) -> int | None:
    """Bytes that the memory limits of this process' control groups leave; None where there is no limit."""
    left = [free for folder in cgroups.groups("memory", root) if (free := _left_in(folder)) is not None]
    return min(left, default=None)


def _left_in(folder: Path) -> int | None:
    """One group's limit less the memory of its processes, without cached pages of files, which the kernel can reclaim.

    Active pages count as cached, too: a file that is read twice is among them, and a checkpoint that has just been read
    would seem not to fit.
    """
    limits = [_number(folder, name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    given = [limit for limit in limits if limit is not None]
    used = _number(folder, "memory.current" if (folder / "memory.current").exists() else "memory.usage_in_bytes")
    if not given or used is None:
        return None
    counts = dict(line.split(" ", 1) for line in cgroups.read(folder / "memory.stat").splitlines() if " " in line)
    # "total_": with the groups below, as version 1 counts usage; version 2 has no other
    cached = sum(
        cgroups.number(counts.get(f"total_{name}", counts.get(name, ""))) or 0
        for name in ("inactive_file", "active_file")
    )
    return min(given) - max(0, used - cached)


def _number(folder: Path, name: str) -> int | None:
    return cgroups.number(cgroups.read(folder / name))


def _left_of_own_limits() -> int | None:
    """Bytes that the process' own limits (`ulimit -v`, `ulimit -d`) leave; None where there are none."""
    if sys.platform == "win32":
        return None
    import resource

    import psutil

    used = psutil.Process().memory_info()
    left = [
        limit - size
        for kind, size in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", 0)))
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]
    return min(left, default=None)
