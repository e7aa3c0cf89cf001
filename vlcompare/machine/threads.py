"""How many threads this process may use on the CPU, and how they wait for one another. Standard library only.

OpenMP's threads spin at barriers for milliseconds by default. Where another process wants the cores, or a container's
quota runs out, a thread that spins takes the time from the one it waits for, and an answer takes many times as long as
with one thread. So threads spin for some microseconds, then sleep, and there are no more of them than cores to run on:
the smallest of the processor affinity, the control group's quota and $OMP_NUM_THREADS. The OpenMP library reads the
environment when torch is imported, hence `vlcompare` calls `prepare` before that. What the user has set is respected.

Formats: proc(5) and the kernel's documents cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# GNU OpenMP (torch on Linux): turns of a waiting loop, some 10 to 60 ns each. LLVM's and Intel's: milliseconds.
_BRIEFLY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
_ROOT = Path("/")


def budget(root: Path = _ROOT) -> int:
    """Threads that can run at once, at least 1. root: where proc and sys are found.

    A quota of 1.5 processors counts as two, 1.4 as one. Of processes that a launcher starts side by side
    ($LOCAL_WORLD_SIZE), each has its share.
    """
    count = min(float(_processors(root)), _quota(root))
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    if re.fullmatch(r"[1-9][0-9]{0,5}", processes):
        count /= int(processes)
    return max(1, min(int(count + 0.5), _asked() or sys.maxsize))


def prepare() -> None:
    """Set the environment for an OpenMP library that is not loaded yet; does nothing where torch is imported already.

    $OMP_NUM_THREADS becomes the budget (what it says of inner levels, as in "2,1", stays); on systems without proc,
    torch's own choice is left alone. The time that threads spin is set unless the user has set a way of waiting.
    """
    if "torch" in sys.modules:
        return
    given = os.environ.get("OMP_NUM_THREADS")
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
    return len({_read(root / topology.format(number)) or str(number) for number in allowed}) or 1


def _quota(root: Path) -> float:
    """Processors' time that the control groups of this process allow, as a number of processors; infinity without."""
    return min((limit for folder in _groups(root) if (limit := _limit(folder)) is not None), default=float("inf"))


def _limit(folder: Path) -> float | None:
    """One control group's own quota, of version 2 or 1."""
    words = _read(folder / "cpu.max").split()
    words = words or [*_read(folder / "cpu.cfs_quota_us").split(), *_read(folder / "cpu.cfs_period_us").split()]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or not there
        return None
    return quota / period if quota > 0 and period > 0 else None


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process' control groups with a processor quota, and of all groups around them.

    Both versions may be mounted side by side. Inside a container /proc/self/cgroup may name the host's path, while the
    container's own group is what is mounted: the part of the path above the mount's root is then left out.
    """
    paths = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") > 1 else ("", "-", "")
        if not controllers or "cpu" in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = path
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, source = line.partition(" - ")
        fields, kinds = mount.split(), source.split()
        if len(fields) < 5 or len(kinds) < 3 or kinds[0] not in paths:
            continue
        if kinds[0] == "cgroup" and "cpu" not in kinds[2].split(","):
            continue
        path, above = paths[kinds[0]], _plain(fields[3]).rstrip("/")
        inside = path[len(above) :] if path == above or path.startswith(above + "/") else ""
        folder = root / _plain(fields[4]).lstrip("/")
        yield folder
        for part in Path(inside.lstrip("/")).parts:
            if part == "..":  # another namespace's group: not visible from here
                break
            folder = folder / part
            yield folder


def _plain(field: str) -> str:
    """A path of mountinfo, where blanks and the like are octal."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


def _read(path: Path) -> str:
    """A small file's text, "" where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20).strip()
    except OSError:
        return ""
