"""The selective scan and its single step in plain torch: what every faster kernel is tested against. Any device.

Knows nothing of layers, weights or files. Differentiable (the step is not: it works in place).

Glossary, after "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752, section 3.2 and
algorithm 2; discretisation of section 2 with the simplified Euler rule for B):
    u      x in the paper: input of the state space, (B, d, L)       d: channels, n: states per channel
    delta  Δ, time step before its softplus, (B, d, L)
    A      (d, n), negative     B, C  (B, n, L)     D  skip, (d,)     z  gate, (B, d, L)
    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t        y_t = (C_t h_t + D u_t) * silu(z_t)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def usable(device: torch.device) -> bool:
    """Everywhere."""
    return True


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
    """y (B, d, L) in u's dtype and the state after the last position, (B, d, n) in float32 (float64 for float64)."""
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    u_bdl, dt_bdl = u.to(wide), delta.to(wide)
    if delta_bias is not None:
        dt_bdl = dt_bdl + delta_bias.to(wide)[:, None]
    if delta_softplus:
        dt_bdl = F.softplus(dt_bdl)
    A_dn, B_bnl, C_bnl = A.to(wide), B.to(wide), C.to(wide)
    batch, channels, length = u.shape
    if initial_state is None:
        state_bdn = torch.zeros(batch, channels, A.shape[1], dtype=wide, device=u.device)
    else:
        state_bdn = initial_state.to(wide)
    drive_bdl = dt_bdl * u_bdl
    outputs: list[Tensor] = []
    for t in range(length):
        # discretised inside the loop: (B, d, L, n) at once would be hundreds of megabytes a layer
        decay_bdn = torch.exp(dt_bdl[:, :, t, None] * A_dn)
        state_bdn = decay_bdn * state_bdn + drive_bdl[:, :, t, None] * B_bnl[:, None, :, t]
        outputs.append((state_bdn * C_bnl[:, None, :, t]).sum(-1))
    y_bdl = torch.stack(outputs, -1) if outputs else torch.zeros_like(u_bdl)
    if D is not None:
        y_bdl = y_bdl + D.to(wide)[:, None] * u_bdl
    if z is not None:
        y_bdl = y_bdl * F.silu(z.to(wide))
    return y_bdl.to(u.dtype), state_bdn if return_state else None


@torch.no_grad()
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
    """One position of the scan above. `state` (B, d, n) is changed in place; x, dt, z (B, d), B, C (B, n); y (B, d)."""
    wide = state.dtype
    x_bd, dt_bd = x.to(wide), dt.to(wide)
    if dt_bias is not None:
        dt_bd = dt_bd + dt_bias.to(wide)
    if dt_softplus:
        dt_bd = F.softplus(dt_bd)
    decay_bdn = torch.exp(dt_bd[:, :, None] * A.to(wide))
    state.mul_(decay_bdn).add_((dt_bd * x_bd)[:, :, None] * B.to(wide)[:, None, :])
    y_bd = (state * C.to(wide)[:, None, :]).sum(-1)
    if D is not None:
        y_bd = y_bd + D.to(wide) * x_bd
    if z is not None:
        y_bd = y_bd * F.silu(z.to(wide))
    return y_bd.to(x.dtype)


def projected_step(state: Tensor, x: Tensor, dt: Tensor, weight: Tensor, *scanned: Tensor | None) -> Tensor:
    """The step behind its projection of the time steps: dt (B, r), weight (d, r), then A and the others."""
    return selective_step(state, x, F.linear(dt, weight), *scanned)  # type: ignore[arg-type]


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution, then SiLU: y (B, d, L) in x's dtype, and the last k - 1 inputs, (B, d, k - 1).

    weight (d, k); `window` holds the k - 1 inputs before the first one (None: zeros).
    """
    taps, length = weight.shape[1], x.shape[2]
    if window is None:
        window = x.new_zeros(x.shape[0], x.shape[1], taps - 1)
    padded_bdl = torch.cat([window.to(x.dtype), x], dim=2)
    # multiply-adds over shifted views: faster on CPU than a grouped conv1d, and the same sum
    y_bdl = padded_bdl[:, :, :length] * weight[:, 0, None]
    for tap in range(1, taps):
        y_bdl = y_bdl + padded_bdl[:, :, tap : tap + length] * weight[:, tap, None]
    if bias is not None:
        y_bdl = y_bdl + bias[:, None]
    return F.silu(y_bdl), padded_bdl[:, :, length:]


@torch.no_grad()
def conv_step(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One position of the convolution: x (B, d) -> y (B, d) after SiLU; `window` (B, d, k - 1) moves on in place."""
    inputs_bdk = torch.cat([window, x[:, :, None].to(window.dtype)], dim=2)
    y_bd = (inputs_bdk * weight.to(window.dtype)).sum(-1)
    if bias is not None:
        y_bd = y_bd + bias.to(window.dtype)
    window.copy_(inputs_bdk[:, :, 1:])
    return F.silu(y_bd).to(x.dtype)
