"""Where the kernels that a training calls on a GPU are tried, before they are used for the first time."""

from __future__ import annotations

import torch

from vlcompare.models.kernels import verdicts


def try_in_other_processes(device: torch.device) -> None:
    """On a GPU: one that crashes when it is tried then ends no training. Gradients are compared, too.

    See `runtime.loading.prove`, which a loaded model brings along and a training from nothing does not.
    """
    if device.type == "cuda":
        from vlcompare.runtime.loading.prove import try_elsewhere

        verdicts.elsewhere = try_elsewhere
