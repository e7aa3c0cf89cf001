"""Accelerators that fail when they are called: plain torch takes over, and one sentence for the user says so.

Optional accelerators (compiled CPU kernels, Triton, mamba-ssm, bitsandbytes' kernels, CUDA graphs) may import and then
fail: a compiler is missing, a driver is too old. The work is then done in plain torch, for that call and all later
ones. Running out of memory is not such a failure: it is raised, for a smaller request may succeed. The sentences are
kept for display, one for each accelerator. Whether a kernel's numbers are right is `agreement`'s question.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# accelerator -> its name in a sentence, the device whose users see the sentence
_NAMES = {
    "numba": ("The compiled CPU kernels", "cpu"),
    "triton": ("Triton's kernels", "cuda"),
    "mamba_ssm": ("mamba-ssm's kernel", "cuda"),
    "bitsandbytes": ("bitsandbytes' kernels", ""),
    "graphs": ("CUDA graphs", "cuda"),
}
_REQUIRED = frozenset({"numba"})  # the others are extras: that one is not installed is no news

SWITCH = "VLCOMPARE_KERNELS"  # "torch": no accelerator is called; VLCOMPARE_GRAPHS=0 does the same for graphs
GRAPHS_SWITCH = "VLCOMPARE_GRAPHS"
# what CUDA says where the process can use the device no more, whatever is called
_LOST = (
    "device-side assert", "illegal memory access", "illegal address", "unspecified launch failure",
    "misaligned address", "illegal instruction", "invalid program counter", "hardware stack error", "uncorrectable ecc",
    "launch timed out",
)  # fmt: skip

_failed: set[str] = set()
_sentences: dict[str, tuple[str, str]] = {}  # subject -> the device it concerns ("": any), the sentence


def failed(accelerator: str) -> bool:
    """Whether it has failed in this process and is not called again, or is switched off."""
    return accelerator in _failed or switched_off(accelerator)


def switched_off(accelerator: str) -> bool:
    """Whether the environment says that it is not to be called."""
    if accelerator == "graphs":
        return os.environ.get(GRAPHS_SWITCH) == "0"
    return os.environ.get(SWITCH) == "torch"


def is_lost(error: BaseException) -> bool:
    """Whether it leaves the process without its GPU: whatever is called next fails with the same error."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _LOST)


def name_of(accelerator: str) -> str:
    """The accelerator's name in a sentence."""
    return _NAMES[accelerator][0]


def reason_of(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()[:160]}" if lines else type(error).__name__


def notices(device: str = "") -> tuple[str, ...]:
    """The sentences that concern a type of device ("cpu", "cuda"; "" for all), oldest first."""
    return tuple(text for concerned, text in list(_sentences.values()) if not device or concerned in ("", device))


def tell(subject: str, device: str, sentence: str) -> None:
    """Keep a sentence for display; the first on each subject is kept."""
    _sentences.setdefault(subject, (device, sentence))


def give_up(accelerator: str, error: Exception, *, for_good: bool = True) -> None:
    """Record that it has failed, so that it is not called again unless `for_good` is False.

    Raises `error` again where it reports a lack of memory, or a device that is lost. Keeps no sentence where an extra
    is not installed.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or is_lost(error):
        raise error
    if for_good:
        _failed.add(accelerator)
    absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == accelerator
    if absent and accelerator not in _REQUIRED:
        return
    name, device = _NAMES[accelerator]
    reason = reason_of(error)
    tell(accelerator, device, f"{name} cannot be used ({reason}); plain PyTorch is used instead, which is slower.")


def attempt(accelerator: str, work: Callable[..., T], *arguments: Any) -> T | None:
    """work(*arguments), or None where that fails, or where the accelerator has failed before."""
    if failed(accelerator):
        return None
    try:
        return work(*arguments)
    except Exception as error:  # whatever a compiler, a driver or a foreign extension raises
        give_up(accelerator, error)
    return None


def call(accelerator: str, module: str, function: str, *arguments: Any) -> Any:
    """`attempt` for a function of a module of kernels ("cuda.attention"), which is imported now.

    A kernel returns None for arguments that it does not take. It fails, if at all, before it changes anything.
    """
    return attempt(accelerator, load_and_call, module, function, *arguments)


def load_and_call(module: str, function: str, *arguments: Any) -> Any:
    """Import a module of kernels and call a function of it."""
    return getattr(importlib.import_module(f"{__package__}.{module}"), function)(*arguments)
