"""The selective scan, its step and the causal convolution, by the fastest implementation that runs on the device.

On CUDA an implementation is used for the calls whose numbers were found to agree with `reference` (`agreement`), and
for as long as they succeed; on a CPU everywhere until a call of it fails. Otherwise the next one takes over, at last
the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from vlcompare.models.kernels import agreement, attention, fallback, fused, linear, reference, stack
from vlcompare.models.kernels.reference import MixWeights, ScanInputs
from vlcompare.models.kernels.scoped import scoped
from vlcompare.models.kernels.verdicts import Case

# device type -> implementations, best first
ORDER: dict[str, tuple[str, ...]] = {"cpu": ("numba",), "cuda": ("mamba_ssm", "triton")}
# implementation -> the module that says where it is `usable`, and the modules of its functions
USABLE = {"numba": "cpu.scan", "mamba_ssm": "cuda.mamba_ssm", "triton": "cuda"}
MODULES = {
    "numba": {"selective_scan": "cpu.scan"} | dict.fromkeys(("selective_step", "causal_conv", "conv_step"), "cpu.step"),
    "mamba_ssm": {"selective_scan": "cuda.mamba_ssm"},
    "triton": {
        "selective_scan": "cuda.scan",
        **dict.fromkeys(("selective_step", "projected_step"), "cuda.step"),
        "mix_step": "cuda.mix",
        **dict.fromkeys(("causal_conv", "conv_step"), "cuda.conv"),
    },
}

# Triton's functions that `fused` and `attention` call
ELSEWHERE = {
    "add_norm": fused.MODULE,
    "greedy": fused.MODULE,
    **dict.fromkeys(("norm_product", "row_product"), linear.PRODUCT),
    **dict.fromkeys(("nf4_product", "nf4_norm_product"), linear.NF4),
    **dict.fromkeys(("int8_rows", "int8_result"), linear.INT8),
    "rotate_and_attend": attention.MODULE,
}

_forced: ContextVar[str | None] = ContextVar("forced", default=None)


def available(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Names of the implementations that run on `device`, best first; the last one is always "reference"."""
    device = torch.device(device)
    names = ORDER.get(device.type, ())
    return (*(name for name in names if fallback.call(name, USABLE[name], "usable", device)), "reference")


def active(device: torch.device | str = "cpu") -> str:
    """Name of the implementation that a call on `device` takes first."""
    return _forced.get() or available(device)[0]


def use(name: str) -> AbstractContextManager[None]:
    """Take the implementation `name` for every call of this thread inside the block (tests and measurements)."""
    return scoped(_forced, name)


def _accelerated(function: str, x: Tensor, *arguments: Any) -> Any:
    """function(*arguments) by the best implementation that takes them; None where only the reference is left."""
    if x.dtype == torch.float64:  # only the reference works in float64 (gradient checks)
        return None
    forced = _forced.get()
    for name in (forced, *available(x.device)) if forced else available(x.device):
        if name == "reference":
            return None
        module = MODULES[name].get(function)
        if not module:
            continue
        if x.is_cuda and name != forced:
            result = agreement.call(name, module, function, x.device, *arguments)
        else:
            result = fallback.call(name, module, function, *arguments)
        if result is not None:
            return result
    return None


def kernel_of(case: Case) -> Callable[..., Any]:
    """The function that a case is about."""
    module = MODULES[case.accelerator].get(case.function) or ELSEWHERE[case.function]
    return functools.partial(fallback.load_and_call, module, case.function)


def _call(function: str, x: Tensor, *arguments: Any) -> Any:
    result = _accelerated(function, x, *arguments)
    return getattr(reference, function)(*arguments) if result is None else result


def selective_scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Many positions: y (B, d, L) in u's dtype and the state after the last one, (B, d, n) float32. Differentiable.

    Layouts whose channels lie side by side in memory (a transposed (B, L, d)) are the fast ones.
    """
    return _call("selective_scan", inputs.u, inputs)


def selective_step(state: Tensor, inputs: ScanInputs) -> Tensor:
    """One position: y (B, d) in u's dtype; `state` (B, d, n) float32 is changed in place."""
    return _call("selective_step", inputs.u, state, inputs)


def projected_step(state: Tensor, inputs: ScanInputs, weight: Tensor) -> Tensor:
    """`selective_step` with time steps that are still to be projected: `inputs.delta` (B, r) by weight (d, r)."""
    result = _accelerated("projected_step", inputs.u, state, inputs, weight)
    if result is None:
        return selective_step(state, inputs._replace(delta=linear.linear(inputs.delta, weight)))
    return result


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution and SiLU: x (B, d, L), weight (d, k), window (B, d, k - 1) of earlier inputs.

    Returns y (B, d, L) and the window after the last position. Differentiable.
    """
    return _call("causal_conv", x, x, weight, bias, window)


def conv_step(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One position of `causal_conv`: x (B, d) -> y (B, d) after SiLU; `window` (B, d, k - 1) moves on in place."""
    return _call("conv_step", x, window, x, weight, bias)


def mix_step(window: Tensor, state: Tensor, xz: Tensor, weights: MixWeights) -> Tensor:
    """See `reference.mix_step`: all of a Mamba block between its projections, for one position."""
    if xz.is_cuda:
        result = _accelerated("mix_step", xz, window, state, xz, weights)
        if result is not None:
            return result
    x, z = xz.chunk(2, dim=-1)
    x = conv_step(window, x, weights.conv, weights.conv_bias)
    n = state.shape[-1]
    dt, B, C = linear.linear(x, weights.x_proj).split((weights.dt_proj.shape[1], n, n), dim=-1)
    inputs = ScanInputs(x, dt, weights.A, B, C, weights.D, z, weights.dt_bias)
    return projected_step(state, inputs, weights.dt_proj)


def stack_step(model: stack.Decoder, x: Tensor, state: Sequence[Tensor]) -> Tensor | None:
    """See `stack.step`: one position through all layers of a model in one call."""
    return stack.step(model, x, state) if x.device.type == "cpu" and active(x.device) == "numba" else None
