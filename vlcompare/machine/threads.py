"""How many threads this process may use on the CPU, and how they wait for one another. Standard library only.

OpenMP's threads spin at barriers for milliseconds by default. Where another process wants the cores, or a container's
quota runs out, a thread that spins takes the time from the one it waits for, and an answer takes many times as long as
with one thread. So threads spin for some microseconds, then sleep, and there are no more of them than cores to run on:
the smallest of the processor affinity, the control group's quota and $OMP_NUM_THREADS. A small model uses one. The
OpenMP library reads the environment when torch is imported, hence `vlcompare` calls `prepare` before that. What the
user has set is respected.

Formats: proc(5) and the kernel's documents cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us).
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from vlcompare.machine import cgroups

# GNU OpenMP (torch on Linux): turns of a waiting loop, some 10 to 60 ns each. LLVM's and Intel's: milliseconds.
_BRIEFLY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
# With fewer bytes of weights a product takes some 10 us, no longer than it takes to wake a thread. Measured on two
# cores with up to 500 MB: one thread is as fast as two that spin up to 25 MB, faster than two that sleep up to 65 MB,
# and slower from 130 MB; the same for prompts, pictures, and batches of 32 rows.
_ONE_THREAD = 64 << 20
_prepared: str | None = None  # $OMP_NUM_THREADS before `prepare` changed it


def budget(root: Path = cgroups.ROOT) -> int:
    """Threads that can run at once, at least 1. root: where proc and sys are found.

    A quota of 1.5 processors counts as two, 1.4 as one. Of processes that a launcher starts side by side
    ($LOCAL_WORLD_SIZE), each has its share.
    """
    count = min(float(_processors(root)), _quota(root))
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    if re.fullmatch(r"[1-9][0-9]{0,5}", processes):
        count /= int(processes)
    return max(1, min(int(count + 0.5), _asked() or sys.maxsize))


def reasons(root: Path = cgroups.ROOT) -> dict[str, str]:
    """What `budget` is the least of, for a reader: "cores", "quota", "OMP_NUM_THREADS" and "LOCAL_WORLD_SIZE".

    $OMP_NUM_THREADS is given as it was before `prepare`.
    """
    quota = _quota(root)
    return {
        "cores": str(_processors(root)),
        "quota": "none" if quota == float("inf") else f"{quota:.1f} processors",
        "OMP_NUM_THREADS": (_prepared if _prepared is not None else os.environ.get("OMP_NUM_THREADS", "")) or "not set",
        "LOCAL_WORLD_SIZE": os.environ.get("LOCAL_WORLD_SIZE") or "not set",
    }


def worthwhile(weights: int) -> int:
    """The largest useful number of threads for a model whose weights take this many bytes."""
    return 1 if weights < _ONE_THREAD else sys.maxsize


def prepare() -> None:
    """Set the environment for an OpenMP library that is not loaded yet; does nothing where torch is imported already.

    $OMP_NUM_THREADS becomes the budget (what it says of inner levels, as in "2,1", stays); on systems without proc,
    torch's own choice is left alone. The time that threads spin is set unless the user has set a way of waiting.
    """
    if "torch" in sys.modules:
        return
    global _prepared
    given = os.environ.get("OMP_NUM_THREADS")
    if _prepared is None:
        _prepared = given or ""
    if sys.platform == "linux" or given is not None:
        inner = (given or "").partition(",")[2] if _asked() else ""
        os.environ["OMP_NUM_THREADS"] = ",".join(filter(None, (str(budget()), inner)))
    if not any(os.environ.get(name) for name in ("OMP_WAIT_POLICY", *_BRIEFLY)):
        os.environ.update(_BRIEFLY)


def _asked() -> int | None:
    """The first number of $OMP_NUM_THREADS; None where it is not set, or is not a list of positive numbers."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if not re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", given, re.ASCII):
        return None
    numbers = [int(number) for number in given.split(",")]
    return numbers[0] if all(numbers) else None


def _processors(root: Path) -> int:
    """Cores of the processors that this process may run on: two threads of one core count once, as in torch's count."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({cgroups.read(root / topology.format(number)) or str(number) for number in allowed}) or 1


def _quota(root: Path) -> float:
    """Processors' time that the control groups of this process allow, as a number of processors; infinity without."""
    limits = [_limit(folder) for folder in cgroups.groups("cpu", root)]
    return min((limit for limit in limits if limit is not None), default=float("inf"))


def _limit(folder: Path) -> float | None:
    """One control group's own quota, of version 2 or 1."""
    words = cgroups.read(folder / "cpu.max").split()
    words = words or [cgroups.read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or not there
        return None
    return quota / period if quota > 0 and period > 0 else None
