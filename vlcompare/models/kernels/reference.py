"""The kernels in plain torch, the reference for every faster kernel. Any device and float dtype.

All are differentiable except the single steps, which work in place.

Glossary, after "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752, section 3.2 and
algorithm 2; discretisation of section 2 with the simplified Euler rule for B):
    u      x in the paper: input of the state space, (B, d, L)       d: channels, n: states per channel
    delta  Δ, time step before its softplus, (B, d, L)
    A      (d, n), negative     B, C  (B, n, L)     D  skip, (d,)     z  gate, (B, d, L)
    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t        y_t = (C_t h_t + D u_t) * silu(z_t)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.models.kernels.packed_format import unpacked

NormModule = nn.LayerNorm | nn.RMSNorm


class ScanInputs(NamedTuple):
    """Inputs of a scan. A step takes the same without the last axis of u, delta, B, C and z, and no initial state."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    delta_bias: Tensor | None = None  # (d,), added to delta before the softplus
    initial_state: Tensor | None = None  # (B, d, n); zeros if None
    softplus: bool = True


def selective_scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """y (B, d, L) in u's dtype and the state after the last position, (B, d, n) in float32 (float64 for float64)."""
    u, delta, A, B, C, D, z, delta_bias, initial_state, softplus = inputs
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    u_bdl, dt_bdl = u.to(wide), delta.to(wide)
    if delta_bias is not None:
        dt_bdl = dt_bdl + delta_bias.to(wide)[:, None]
    if softplus:
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
    return y_bdl.to(u.dtype), state_bdn


@torch.no_grad()
def selective_step(state: Tensor, inputs: ScanInputs) -> Tensor:
    """One position of the scan above, y (B, d) in u's dtype; `state` (B, d, n) is changed in place."""
    u, delta, A, B, C, D, z, delta_bias, _, softplus = inputs
    wide = state.dtype
    u_bd, dt_bd = u.to(wide), delta.to(wide)
    if delta_bias is not None:
        dt_bd = dt_bd + delta_bias.to(wide)
    if softplus:
        dt_bd = F.softplus(dt_bd)
    decay_bdn = torch.exp(dt_bd[:, :, None] * A.to(wide))
    state.mul_(decay_bdn).add_((dt_bd * u_bd)[:, :, None] * B.to(wide)[:, None, :])
    y_bd = (state * C.to(wide)[:, None, :]).sum(-1)
    if D is not None:
        y_bd = y_bd + D.to(wide) * u_bd
    if z is not None:
        y_bd = y_bd * F.silu(z.to(wide))
    return y_bd.to(u.dtype)


def projected_step(state: Tensor, inputs: ScanInputs, weight: Tensor) -> Tensor:
    """The step after the projection of its time steps: `inputs.delta` (B, r) by weight (d, r)."""
    return selective_step(state, inputs._replace(delta=F.linear(inputs.delta, weight)))


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
    """One position of the convolution: x (B, d) -> y (B, d) after SiLU; `window` (B, d, k - 1) is shifted in place."""
    inputs_bdk = torch.cat([window, x[:, :, None].to(window.dtype)], dim=2)
    y_bd = (inputs_bdk * weight.to(window.dtype)).sum(-1)
    if bias is not None:
        y_bd = y_bd + bias.to(window.dtype)
    window.copy_(inputs_bdk[:, :, 1:])
    return F.silu(y_bd).to(x.dtype)


def rotate_and_attend(
    qkv_bhtk: Tensor, cos_sr: Tensor, sin_sr: Tensor, positions_b: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor
) -> Tensor:
    """Attention of one new position a row, (B, H, K) in qkv's dtype; its key and value are written into the cache.

    qkv (B, H, 3, K); cos, sin (S, R) as returned by `models.rotary.rotary_table`; positions (B,) of the new position;
    keys, values (B, H, S, K).
    """
    capacity, rotated = keys_bhsk.shape[2], cos_sr.shape[1]
    front, rest = qkv_bhtk[:, :, :2].float().split((rotated, qkv_bhtk.shape[-1] - rotated), -1)
    cos, sin = (table[positions_b].float()[:, None, None] for table in (cos_sr, sin_sr))  # (B, 1, 1, R)
    q_bhk, k_bhk = torch.cat((front * cos + front.roll(rotated // 2, -1) * sin, rest), -1).unbind(2)
    new_b1s1 = (torch.arange(capacity, device=keys_bhsk.device) == positions_b[:, None])[:, None, :, None]
    for cache, value_bhk in ((keys_bhsk, k_bhk), (values_bhsk, qkv_bhtk[:, :, 2])):
        cache.copy_(torch.where(new_b1s1, value_bhk[:, :, None].to(cache.dtype), cache))
    seen_b11s = (torch.arange(capacity, device=keys_bhsk.device) <= positions_b[:, None])[:, None, None]
    out_bh1k = F.scaled_dot_product_attention(
        q_bhk[:, :, None].to(keys_bhsk.dtype), keys_bhsk, values_bhsk, attn_mask=seen_b11s
    )
    return out_bh1k[:, :, 0].to(qkv_bhtk.dtype)


def add_norm(terms: Sequence[Tensor], norms: Sequence[NormModule]) -> tuple[Tensor, list[Tensor]]:
    """The sum of the terms (..., D), from left to right in their dtype, and each norm of the sum."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total, [norm(total) for norm in norms]


def norm_product(
    terms: Sequence[Tensor], norm: NormModule, weight: Tensor, bias: Tensor | None, gelu: bool
) -> tuple[Tensor, Tensor]:
    """The sum of the terms (..., D) as in `add_norm`, and the product of its norm with weight (out, D)^T, + bias.

    gelu: GELU, the exact one, follows the product.
    """
    total, (normed,) = add_norm(terms, (norm,))
    y = F.linear(normed, weight, bias)
    return total, F.gelu(y) if gelu else y


def row_product(x: Tensor, weight: Tensor, bias: Tensor | None, wide: bool) -> Tensor:
    """x (..., D) times weight (out, D)^T + bias in x's dtype, which is widened to float32 where asked."""
    y = F.linear(x, weight, bias)
    return y.float() if wide else y


class Nf4Weight(NamedTuple):
    """A weight (rows, columns) in NF4, as `packed_format` says."""

    packed: Tensor  # rows x columns / 2 bytes in any shape
    absmax: Tensor  # float32
    rows: int
    columns: int


def nf4_product(x: Tensor, weight: Nf4Weight, bias: Tensor | None) -> Tensor:
    """x (..., columns) times the weight (rows, columns) that the parts stand for, transposed, + bias, in x's dtype."""
    shape = weight.rows, weight.columns
    whole = unpacked("nf4", weight.packed.reshape(-1), weight.absmax, shape, torch.float32)
    return F.linear(x.float(), whole, None if bias is None else bias.float()).to(x.dtype)


def nf4_norm_product(
    terms: Sequence[Tensor], norm: NormModule, weight: Nf4Weight, bias: Tensor | None, gelu: bool
) -> tuple[Tensor, Tensor]:
    """`norm_product` with a weight in NF4."""
    total, (normed,) = add_norm(terms, (norm,))
    y = nf4_product(normed, weight, bias)
    return total, F.gelu(y) if gelu else y


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (R, D) rounded to int8 by their largest magnitudes, and these, (R,) float32 ("LLM.int8()", section 2.1).

    The scale of a row with a number that is not finite is not finite.
    """
    wide = x.float()
    largest = wide.abs().amax(1)
    steps = 127 / largest.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.round(wide * steps[:, None]).nan_to_num(0.0).to(torch.int8), largest


def int8_result(sums: Tensor, row_scales: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What integer sums (R, O) stand for, + bias (O,), in a dtype: scales of the rows (R,) and of the weight's (O,)."""
    y = sums.float() * (row_scales / 127)[:, None] * (scales / 127)
    return (y if bias is None else y + bias.float()).to(dtype)


class MixWeights(NamedTuple):
    """What a Mamba block computes with between its projections. r: rank of the time step."""

    conv: Tensor  # (d, k)
    conv_bias: Tensor | None
    x_proj: Tensor  # (r + 2 n, d): time step, B, C
    dt_proj: Tensor  # (d, r)
    A: Tensor
    D: Tensor
    dt_bias: Tensor


@torch.no_grad()
def mix_step(window: Tensor, state: Tensor, xz: Tensor, weights: MixWeights) -> Tensor:
    """One position from the block's input projection xz (B, 2 d) to y (B, d): convolution, x_proj, projection, step.

    window (B, d, k - 1) and state (B, d, n) are changed in place.
    """
    x, z = xz.chunk(2, dim=-1)
    x = conv_step(window, x, weights.conv, weights.conv_bias)
    n = state.shape[-1]
    dt, B, C = F.linear(x, weights.x_proj).split((weights.dt_proj.shape[1], n, n), dim=-1)
    inputs = ScanInputs(x, dt, weights.A, B, C, weights.D, z, weights.dt_bias)
    return projected_step(state, inputs, weights.dt_proj)
