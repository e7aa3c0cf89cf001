"""Imports gradio in half the time, so that the page opens sooner.

At every import gradio writes type stubs (.pyi) beside its own components, which parses each component's source again
and takes as long as all the rest. It skips classes without a source file, so during the import its own classes
appear to have none. Nothing at run time depends on the stubs.
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
            raise OSError("no stubs are written")
        return original(object)

    inspect.getfile = getfile
    try:
        importlib.import_module("gradio")
    finally:
        inspect.getfile = original
