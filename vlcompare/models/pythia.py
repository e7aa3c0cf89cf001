"""The GPT-NeoX decoder (Pythia): many positions at once, or one step on a static key-value cache.

Embeddings in, hidden states out. The step reads its position from the device and allocates nothing that grows, so that
a CUDA graph can capture it.

Glossary, after "GPT-NeoX-20B" (arXiv 2204.06745, section 2.1) and "RoFormer" (arXiv 2104.09864, section 3.4.2):
    B batch     L positions of this call     S positions held by the cache (capacity)     D hidden size
    H heads     K channels of a head (D / H)     R rotated channels of a head (rotary_pct x K)     V vocabulary
    theta_i     base^(-2i / R): the angle by which pair i (channels i and i + R/2) is rotated at each position
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.errors import RequestError
from vlcompare.models.config import PythiaConfig
from vlcompare.models.interruption import check
from vlcompare.models.kernels import dispatch
from vlcompare.models.kernels.attention import attend_one, finds_filled_slots, rotate_and_attend
from vlcompare.models.kernels.fused import add_norm, norm_linears
from vlcompare.models.kernels.linear import Linear, scores
from vlcompare.models.kernels.stack_parts import LayerParts, StackParts, linear_parts, norm_parts
from vlcompare.models.pythia_state import PythiaState
from vlcompare.models.rotary import rotate

ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True, slots=True)
class Span:
    """The cache positions of the L tokens of one call; the same for all layers."""

    rows_bl: Tensor
    slots_bl: Tensor  # on the device: a captured graph writes where they say when it is replayed
    cos_blhr: Tensor
    sin_blhr: Tensor
    window: int  # cache slots that are attended to
    bias_bhls: Tensor | None = None  # added to the scores; None where every slot of the window may be seen
    counts_b: Tensor | None = None  # one position on CPU: how many slots each row sees
    fresh: bool = False  # the cache was empty: plain causal attention among the L positions


@dataclass(frozen=True, slots=True)
class Single:
    """One new position a row, for kernels that read it on the device; the same for all layers."""

    positions_b: Tensor
    cos_sr: Tensor
    sin_sr: Tensor


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions; queries, keys and values of a head lie side by side."""

    def __init__(self, config: PythiaConfig) -> None:
        super().__init__()
        self.heads, self.head_size = config.heads, config.head_size
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def step(self, qkv: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, at: Single) -> Tensor:
        """One new position a row, from `query_key_value` on: (B, 3 D) -> (B, D)."""
        qkv_bhk = qkv.unflatten(-1, (self.heads, 3, self.head_size))
        out_bhk = rotate_and_attend(qkv_bhk, at.cos_sr, at.sin_sr, at.positions_b, keys_bhsk, values_bhsk)
        return self.dense(out_bhk.flatten(1))

    def forward(self, x_bld: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, span: Span) -> Tensor:
        """softmax(q k^T / sqrt(K)) v, projected to (B, L, D); the new keys and values go into the cache."""
        qkv_blhk = self.query_key_value(x_bld).unflatten(-1, (self.heads, 3, self.head_size))
        qk_blhk, v_blhk = qkv_blhk[..., :2, :], qkv_blhk[..., 2, :]
        q_blhk, k_blhk = rotate(qk_blhk, span.cos_blhr, span.sin_blhr).unbind(-2)
        q_bhlk, k_bhlk, v_bhlk = q_blhk.transpose(1, 2), k_blhk.transpose(1, 2), v_blhk.transpose(1, 2)
        if span.fresh:
            keys_bhsk[:, :, : span.window].copy_(k_bhlk.detach())
            values_bhsk[:, :, : span.window].copy_(v_bhlk.detach())
            out_bhlk = F.scaled_dot_product_attention(q_bhlk, k_bhlk, v_bhlk, is_causal=True)
        else:
            keys_bhsk.transpose(1, 2).index_put_((span.rows_bl, span.slots_bl), k_blhk)
            values_bhsk.transpose(1, 2).index_put_((span.rows_bl, span.slots_bl), v_blhk)
            out_bhlk = self._attend_to_cache(q_bhlk, keys_bhsk, values_bhsk, span)
        return self.dense(out_bhlk.transpose(1, 2).flatten(2))

    @staticmethod
    def _attend_to_cache(q_bhlk: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, span: Span) -> Tensor:
        """Attention to the cache, (B, H, L, K): by a kernel for single queries where there is one, or by torch."""
        if span.counts_b is not None:
            out_bhk = attend_one(q_bhlk[:, :, 0], keys_bhsk, values_bhsk, span.counts_b)
            if out_bhk is not None:
                return out_bhk[:, :, None]
        seen_k, seen_v = keys_bhsk[:, :, : span.window], values_bhsk[:, :, : span.window]
        return F.scaled_dot_product_attention(q_bhlk, seen_k, seen_v, attn_mask=span.bias_bhls)


class MLP(nn.Module):
    def __init__(self, config: PythiaConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATION[config.activation]
        self.fuses = self.activation is F.gelu  # a step takes it together with the product before it

    def step(self, inner: Tensor) -> Tensor:
        """From `dense_h_to_4h` on; where it `fuses`, from the activation on."""
        return self.dense_4h_to_h(inner if self.fuses else self.activation(inner))

    def forward(self, x: Tensor) -> Tensor:
        check()
        inner = self.activation(self.dense_h_to_4h(x))
        check()
        return self.dense_4h_to_h(inner)


class PythiaLayer(nn.Module):
    """One block. In parallel, attention and MLP read the same input (section 2.1); else one after the other."""

    def __init__(self, config: PythiaConfig) -> None:
        super().__init__()
        self.parallel = config.parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp = MLP(config)

    @property
    def entry(self) -> tuple[nn.LayerNorm, ...]:
        """The norms through which the block reads its input."""
        return (self.input_layernorm, self.post_attention_layernorm) if self.parallel else (self.input_layernorm,)

    def parts(self) -> LayerParts | None:
        """What a step computes with; None where a Linear is of another kind."""
        reads, back = self.attention.query_key_value, self.attention.dense
        modules = reads, back, self.mlp.dense_h_to_4h, self.mlp.dense_4h_to_h
        linears = [found for module in modules if (found := linear_parts(module)) is not None]
        norms = norm_parts(self.input_layernorm), norm_parts(self.post_attention_layernorm)
        return LayerParts(norms, tuple(linears)) if len(linears) == len(modules) else None

    def forward(
        self, x_bld: Tensor, normed: Sequence[Tensor], keys_bhsk: Tensor, values_bhsk: Tensor, span: Span
    ) -> tuple[Tensor, ...]:
        """The terms whose sum, from left to right, is the block's output; `normed` is x_bld through `entry`."""
        check()
        attended_bld = self.attention(normed[0], keys_bhsk, values_bhsk, span)
        if self.parallel:
            return self.mlp(normed[1]), attended_bld, x_bld
        x_bld, (normed_bld,) = add_norm((attended_bld, x_bld), (self.post_attention_layernorm,))
        return self.mlp(normed_bld), x_bld

    def step(self, terms: Sequence[Tensor], keys_bhsk: Tensor, values_bhsk: Tensor, at: Single) -> tuple[Tensor, ...]:
        """`forward` for one new position a row: the terms (B, D) of its input -> those of its output."""
        reads, expands = self.attention.query_key_value, self.mlp.dense_h_to_4h
        if self.parallel:
            x_bd, (qkv, inner) = norm_linears(terms, self.entry, (reads, expands), (False, self.mlp.fuses))
            return self.mlp.step(inner), self.attention.step(qkv, keys_bhsk, values_bhsk, at), x_bd
        x_bd, (qkv,) = norm_linears(terms, self.entry, (reads,), (False,))
        attended_bd = self.attention.step(qkv, keys_bhsk, values_bhsk, at)
        norms, gelus = (self.post_attention_layernorm,), (self.mlp.fuses,)
        x_bd, (inner,) = norm_linears((attended_bd, x_bd), norms, (expands,), gelus)
        return self.mlp.step(inner), x_bd


class Pythia(nn.Module):
    """The decoder with its embedding and its output head."""

    def __init__(self, config: PythiaConfig) -> None:
        super().__init__()
        self.config = config
        self.max_positions: int | None = config.max_positions
        self.checks = 3 * config.layers  # how often a pass asks whether it is still wanted
        self.embed_in = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(PythiaLayer(config) for _ in range(config.layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.embed_out = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.embed_out.weight = self.embed_in.weight

    def new_state(
        self, batch: int, capacity: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> PythiaState:
        """An empty cache for `capacity` positions a row, by default where the weights are and of their dtype."""
        if capacity > self.config.max_positions:
            raise RequestError(
                f"{capacity} positions were asked for, but this model knows only {self.config.max_positions}."
            )
        weight = self.embed_in.weight
        return PythiaState(self.config, batch, capacity, device or weight.device, dtype or weight.dtype)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.embed_in(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 scores over the vocabulary, (..., D) -> (..., V)."""
        return scores(hidden, self.embed_out.weight)

    def state_bytes_formula(self, length: int, batch: int = 1) -> int:
        """2 (keys, values) x layers x positions x hidden size x bytes of a number: grows with every token."""
        return 2 * self.config.layers * batch * length * self.config.hidden_size * self.embed_in.weight.element_size()

    def forward(self, embeddings: Tensor, state: PythiaState | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) after the final norm; `state` moves on by L positions from wherever it is.

        `mask` (B, L) is False at left padding and may be given with an empty state only. Without a state nothing is
        kept (training).
        """
        batch, length, _ = embeddings.shape
        if state is None:
            state = PythiaState(self.config, batch, length, embeddings.device, embeddings.dtype)
        state.require(length)
        if mask is not None and state.length:
            raise RequestError("Left padding is possible at the beginning of a sequence only.")
        pads_b = None if mask is None or bool(mask.all()) else (~mask).sum(1)
        if pads_b is not None:
            # padding moves after the text: causal attention never reads it, and the next tokens overwrite it
            embeddings = _roll(embeddings, pads_b)
        hidden_bld = self._advance(embeddings, state)
        if pads_b is not None:
            hidden_bld = _roll(hidden_bld, -pads_b)
            state.positions -= pads_b
            state.ragged = True
        return hidden_bld

    def step(self, embeddings: Tensor, state: PythiaState, *, window: int | None = None) -> Tensor:
        """One position: (B, D) -> (B, D) after the final norm; `state` moves on by one.

        `window` is the number of cache slots that are attended to; those not yet filled are masked by the position on
        the device. None takes exactly the filled ones, which needs no mask but fits no graph, unless `windowed` says
        that there are no windows.
        """
        state.require(1)
        if window is None:
            tensors = state.keys_nbhsk, state.values_nbhsk, state.positions, state.cos_sr, state.sin_sr
            hidden_bd = dispatch.stack_step(self, embeddings, tensors)
            if hidden_bd is not None:
                state.positions += 1
                state.length += 1
                return hidden_bd
        return self._advance(embeddings[:, None], state, window)[:, 0]

    def stack_parts(self) -> StackParts | None:
        """See `stack.Decoder`."""
        if self.config.activation != "gelu":
            return None
        layers = [layer.parts() for layer in cast("list[PythiaLayer]", list(self.layers))]
        found = tuple(parts for parts in layers if parts is not None)
        last = norm_parts(self.final_layer_norm)
        return StackParts("pythia", found, last, self.config.parallel_residual) if len(found) == len(layers) else None

    def windowed(self, state: PythiaState) -> bool:
        """Whether a step attends to a window that the host chooses; else its kernel finds the filled slots itself."""
        return not finds_filled_slots(state.keys_nbhsk, state.cos_sr)

    def _advance(self, x_bld: Tensor, state: PythiaState, window: int | None = None) -> Tensor:
        layers = cast("list[PythiaLayer]", list(self.layers))
        if x_bld.shape[1] == 1 and state.length and not self.windowed(state):
            return self._advance_one(x_bld[:, 0], state, layers)[:, None]
        span = self._span(state, x_bld.shape[1], window, x_bld.dtype)
        # a block's residual is added where the next norms are taken
        norms = [*(layer.entry for layer in layers), (self.final_layer_norm,)]
        x_bld, normed = add_norm((x_bld,), norms[0])
        for layer, keys_bhsk, values_bhsk, following in zip(
            layers, state.keys_nbhsk, state.values_nbhsk, norms[1:], strict=True
        ):
            x_bld, normed = add_norm(layer(x_bld, normed, keys_bhsk, values_bhsk, span), following)
        state.positions += x_bld.shape[1]
        state.length += x_bld.shape[1]
        return normed[0]

    def _advance_one(self, x_bd: Tensor, state: PythiaState, layers: list[PythiaLayer]) -> Tensor:
        """One new position a row, by kernels that find the filled slots themselves."""
        at = Single(state.positions, state.cos_sr, state.sin_sr)
        terms: Sequence[Tensor] = (x_bd,)
        for layer, keys_bhsk, values_bhsk in zip(layers, state.keys_nbhsk, state.values_nbhsk, strict=True):
            terms = layer.step(terms, keys_bhsk, values_bhsk, at)
        _, (hidden_bd,) = add_norm(terms, (self.final_layer_norm,))
        state.positions += 1
        state.length += 1
        return hidden_bd

    def _span(self, state: PythiaState, length: int, window: int | None, dtype: torch.dtype) -> Span:
        slots_bl = state.positions[:, None] + state.slots_s[:length]
        rows_bl = state.rows_b[:, None].expand_as(slots_bl)
        # one table for queries and keys of all heads, which are axes 2 and 3
        rotary = state.cos_sr[slots_bl][:, :, None, None], state.sin_sr[slots_bl][:, :, None, None]
        if state.length == 0 and window is None:
            return Span(rows_bl, slots_bl, *rotary, window=length, fresh=True)
        # one position at the end of rows of one length sees every filled slot; all else needs a mask
        exact = window is None and length == 1 and not state.ragged
        window = window or state.length + length
        bias_bhls = None
        if not exact:
            later_bls = state.slots_s[:window] > slots_bl[:, :, None]
            bias_bhls = torch.zeros(later_bls.shape, device=slots_bl.device, dtype=dtype)
            bias_bhls = bias_bhls.masked_fill_(later_bls, -torch.inf)[:, None]
        counts_b = slots_bl[:, 0] + 1 if length == 1 and slots_bl.device.type == "cpu" else None
        return Span(rows_bl, slots_bl, *rotary, window=window, bias_bhls=bias_bhls, counts_b=counts_b)


def _roll(x_bld: Tensor, shifts_b: Tensor) -> Tensor:
    """Each row b moved to the left by shifts_b[b] positions, around the end."""
    length = x_bld.shape[1]
    source_bl = (torch.arange(length, device=x_bld.device) + shifts_b[:, None]) % length
    return x_bld.gather(1, source_bl[:, :, None].expand_as(x_bld))
