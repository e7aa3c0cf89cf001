"""How much memory is in use, measured the same way around every answer, and how much a device has left.

On CUDA: the allocator's own peak since the start. On CPU: the largest resident size of the process seen at the looks,
which includes the interpreter and every model that is loaded. What is left on the CPU is the least of what the machine,
the process' control groups (containers) and its own limits allow: who takes more is killed without a word.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from vlcompare.errors import DeviceMemoryError
from vlcompare.machine import cgroups


class PeakMemory:
    """Peak bytes between construction and the last `look`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.look()

    def watch(self) -> None:
        """Take notice of what is in use now, where nobody else does: CUDA's allocator keeps its peak by itself.

        For every token: asking that allocator puts some hundred figures into a dictionary each time.
        """
        if self._device.type != "cuda":
            self.look()

    def look(self) -> int:
        """Take notice of what is in use now; returns the peak so far in bytes."""
        if self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device)
        else:
            import psutil  # here, since a machine that runs on a GPU alone can do without

            self._peak = max(self._peak, psutil.Process().memory_info().rss)
        return self._peak


def available_bytes(device: torch.device) -> int:
    """Bytes that a new model may take on the device now. Everything that asks about free memory asks here."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    limits = [psutil.virtual_memory().available, _left_in_groups(), _left_of_own_limits()]
    return max(0, min(limit for limit in limits if limit is not None))


def readable(count: int) -> str:
    """Bytes as they are shown in sentences: "3.4 GB", "57 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def check_room(name: str, needed: int, device: torch.device) -> None:
    """Raise DeviceMemoryError where fewer than `needed` bytes are free on the CPU; a GPU says so by itself.

    The kernel kills a process that takes more than its machine or its container has, without a word. So it is asked
    before.
    """
    if device.type != "cpu":
        return
    free = available_bytes(device)
    if needed > free:
        raise DeviceMemoryError(
            f"{name} needs about {readable(needed)} of memory and {readable(free)} are free: close other programs, "
            "raise the container's limit, choose bfloat16, or a smaller checkpoint."
        )


def _left_in_groups(root: Path = cgroups.ROOT) -> int | None:
    """Bytes that the memory limits of this process' control groups leave; None where there is no limit."""
    left = [free for folder in cgroups.groups("memory", root) if (free := _left_in(folder)) is not None]
    return min(left, default=None)


def _left_in(folder: Path) -> int | None:
    """One group's limit, less what its processes use, not counting what the kernel takes back before it kills.

    Those are the cached pages of files. A file that is read twice goes from the inactive to the active list: without
    that one, a checkpoint that has just been read would seem not to fit any more.
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
