"""Kernels for CUDA: Triton's, mamba-ssm's scan, and the capture of CUDA graphs."""

from __future__ import annotations

import torch

from vlcompare.models.kernels import agreement


def usable(device: torch.device) -> bool:
    """Whether Triton's scan, steps and convolution give the reference's numbers: on CUDA from Turing on."""
    if device.type != "cuda" or not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (7, 5):
        return False
    from vlcompare.models.kernels.cuda import conv, scan, step

    steps = step.selective_step, step.projected_step, conv.conv_step, conv.causal_conv
    return agreement.proven(agreement.scan_agrees, scan.selective_scan, device) and agreement.proven(
        agreement.steps_agree, steps, device
    )
