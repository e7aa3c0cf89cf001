"""The values of a report on this machine. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Software:
    """versions: of packages that are installed. switches: environment variables that change what runs, where set."""

    vlcompare: str
    python: str
    system: str
    versions: Mapping[str, str]
    switches: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Processor:
    """The CPU. threads: how many are used; thread_limits: what that number is the least of."""

    name: str
    cores: int
    threads: int
    thread_limits: Mapping[str, str]
    instruction_sets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """What models can run on. Bytes are 0 where they cannot be found out; capability: compute capability, or "".

    cuda: of a GPU, the CUDA that torch was built for, and the driver.
    """

    name: str
    title: str
    total_bytes: int
    free_bytes: int
    capability: str
    bfloat16: bool  # own instructions for it
    cuda: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """An embedded checkpoint's answer on a device beside the reference's on the CPU: equal tokens, or why not."""

    device: str
    checkpoint: str
    seconds: float
    tokens: int
    agrees: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """Which kernel takes an operation, and why none of those that would be faster."""

    device: str
    operation: str
    kernel: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A kernel beside the reference. difference: the largest, relative to the largest value; None without a result.

    ours, theirs: microseconds of a product and of what it takes the place of; None of other kernels.
    """

    device: str
    case: str
    verdict: str
    seconds: float
    difference: float | None
    allowed: float
    exception: str = ""
    ours: float | None = None
    theirs: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """GB/s of copying, of reading, and on a CPU of a product of one row."""

    device: str
    copy: float
    read: float
    product: float | None = None


@dataclass(frozen=True, slots=True)
class Hub:
    """state: "reachable", "offline" (as asked for) or "unreachable". signed_in: whether a token is set, not which."""

    state: str
    detail: str
    signed_in: bool
    mirror: bool


@dataclass(frozen=True, slots=True)
class Storage:
    """Folders as a reader may see them, with the bytes free on their disks, and each known checkpoint's state."""

    cache: str
    cache_free_bytes: int
    data: str
    data_free_bytes: int
    checkpoints: Mapping[str, str]


def alike(found: Sequence[Operation]) -> dict[tuple[str, str, str], list[str]]:
    """(device, kernel, why no faster one) -> the operations that it takes."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        groups.setdefault((one.device, one.kernel, one.reason), []).append(one.operation)
    return groups
