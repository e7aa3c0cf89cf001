"""Removes the folders of the server's machine from sentences for clients."""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from pathlib import Path

from vlcompare.paths import CHECKPOINTS, EXAMPLES, PACKAGE, PATH_IN_TEXT, data_folder, last_name

UNEXPECTED = "This failed for a reason that was not foreseen; the server's log says where. Nothing else is affected."

_NAME = r"[\w.@+~-]+"


def without_paths(sentence: str) -> str:
    """The sentence with every path of this machine reduced to its last name."""
    for root in _roots():
        sentence = re.sub(rf"(?<![\w.@+~-]){re.escape(root)}(?:[/\\]{_NAME})+", _last, sentence)
    return PATH_IN_TEXT.sub(_last, sentence)


def _last(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("/gradio_api/") else last_name(found[0])


@cache
def _roots() -> tuple[str, ...]:
    """Folders whose names may hold characters that the pattern does not match, longest first."""
    hub = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    found = (CHECKPOINTS, EXAMPLES, PACKAGE, data_folder(), hub, tempfile.gettempdir(), Path.cwd(), Path.home())
    return tuple(sorted({str(path) for path in found if len(Path(path).parts) > 1}, key=len, reverse=True))
