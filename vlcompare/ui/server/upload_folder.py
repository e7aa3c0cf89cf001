"""The folder of uploaded and shown files: one for each server, private, removed as it ends, and kept tidy meanwhile.

gradio reads the folder's name from a variable, which is set here.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vlcompare.errors import RequestError
from vlcompare.ui.server.startup import check_writable

UPLOADS = "GRADIO_TEMP_DIR"
OTHER_FOLDER = f"name another folder with TMPDIR or {UPLOADS}"
KEPT_SECONDS = 3600.0
_PREFIX = "server-"  # of a process's own folder in its user's
_LOCK = "folders.lock"  # of the user's folder, while a process looks for what others have left


class _Lock(FileLock):
    """A lock that is held until it is released or the process has ended.

    A copy of the process (fork) that ends deletes its copy of this object, with which some versions of filelock unlock
    the file for both.
    """

    def __del__(self, *defaults: object) -> None:
        pass


_locks: dict[str, _Lock] = {}  # that this process holds, by its folder


def upload_folder() -> Path:
    """gradio's upload folder; like gradio, it reads the variable at every call."""
    return Path(os.environ.get(UPLOADS) or Path(tempfile.gettempdir()) / "gradio")


def use_upload_folder() -> Path:
    """Create and check the upload folder that gradio uses: one for this process, in one for each user of the machine.

    gradio's default is one folder for all users, which only the first of them can write to, and for all of their
    servers: files are named by their content, and a server that ends deletes those that it has shown, which may be what
    another one still shows. Raises RequestError if the folder cannot be used.
    """
    given = os.environ.get(UPLOADS)
    if given and given in _locks:
        return Path(given)
    try:
        # without links and "..", which gradio follows in some places and cuts off by their names in others
        root = Path(os.path.realpath(given or tempfile.gettempdir()))
    except OSError as error:
        raise RequestError(f"There is no temporary folder that can be written to: {OTHER_FOLDER}.") from error
    folder = root / f"vlcompare-{_user()}"
    try:
        if given:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(folder)
        own = _folder_of_this_process(folder)
    except FileExistsError as error:  # of mkdir: not as a folder
        raise RequestError(f"The upload folder {error.filename} is not a folder: {OTHER_FOLDER}.") from error
    except (OSError, Timeout, NotImplementedError) as error:  # the last one: no file can be locked there
        why = getattr(error, "strerror", None) or type(error).__name__
        raise RequestError(f"The upload folder {folder} cannot be written to ({why}): {OTHER_FOLDER}.") from error
    os.environ[UPLOADS] = str(own)
    return own


def apply_upload_folder() -> None:
    """Have all of gradio use the upload folder that the variable names now.

    Some of its modules have read it as they were imported, and write below that folder as soon as a page is built: if
    it belongs to another user, there is no page.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("gradio.") and "DEFAULT_TEMP_DIR" in vars(module):
            vars(module)["DEFAULT_TEMP_DIR"] = str(upload_folder())


def keep_upload_folder() -> None:
    """Call it now and then: a temporary disk is swept of what nobody has changed for days.

    Without its folder gradio would make one with the next upload, for all users to read.
    """
    for name in list(_locks):
        own = Path(name)
        with suppress(OSError, RequestError):
            _make_private(own.parent)
            _make_private(own)
        for path in (own, own.with_suffix(".lock"), own.parent / _LOCK, own.parent):
            with suppress(OSError):
                os.utime(path)


def _make_private(folder: Path) -> None:
    """Make the folder, or see that it is this user's alone. Raises RequestError if it is a link or another user's."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise RequestError(f"The upload folder {folder} is not a folder: {OTHER_FOLDER}.")
    if hasattr(os, "getuid"):
        if status.st_uid != os.getuid():
            raise RequestError(f"The upload folder {folder} belongs to another user: {OTHER_FOLDER}.")
        folder.chmod(0o700)


def _folder_of_this_process(folder: Path) -> Path:
    """A fresh folder in the user's, removed as the process ends; what ended processes have left there is removed, which
    may be what fills the disk. Raises OSError if no file can be written to it.
    """
    with FileLock(folder / _LOCK, timeout=30):
        for place in folder.glob(f"{_PREFIX}*.lock"):
            _remove(place, FileLock(place, timeout=0))
        check_writable(folder)
        own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        place = own.with_suffix(".lock")
        _locks[str(own)] = lock = _Lock(place, thread_local=False)
        lock.acquire()
    process = os.getpid()

    def end() -> None:
        if os.getpid() == process:  # and not a copy of it (fork), which may end while this one serves
            _remove(place, lock)

    atexit.register(end)
    return own


def _remove(place: Path, lock: FileLock) -> None:
    """Remove the folder whose lock is at `place`, unless a process that lives holds it."""
    with suppress(OSError, Timeout), lock:
        shutil.rmtree(place.with_suffix(""), ignore_errors=True)
        lock.release(force=True)
        place.unlink()


def sweep(folder: Path, kept: Collection[str], age: float = KEPT_SECONDS) -> int:
    """Delete files below `folder` that are older than `age` seconds, except those in `kept`; returns how many.

    gradio deletes the uploads that it registered, but not those of a broken connection or of an earlier server.
    """
    deleted = 0
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            file = os.path.join(path, name)
            with suppress(OSError):
                if file not in kept and time.time() - os.lstat(file).st_mtime > age:
                    os.unlink(file)
                    deleted += 1
        for name in folders:
            with suppress(OSError):  # it is not empty
                inner = os.path.join(path, name)
                if time.time() - os.lstat(inner).st_mtime > age:
                    os.rmdir(inner)
    return deleted


def _user() -> str:
    """The user, for a folder's name."""
    if hasattr(os, "getuid"):
        return str(os.getuid())
    return "".join(c if c.isalnum() else "-" for c in os.environ.get("USERNAME", "user"))
