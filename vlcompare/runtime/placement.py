"""Which GPU a model goes to where there are several: two sides on two GPUs, without anybody having to say so.

Whole models only: every published one fits on one GPU in bf16 or NF4, and a decode step that is captured in a CUDA
graph cannot move between devices. accelerate tells how much each GPU has free; it is not asked to split a model
(`infer_auto_device_map`), which works by hooks on `forward` that a decode step does not pass.
"""

from __future__ import annotations

from collections.abc import Mapping


def free_bytes() -> dict[str, int]:
    """Free bytes of every GPU, by device name; empty where there are fewer than two, so that there is no choice."""
    import torch

    if torch.cuda.device_count() < 2:
        return {}
    from accelerate.utils import get_max_memory

    return {f"cuda:{place}": int(free) for place, free in get_max_memory().items() if isinstance(place, int)}


def choose(device: str, free: Mapping[str, int], models: Mapping[str, int]) -> str:
    """The GPU for a model that may go to any: the one with the fewest models on it, then with the most memory free.

    device: as asked for; anything but "auto" and "cuda" is kept. free: as `free_bytes` tells. models: how many models
    each device has, those being loaded with them.
    """
    if device not in ("auto", "cuda") or not free:
        return device
    return min(free, key=lambda name: (models.get(name, 0), -free[name], name))
