"""Importing a library that mentions torch's compiler without importing the compiler.

timm builds vision encoders for us, and nothing here is compiled by torch. Yet its import brings torch._dynamo with
sympy and Triton, 150 MB of resident memory and two seconds of work: torchvision (`ops/roi_align.py`) takes a function
from it at its top, and timm (`models/naflexvit.py`) marks one with `torch.compiler.disable`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_COMPILER, _UTILITIES = "torch._dynamo", "torch._dynamo.utils"
_importing = threading.Lock()


class _Deferred(ModuleType):
    """Stands for a module until something other than the two functions below is asked of it, which imports it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """What is imported inside finds a torch._dynamo that is imported when it is first used. Changes nothing where it is
    imported already.
    """
    with _importing:
        if _COMPILER in sys.modules or (spec := importlib.util.find_spec(_COMPILER)) is None:
            yield
            return
        compiler, utilities = _Deferred(_COMPILER), _Deferred(_UTILITIES)
        compiler.__path__ = list(spec.submodule_search_locations or [])
        vars(compiler).update(disable=_disable, utils=utilities)
        vars(utilities).update(is_compile_supported=_is_compile_supported)
        sys.modules.update({_COMPILER: compiler, _UTILITIES: utilities})
        try:
            yield
        finally:
            _remove()


def _remove() -> None:
    for name in (_COMPILER, _UTILITIES):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]


def _real(name: str) -> ModuleType:
    _remove()
    return importlib.import_module(name)


def _is_compile_supported(device_type: str) -> bool:
    return bool(_real(_UTILITIES).is_compile_supported(device_type))


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    """torch._dynamo.disable, at the function's first call."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, **options)
    marked: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not marked:
            marked.append(_real(_COMPILER).disable(function, recursive, **options))
        return marked[0](*args, **kwargs)

    return call
