"""mamba-ssm's CUDA scan, taken only after a real call on this very device has agreed with the reference.

An installed mamba-ssm proves nothing: built for another torch or another GPU it imports and then fails, or worse. So it
is tried once with random numbers in each dtype; any exception or disagreement means "no". Never used on CPU. Its scan
takes no initial state, so that prompts which continue from a state go to the next implementation, as does training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.agreement import agrees


@functools.cache
def _function() -> Any:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn


def usable(device: torch.device) -> bool:
    """True on a CUDA device where the installed kernel gives the reference's numbers."""
    return device.type == "cuda" and _proven(torch.device(device.type, device.index))


@functools.cache
def _proven(device: torch.device) -> bool:
    return agrees(functools.partial(_call, smooth=True), device)


def _otherwise(device: torch.device) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The scan for what this one cannot do: Triton's where it runs, too (it needs a C compiler), or the reference."""
    try:
        from vlcompare.models.kernels.cuda import scan as triton_scan
    except ImportError:
        return reference.selective_scan
    return triton_scan.selective_scan if triton_scan.usable(device) else reference.selective_scan


def _call(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
          bias: Tensor | None, smooth: bool) -> tuple[Tensor, Tensor]:  # fmt: skip
    # its kernel wants the positions of u, delta, z, B and C side by side
    u, delta, B, C = (x.contiguous() for x in (u, delta, B, C))
    z = None if z is None else z.contiguous()
    y, last = _function()(u, delta, A, B, C, D, z, bias, delta_softplus=smooth, return_last_state=True)
    return y, last


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    initial_state: Tensor | None = None,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.selective_scan`."""
    trains = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (u, delta, A, B, C, D, z, delta_bias)
    )
    if initial_state is not None or trains or u.shape[2] == 0:
        scan = _otherwise(u.device)
        return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, return_state)
    y, last = _call(u, delta, A, B, C, D, z, delta_bias, delta_softplus)  # `kernels` sees to what fails
    return y, last if return_state else None
