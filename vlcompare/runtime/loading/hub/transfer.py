"""Downloads one file of a repository into the Hub's cache: resumable, and accepted once its checksum is right.

huggingface_hub starts a new file at each try and deletes it when the connection drops, so that a file of 5 GB may never
arrive over a slow connection; and it writes ten megabytes at a time. This module requests the bytes itself, with
huggingface_hub's session and headers, and writes them to `<blob>.incomplete` in the cache as they arrive, under
huggingface_hub's lock. The file becomes a blob once it has the checksum that the Hub lists: SHA-256 for large files,
the SHA-1 of the git blob for small ones (git-scm.com/docs/git-hash-object). Sizes may be wrong; the checksum decides.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import HubError
from vlcompare.runtime.loading.hub import errors
from vlcompare.runtime.loading.weight_files import file_sha256
from vlcompare.types import Notify

Count = Callable[[int], None]
CHECKSUM = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
LARGEST = {".safetensors": 50 << 30, "": 64 << 20}  # bytes by suffix; the first is the most that the Hub serves by HTTP
PATIENCE, LEAST = 60.0, 64 << 10  # a line that brings fewer bytes in so many seconds is given up: a modem brings more
_TOLERANCE = 16 << 20  # bytes that a file may exceed its listed size by: some mirrors list wrong sizes
_NO_LINKS = (errno.EPERM, errno.ENOSYS, getattr(errno, "ENOTSUP", errno.ENOSYS), errno.EINVAL)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in the listing of a commit; `size` and `checksum` are None where the listing lacks them."""

    name: str
    size: int | None
    checksum: str | None  # 64 digits: SHA-256; 40: SHA-1 of the git blob


def matches(path: Path, checksum: str) -> bool:
    """Whether the file has this checksum, a SHA-256 or a git SHA-1."""
    if len(checksum) == 64:
        return file_sha256(path) == checksum
    total = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest() == checksum


def is_valid(path: Path, file: HubFile) -> bool:
    """Whether `path` holds the listed file: a small one by its checksum, a large one by its size."""
    if file.checksum is None or not path.is_file() or not path.stat().st_size and file.size != 0:
        return False
    return (len(file.checksum) == 64 and path.stat().st_size == file.size) or matches(path, file.checksum)


def with_checksum(file: HubFile, url: str, commit: str, waiting: Callable[[], None]) -> HubFile:
    """The file with the checksum and size that the listing lacks, from its own headers. Raises HubError without any.

    waiting: as in `errors.with_retries`.
    """
    import huggingface_hub

    if file.checksum is not None:
        return file
    metadata = errors.with_retries(
        lambda: huggingface_hub.get_hf_file_metadata(url, endpoint=errors.endpoint()), waiting
    )
    if metadata.commit_hash != commit or not metadata.etag or not CHECKSUM.fullmatch(metadata.etag):
        raise HubError(
            f"{file.name} cannot be checked: neither the listing nor the file's address gives its checksum and commit, "
            "as the Hub does: use another mirror, or unset HF_ENDPOINT."
        )
    return HubFile(file.name, file.size if file.size is not None else metadata.size, metadata.etag)


def max_bytes(name: str) -> int:
    """The largest size of a file with this name; configs and tokenizers are read before anything else is checked."""
    return LARGEST.get(Path(name).suffix, LARGEST[""])


@dataclass(frozen=True, slots=True)
class Transfer:
    """The download of a file into a repository's folder.

    count: called with the bytes so far, also while none arrive, then in another thread; notify: with messages. Either
    may raise to end the download.
    """

    folder: Path
    commit: str
    file: HubFile
    url: str
    count: Count
    notify: Notify

    def run(self) -> Path:
        """Download the file, or what is missing of it. Returns the path of its blob.

        Raises HubError for a wrong checksum, and `library_errors`.
        """
        checksum = str(self.file.checksum)
        blob = self.folder / "blobs" / checksum
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock = self.folder.parent / ".locks" / self.folder.name / f"{checksum}.lock"
        with _locked(lock, self.file.name, self.notify):
            if is_valid(blob, self.file):
                return blob
            part = incomplete(self.folder, self.file)
            begun = part.stat().st_size if part.is_file() else 0
            try:
                self._fill(part)
            finally:
                if part.is_file() and not part.stat().st_size and self.file.size != 0:
                    part.unlink()  # nothing arrived
            if begun and not matches(part, checksum):  # the earlier part was of another file: start again
                part.unlink()
                begun = 0
                self._fill(part)
            if not begun and not matches(part, checksum):
                kind = "SHA-256" if len(checksum) == 64 else "git SHA-1"
                part.unlink()
                raise HubError(
                    f"{self.file.name} arrived damaged (its {kind} is not the Hub's) and was deleted; try again."
                )
            part.replace(blob)
        return blob

    def _fill(self, part: Path) -> None:
        """Append to `part` until the file is complete; retries as long as more bytes arrive, if not too slowly."""
        from huggingface_hub.errors import HfHubHTTPError

        attempt = 0
        with part.open("ab", buffering=0) as stream:  # unbuffered: kept even if this process is killed
            self.count(stream.tell())
            pace = _Pace(self.file.name, stream.tell())
            while self.file.size is None or stream.tell() != self.file.size:
                before = stream.tell()
                try:
                    if self._append(stream, pace):
                        return
                    failure: BaseException = HubError(f"{self.file.name} ends too early; what was downloaded is kept.")
                except (HfHubHTTPError, errors.connection_error()) as error:
                    failure = error
                attempt = 0 if stream.tell() > before else attempt + 1
                seconds = errors.retry_delay(failure, attempt)
                if attempt >= errors.TRIES or seconds is None:
                    raise failure
                errors.pause(seconds, lambda: self.count(stream.tell()))
                pace.check(stream.tell())

    def _append(self, stream: Any, pace: _Pace) -> bool:
        """Request the missing bytes and write them as they arrive. Returns whether the file is complete."""
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        begun = stream.tell()
        # without compression: a range of a compressed file cannot be requested
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if begun:
            headers["Range"] = f"bytes={begun}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self.url, headers=headers, timeout=timeout) as response:
            if begun and response.status_code == 416:  # nothing follows: the file is complete, or too long
                return True
            hf_raise_for_status(response)
            self._check(response)
            if begun and not _resumes_at(response, begun):
                stream.seek(stream.truncate(0))
                if response.status_code == 206:  # a range that was not requested
                    return False
            with self._asked_while_silent(response, pace):
                for chunk in response.iter_bytes():
                    self._write(stream, chunk)
                    pace.check(stream.tell())
            announced = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        return announced or self.file.size is None or stream.tell() >= self.file.size

    @contextmanager
    def _asked_while_silent(self, response: Any, pace: _Pace) -> Iterator[None]:
        """Call `count` while the line is silent; what it raises shuts the connection down, and is raised here."""
        over, raised = threading.Event(), list[BaseException]()
        connection = response.extensions["network_stream"].get_extra_info("socket")

        def watch() -> None:
            before = pace.position
            while not over.wait(errors.SILENT):
                if pace.position == before:
                    try:
                        self.count(before)
                    except BaseException as error:  # of any kind: it belongs to the caller
                        raised.append(error)
                        with suppress(OSError):
                            connection.shutdown(socket.SHUT_RDWR)  # ends a read that is waiting
                        return
                before = pace.position

        thread = threading.Thread(target=watch, daemon=True, name="vlcompare-silent")
        thread.start()
        try:
            yield
        except Exception:
            if raised:
                raise raised[0] from None
            raise
        finally:
            over.set()
            thread.join()
        if raised:  # a body without a length ends like a whole one
            raise raised[0]

    def _write(self, stream: Any, chunk: bytes) -> None:
        most = max_bytes(self.file.name) if self.file.size is None else self.file.size + _TOLERANCE
        if stream.tell() + len(chunk) > most:
            raise HubError(f"{self.file.name} is longer than the Hub lists; try again later.")
        left = memoryview(chunk)
        while left:  # an almost full disk writes only a part
            left = left[stream.write(left) :]
            self.count(stream.tell())

    def _check(self, response: Any) -> None:
        """Raise HubError for a web page instead of a file, and for a file that the server says is of another commit."""
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise HubError(
                f"A web page arrived instead of {self.file.name}: a network's sign-in page or a proxy is in between; "
                "open a web page in a browser and sign in there, then try again."
            )
        first = (*response.history, response)[0]  # large files are redirected to another server
        commit = first.headers.get("X-Repo-Commit")
        if commit is None:
            self.notify(f"This mirror does not name the commit of {self.file.name}; only its checksum is checked")
        elif commit != self.commit:
            raise HubError(f"{self.file.name} came from commit {commit[:12]} instead of {self.commit[:12]}; try again.")


class _Pace:
    """Looks at the bytes of a file as they arrive. A line on which a few still do never times out by itself."""

    def __init__(self, name: str, position: int) -> None:
        self.name, self.since, self.before, self.position = name, time.monotonic(), position, position

    def check(self, position: int) -> None:
        """Raise HubError where hardly anything arrived in PATIENCE seconds. position: bytes so far."""
        now, self.position = time.monotonic(), position
        if not 0 <= position - self.before < LEAST:
            self.since, self.before = now, position
        elif now - self.since > PATIENCE:
            raise HubError(
                f"{self.name} arrives too slowly (under {LEAST >> 10} KB in {PATIENCE:.0f} seconds): try again later "
                "or on another line; what was downloaded is kept."
            )


def incomplete(folder: Path, file: HubFile) -> Path:
    """The file of an unfinished download."""
    blob = folder / "blobs" / str(file.checksum)
    part, former = (blob.with_name(blob.name + suffix) for suffix in (".incomplete", ".part"))
    if former.is_file() and not part.exists():  # of an earlier version of this program
        former.replace(part)
    return part


def link(blob: Path, target: Path) -> None:
    """Make `target` a relative link to a blob; where the system has no links, the blob is moved there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}.link")
    try:
        made.unlink(missing_ok=True)
        made.symlink_to(os.path.relpath(blob, target.parent))
    except OSError as error:
        if error.errno not in _NO_LINKS and getattr(error, "winerror", None) is None:
            raise
        made = blob
    made.replace(target)


@contextmanager
def _locked(path: Path, name: str, notify: Notify) -> Iterator[None]:
    """The lock that huggingface_hub takes for the same blob, so that two programs do not fetch it at once."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(WeakFileLock(path, timeout=1))
                break
            except Timeout:  # told every second: `notify` may raise to give up
                notify(f"Waiting for another program that downloads {name}")
        yield


def _resumes_at(response: Any, begun: int) -> bool:
    """Whether a response holds the uncompressed bytes from `begun` on."""
    if response.status_code != 206 or response.headers.get("Content-Encoding", "identity") != "identity":
        return False
    return response.headers.get("Content-Range", f"bytes {begun}-").strip().startswith(f"bytes {begun}-")
