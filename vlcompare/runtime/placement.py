"""Which GPU a model goes to where there are several: two sides on two GPUs, without anybody having to say so.

Whole models only: every published one fits on one GPU in bf16 or NF4, and a decode step that is captured in a CUDA
graph cannot move between devices. accelerate is not asked to split a model (`infer_auto_device_map`): that works by
hooks on `forward`, which a decode step does not pass.
"""

from __future__ import annotations

from collections.abc import Mapping


def free_bytes() -> dict[str, int]:
    """Free bytes of every GPU, by device name; empty where there are fewer than two, so that there is no choice."""
    import torch

    from vlcompare.runtime.memory import available_bytes

    count = torch.cuda.device_count()
    names = [f"cuda:{index}" for index in range(count)] if count > 1 else []
    return {name: available_bytes(torch.device(name)) for name in names}


def choose(device: str, free: Mapping[str, int], models: Mapping[str, int]) -> str:
    """The GPU for a model that may go to any: the one with the fewest models on it, then with the most memory free.

    device: as asked for; anything but "auto" and "cuda" is kept. free: as `free_bytes` tells. models: how many models
    each device has, those being loaded with them.
    """
    if device not in ("auto", "cuda") or not free:
        return device
    return min(free, key=lambda name: (models.get(name, 0), -free[name], name))
