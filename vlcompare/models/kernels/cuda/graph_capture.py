"""Recording a CUDA graph: one at a time in the process, whichever thread asks.

torch allows no more than that: where a recording begins it waits for the whole device and gives unused memory back, and
either would spoil one that is under way in another thread (two sides of a race on one GPU, a model that is being loaded
meanwhile). Ordinary work in other threads goes on. A recording that fails leaves torch as it was before, so that the
next one can succeed.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

_one_at_a_time = threading.Lock()


@contextmanager
def recording(device: torch.device, stream: Any, pool: Any = None) -> Iterator[Any]:
    """What is launched inside is recorded on `stream`, not run; gives the torch.cuda.CUDAGraph that will replay it.

    pool: an earlier graph's memory, to be shared. Raises what went wrong first: torch itself would raise what the end
    of a spoilt recording says, which is the same whatever happened.
    """
    graph = torch.cuda.CUDAGraph()
    pool = torch.cuda.graph_pool_handle() if pool is None else pool
    cause: BaseException | None = None
    try:
        with _one_at_a_time, torch.cuda.device(device):
            before = torch.cuda.current_stream(device)
            try:
                # thread_local: other threads may be at work on the device meanwhile
                recorded = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
                with _no_collection(), recorded:
                    try:
                        yield graph
                    except BaseException as error:
                        cause = error
                        raise
            except BaseException:
                torch.cuda.set_stream(before)  # a recording that fails can leave its own stream behind
                _abandon(device, pool)
                if cause is None:
                    raise
        if cause is not None:
            raise cause  # out here, so that nothing that it refers to refers back to it
    finally:
        cause = None  # a traceback holds this frame, and through it would hold all that the recorded function held


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection in the middle of a recording might destroy other graphs, which spoils it."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Capturer(Protocol):
    """Records work on a device and replays it; tests have a fake one."""

    def warm(self, function: Callable[[], Any]) -> Any:
        """Run once, where the capture follows: libraries initialise themselves at their first call."""

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record without running. Returns a function that replays it, and the result, which each replay fills."""


class CudaCapturer:
    """torch's CUDA graphs, with one memory pool for all graphs on the same buffers: they never run at the same time.

    cuBLAS keeps a workspace for each stream (32 MB on Hopper), so the streams of freed buffers are used again.
    """

    _spare: ClassVar[dict[torch.device, list[Any]]] = {}

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: Any = None
        spare = self._spare.setdefault(device, [])
        self.stream = spare.pop() if spare else torch.cuda.Stream(device)
        weakref.finalize(self, spare.append, self.stream)

    def warm(self, function: Callable[[], Any]) -> Any:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                return function()
        finally:  # after an error, what was launched before it must not overwrite what is restored next
            current.wait_stream(self.stream)

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        with recording(self.device, self.stream, self.pool) as graph:
            result = function()
        self.pool = graph.pool()
        return graph.replay, result


def difference_of_scores(truth: Tensor, ours: Tensor, ids: Tensor | None) -> float:
    """Largest difference of scores (B, V), and how far below the largest score the chosen `ids` (B,) lie.

    Relative to the largest score. What is not a number on both sides is equal.
    """
    truth, ours = truth.float(), ours.float()
    same = (truth == ours) | (truth.isnan() & ours.isnan())
    apart = torch.where(same, 0.0, (truth - ours).abs()).amax()
    if ids is not None:
        apart = torch.maximum(apart, (truth.amax(1) - truth.gather(1, ids[:, None])[:, 0]).nan_to_num(0.0).amax())
    return float(apart / truth.nan_to_num(0.0, 0.0, 0.0).abs().amax().clamp(min=1.0))


def raise_pending(device: torch.device) -> None:
    """Raise the error that an earlier call left behind, if any.

    To be called before a library that ends the process at the first error that it sees, whosever it is.
    """
    torch.zeros(1, device=device)  # torch looks for an error behind each kernel that it launches
    torch.cuda.current_stream(device).synchronize()


def _abandon(device: torch.device, pool: Any) -> None:
    """Tell torch that no recording is under way. Before 2.12 it believes so for good where the end of one has raised.

    Its allocator then refuses to give memory back, to anyone and to every later recording ("captures_underway.empty()
    INTERNAL ASSERT FAILED"), and its default generator refuses to draw. Where torch has seen to it, each of the two
    calls changes nothing or is refused.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with contextlib.suppress(Exception):
        torch._C._cuda_endAllocateToPool(index, pool)
    with contextlib.suppress(Exception):
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())


def release_cached_memory() -> None:
    """Give memory that torch keeps but nobody uses back to the GPUs; never in the middle of a recording."""
    if torch.cuda.is_available():
        with _one_at_a_time:
            torch.cuda.empty_cache()
