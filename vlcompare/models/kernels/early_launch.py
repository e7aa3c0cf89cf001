"""Kernels of a decode step that begin before the one in front of them has ended (programmatic dependent launch).

From Hopper on (compute capability 9.0) a kernel can be launched while the one before is still at work: ours then ask
for their weights, which nobody writes, and wait for everything in front of them to have ended; before that they read
nothing else and write nothing. What is spared is the time between two kernels. It is used on a GPU where whole decode
steps give the same bits with it, in less time (`runtime.loading.prove`); VLCOMPARE_EARLY_LAUNCH=0 switches it off.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch

from vlcompare.models.kernels.scoped import scoped

SWITCH = "VLCOMPARE_EARLY_LAUNCH"
CAPABILITY = (9, 0)
# the functions whose kernels can be launched early: those of a step
FUNCTIONS = frozenset((
    "norm_product", "row_product", "nf4_product", "nf4_norm_product", "mix_step", "rotate_and_attend", "add_norm",
    "greedy",
))  # fmt: skip

_on: set[int] = set()  # GPUs on which it is used
_forced: ContextVar[bool | None] = ContextVar("forced", default=None)


def supported(device: torch.device) -> bool:
    """Whether GPU and Triton have it, and nobody has switched it off."""
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return False
    try:
        if torch.cuda.get_device_capability(device) < CAPABILITY:
            return False
    except RuntimeError:  # the driver does not answer, which whoever asks here is to tell in its own words
        return False
    try:
        from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait  # noqa: F401
    except ImportError:
        return False
    return True


def use(device: torch.device, on: bool) -> None:
    """Use it on this GPU from now on, or do not."""
    (_on.add if on else _on.discard)(device.index or 0)


def anywhere() -> bool:
    """Whether there is a device on which it may be used."""
    return bool(_on) or _forced.get() is not None


def is_on(device: torch.device) -> bool:
    forced = _forced.get()
    if forced is not None:
        return forced
    return device.type == "cuda" and (device.index or 0) in _on and os.environ.get(SWITCH) != "0"


def forced(on: bool) -> AbstractContextManager[None]:
    """Inside, this thread uses it everywhere or nowhere: where a kernel is proved one way or the other."""
    return scoped(_forced, on)
