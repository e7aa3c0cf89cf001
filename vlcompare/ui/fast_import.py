"""Importing gradio in half the time, so that the page opens soon.

At every import gradio writes type stubs (.pyi) beside its own components, which parses each component's source again
and takes as long as all the rest. It leaves that out for classes that have no file; so that is what it is told here,
for its own classes and for the time of the import only. Nothing at run time depends on the stubs.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any


def import_gradio() -> None:
    """Import gradio without its stubs being written; does nothing where it is imported already."""
    if "gradio" in sys.modules:
        return
    original = inspect.getfile

    def getfile(object: Any) -> str:
        if isinstance(object, type) and object.__module__.startswith("gradio."):
            raise OSError("told so by vlcompare: no stubs are wanted")
        return original(object)

    inspect.getfile = getfile
    try:
        importlib.import_module("gradio")
    finally:
        inspect.getfile = original
