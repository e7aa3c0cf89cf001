"""Compiling the CPU's kernels before they are wanted: in a thread, while a checkpoint is read.

On a new machine numba takes several seconds of work for the loops of `models.kernels`; later starts find them on disk,
where there is a folder to keep them in. Knows which models use which kernels only by running a tiny one of each family.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch

from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.kernels import dispatch, stack
from vlcompare.models.mamba import Mamba
from vlcompare.models.meta_init import structure_only
from vlcompare.models.pythia import Pythia

# the smallest whose products are large enough for the compiled kernels
_TINY: dict[str, PythiaConfig | MambaConfig] = {
    "pythia": PythiaConfig(512, 256, 1, 4, 512),
    "mamba": MambaConfig(512, 256, 1),
}


@functools.cache
def compiling(family: str, dtype: torch.dtype, quantization: str = "none") -> threading.Thread:
    """The thread that compiles what a family needs in a dtype on CPU; started at the first call, the same afterwards.

    Not a daemon: a process that ends in the middle of compiling would crash.
    """
    thread = threading.Thread(target=_run, args=(family, dtype, quantization), name="vlcompare-compile")
    thread.start()
    return thread


@torch.inference_mode()
def _run(family: str, dtype: torch.dtype, quantization: str) -> None:
    if dispatch.active("cpu") != "numba":
        return
    config = _TINY[family]
    with structure_only():  # no random numbers are drawn: the caller's come out as without this
        model: Any = Mamba(config) if isinstance(config, MambaConfig) else Pythia(config)
    # not `to_empty`, for which torch imports sympy: 70 MB
    zeros = {name: torch.zeros(value.shape, dtype=dtype) for name, value in model.state_dict().items()}
    model.load_state_dict(zeros, assign=True)
    model.eval()
    state = model.new_state(1, 8)
    hidden = model(torch.zeros(1, 4, config.hidden_size, dtype=dtype), state)
    if quantization == "none":
        hidden = model.step(hidden[:, -1], state)[:, None]
    else:
        stack.compile_for(family, quantization)
    model.logits(hidden[:, -1])
