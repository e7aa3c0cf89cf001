"""mamba-ssm's CUDA scan.

It takes no initial state, so that prompts which continue from a state go to the next implementation, as does training.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from vlcompare.models.kernels.autograd import needs_gradient
from vlcompare.models.kernels.reference import ScanInputs


def usable(device: torch.device) -> bool:
    """Whether it is installed, on a CUDA device."""
    return device.type == "cuda" and importlib.util.find_spec("mamba_ssm") is not None


def selective_scan(inputs: ScanInputs) -> Any:
    """See `dispatch.selective_scan`."""
    if inputs.initial_state is not None or needs_gradient(*inputs) or inputs.u.shape[2] == 0:
        return None
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, A, B, C, D, z, bias, _, softplus = inputs
    # its kernel wants the positions of u, delta, z, B and C side by side
    u, delta, B, C = (x.contiguous() for x in (u, delta, B, C))
    z = None if z is None else z.contiguous()
    return selective_scan_fn(u, delta, A, B, C, D, z, bias, delta_softplus=softplus, return_last_state=True)
