"""The OpenMP library that torch has loaded, and how many of its threads the calling thread uses.

torch.set_num_threads sets this for the calling thread, but also what every new thread of the program starts with. An
answer that needs fewer threads than the program uses must not change that, so `at_most` calls OpenMP and MKL, whose
own settings concern the calling thread alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

NAMES = ("GOMP_parallel", "omp_get_num_threads", "omp_get_thread_num", "GOMP_barrier")
T = TypeVar("T")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded, or None if it lacks GNU OpenMP's interface."""
    folder = Path(torch.__file__).parent
    folders = (folder / "lib", folder.parent / "torch.libs", folder.parent / "torch.libs.d")
    files = [file for each in folders for file in sorted(each.glob("*omp*"))]
    for file in files:
        with contextlib.suppress(OSError):
            loaded = ctypes.CDLL(str(file))  # already loaded: this only returns a handle
            if all(hasattr(loaded, name) for name in NAMES):
                return loaded
    return None


def threads() -> int:
    """How many threads a compiled loop may use: torch's number, or one where its OpenMP library cannot be called."""
    return torch.get_num_threads() if library() is not None else 1


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Let the calling thread use no more than `count` threads for what it computes inside; other threads keep theirs.

    count: at least 1. Changes nothing where torch's OpenMP library cannot be called.
    """
    before = torch.get_num_threads()  # torch initialises its own number here, at a thread's first call
    omp = library()
    if omp is None or before <= count:
        yield
        return
    mkl = _mkl_set_num_threads_local()
    omp.omp_set_num_threads(count)
    mkl_before = mkl(count)
    try:
        yield
    finally:
        omp.omp_set_num_threads(before)
        mkl(mkl_before)


def each_at_most(items: Generator[T, None, None], count: int) -> Iterator[T]:
    """The items of a generator that computes under `at_most`; what its consumer computes between them does not."""
    try:
        while True:
            with at_most(count):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
    finally:
        with at_most(count):
            items.close()


@functools.cache
def _mkl_set_num_threads_local() -> Any:
    """MKL's function in torch (int -> the earlier number, 0 for none), or one that does nothing in a torch without MKL.

    MKL does not follow a change of OpenMP's number.
    """
    name = "MKL_Set_Num_Threads_Local"  # the C form; that in lower case is Fortran's, which takes a pointer
    for file in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        with contextlib.suppress(OSError):
            return getattr(ctypes.CDLL(str(file)), name, lambda count: 0)
    return lambda count: 0
