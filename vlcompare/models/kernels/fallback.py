"""What becomes of an accelerator that fails when it is called: it is not called again, and a sentence says so.

Knows accelerators by name, and nothing of what they compute. Optional ones (compiled CPU kernels, Triton, mamba-ssm,
bitsandbytes' kernels, CUDA graphs) may import and then fail: there is no compiler, a driver is too old. The work is
then done in plain torch, for that call and from then on. Running out of memory is no such failure: it is raised, for a
smaller request may succeed. The sentences are kept for display, one for each accelerator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# accelerator -> its name in a sentence, the device whose users are told, and whether its absence is worth a sentence
_KNOWN = {
    "numba": ("The compiled CPU kernels", "cpu"),
    "triton": ("Triton's kernels", "cuda"),
    "mamba_ssm": ("mamba-ssm's kernel", "cuda"),
    "bitsandbytes": ("bitsandbytes' kernels", ""),
    "graphs": ("CUDA graphs", "cuda"),
}
_EXPECTED = frozenset({"numba"})  # the others are extras, of whose absence nothing is said

_failed: set[str] = set()
_sentences: dict[str, tuple[str, str]] = {}  # what it is about -> the device it concerns ("": any), the sentence


def failed(accelerator: str) -> bool:
    """Whether it has failed in this process and is not to be called."""
    return accelerator in _failed


def notices(device: str = "") -> tuple[str, ...]:
    """The sentences that concern a type of device ("cpu", "cuda"; "" for all), oldest first."""
    return tuple(text for place, text in list(_sentences.values()) if not device or place in ("", device))


def tell(subject: str, device: str, sentence: str) -> None:
    """Keep a sentence for display; the first on each subject is kept."""
    _sentences.setdefault(subject, (device, sentence))


def give_up(accelerator: str, error: Exception, *, for_good: bool = True) -> None:
    """Note that it has failed, and do without it from now on unless `for_good` is False.

    Raises `error` again where it tells of memory that did not suffice. Where the library is merely not installed,
    and nobody expects it to be, nothing is said.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        raise error
    if for_good:
        _failed.add(accelerator)
    absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == accelerator
    if absent and accelerator not in _EXPECTED:
        return
    name, device = _KNOWN[accelerator]
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0].strip()[:160]}" if lines else type(error).__name__
    tell(accelerator, device, f"{name} cannot be used ({reason}); plain PyTorch is used instead, which is slower.")


def attempt(accelerator: str, work: Callable[..., T], *arguments: Any) -> T | None:
    """work(*arguments), or None where that fails, or where the accelerator has failed before."""
    if accelerator in _failed:
        return None
    try:
        return work(*arguments)
    except Exception as error:  # whatever a compiler, a driver or a foreign extension raises
        give_up(accelerator, error)
    return None
