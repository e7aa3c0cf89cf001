"""A page served by a separate process, as its users use it: for benchmarks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from vlcompare.errors import RequestError

PATIENCE_S = 120.0  # for a page to open, and for what it does
_T = TypeVar("_T")


@contextmanager
def server(
    arguments: list[str], ready: Callable[[str], _T | None], environment: Mapping[str, str] | None = None
) -> Iterator[tuple[_T, subprocess.Popen[bytes]]]:
    """Run `python -m vlcompare ARGUMENTS --port FREE`; yields what `ready(address)` gives at last, and the process.

    `ready` is called again while it gives None. environment: variables beside those that are set. The process is ended
    with the block. Raises RequestError where the page does not open within PATIENCE_S.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vlcompare", *arguments, "--port", str(port)]
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while (opened := ready(f"http://127.0.0.1:{port}/")) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RequestError(f"The page did not open: run `python -m vlcompare {arguments[0]}` to see why.")
            time.sleep(0.05)
        yield opened, process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def listening(address: str) -> str | None:
    """The address, once a server takes connections there; nothing is asked of the page."""
    parts = urlsplit(address)
    with socket.socket() as probe:
        return address if probe.connect_ex((parts.hostname, parts.port)) == 0 else None
