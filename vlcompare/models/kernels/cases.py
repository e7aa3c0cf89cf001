"""Calls of kernels as cases: how one is compiled, and random arguments for it in the shapes of a real call.

A case's sizes and flags are what the kernel is compiled for; batch and length do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vlcompare.models.kernels import early_launch
from vlcompare.models.kernels.autograd import needs_gradient
from vlcompare.models.kernels.packed_format import BLOCK
from vlcompare.models.kernels.reference import MixWeights, Nf4Weight, NormModule, ScanInputs
from vlcompare.models.kernels.verdicts import Case

POSITIONS = 75  # several chunks of a scan, and a part of one
BATCH = 2


# ---- how a call is compiled ------------------------------------------------------------------------------------------


def case_of(accelerator: str, function: str, *arguments: Any) -> Case:
    """The case of a call with these arguments, whose batch and length do not matter."""
    sizes, dtype = _SIZES[function](*arguments)
    if function in early_launch.FUNCTIONS and early_launch.anywhere():
        first = next(x for x in tree_leaves(arguments) if isinstance(x, Tensor))
        if early_launch.is_on(first.device):
            sizes = {**sizes, "early": 1}
    return Case(accelerator, function, dtype, tuple((name, int(value)) for name, value in sizes.items()))


def _scan_sizes(inputs: ScanInputs) -> tuple[dict[str, int], torch.dtype]:
    u, delta, A, _, _, D, z, bias, initial, smooth = inputs
    flags = {"skip": D is not None, "gated": z is not None, "biased": bias is not None, "smooth": smooth}
    if u.dim() == 3:
        flags |= {"started": initial is not None, "trained": needs_gradient(*inputs), "dense": u.stride(1) == 1}
    return {"width": u.shape[1], "states": A.shape[1], "rank": delta.shape[1], **flags}, u.dtype


def _conv_sizes(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> Any:
    return {"width": x.shape[1], "taps": weight.shape[1], "biased": bias is not None, "started": window is not None,
            "dense": x.stride(1) == 1}, x.dtype  # fmt: skip


def _norm_sizes(terms: Sequence[Tensor], norms: Sequence[NormModule]) -> Any:
    centred, biased = isinstance(norms[0], nn.LayerNorm), getattr(norms[0], "bias", None) is not None
    return {"width": terms[0].shape[-1], "terms": len(terms), "norms": len(norms), "centred": centred,
            "biased": biased}, terms[0].dtype  # fmt: skip


def _mix_sizes(window: Tensor, state: Tensor, xz: Tensor, weights: MixWeights) -> Any:
    return {"width": state.shape[1], "states": state.shape[2], "rank": weights.dt_proj.shape[1],
            "taps": weights.conv.shape[1], "biased": weights.conv_bias is not None}, xz.dtype  # fmt: skip


_SIZES: dict[str, Callable[..., tuple[dict[str, int], torch.dtype]]] = {
    "selective_scan": _scan_sizes,
    "selective_step": lambda state, inputs: _scan_sizes(inputs),
    "projected_step": lambda state, inputs, weight: _scan_sizes(inputs),
    "causal_conv": _conv_sizes,
    "conv_step": lambda window, x, weight, bias: (
        {"width": x.shape[1], "taps": weight.shape[1], "biased": bias is not None}, x.dtype
    ),
    "rotate_and_attend": lambda keys, cos: ({"size": keys.shape[-1], "rotated": cos.shape[1]}, keys.dtype),
    "add_norm": _norm_sizes,
    "norm_product": lambda terms, norm, weight, bias, gelu: (
        {**_norm_sizes(terms, (norm,))[0], "outputs": weight.shape[0], "shifted": bias is not None, "gelu": gelu},
        weight.dtype,
    ),
    "nf4_norm_product": lambda terms, norm, weight, bias, gelu: (
        {**_norm_sizes(terms, (norm,))[0], "outputs": weight.rows, "shifted": bias is not None, "gelu": gelu},
        terms[0].dtype,
    ),
    "row_product": lambda x, weight, bias, wide: (
        {"width": x.shape[-1], "outputs": weight.shape[0], "shifted": bias is not None, "wide": wide}, weight.dtype
    ),
    "nf4_product": lambda x, weight, bias: (
        {"width": weight.columns, "outputs": weight.rows, "shifted": bias is not None}, x.dtype
    ),
    "int8_rows": lambda x: ({"width": x.shape[1]}, x.dtype),
    "int8_result": lambda sums, rows, columns, bias, dtype: (
        {"outputs": sums.shape[1], "shifted": bias is not None}, dtype
    ),
    "mix_step": _mix_sizes,
    "greedy": lambda logits, count: ({"vocabulary": logits.shape[-1], "count": count}, logits.dtype),
}  # fmt: skip


# ---- random arguments for a case -------------------------------------------------------------------------------------


class _Random:
    """Normally distributed tensors on a device, the same ones each time."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device, dtype or self.dtype)

    def wide(self, *shape: int) -> Tensor:
        return self(*shape, dtype=torch.float32)

    def along(self, width: int, dense: bool) -> Tensor:
        """(B, width, L), whose channels lie side by side in memory where `dense`."""
        return self(BATCH, POSITIONS, width).transpose(1, 2) if dense else self(BATCH, width, POSITIONS)


def _scan_arguments(random: _Random, sizes: dict[str, int], *, many: bool, projected: bool = False) -> tuple[Any, ...]:
    width, states, rank = sizes["width"], sizes["states"], sizes["rank"]
    if many:
        u, delta, z = (random.along(width, bool(sizes["dense"])) for _ in range(3))
        B, C = (random.along(states, bool(sizes["dense"])) for _ in range(2))
    else:
        u, delta, z = random(BATCH, width), random(BATCH, rank), random(BATCH, width)
        B, C = random(BATCH, states), random(BATCH, states)
    A = -random.wide(width, states).abs()
    D, bias = random.wide(width), random.wide(width)
    state = random.wide(BATCH, width, states)
    inputs = ScanInputs(
        u, delta, A, B, C, D if sizes["skip"] else None, z if sizes["gated"] else None,
        bias if sizes["biased"] else None, state if sizes.get("started") else None, bool(sizes["smooth"]),
    )  # fmt: skip
    if many:
        return (inputs,)
    return (state, inputs, random(width, rank) / rank**0.5) if projected else (state, inputs)


def _conv_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, before = sizes["width"], sizes["taps"] - 1
    bias = random(width) if sizes["biased"] else None
    window = random.wide(BATCH, width, before) if sizes["started"] else None
    return random.along(width, bool(sizes["dense"])), random(width, before + 1), bias, window


def _conv_step_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, taps = sizes["width"], sizes["taps"]
    bias = random(width) if sizes["biased"] else None
    return random.wide(BATCH, width, taps - 1), random(BATCH, width), random(width, taps), bias


def _attention_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    """Rows of different lengths, in a cache that is not full."""
    heads, capacity, size, rotated = 3, 300, sizes["size"], sizes["rotated"]
    qkv = random(BATCH, heads, 3, size)
    keys, values = (random(BATCH, heads, capacity, size) for _ in range(2))
    angles = torch.outer(torch.arange(capacity), 0.1 ** torch.arange(rotated // 2)).repeat(1, 2)
    sign = torch.tensor([-1.0, 1.0]).repeat_interleave(rotated // 2, output_size=rotated)
    cos, sin = (table.to(random.device, random.dtype) for table in (angles.cos(), angles.sin() * sign))
    return qkv, cos, sin, torch.tensor([270, 7]).to(random.device), keys, values


def _norm_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, kind = sizes["width"], nn.LayerNorm if sizes["centred"] else nn.RMSNorm
    norms = []
    for _ in range(sizes["norms"]):
        norm = kind(width, eps=1e-5, device="meta")
        for name, value in norm._parameters.items():
            if value is not None:
                norm._parameters[name] = nn.Parameter(random(width), requires_grad=False)
        if sizes["centred"] and not sizes["biased"]:
            norm.register_parameter("bias", None)
        norms.append(norm)
    return [random(BATCH, 3, width) + 1 for _ in range(sizes["terms"])], norms


def _product_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, outputs = sizes["width"], sizes["outputs"]
    return random(outputs, width) / width**0.5, random(outputs) if sizes["shifted"] else None


def _norm_product_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    terms, (norm,) = _norm_arguments(random, sizes)
    return terms, norm, *_product_arguments(random, sizes), bool(sizes["gelu"])


def _nf4_norm_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    terms, (norm,) = _norm_arguments(random, sizes)
    return [term[0, :1] for term in terms], norm, *_nf4_arguments(random, sizes)[1:], bool(sizes["gelu"])


def _nf4_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    columns, rows = sizes["width"], sizes["outputs"]
    packed = torch.randint(0, 256, (rows * columns // 2, 1), generator=random.generator, dtype=torch.uint8)
    absmax = torch.rand(rows * columns // BLOCK, generator=random.generator) + 0.5
    weight = Nf4Weight(packed.to(random.device), (absmax / columns**0.5).to(random.device), rows, columns)
    return random(1, columns), weight, random(rows) if sizes["shifted"] else None


def _mix_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, states, rank, taps = (sizes[name] for name in ("width", "states", "rank", "taps"))
    weights = MixWeights(
        random(width, taps), random(width) if sizes["biased"] else None, random(rank + 2 * states, width) / width**0.5,
        random(width, rank) / rank**0.5, -random.wide(width, states).abs(), random.wide(width), random.wide(width),
    )  # fmt: skip
    return random.wide(BATCH, width, taps - 1), random.wide(BATCH, width, states), random(BATCH, 2 * width), weights


def _greedy_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    return random(BATCH, sizes["vocabulary"]) * 4, sizes["count"]


_ARGUMENTS: dict[str, Callable[[_Random, dict[str, int]], tuple[Any, ...]]] = {
    "selective_scan": lambda random, sizes: _scan_arguments(random, sizes, many=True),
    "selective_step": lambda random, sizes: _scan_arguments(random, sizes, many=False),
    "projected_step": lambda random, sizes: _scan_arguments(random, sizes, many=False, projected=True),
    "causal_conv": _conv_arguments,
    "conv_step": _conv_step_arguments,
    "rotate_and_attend": _attention_arguments,
    "add_norm": _norm_arguments,
    "norm_product": _norm_product_arguments,
    "nf4_norm_product": _nf4_norm_arguments,
    "row_product": lambda random, sizes: (
        random(1, sizes["width"]),
        *_product_arguments(random, sizes),
        bool(sizes["wide"]),
    ),
    "nf4_product": _nf4_arguments,
    "int8_rows": lambda random, sizes: (random(BATCH, sizes["width"]),),
    "int8_result": lambda random, sizes: (
        (random.wide(BATCH, sizes["outputs"]) * 1e5).to(torch.int32),
        random.wide(BATCH).abs(),
        random.wide(sizes["outputs"]).abs(),
        random(sizes["outputs"]) if sizes["shifted"] else None,
        random.dtype,
    ),
    "mix_step": _mix_arguments,
    "greedy": _greedy_arguments,
}


def arguments(case: Case, device: torch.device) -> tuple[Any, ...]:
    """Random arguments of a call that is such a case, the same ones each time."""
    return _ARGUMENTS[case.function](_Random(device, case.dtype), dict(case.sizes))
