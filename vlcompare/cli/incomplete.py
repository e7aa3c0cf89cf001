"""What the command line says where a library that it needs is not there, as after an installation that was stopped.

Standard library only.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from vlcompare.paths import INSTALLED, PACKAGE

# what the page cannot answer without, much of it imported by a thread once the page is up
FOR_THE_PAGE = (
    "gradio",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "PIL",
)


def require(libraries: Sequence[str]) -> None:
    """Raise ModuleNotFoundError for the first that is not installed; nothing is imported."""
    for library in libraries:
        if find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)


def missing(error: ImportError) -> str | None:
    """The library whose module could not be imported; None for a module of this program or of Python itself."""
    library = (error.name or "").partition(".")[0]
    return None if library in ("", PACKAGE.name) or library in sys.stdlib_module_names else library


def sentence(library: str) -> str:
    """What is missing, and the command that installs it."""
    return (
        f"the library {library} is missing or incomplete for this Python ({sys.executable}), as after an installation "
        f"that was stopped. Install what is needed with: {command()}"
    )


def command() -> str:
    """The command that installs the libraries: into the environment that runs, or into a new one in a checkout."""
    if INSTALLED:
        return f"{shlex.quote(sys.executable)} -m pip install .  (in the project's folder)"
    requirements = shlex.quote(str(PACKAGE.parent / "requirements.txt"))
    if sys.prefix != sys.base_prefix:
        return f"{shlex.quote(sys.executable)} -m pip install -r {requirements}"
    start = shlex.quote(str(PACKAGE.parent / "app.py"))
    return f"python3 -m venv .venv && .venv/bin/pip install -r {requirements} && .venv/bin/python {start} --open"
