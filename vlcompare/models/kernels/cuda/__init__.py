"""Kernels for CUDA: Triton's, mamba-ssm's scan, and the capture of CUDA graphs."""

from __future__ import annotations

import torch


def usable(device: torch.device) -> bool:
    """Whether Triton compiles for this device: CUDA from Turing on."""
    if device.type != "cuda" or not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (7, 5):
        return False
    from vlcompare.models.kernels.cuda import scan  # noqa: F401  raises where Triton is missing or damaged

    return True
