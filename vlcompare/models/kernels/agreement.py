"""Kernels beside the plain torch functions: the same random numbers through both, in the shapes of a real call.

That a library is installed or compiles is not enough: built for another torch or another GPU it imports and then
fails, or computes something else. `difference` tries a kernel for a case, `call` calls it where it was found right and,
where there is something that it takes the place of, faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from vlcompare.models.kernels import early_launch, fallback, reference, speed, verdicts
from vlcompare.models.kernels.cases import arguments, case_of
from vlcompare.models.kernels.scoped import scoped
from vlcompare.models.kernels.verdicts import Case, Proof

# largest difference allowed, relative to the largest value; products of a rank are summed in another order
_WIDE, _HALF, _GRADIENT = 1e-4, 2e-2, 1e-3
_EXACT = {"add_norm": 1}  # results of a function, from the first one on, that must be equal to the bit


def allowed(case: Case) -> float:
    """The largest difference with which a kernel counts as right."""
    if ("trained", 1) in case.sizes and case.dtype == torch.float32:
        return _GRADIENT
    return _WIDE if case.dtype == torch.float32 else _HALF


_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def trusting() -> AbstractContextManager[None]:
    """Inside, this thread calls every kernel unasked: where what is asked is something else than its numbers."""
    return scoped(_trusted, True)


def agrees(case: Case, kernel: Callable[..., Any], device: torch.device) -> bool:
    """Whether `kernel` is to be called for this case: it is tried now, unless its verdict is known.

    False in the middle of a capture, where nothing can be tried, and where memory does not suffice. Raises what leaves
    the device unusable.
    """
    if fallback.failed(case.accelerator) or not speed.can_be_told(case):
        return False
    if _trusted.get():
        return True
    proof = verdicts.known(case, device)
    if proof is None and verdicts.may_be_tried(case, device):
        elsewhere = verdicts.elsewhere if device.type == "cuda" else None
        proof = settle(case, kernel, device) if elsewhere is None else elsewhere(case, device, kernel)
    return proof is not None and proof.agrees


def settle(
    case: Case, kernel: Callable[..., Any], device: torch.device, rival: Callable[..., Any] | None = None
) -> Proof | None:
    """A verdict in this process: of the kernel's numbers, then of its time beside that of what it replaces.

    rival: as in `speed.compare`. None where memory does not suffice.
    """
    numbers = functools.partial(difference, case, kernel, device)
    times = functools.partial(speed.compare, case, kernel, device, rival)
    with early_launch.forced(("early", 1) in case.sizes):
        return verdicts.settle(case, device, numbers, allowed(case), times)


def attempt(case: Case, device: torch.device, work: Callable[..., Any], *given: Any) -> Any:
    """work(*given), or None where that raises; the case, and it alone, is then given up in this process.

    Raises a lack of memory, and what leaves the device unusable.
    """
    try:
        return work(*given)
    except Exception as error:  # whatever a compiler, a driver or a foreign extension raises
        verdicts.withdraw(case, device, error)
    return None


def call(accelerator: str, module: str, function: str, device: torch.device, *given: Any) -> Any:
    """What a kernel of a module ("cuda.mix") makes of these arguments; None where it is not to be called for them.

    A kernel fails, if at all, before it changes anything.
    """
    if fallback.failed(accelerator):
        return None
    case = case_of(accelerator, function, *given)
    kernel = functools.partial(fallback.load_and_call, module, function)
    return attempt(case, device, kernel, *given) if agrees(case, kernel, device) else None


def _greedy(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    logprobs, ids = torch.log_softmax(logits.double(), dim=-1).topk(count, dim=-1)
    return ids[:, 0], torch.cat([ids[:, :1].double(), logprobs[:, :1], ids.double(), logprobs], dim=1)


# ---- the comparison --------------------------------------------------------------------------------------------------


def difference(case: Case, kernel: Callable[..., Any], device: torch.device) -> float | None:
    """The largest difference between the kernel's results, and what it writes to, and the reference's.

    Relative to the reference's largest value, or absolute where that is below 1. Infinite where a result must be equal
    and is not; None where the kernel does not take such arguments. Raises what the kernel raises.
    """
    sizes = dict(case.sizes)
    truth_of = _greedy if case.function == "greedy" else getattr(reference, case.function)
    work = _with_gradients if sizes.get("trained") else _without_gradients
    given = arguments(case, device)
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
