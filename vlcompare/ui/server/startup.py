"""Checks before the page is served: the address, the data folder, space on a disk, how many files may be open.

Each problem raises RequestError with one sentence at start, in place of a later error for the first user. The upload
folder is checked where it is made: `upload_folder`.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlcompare.errors import RequestError

LEAST_FREE = 16 * 2**20  # bytes of the temporary disk
FIRST_PORT, PORTS = 7860, 100  # of which the first free one is taken where none is asked for


def check_writable(folder: Path) -> None:
    """Raise OSError if no file can be written to the folder, also for lack of space or inodes."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\0" * 4096)
        probe.flush()
    if hasattr(os, "statvfs"):
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < min(LEAST_FREE, disk.f_blocks * disk.f_frsize // 10):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_data_folder(folder: Path) -> None:
    """Raise RequestError if votes cannot be stored in the folder; it is created if it does not exist."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise RequestError(f"The data folder {folder} cannot be written to ({why}): see --data.") from error


def check_address(host: str, port: int | None = None) -> None:
    """Raise RequestError for an address that this machine does not have, or a port that cannot be bound.

    gradio would try a hundred ports, and would report any error as a port in use.
    """
    try:
        family, socket_type, address = _resolved(host)
        with socket.socket(family, socket_type) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: no valid host name
        why = getattr(error, "strerror", None) or "it is not the name of a machine"
        raise RequestError(f"{host} is not an address of this machine ({why}): see --host.") from error
    if port is None:
        return
    try:
        _try_port(host, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken" if taken else f"cannot be used ({error.strerror or type(error).__name__})"
        raise RequestError(f"The port {port} {why}: choose another with --port.") from error


def free_port(host: str, first: int = FIRST_PORT) -> int:
    """The first port from `first` on that can be bound at `host`. Raises RequestError where none of `PORTS` can.

    gradio looks at 127.0.0.1 whatever the host is, and its server cannot be started a second time at another port.
    """
    last = min(first + PORTS, 1 << 16) - 1
    for port in range(first, last + 1):
        with suppress(OSError):
            _try_port(host, port)
            return port
    raise RequestError(f"None of the ports {first} to {last} can be used: choose another with --port.")


def _try_port(host: str, port: int) -> None:
    """Bind the port and let it go again. Raises OSError where that is not possible."""
    family, socket_type, address = _resolved(host)
    with socket.socket(family, socket_type) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address[0], port, *address[2:]))
        probe.listen(1)


def _resolved(host: str) -> tuple[socket.AddressFamily, socket.SocketKind, Any]:
    """Family, type and address of a host's sockets. Raises OSError or UnicodeError where it has none."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host  # as gradio reads it
    family, socket_type, _, _, address = socket.getaddrinfo(bare, 0, type=socket.SOCK_STREAM)[0]
    return family, socket_type, address


def raise_open_files(wanted: int = 4096) -> None:
    """Raise the limit on open files, which includes sockets, to `wanted` or to the hard limit if that is lower."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
