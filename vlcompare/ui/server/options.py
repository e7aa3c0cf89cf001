"""How the page is reached: under which names, below which path, and how much each client may send.

Frozen values, read once from the environment and the command line, as `settings` does for what the page offers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlcompare.ui.server.allowed_hosts import read_allowed, read_root_path
from vlcompare.ui.server.rate_limit import Quotas
from vlcompare.ui.settings import _count, _read, names


@dataclass(frozen=True, slots=True)
class Reach:
    """One operator's choices; the command line goes before the environment."""

    allow_hosts: tuple[str, ...] = ()  # further names that the server answers to
    root_path: str = ""  # where a reverse proxy serves the page
    quotas: Quotas = Quotas()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> Reach:
        """Defaults, overlaid by the environment, overlaid by `given` values that are not None."""
        env = os.environ if environment is None else environment
        values = _read(env, REACH_VARIABLES)
        values.update({name: value for name, value in given.items() if value is not None})
        return cls(quotas=replace(Quotas(), **_read(env, QUOTA_VARIABLES)), **values)


REACH_VARIABLES: dict[str, tuple[str, Any]] = {  # the later ones go first
    "GRADIO_ROOT_PATH": ("root_path", read_root_path),
    "VLCOMPARE_ROOT_PATH": ("root_path", read_root_path),
    "VLCOMPARE_ALLOW_HOST": ("allow_hosts", lambda value: read_allowed(names(value))),
}
QUOTA_VARIABLES: dict[str, tuple[str, Any]] = {
    "VLCOMPARE_UPLOADS": ("files", _count),
    "VLCOMPARE_UPLOAD_MEGABYTES": ("size", lambda value: _count(value) * 2**20),
}
