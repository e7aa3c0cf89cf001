"""torch tensors as the flat numpy arrays that compiled loops take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

LOOP_DTYPES = (torch.float32, torch.bfloat16)  # that the loops read as they are


def flat(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A flat view of a contiguous tensor; bfloat16 as its bits."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.view(-1).numpy()
