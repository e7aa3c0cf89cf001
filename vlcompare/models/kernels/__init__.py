"""The selective scan, its step, and the causal convolution: chooses the kernel by device and by proof.

Knows which implementations exist and in which order they are tried; the mathematics stands in `reference`. A kernel is
used only where it can run (its library imports, its device is the tensors' device) and for as long as its calls
succeed; otherwise the next one takes over (`fallback` keeps the reason for display).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vlcompare.models.kernels import fallback

# device type -> implementations, best first; each is a module below this folder with `usable(device) -> bool`
ORDER: dict[str, tuple[str, ...]] = {"cpu": ("numba",), "cuda": ("mamba_ssm", "triton")}
MODULES = {"numba": "cpu.scan", "mamba_ssm": "cuda.mamba_ssm", "triton": "cuda.scan", "reference": "reference"}
# modules of single functions that do not stand beside their implementation's scan
ELSEWHERE = {
    **{("numba", name): "cpu.step" for name in ("selective_step", "projected_step", "causal_conv", "conv_step")},
    **{("triton", name): "cuda.conv" for name in ("causal_conv", "conv_step")},
}

_forced: str | None = None
_chosen: dict[tuple[str, int | None], str] = {}
_found: dict[tuple[str, str, str, int | None], Any] = {}  # functions, by name, active implementation and device


def available(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Names of the implementations that run on `device`, best first; the last one is always "reference"."""
    device = torch.device(device)
    names = ORDER.get(device.type, ())
    return (*(name for name in names if _usable(name, device)), "reference")


def active(device: torch.device | str = "cpu") -> str:
    """Name of the implementation that a call on `device` takes."""
    device = torch.device(device)
    if _forced is not None:
        return _forced
    key = (device.type, device.index)
    if key not in _chosen:
        names = ORDER.get(device.type, ())
        _chosen[key] = next((name for name in names if _usable(name, device)), "reference")
    return _chosen[key]


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Take the implementation `name` for every call inside the block (tests and measurements)."""
    global _forced
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def _module(name: str, function: str = "selective_scan") -> ModuleType:
    return importlib.import_module(f"{__name__}.{ELSEWHERE.get((name, function), MODULES[name])}")


def _usable(name: str, device: torch.device) -> bool:
    return bool(fallback.attempt(name, lambda: _module(name).usable(device)))


def _kernel(function: str, tensor: Tensor) -> Any:
    """The function of the active implementation, or of the next one: mamba-ssm, say, brings the scan alone."""
    if tensor.dtype == torch.float64:  # only the reference works in float64 (gradient checks)
        return getattr(_module("reference"), function)
    device = tensor.device
    key = (function, active(device), device.type, device.index)
    if key not in _found:  # asked hundreds of times a token
        names = (key[1], *(name for name in ORDER.get(device.type, ()) if _usable(name, device)))
        _found[key] = getattr(_module("reference"), function)
        for name in names:
            found = None if fallback.failed(name) else getattr(_module(name, function), function, None)
            if found is not None:
                _found[key] = found if name == "reference" else functools.partial(_attempt, name, function, found)
                break
    return _found[key]


def _attempt(name: str, function: str, kernel: Any, *arguments: Any) -> Any:
    """kernel(*arguments); where it raises, the next implementation's, which takes its place from then on.

    What fails (compiling, launching) does so before anything is computed, so that a state is as it was.
    """
    try:
        if not fallback.failed(name):
            return kernel(*arguments)
    except Exception as error:  # whatever a compiler, a driver or a foreign extension raises
        fallback.give_up(name, error)
    forget_choices()
    return _kernel(function, arguments[0])(*arguments)


def forget_choices() -> None:
    """Choose anew at the next call: an implementation has failed."""
    _chosen.clear()
    _found.clear()


@functools.cache
def _rows() -> Any:
    return fallback.attempt("numba", _module, "numba", "conv_step")


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """x (R, K) weight (O, K)^T + bias in x's dtype by the compiled CPU loops; None where they cannot take it."""
    rows = _rows()
    if rows is None or not rows.product_applies(x, weight):
        return None
    product: Tensor | None = fallback.attempt("numba", rows.product, x, weight, bias)
    return product


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    initial_state: Tensor | None = None,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Many positions: u, delta, z (B, d, L); A (d, n); B, C (B, n, L); D, delta_bias (d,); state (B, d, n) float32.

    Returns y (B, d, L) in u's dtype and the state after the last position (None unless `return_state`). Layouts whose
    channels lie side by side in memory (a transposed (B, L, d)) are the fast ones. Differentiable.
    """
    scan = _kernel("selective_scan", u)
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, return_state)


def selective_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = True,
) -> Tensor:
    """One position: `state` (B, d, n) float32 is changed in place; x, dt, z (B, d), B, C (B, n) -> y (B, d)."""
    return _kernel("selective_step", x)(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


def projected_step(state: Tensor, x: Tensor, dt: Tensor, weight: Tensor, *scanned: Tensor | None) -> Tensor:
    """`selective_step` with the time steps still to be projected: dt (B, r) by weight (d, r), in x's dtype.

    `scanned`: A, B, C, D, z and dt_bias, as there.
    """
    return _kernel("projected_step", x)(state, x, dt, weight, *scanned)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution and SiLU: x (B, d, L), weight (d, k), window (B, d, k - 1) of earlier inputs.

    Returns y (B, d, L) and the window after the last position. Differentiable.
    """
    return _kernel("causal_conv", x)(x, weight, bias, window)


def conv_step(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One position of `causal_conv`: x (B, d) -> y (B, d) after SiLU; `window` (B, d, k - 1) moves on in place."""
    return _kernel("conv_step", x)(window, x, weight, bias)
