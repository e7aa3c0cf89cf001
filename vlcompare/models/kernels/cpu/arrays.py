"""torch tensors as the flat numpy arrays that compiled loops take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

LOOP_DTYPES = (torch.float32, torch.bfloat16)  # that the loops read as they are

_zeros: dict[int, Any] = {}


def flat(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A flat view of a contiguous tensor; bfloat16 as its bits."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.view(-1).numpy()


def floats(tensor: Tensor) -> Any:
    """Its numbers as a flat float32 array."""
    return flat(tensor.detach().float().contiguous())


def floats_or_zeros(tensor: Tensor | None, size: int) -> Any:
    """Its numbers, or as many zeros where there is no tensor; not to be written to."""
    if tensor is not None:
        return floats(tensor)
    if size not in _zeros:
        _zeros[size] = torch.zeros(size).numpy()
    return _zeros[size]
