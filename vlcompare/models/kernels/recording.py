"""Recording a CUDA graph: one at a time in the process, whichever thread asks.

torch allows no more than that: where a recording begins it waits for the whole device and gives unused memory back, and
either would spoil one that is under way in another thread (two sides of a race on one GPU, a model that is being loaded
meanwhile). Ordinary work in other threads goes on. Knows nothing of what is recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_one_at_a_time = threading.Lock()


@contextmanager
def recording(device: torch.device, stream: Any, pool: Any = None) -> Iterator[Any]:
    """What is launched inside is recorded on `stream`, not run; gives the torch.cuda.CUDAGraph that will replay it."""
    graph = torch.cuda.CUDAGraph()
    with _one_at_a_time, torch.cuda.device(device):
        before = torch.cuda.current_stream(device)
        try:
            # thread_local: other threads may be at work on the device meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                yield graph
        finally:
            torch.cuda.set_stream(before)  # a recording that fails can leave its own stream behind


def release_cached_memory() -> None:
    """Give memory that torch keeps but nobody uses back to the GPUs; never in the middle of a recording."""
    if torch.cuda.is_available():
        with _one_at_a_time:
            torch.cuda.empty_cache()
