"""What must be in order before the page is served: the upload folder, the temporary disk, the address, the data folder.

Each fault is told in one sentence, at once, in place of the first visitor's error. Knows nothing of gradio: its folder
for uploads is named by a variable, which is set before it is imported.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from vlcompare.errors import RequestError

UPLOADS = "GRADIO_TEMP_DIR"
LEAST_FREE = 16 * 2**20  # bytes of the temporary disk
OTHER_FOLDER = f"name another folder with TMPDIR or {UPLOADS}"
KEPT_SECONDS = 3600.0


def use_upload_folder() -> Path:
    """The folder that uploads go to, made and checked, for gradio to use: one for each user, which nobody else reads.

    gradio's own default is one folder for all users of a machine, so the first of them shuts out the others. Raises
    RequestError where the folder cannot be used.
    """
    given = os.environ.get(UPLOADS)
    try:
        folder = Path(given).absolute() if given else default_upload_folder()
    except OSError as error:
        raise RequestError(f"There is no temporary folder that can be written to: {OTHER_FOLDER}.") from error
    try:
        folder.mkdir(mode=0o700, parents=bool(given), exist_ok=True)
        found = folder.lstat() if given is None else folder.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise RequestError(f"The upload folder {folder} is no folder: {OTHER_FOLDER}.")
        if given is None and hasattr(os, "getuid"):
            if found.st_uid != os.getuid():
                raise RequestError(f"The upload folder {folder} belongs to another user: {OTHER_FOLDER}.")
            folder.chmod(0o700)
        check_writable(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise RequestError(f"The upload folder {folder} cannot be written to ({why}): {OTHER_FOLDER}.") from error
    os.environ[UPLOADS] = str(folder)
    return folder


def default_upload_folder() -> Path:
    """The user's own, in the system's temporary folder. Raises OSError where there is none."""
    return Path(tempfile.gettempdir()).resolve() / f"vlcompare-{_user()}"


def check_writable(folder: Path) -> None:
    """Raise OSError where no file can be written into the folder, also for want of space or of inodes."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\0" * 4096)
        probe.flush()
    if hasattr(os, "statvfs"):
        disk = os.statvfs(folder)
        if disk.f_bavail * disk.f_frsize < min(LEAST_FREE, disk.f_blocks * disk.f_frsize // 10):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_data_folder(folder: Path) -> None:
    """Raise RequestError where votes could not be kept in the folder, which need not be there yet."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_writable(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise RequestError(f"The data folder {folder} cannot be written to ({why}): see --data.") from error


def check_address(host: str, port: int | None = None) -> None:
    """Raise RequestError for an address that this machine does not have, or a port that cannot be had.

    gradio would try the address at a hundred ports, and calls every port taken that it does not get.
    """
    try:
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host  # as gradio reads it, too
        family, kind, _, _, place = socket.getaddrinfo(bare, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(place)
    except (OSError, UnicodeError) as error:  # the latter for what cannot be the name of any machine
        why = getattr(error, "strerror", None) or "it is no name of a machine"
        raise RequestError(f"{host} is no address of this machine ({why}): see --host.") from error
    if port is None:
        return
    try:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((place[0], port, *place[2:]))
            probe.listen(1)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken" if taken else f"cannot be had ({error.strerror or type(error).__name__})"
        raise RequestError(f"The port {port} {why}: choose another with --port.") from error


def raise_open_files(wanted: int = 4096) -> None:
    """Allow this process as many open files, connections among them, as its hard limit does."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def sweep(folder: Path, kept: Collection[str], age: float = KEPT_SECONDS) -> int:
    """Delete files below `folder` that are older than `age` seconds, but for those in `kept`; gives how many.

    gradio deletes the uploads that it knows of; of a broken connection, or an earlier server, it does not know.
    """
    gone = 0
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            file = os.path.join(path, name)
            with suppress(OSError):
                if file not in kept and time.time() - os.lstat(file).st_mtime > age:
                    os.unlink(file)
                    gone += 1
        for name in folders:
            with suppress(OSError):  # of those that are not empty
                inner = os.path.join(path, name)
                if time.time() - os.lstat(inner).st_mtime > age:
                    os.rmdir(inner)
    return gone


def _user() -> str:
    """The user, in a folder's name."""
    if hasattr(os, "getuid"):
        return str(os.getuid())
    return "".join(c if c.isalnum() else "-" for c in os.environ.get("USERNAME", "user"))
