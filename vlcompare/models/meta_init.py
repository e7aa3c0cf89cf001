"""Modules without weights in memory, built quickly: parameters on the meta device, buffers computed for real.

The streaming loader (`runtime.loading.fill`) puts every tensor where it belongs once
it has read it, so all it needs is the bare structure. Parameters are made empty by accelerate's `init_empty_weights`,
which, unlike `torch.device("meta")` alone, keeps what no file holds (rotary tables, position ids); where accelerate is
not installed (plain CUDA images have torch, timm and transformers) the same is done by hand. accelerate's loading
and its dispatch of one model over several devices are not used: they want a whole model per file layout that they know
and hooks on `forward`, while a decode step here calls `step` and is captured in a CUDA graph, where nothing may move
between devices.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# accelerate changes nn.Module for the whole process while it is at work: whoever registers parameters in that time, in
# whichever thread, takes this lock first
registering = threading.RLock()

# what initialisers do to a tensor in place; on a tensor without values it is work for nothing
_IN_PLACE = frozenset(
    getattr(torch.Tensor, name)
    for name in (
        "add_", "clamp_", "copy_", "div_", "erfinv_", "fill_", "mul_", "normal_", "sub_", "trunc_", "uniform_", "zero_",
    )
)  # fmt: skip


class _NoValues(TorchFunctionMode):
    """In this thread, filling a meta tensor does nothing: building timm's large EVA-02 takes a quarter of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _IN_PLACE or getattr(func, "__module__", "") == "torch.nn.init":
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return func(*args, **kwargs)


@contextlib.contextmanager
def structure_only() -> Iterator[None]:
    """Whatever is built inside has no values at all, except below `real_buffers`."""
    with torch.device("meta"), _NoValues():
        yield


@contextlib.contextmanager
def real_buffers() -> Iterator[None]:
    """Inside `structure_only` (or `torch.device("meta")`) only parameters stay empty: buffers are computed at once."""
    if torch.get_default_device().type != "meta":
        yield
        return
    with torch.device("cpu"), empty_parameters():
        yield


@contextlib.contextmanager
def empty_parameters() -> Iterator[None]:
    """Parameters that modules register inside lie on the meta device, whatever device they are made on."""
    try:
        from accelerate import init_empty_weights
    except ImportError:
        emptying = _emptied_by_hand()
    else:
        emptying = init_empty_weights(include_buffers=False)
    with registering, emptying:
        yield


@contextlib.contextmanager
def _emptied_by_hand() -> Iterator[None]:
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:
            module._parameters[name] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    nn.Module.register_parameter = register_empty  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
