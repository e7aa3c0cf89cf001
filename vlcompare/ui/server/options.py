"""The operator's options of the server itself: allowed hosts, root path and upload quotas, from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlcompare.ui.server.allowed_hosts import read_allowed, read_root_path
from vlcompare.ui.server.rate_limit import Quotas
from vlcompare.ui.settings import names, positive, read_variables


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Values of the command line go before the environment's."""

    allow_hosts: tuple[str, ...] = ()  # further host names that the server answers to
    root_path: str = ""  # where a reverse proxy serves the page
    quotas: Quotas = Quotas()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> ServerOptions:
        """Defaults, overlaid by the environment, overlaid by `given` values that are not None."""
        env = os.environ if environment is None else environment
        values = read_variables(env, SERVER_VARIABLES)
        values.update({name: value for name, value in given.items() if value is not None})
        return cls(quotas=replace(Quotas(), **read_variables(env, QUOTA_VARIABLES)), **values)


SERVER_VARIABLES: dict[str, tuple[str, Any]] = {  # the later ones go first
    "GRADIO_ROOT_PATH": ("root_path", read_root_path),
    "VLCOMPARE_ROOT_PATH": ("root_path", read_root_path),
    "VLCOMPARE_ALLOW_HOST": ("allow_hosts", lambda value: read_allowed(names(value))),
}
QUOTA_VARIABLES: dict[str, tuple[str, Any]] = {
    "VLCOMPARE_UPLOADS": ("files", positive),
    "VLCOMPARE_UPLOAD_MEGABYTES": ("size", lambda value: positive(value) * 2**20),
}
