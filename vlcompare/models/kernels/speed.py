"""Whether a product's kernel takes less time on this GPU than what it replaces: timed where its numbers are proved.

Whether a kernel of our own reads weights faster than cuBLAS or bitsandbytes depends on the card, so that is a verdict
as well. Both are replayed from CUDA graphs, as a decode step is, in turn, so that a clock that changes is unfair to
neither, and over as many copies of the weights as do not fit into the GPU's cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from vlcompare.models.kernels import fallback
from vlcompare.models.kernels.cases import arguments
from vlcompare.models.kernels.cuda.graph_capture import CudaCapturer
from vlcompare.models.kernels.reference import NormModule
from vlcompare.models.kernels.verdicts import Case

ROUNDS = 7
MAX_COPIES = 24  # of the weights
_CACHE = 64 << 20  # bytes, where a GPU does not tell the size of its cache

Work = Callable[..., Any]


def norm_then(product: Work, terms: Any, norm: NormModule, gelu: bool) -> Any:
    """What a product with its norm, and GELU where asked, takes the place of."""
    _, (normed,) = fallback.load_and_call("cuda.norm_and_argmax", "add_norm", terms, (norm,))
    y = product(normed)
    return F.gelu(y) if gelu else y


def _norm_product(terms: Any, norm: NormModule, weight: Tensor, bias: Tensor | None, gelu: bool) -> Any:
    return norm_then(lambda x: F.linear(x, weight, bias), terms, norm, gelu)


def _row_product(x: Tensor, weight: Tensor, bias: Tensor | None, wide: bool) -> Tensor:
    y = F.linear(x, weight, bias)
    return y.float() if wide else y


_REPLACED: dict[str, Work] = {
    "norm_product": _norm_product,
    "row_product": _row_product,
}
_TIMED = {*_REPLACED, "nf4_product", "nf4_norm_product"}


def can_be_told(case: Case) -> bool:
    """Whether the time of such a kernel does not matter, or can be taken: launched one by one, the host's is longer."""
    return case.function not in _TIMED or not fallback.failed("graphs")


def compare(
    case: Case, kernel: Work, device: torch.device, rival: Callable[..., Work] | None
) -> tuple[float, float] | None:
    """Microseconds of the kernel and of what it replaces; None where the time does not matter, and on a CPU.

    rival: makes what is replaced, to be called without arguments, from those of the kernel; by default torch's.
    """
    if case.function not in _TIMED or device.type != "cuda":
        return None
    with torch.inference_mode():
        first = _one_row(case.function, arguments(case, device))
        copies = [first, *(_copied(first) for _ in range(_copies(first, device) - 1))]
        ours = [functools.partial(kernel, *given) for given in copies]
        make = rival or (lambda *given: functools.partial(_REPLACED[case.function], *given))
        theirs = [make(*given) for given in copies]
        return measured(ours, theirs, device)


def measured(ours: Sequence[Work], theirs: Sequence[Work], device: torch.device) -> tuple[float, float]:
    """Microseconds of one call of each kind, the least of some rounds."""
    replays = [_recorded(calls, device) for calls in (ours, theirs)]
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for which, replay in enumerate(replays):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            replay()
            end.record()
            end.synchronize()
            best[which] = min(best[which], 1e3 * begin.elapsed_time(end) / len(ours))
    return best[0], best[1]


def _recorded(calls: Sequence[Work], device: torch.device) -> Callable[[], None]:
    capturer = CudaCapturer(device)

    def work() -> list[Any]:
        return [call() for call in calls]

    capturer.warm(work)  # first calls set libraries up, which no recording allows
    replay, kept = capturer.capture(work)
    return lambda kept=kept: replay()  # type: ignore[misc]  # the results' memory is the graph's


def _one_row(function: str, given: tuple[Any, ...]) -> tuple[Any, ...]:
    if function == "norm_product":
        return [term[0, :1] for term in given[0]], *given[1:]
    if function == "nf4_norm_product":
        return given
    return given[0][:1], *given[1:]


def _copied(given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, given)


def _copies(given: tuple[Any, ...], device: torch.device) -> int:
    """How many copies of the weights do not fit into the cache together, twice over."""
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or _CACHE
    size = sum(x.nbytes for x in tree_leaves(given) if isinstance(x, Tensor))
    return max(1, min(MAX_COPIES, -(-2 * cache // max(1, size))))
