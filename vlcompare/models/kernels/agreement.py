"""Kernels beside the plain torch functions: the same random numbers through both, in the shapes of a real call.

That a library is installed or compiles is not enough: built for another torch or another GPU it imports and then
fails, or computes something else. `case_of` says how a call is compiled; `difference` tries a kernel for such a case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.autograd import needs_gradient
from vlcompare.models.kernels.reference import MixWeights, NormModule, ScanInputs
from vlcompare.models.kernels.verdicts import Case, known, may_be_tried, settle

_POSITIONS = 75  # several chunks of a scan, and a part of one
_BATCH = 2
# largest difference allowed, relative to the largest value; products of a rank are summed in another order
_WIDE, _HALF, _GRADIENT = 1e-4, 2e-2, 1e-3
_EXACT = {"add_norm": 1}  # results of a function, from the first one on, that must be equal to the bit


def allowed(case: Case) -> float:
    """The largest difference with which a kernel counts as right."""
    if ("trained", 1) in case.sizes and case.dtype == torch.float32:
        return _GRADIENT
    return _WIDE if case.dtype == torch.float32 else _HALF


def agrees(case: Case, kernel: Callable[..., Any], device: torch.device) -> bool:
    """Whether `kernel` may be called for this case: it is tried now, unless its verdict is known.

    False in the middle of a capture, where nothing can be tried, and where memory does not suffice. Raises what leaves
    the device unusable.
    """
    proof = known(case, device)
    if proof is None and may_be_tried(case, device):
        proof = settle(case, device, lambda: difference(case, kernel, device), allowed(case))
    return proof is not None and proof.agrees


# ---- how a call is compiled ------------------------------------------------------------------------------------------


def case_of(accelerator: str, function: str, *arguments: Any) -> Case:
    """The case of a call with these arguments, whose batch and length do not matter."""
    sizes, dtype = _SIZES[function](*arguments)
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
    "norm_product": lambda terms, norm, weight, bias: (
        {**_norm_sizes(terms, (norm,))[0], "outputs": weight.shape[0], "shifted": bias is not None}, weight.dtype
    ),
    "gelu_product": lambda x, weight, bias: (
        {"width": x.shape[-1], "outputs": weight.shape[0], "shifted": bias is not None}, weight.dtype
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
        return self(_BATCH, _POSITIONS, width).transpose(1, 2) if dense else self(_BATCH, width, _POSITIONS)


def _scan_arguments(random: _Random, sizes: dict[str, int], *, many: bool, projected: bool = False) -> tuple[Any, ...]:
    width, states, rank = sizes["width"], sizes["states"], sizes["rank"]
    if many:
        u, delta, z = (random.along(width, bool(sizes["dense"])) for _ in range(3))
        B, C = (random.along(states, bool(sizes["dense"])) for _ in range(2))
    else:
        u, delta, z = random(_BATCH, width), random(_BATCH, rank), random(_BATCH, width)
        B, C = random(_BATCH, states), random(_BATCH, states)
    A = -random.wide(width, states).abs()
    D, bias = random.wide(width), random.wide(width)
    state = random.wide(_BATCH, width, states)
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
    window = random.wide(_BATCH, width, before) if sizes["started"] else None
    return random.along(width, bool(sizes["dense"])), random(width, before + 1), bias, window


def _conv_step_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, taps = sizes["width"], sizes["taps"]
    bias = random(width) if sizes["biased"] else None
    return random.wide(_BATCH, width, taps - 1), random(_BATCH, width), random(width, taps), bias


def _attention_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    """Rows of different lengths, in a cache that is not full."""
    heads, capacity, size, rotated = 3, 300, sizes["size"], sizes["rotated"]
    qkv = random(_BATCH, heads, 3, size)
    keys, values = (random(_BATCH, heads, capacity, size) for _ in range(2))
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
    return [random(_BATCH, 3, width) + 1 for _ in range(sizes["terms"])], norms


def _product_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, outputs = sizes["width"], sizes["outputs"]
    return random(outputs, width) / width**0.5, random(outputs) if sizes["shifted"] else None


def _norm_product_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    terms, (norm,) = _norm_arguments(random, sizes)
    return terms, norm, *_product_arguments(random, sizes)


def _mix_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    width, states, rank, taps = (sizes[name] for name in ("width", "states", "rank", "taps"))
    weights = MixWeights(
        random(width, taps), random(width) if sizes["biased"] else None, random(rank + 2 * states, width) / width**0.5,
        random(width, rank) / rank**0.5, -random.wide(width, states).abs(), random.wide(width), random.wide(width),
    )  # fmt: skip
    return random.wide(_BATCH, width, taps - 1), random.wide(_BATCH, width, states), random(_BATCH, 2 * width), weights


def _greedy_arguments(random: _Random, sizes: dict[str, int]) -> tuple[Any, ...]:
    return random(_BATCH, sizes["vocabulary"]) * 4, sizes["count"]


def _greedy(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    logprobs, ids = torch.log_softmax(logits.double(), dim=-1).topk(count, dim=-1)
    return ids[:, 0], torch.cat([ids[:, :1].double(), logprobs[:, :1], ids.double(), logprobs], dim=1)


_ARGUMENTS: dict[str, Callable[[_Random, dict[str, int]], tuple[Any, ...]]] = {
    "selective_scan": lambda random, sizes: _scan_arguments(random, sizes, many=True),
    "selective_step": lambda random, sizes: _scan_arguments(random, sizes, many=False),
    "projected_step": lambda random, sizes: _scan_arguments(random, sizes, many=False, projected=True),
    "causal_conv": _conv_arguments,
    "conv_step": _conv_step_arguments,
    "rotate_and_attend": _attention_arguments,
    "add_norm": _norm_arguments,
    "norm_product": _norm_product_arguments,
    "gelu_product": lambda random, sizes: (random(_BATCH, sizes["width"]), *_product_arguments(random, sizes)),
    "mix_step": _mix_arguments,
    "greedy": _greedy_arguments,
}


# ---- the comparison --------------------------------------------------------------------------------------------------


def difference(case: Case, kernel: Callable[..., Any], device: torch.device) -> float | None:
    """The largest difference between the kernel's results, and what it writes to, and the reference's.

    Relative to the reference's largest value, or absolute where that is below 1. Infinite where a result must be equal
    and is not; None where the kernel does not take such arguments. Raises what the kernel raises.
    """
    sizes = dict(case.sizes)
    truth_of = _greedy if case.function == "greedy" else getattr(reference, case.function)
    work = _with_gradients if sizes.get("trained") else _without_gradients
    given = _ARGUMENTS[case.function](_Random(device, case.dtype), sizes)
    ours, truth = work(kernel, given), work(truth_of, given)
    if ours is None or truth is None:
        return None
    exact = _EXACT.get(case.function, 0)
    if any(not torch.equal(one, other) for one, other in zip(ours[:exact], truth[:exact], strict=True)):
        return float("inf")
    if case.function == "greedy":  # ids and log-probabilities lie in one tensor: absolute
        if not _ids_stay_inside(kernel, given):
            return float("inf")
        return max(float((one.double() - other.double()).abs().max()) for one, other in zip(ours, truth, strict=True))
    return max(apart(one, other) for one, other in zip(ours, truth, strict=True))


@torch.inference_mode()
def _ids_stay_inside(greedy: Callable[..., Any], given: tuple[Any, ...]) -> bool:
    """Whether ids are in the vocabulary where logits are no numbers: others would end the process at the next step."""
    logits, count = given
    first = torch.zeros(1, dtype=torch.long, device=logits.device)
    for value in (float("nan"), float("inf"), float("-inf")):
        for damaged in (torch.full_like(logits, value), logits.index_fill(1, first, value)):
            ids, packed = greedy(damaged, count)
            if bool((ids < 0).any() | (ids >= logits.shape[1]).any()):
                return False
            if value > 0 and bool(packed[:, 1].isfinite().any()):  # what is not a number must be seen
                return False
    return True


def apart(ours: Tensor, truth: Tensor) -> float:
    """Largest difference, relative to the truth's largest value where that is above 1."""
    if ours.shape != truth.shape or ours.dtype != truth.dtype and ours.dtype.is_floating_point is False:
        return float("inf")
    if not truth.numel():
        return 0.0
    ours, truth = ours.float(), truth.float()
    return float((ours - truth).abs().max() / truth.abs().max().clamp(min=1.0))


def _copied(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """With tensors of the same strides."""
    return tree_map(lambda x: x.clone(memory_format=torch.preserve_format) if isinstance(x, Tensor) else x, given)


def _without_gradients(function: Callable[..., Any], given: tuple[Any, ...]) -> list[Tensor] | None:
    with torch.inference_mode():
        copies = _copied(given)
        results = function(*copies)
    if results is None:
        return None
    return [x for x in tree_leaves((results, copies)) if isinstance(x, Tensor)]


def _with_gradients(function: Callable[..., Any], given: tuple[Any, ...]) -> list[Tensor] | None:
    """Outputs and the gradients of all inputs."""
    with torch.inference_mode(False), torch.enable_grad():
        leaves = tree_map(lambda x: x.detach().clone().requires_grad_() if isinstance(x, Tensor) else x, given)
        results = function(*leaves)
        if results is None:
            return None
        total = torch.zeros((), device=results[0].device)
        for number, result in enumerate(results):
            weights = torch.arange(result.numel(), device=result.device).view(result.shape) % 7 - 3 + number
            total = total + (result.float() * weights).sum() / result.numel() ** 0.5
        total.backward()
    inputs = [x for x in tree_leaves(leaves) if isinstance(x, Tensor)]
    return [*(result.detach() for result in results), *(x.grad for x in inputs if x.grad is not None)]
