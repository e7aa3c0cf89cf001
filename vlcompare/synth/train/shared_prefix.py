"""Training passes over many questions that begin alike: the positions that they share are computed once.

The same sums as one sequence per question gives (a test compares them), for both families: Pythia's questions attend to
the prefix's keys and values, Mamba's scans start from the state that the prefix left. Uses the language models' own
modules. Of the last layer's output only the positions that are asked for are computed.

    B prefixes     P positions of a prefix     n questions of a block, L their padded length     D width
    N positions asked for
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.models.kernels import dispatch
from vlcompare.models.kernels.reference import ScanInputs
from vlcompare.models.mamba import Mamba, MambaLayer, Mixer
from vlcompare.models.pythia import Attention, Pythia, PythiaLayer
from vlcompare.models.rotary import rotary_table, rotate


@dataclass(frozen=True)
class EmbeddedBlock:
    """Questions of similar length, right-padded, and at which of their positions final states are asked for."""

    embeddings: Tensor  # (n, L, D)
    prefix: Tensor  # (n,) the prefix that each begins with
    rows: Tensor  # (N,)
    columns: Tensor  # (N,)


@dataclass(frozen=True)
class Passed:
    """Hidden states: of the prefix half-way, of each block half-way, and after the final norm."""

    prefix_middle: Tensor  # (B, P, D)
    middle: list[Tensor]  # (n, L, D)
    final: Tensor  # (N, D), block after block


class _Flat:
    """All positions, prefix and blocks, as one (T, D) tensor for the products, and as views for the mixing.

    Rows are taken by `index_select` here: its backward pass is several times as fast as that of indexing.
    """

    def __init__(self, prefix: Tensor, blocks: list[EmbeddedBlock]) -> None:
        self.shapes = [prefix.shape[:2], *(block.embeddings.shape[:2] for block in blocks)]
        self.sizes = [rows * columns for rows, columns in self.shapes]
        self.x = torch.cat([prefix.flatten(0, 1), *(block.embeddings.flatten(0, 1) for block in blocks)])

    def places(self, part: int, rows: Tensor, columns: Tensor) -> Tensor:
        """Where positions of a part (0: the prefix) lie among all."""
        return sum(self.sizes[:part]) + rows * self.shapes[part][1] + columns

    def views(self, x: Tensor) -> list[Tensor]:
        return [part.unflatten(0, shape) for part, shape in zip(x.split(self.sizes), self.shapes, strict=True)]


def run(model: Pythia | Mamba, prefix: Tensor, blocks: list[EmbeddedBlock]) -> Passed:
    """Hidden states of all questions; `prefix` is (B, P, D), already embedded."""
    flat = _Flat(prefix, blocks)
    asked = [flat.places(part, block.rows, block.columns) for part, block in enumerate(blocks, 1)]
    x, middle = _layers(model, flat, blocks, torch.cat(asked))
    return Passed(middle[0], middle[1:], final_norm(model)(x))


def run_whole(model: Pythia | Mamba, sequences: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (n, L, D) half-way of whole prompts that share nothing, and (N, D) after the final norm.

    `sequences` (n, L, D) are right-padded: no position sees what comes behind it.
    """
    flat = _Flat(sequences, [])
    x, middle = _layers(model, flat, [], flat.places(0, rows, columns))
    return middle[0], final_norm(model)(x)


def final_norm(model: Pythia | Mamba) -> nn.Module:
    return model.final_layer_norm if isinstance(model, Pythia) else model.norm_f


def _layers(
    model: Pythia | Mamba, flat: _Flat, blocks: list[EmbeddedBlock], asked: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The positions asked for (N, D) before the final norm, and all of them as views half-way."""
    x = flat.x
    tables = _rotary(model, flat, x) if isinstance(model, Pythia) else None
    middle: list[Tensor] = []
    for index, layer in enumerate(model.layers):
        if index == len(model.layers) // 2:
            middle = flat.views(x)
        only = asked if index == len(model.layers) - 1 else None
        kept = x if only is None else x.index_select(0, only)
        if isinstance(layer, PythiaLayer):
            assert tables is not None
            attended = _attention(layer.attention, flat, layer.input_layernorm(x), blocks, tables, only)
            x = kept + attended + layer.mlp(layer.post_attention_layernorm(kept))
        elif isinstance(layer, MambaLayer):
            x = kept + _mixer(layer.mixer, flat, layer.norm(x), blocks, only)
    return x, middle


def _rotary(model: Pythia, flat: _Flat, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """cos and sin for the prefix, then for each block, whose positions go on where the prefix ends."""
    start = flat.shapes[0][1]
    longest = start + max((length for _, length in flat.shapes[1:]), default=0)
    cos, sin = rotary_table(model.config, longest, x.device, x.dtype)
    spans = [(0, start), *((start, start + length) for _, length in flat.shapes[1:])]
    return [(cos[low:high], sin[low:high]) for low, high in spans]


def _attention(
    module: Attention,
    flat: _Flat,
    x: Tensor,
    blocks: list[EmbeddedBlock],
    tables: list[tuple[Tensor, Tensor]],
    only: Tensor | None,
) -> Tensor:
    """What attention adds to all positions, or to those that `only` names; a prefix alone is never asked for."""

    def heads(part: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = part.unflatten(-1, (module.heads, 3 * module.head_size)).transpose(1, 2).chunk(3, dim=-1)
        return rotate(q, *table), rotate(k, *table), v

    parts = [heads(part, table) for part, table in zip(flat.views(module.query_key_value(x)), tables, strict=True)]
    q, prefix_k, prefix_v = parts[0]
    alone = only is None or not blocks  # whether the prefix's own output is read
    outs = [F.scaled_dot_product_attention(q, prefix_k, prefix_v, is_causal=True)] if alone else []
    positions = prefix_k.shape[2]
    for block, (q, k, v) in zip(blocks, parts[1:], strict=True):
        length = q.shape[2]
        seen = torch.ones(length, positions + length, dtype=torch.bool, device=q.device).tril(positions)
        k = torch.cat([prefix_k.index_select(0, block.prefix), k], dim=2)
        v = torch.cat([prefix_v.index_select(0, block.prefix), v], dim=2)
        outs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))
    rows = torch.cat([out.transpose(1, 2).flatten(2).flatten(0, 1) for out in outs])
    if only is not None:
        rows = rows.index_select(0, only - (flat.x.shape[0] - rows.shape[0]))
    return module.dense(rows)


def _mixer(module: Mixer, flat: _Flat, hidden: Tensor, blocks: list[EmbeddedBlock], only: Tensor | None) -> Tensor:
    """What a Mamba block adds to all positions, or to those that `only` names: the gate follows the recurrence."""
    gates: list[Tensor] | list[None]
    if only is None:
        x, z = module.in_proj(hidden).chunk(2, dim=-1)
        gates = flat.views(z)
    else:
        weights = module.in_proj.weight.chunk(2)
        biases = (None, None) if module.in_proj.bias is None else module.in_proj.bias.chunk(2)
        x, z = F.linear(hidden, weights[0], biases[0]), F.linear(hidden.index_select(0, only), weights[1], biases[1])
        gates = [None] * len(flat.shapes)
    before: Tensor | None
    window: Tensor | None = None
    convolved: list[Tensor] = []
    for index, part in enumerate(flat.views(x)):
        before = None if window is None else window.index_select(0, blocks[index - 1].prefix)
        y, inputs = dispatch.causal_conv(part.transpose(1, 2), module.conv1d.weight[:, 0], module.conv1d.bias, before)
        window = inputs if index == 0 else window
        convolved.append(y.transpose(1, 2).flatten(0, 1))
    x = torch.cat(convolved)
    dt, B, C = module.x_proj(x).split(module.sizes, dim=-1)
    dt = F.linear(dt, module.dt_proj.weight)
    A, D, bias = module.recurrence()
    outs: list[Tensor] = []
    state: Tensor | None = None
    for index, (*parts, gated) in enumerate(zip(*map(flat.views, (x, dt, B, C)), gates, strict=True)):
        before = None if state is None else state.index_select(0, blocks[index - 1].prefix)
        u, delta, b, c = (part.transpose(1, 2) for part in parts)
        gate = None if gated is None else gated.transpose(1, 2)
        y, after = dispatch.selective_scan(ScanInputs(u, delta, A, b, c, D, gate, bias, before))
        state = after if index == 0 else state
        outs.append(y.transpose(1, 2).flatten(0, 1))
    rows = torch.cat(outs)
    return module.out_proj(rows if only is None else rows.index_select(0, only) * F.silu(z))
