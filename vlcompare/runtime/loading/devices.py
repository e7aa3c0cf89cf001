"""Names of devices and dtypes, and which GPU a model goes to where there are several.

Only whole models are placed: every published one fits on one GPU in bfloat16 or NF4, and a decode step that is captured
in a CUDA graph cannot move between devices. accelerate's `infer_auto_device_map` is not used: it splits a model by
hooks on `forward`, which a decode step does not call.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vlcompare.errors import RequestError
from vlcompare.models.kernels.linear import native_bfloat16
from vlcompare.runtime.memory import available_bytes

LARGE = 500_000_000  # parameters
TORCH_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of this name. Raises RequestError if the machine does not have it."""
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"{name!r} is not a device: use auto, cpu, cuda, or cuda:1.") from error
    if resolved.type not in ("cpu", "cuda"):
        raise RequestError(f"{name!r} is not a supported device: use auto, cpu, cuda, or cuda:1.")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"{name!r} was asked for, but this machine has {torch.cuda.device_count()} CUDA devices.")
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device, parameters: int = 0) -> torch.dtype:
    """The dtype of this name on a device. Raises RequestError for any but float32, bfloat16, and float16 on a GPU.

    parameters: of the model; "auto" on a CPU is float32 for a small one and bfloat16 from LARGE on: half of the memory,
    and a token reads half as much. On a GPU it is bfloat16, or float16 where the GPU has no units for that.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if has_bfloat16_units(device) else torch.float16
        return torch.float32 if parameters < LARGE else torch.bfloat16
    if name not in TORCH_DTYPES:
        raise RequestError(f"{name!r} is not a precision of the models: use auto, float32, bfloat16 or float16.")
    if TORCH_DTYPES[name] == torch.float16 and device.type == "cpu":
        raise RequestError("A CPU does not compute in float16: use auto, float32 or bfloat16, or a GPU.")
    return TORCH_DTYPES[name]


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 itself: from compute capability 8.0 (Ampere) on."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def vision_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The vision encoder's dtype in a model of `dtype`: float32 where the processor has no bfloat16 instructions.

    There torch emulates them: EVA-02-L takes 41 CPU seconds a picture in bfloat16 and 9 in float32, for 0.6 GB more.
    """
    return torch.float32 if device.type == "cpu" and not native_bfloat16() else dtype


def free_bytes_of_gpus() -> dict[str, int]:
    """Free bytes of every GPU, by device name; empty where there are fewer than two, so that there is no choice."""
    count = torch.cuda.device_count()
    names = [f"cuda:{index}" for index in range(count)] if count > 1 else []
    return {name: available_bytes(torch.device(name)) for name in names}


def choose_gpu(device: str, free: Mapping[str, int], models: Mapping[str, int]) -> str:
    """The GPU with the fewest models, then with the most free memory, for a model that may go to any.

    device: as asked for; anything but "auto" and "cuda" is kept. free: as `free_bytes_of_gpus` returns. models: how
    many models each device has, including those being loaded.
    """
    if device not in ("auto", "cuda") or not free:
        return device
    return min(free, key=lambda name: (models.get(name, 0), -free[name], name))
