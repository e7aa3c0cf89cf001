"""Whether this process runs on ZeroGPU of Hugging Face Spaces. Standard library only."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping


def on_zerogpu(environment: Mapping[str, str] | None = None) -> bool:
    """There a GPU is lent to a forked process for each call, and the main process only seems to have one."""
    env = os.environ if environment is None else environment
    return env.get("SPACES_ZERO_GPU", "").lower() in ("1", "true") and importlib.util.find_spec("spaces") is not None
