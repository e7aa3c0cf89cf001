"""The Mamba-1 decoder: many positions through the selective scan, or one step of the same recurrence.

Embeddings in, hidden states out. The state has one size however long the text is; the step works in place and allocates
nothing that grows, so that a CUDA graph can capture it. State, A, D and the time step are float32 in every precision.

Glossary, after "Mamba" (arXiv 2312.00752, figure 3 for the block, section 3.2 and algorithm 2 for the scan):
    B batch     L positions     D hidden size     d inner channels (E x D in the paper)     n states a channel (N)
    k taps of the causal convolution     r rank of the time step     V vocabulary
    x  the scan's input     z  the gate     dt  the time step Delta, before its bias and softplus
    A  decay, -exp(A_log), (d, n)     B_, C_  input and output projections, chosen by the input     D  skip, (d,)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from vlcompare.errors import RequestError
from vlcompare.models.config import MambaConfig
from vlcompare.models.interruption import check
from vlcompare.models.kernels import dispatch
from vlcompare.models.kernels.fused import add_norm, norm_linears
from vlcompare.models.kernels.linear import Linear, linear, scores
from vlcompare.models.kernels.reference import MixWeights, NormModule, ScanInputs
from vlcompare.models.kernels.stack_parts import LayerParts, StackParts, linear_parts, norm_parts
from vlcompare.models.state import DecodingState


class MambaState(DecodingState):
    """For each layer the convolution's last k - 1 inputs and the scan's state, in float32."""

    def __init__(self, config: MambaConfig, batch: int, capacity: int, device: Any) -> None:
        super().__init__(batch, capacity, device)
        inner = (config.layers, batch, config.inner_size)
        self.windows_nbdk = torch.zeros(*inner, config.conv_size - 1, device=device, dtype=torch.float32)
        self.states_nbdn = torch.zeros(*inner, config.state_size, device=device, dtype=torch.float32)

    def nbytes(self) -> int:
        """Bytes in use: all of them, from the first position on."""
        return self.allocated_nbytes() if self.length else 0

    def allocated_nbytes(self) -> int:
        return self.windows_nbdk.nbytes + self.states_nbdn.nbytes

    def snapshot(self) -> MambaState:
        """An independent copy."""
        names = ("windows_nbdk", "states_nbdn", "positions")
        return self.replaced(**{name: getattr(self, name).clone() for name in names})

    def rows(self, begin: int, end: int) -> MambaState:
        windows, states = self.windows_nbdk[:, begin:end], self.states_nbdn[:, begin:end]
        return self.replaced(windows_nbdk=windows, states_nbdn=states, positions=self.positions[begin:end])

    def copy_(self, source: MambaState) -> MambaState:
        """Copy what `source` (a snapshot) holds into the own buffers: their addresses stay."""
        self.windows_nbdk.copy_(source.windows_nbdk)
        self.states_nbdn.copy_(source.states_nbdn)
        self.positions.copy_(source.positions)
        self.length = source.length
        return self


class Recurrence(NamedTuple):
    """The scan's own parameters, in float32 whatever the model's precision is."""

    A_dn: Tensor
    D_d: Tensor
    dt_bias_d: Tensor


class Mixer(nn.Module):
    """One Mamba block without its norm and residual (figure 3): gate, convolution, selective scan, projection back."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        inner, bias = config.inner_size, config.projection_bias
        self.sizes = (config.rank, config.state_size, config.state_size)  # what x_proj gives: dt, B_, C_
        self.in_proj = Linear(config.hidden_size, 2 * inner, bias=bias)
        self.conv1d = nn.Conv1d(inner, inner, config.conv_size, groups=inner, bias=config.conv_bias)
        self.x_proj = Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = Linear(config.rank, inner)
        # A from 1 to n in every channel and D of ones, as the authors begin (section 3.6, S4D-Real)
        # (not by torch.log or repeat, which on the meta device import torch's compiler: seconds at the first load)
        self.A_log = nn.Parameter(torch.empty(inner, config.state_size))
        with torch.no_grad():
            self.A_log.copy_(torch.tensor([math.log(n) for n in range(1, config.state_size + 1)]))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = Linear(inner, config.hidden_size, bias=bias)
        self._kept: tuple[Any, Recurrence] | None = None

    def recurrence(self) -> Recurrence:
        """A, D and the bias of the time step in float32; computed anew only where the parameters have changed."""
        sources = (self.A_log, self.D, self.dt_proj.bias)
        if torch.is_grad_enabled() and self.A_log.requires_grad:
            return self._recurrence(*sources)
        key = tuple((x.data_ptr(), x.device, x.dtype, 0 if x.is_inference() else x._version) for x in sources)
        kept = self._kept
        if kept is None or kept[0] != key:
            # ordinary tensors, even when the first call runs in inference mode
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept = key, self._recurrence(*sources)
        return kept[1]

    @staticmethod
    def _recurrence(A_log: Tensor, D: Tensor, dt_bias: Tensor) -> Recurrence:
        return Recurrence(-torch.exp(A_log.float()), D.float(), dt_bias.float())

    def forward(
        self, hidden_bld: Tensor, window_bdk: Tensor, state_bdn: Tensor, fresh: bool, mask: Tensor | None
    ) -> Tensor:
        """Many positions; window and state are changed in place. `fresh`: both are still empty."""
        check()
        x_bld, z_bld = self.in_proj(hidden_bld).chunk(2, dim=-1)
        check()
        if mask is not None:
            x_bld = x_bld * mask[:, :, None]  # the first real tokens' convolution reads zeros before them
        x_bdl, window = dispatch.causal_conv(
            x_bld.transpose(1, 2), self.conv1d.weight[:, 0], self.conv1d.bias, None if fresh else window_bdk
        )
        x_bld = x_bdl.transpose(1, 2)
        if mask is not None:
            x_bld = x_bld * mask[:, :, None]  # what enters the state at padding is zero, so it stays empty
            x_bdl = x_bld.transpose(1, 2)
        dt_blr, B_bln, C_bln = self.x_proj(x_bld).split(self.sizes, dim=-1)
        dt_bld = linear(dt_blr, self.dt_proj.weight)  # its bias is added in float32, inside the scan
        A_dn, D_d, dt_bias_d = self.recurrence()
        dt_bdl, B_bnl, C_bnl, z_bdl = (x.transpose(1, 2) for x in (dt_bld, B_bln, C_bln, z_bld))
        inputs = ScanInputs(x_bdl, dt_bdl, A_dn, B_bnl, C_bnl, D_d, z_bdl, dt_bias_d, None if fresh else state_bdn)
        y_bdl, state = dispatch.selective_scan(inputs)
        window_bdk.copy_(window.detach())
        state_bdn.copy_(state.detach())
        return self.out_proj(y_bdl.transpose(1, 2))

    def step(self, xz_b2d: Tensor, window_bdk: Tensor, state_bdn: Tensor) -> Tensor:
        """One position of the above, from `in_proj` on, with the same names; window and state change in place."""
        weights = MixWeights(
            self.conv1d.weight[:, 0], self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight, *self.recurrence()
        )
        return self.out_proj(dispatch.mix_step(window_bdk, state_bdn, xz_b2d, weights))


def _norm(config: MambaConfig) -> NormModule:
    kind: type[NormModule] = nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm
    return kind(config.hidden_size, eps=config.norm_eps)


class MambaLayer(nn.Module):
    """Norm and mixer; their residual is added where the next norm is taken (`Mamba`), in the model's dtype."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = _norm(config)
        self.mixer = Mixer(config)

    def parts(self) -> LayerParts | None:
        """What a step computes with; None where a Linear is of another kind."""
        mixer, conv = self.mixer, self.mixer.conv1d
        modules = mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj
        linears = [found for module in modules if (found := linear_parts(module)) is not None]
        bias = torch.zeros(conv.weight.shape[0]) if conv.bias is None else conv.bias
        A_dn, D_d, _ = mixer.recurrence()
        tensors = conv.weight[:, 0], bias, A_dn, D_d
        return LayerParts((norm_parts(self.norm),), tuple(linears), tensors) if len(linears) == len(modules) else None


class Mamba(nn.Module):
    """The decoder. Its embedding is also its output head: one parameter."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.max_positions: int | None = None  # a recurrence has no longest text
        self.checks = 2 * config.layers  # how often a pass asks whether it is still wanted
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MambaLayer(config) for _ in range(config.layers))
        self.norm_f = _norm(config)

    def new_state(
        self, batch: int, capacity: int, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        """An empty state, by default where the weights are. `dtype` is not used: the state is float32 always."""
        return MambaState(self.config, batch, capacity, device or self.embedding.weight.device)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.embedding(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 scores over the vocabulary, (..., D) -> (..., V)."""
        return scores(hidden, self.embedding.weight)

    def state_bytes_formula(self, length: int, batch: int = 1) -> int:
        """Layers x inner channels x (k - 1 + n) x 4 bytes: the same at every length, once a position was read."""
        config = self.config
        numbers = config.layers * batch * config.inner_size * (config.conv_size - 1 + config.state_size)
        return 4 * numbers if length else 0

    def forward(self, embeddings: Tensor, state: MambaState | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, D) after the final norm; `state` moves on by L positions from wherever it is.

        `mask` (B, L) is False at left padding and may be given with an empty state only. Without a state nothing is
        kept (training).
        """
        x_bld = embeddings
        batch, length, _ = x_bld.shape
        if state is None:
            state = MambaState(self.config, batch, length, x_bld.device)
        state.require(length)
        if mask is not None and state.length:
            raise RequestError("Left padding is possible at the beginning of a sequence only.")
        pads_b = None if mask is None or bool(mask.all()) else (~mask).sum(1)
        if pads_b is None:
            mask = None
        fresh = state.length == 0
        x_bld = self._all_layers(x_bld, state, lambda mixer, *tensors: mixer(*tensors, fresh, mask))
        state.positions += length
        if pads_b is not None:
            state.positions -= pads_b
        state.length += length
        return x_bld

    def windowed(self, state: MambaState) -> bool:
        """Always False: a recurrence reads nothing but its state."""
        return False

    def stack_parts(self) -> StackParts | None:
        """See `stack.Decoder`."""
        layers = [layer.parts() for layer in cast("list[MambaLayer]", list(self.layers))]
        found = tuple(parts for parts in layers if parts is not None)
        return StackParts("mamba", found, norm_parts(self.norm_f)) if len(found) == len(layers) else None

    def step(self, embeddings: Tensor, state: MambaState, *, window: int | None = None) -> Tensor:
        """One position: (B, D) -> (B, D) after the final norm; `state` moves on by one.

        `window` is ignored: it is the other family's number of cache slots.
        """
        state.require(1)
        hidden_bD = dispatch.stack_step(self, embeddings, (state.windows_nbdk, state.states_nbdn))
        if hidden_bD is None:
            hidden_bD = self._step(embeddings, state)
        state.positions += 1
        state.length += 1
        return hidden_bD

    def _step(self, embeddings: Tensor, state: MambaState) -> Tensor:
        """`step` layer by layer, without the count of positions."""
        terms: tuple[Tensor, ...] = (embeddings,)
        for layer, window_bdk, state_bdn in zip(
            cast("list[MambaLayer]", list(self.layers)), state.windows_nbdk, state.states_nbdn, strict=True
        ):
            # a block's residual is added where it is next read
            x_bD, (xz_b2d,) = norm_linears(terms, (layer.norm,), (layer.mixer.in_proj,), (False,))
            terms = x_bD, layer.mixer.step(xz_b2d, window_bdk, state_bdn)
        _, (hidden_bD,) = add_norm(terms, (self.norm_f,))
        return hidden_bD

    def _all_layers(
        self, x: Tensor, state: MambaState, mix: Callable[[Mixer, Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Add each layer's mix(mixer, normed x, window, state) to x; then the final norm."""
        layers = cast("list[MambaLayer]", list(self.layers))
        norms = [*(layer.norm for layer in layers), self.norm_f]
        x, (normed,) = add_norm((x,), norms[:1])
        for layer, window_bdk, state_bdn, norm in zip(
            layers, state.windows_nbdk, state.states_nbdn, norms[1:], strict=True
        ):
            x, (normed,) = add_norm((x, mix(layer.mixer, normed, window_bdk, state_bdn)), (norm,))
        return normed
