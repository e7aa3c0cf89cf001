"""How much work a row is, and how long a grid may take on a device, estimated before anything is trained."""

from __future__ import annotations

import functools
import time

import torch

from vlcompare.models.meta_init import structure_only
from vlcompare.study.models import build, parameters
from vlcompare.study.recipe import RECIPES
from vlcompare.study.rows import Setting
from vlcompare.study.train import one_thread

_SHARE = 0.18  # of a large product's pace, as measured of a small Transformer on a CPU; on a GPU a guess
# at equal parameters, as measured on a CPU: the scan, and smaller products
_SLOWER = {"pythia": 1.0, "hybrid": 1.5, "mamba": 1.9}
_PER_OPERATION = 6  # of a parameter and token: forward two, backward four


@functools.cache
def _parameters(family: str, tokens: int, width: int, layers: int, states: int, recipe: str) -> int:
    with structure_only():
        return parameters(build(family, tokens, width, layers, states, RECIPES[recipe]))


def work(setting: Setting, examples: int) -> float:
    """The cost of training on `examples` examples, in floating-point operations of a Transformer that takes as long."""
    source = setting.source
    size = _parameters(
        setting.family, source.tokens, setting.width, setting.layers, setting.state_size or 1, setting.recipe
    )
    return _SLOWER[setting.family] * _PER_OPERATION * size * source.text * examples


def pace(device: torch.device) -> float:
    """Roughly how many of the operations that `work` counts a process does in a second, from a product measured now."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = 4096 if device.type == "cuda" else 512
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    # the processor's own time on a CPU: other processes there do not count
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    with one_thread():
        for _ in range(3):
            matrix @ matrix
        begun, count = clock(), 0
        while clock() - begun < 0.3:
            matrix @ matrix
            count += 1
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return _SHARE * 2 * side**3 * count / (clock() - begun)
