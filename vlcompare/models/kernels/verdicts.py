"""Which kernels of a GPU give the reference's numbers, and products faster: each is tried once, before it is used.

A kernel is compiled anew for every set of sizes and flags, so that is what a verdict is about (`Case`), on one model of
GPU and with the versions of all libraries that take part. Verdicts are kept on disk; a damaged file is none. A lack of
memory is no verdict, and what a compiler or a driver raised is forgotten with the process: the next one tries again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vlcompare import paths
from vlcompare.models.kernels import fallback
from vlcompare.models.kernels.scoped import scoped

FILE, VERSION = "kernel_proofs.json", 2
PACKAGES = ("torch", "triton", "bitsandbytes", "mamba-ssm")


class Case(NamedTuple):
    """A kernel as it is compiled: whose it is, its function, the dtype of its input, its sizes and flags."""

    accelerator: str
    function: str
    dtype: torch.dtype
    sizes: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={value}" for name, value in self.sizes)
        return f"{self.accelerator} {self.function} {str(self.dtype).removeprefix('torch.')} {sizes}"


@dataclass(frozen=True, slots=True)
class Proof:
    """One trial. verdict: "agrees", "slower" (right, but what it replaces takes less time), "differs", "declines" (such
    calls are not taken), "failed" (see `exception`), or "died" (with the process that tried it).

    difference: the largest one to the reference, relative to the reference's largest value; it may be `allowed` at
    most. None where there was no result. ours, theirs: microseconds of a call and of what it replaces, where that was
    asked.
    """

    case: str
    device: str
    verdict: str
    seconds: float
    difference: float | None = None
    allowed: float = 0.0
    exception: str = ""
    ours: float | None = None
    theirs: float | None = None

    @property
    def agrees(self) -> bool:
        return self.verdict == "agrees"

    @property
    def lasting(self) -> bool:
        """Whether the next process would find the same."""
        return self.verdict != "failed"


_found: dict[tuple[Case, torch.device], Proof] = {}
_listed: dict[tuple[str, str], Proof] = {}  # all that this process has made or read and used, by case and device
_lock = threading.RLock()  # two models may be loaded at once
# tries a case, whose kernel is given, where one that damages its process does no harm; None: there is no such place
elsewhere: Callable[[Case, torch.device, Callable[..., Any]], Proof | None] | None = None
_asked: ContextVar[dict[Case, None] | None] = ContextVar("asked", default=None)


def proofs() -> tuple[Proof, ...]:
    """Every proof that decided something in this process, in the order in which they were needed."""
    return tuple(_listed.values())


@contextlib.contextmanager
def asking() -> Iterator[dict[Case, None]]:
    """Inside, nothing is tried: the cases without a verdict that a piece of work asks for are collected."""
    asked: dict[Case, None] = {}
    with scoped(_asked, asked):
        yield asked


def may_be_tried(case: Case, device: torch.device) -> bool:
    """Whether a kernel without a verdict is to be tried now: not in a capture, nor where cases are only collected."""
    asked = _asked.get()
    if asked is not None:
        asked[case] = None
        return False
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


def known(case: Case, device: torch.device) -> Proof | None:
    """The verdict of this process or of an earlier one."""
    with _lock:
        proof = _found.get((case, device))
        if proof is None and device.type == "cuda":
            proof = _stored().get(f"{machine(device)} | {case}")
            if proof is not None:
                _keep(case, device, proof)
        return proof


def settle(
    case: Case,
    device: torch.device,
    work: Callable[[], float | None],
    allowed: float,
    times: Callable[[], tuple[float, float] | None] = lambda: None,
) -> Proof | None:
    """The verdict, by `work` where there is none yet, which returns the difference, None where the call is declined.

    times: microseconds of the kernel and of what it replaces, if anything, asked where its numbers are right. None
    where memory does not suffice to try. Raises what leaves the device unusable.
    """
    with _lock:
        if proof := known(case, device):
            return proof
        began, difference, exception, lost, found = time.perf_counter(), None, "", None, None
        try:
            difference = work()
            # what is not a number differs
            verdict = "declines" if difference is None else "agrees" if difference <= allowed else "differs"
            if verdict == "agrees" and (found := times()) is not None and not found[0] < found[1]:
                verdict = "slower"
        except (MemoryError, torch.OutOfMemoryError):
            return None
        except Exception as error:  # whatever a compiler, a driver or a foreign extension raises
            lost = error if fallback.is_lost(error) else None
            verdict, exception = "died" if lost else "failed", fallback.reason_of(error)
        seconds = time.perf_counter() - began
        proof = Proof(str(case), str(device), verdict, seconds, difference, allowed, exception, *(found or ()))
        record(case, device, proof)
        if lost is not None:
            raise lost
        return proof


def record(case: Case, device: torch.device, proof: Proof) -> None:
    """Keep a verdict, on disk where it lasts. The user is told of a kernel that is not used, once an accelerator."""
    with _lock:
        _keep(case, device, proof)
        if proof.verdict in ("differs", "failed", "died"):
            fallback.tell(f"{case.accelerator} proof", device.type, _sentence(case, proof))
        if proof.lasting and device.type == "cuda":
            stored = {**_stored.__wrapped__(), f"{machine(device)} | {case}": proof}  # others may have written
            _stored.cache_clear()
            paths.write_record(FILE, {"version": VERSION, "proofs": {key: asdict(one) for key, one in stored.items()}})


def withdraw(case: Case, device: torch.device, error: Exception) -> None:
    """A kernel that was found right has raised in earnest: this process does not call it again for such arguments.

    Raises `error` again where it reports a lack of memory, or a device that is lost.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or fallback.is_lost(error):
        raise error
    record(case, device, Proof(str(case), str(device), "failed", 0.0, exception=fallback.reason_of(error)))


def note(proof: Proof) -> None:
    """List a trial that is made anew each time, such as a captured graph's first replay."""
    with _lock:
        _listed[proof.case, proof.device] = proof


def _sentence(case: Case, proof: Proof) -> str:
    found = {
        "differs": f"its numbers are not plain PyTorch's (difference {proof.difference})",
        "died": f"trying it ended the process ({proof.exception})",
    }.get(proof.verdict, proof.exception)
    name = fallback.name_of(case.accelerator)
    return f"{name} are not used for {case.function} on this device: {found}; plain PyTorch is, which is slower."


def _keep(case: Case, device: torch.device, proof: Proof) -> None:
    _found[case, device] = proof
    _listed[str(case), str(device)] = proof


def forget() -> None:
    """As in a new process."""
    with _lock:
        _found.clear()
        _listed.clear()
        _stored.cache_clear()


@cache
def _stored() -> dict[str, Proof]:
    """The verdicts on disk; what is not as it was written is left out."""
    record = paths.read_record(FILE)
    if not isinstance(record, dict) or record.get("version") != VERSION or not isinstance(record.get("proofs"), dict):
        return {}
    found = {}
    for key, value in record["proofs"].items():
        with contextlib.suppress(TypeError, ValueError):
            found[key] = proof_of(value)
    return found


def proof_of(value: Any) -> Proof:
    """A proof from its JSON. Raises TypeError or ValueError for anything else."""
    proof = Proof(**value)
    if not all(isinstance(getattr(proof, field.name), _TYPES[field.name]) for field in fields(Proof)):
        raise TypeError("a value of another type")
    if proof.verdict not in ("agrees", "slower", "differs", "failed", "died", "declines"):
        raise ValueError(proof.verdict)
    if proof.agrees and (proof.difference is None or not proof.difference <= proof.allowed):
        raise ValueError("a verdict that its own difference contradicts")
    return proof


_NUMBER = (int, float)
_TYPES: dict[str, Any] = {
    "case": str, "device": str, "verdict": str, "seconds": _NUMBER, "difference": (int, float, type(None)),
    "allowed": _NUMBER, "exception": str, "ours": (int, float, type(None)), "theirs": (int, float, type(None)),
}  # fmt: skip


@cache
def machine(device: torch.device) -> str:
    """All that a verdict depends on beside the case: GPU, versions, and the sources of these kernels."""
    versions = []
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    parts = torch.cuda.get_device_name(device), capability, f"cuda {torch.version.cuda}", *versions, _digest()
    return ", ".join(parts)


@cache
def _digest() -> str:
    folder = Path(__file__).parent
    whole = hashlib.sha256()
    others = (folder / f"{name}.py" for name in ("reference", "agreement", "cases", "speed", "early_launch"))
    for file in (*sorted((folder / "cuda").glob("*.py")), *others):
        whole.update(file.name.encode() + file.read_bytes())
    return whole.hexdigest()[:12]
