"""One file of a repository into the Hub's cache: kept as its bytes arrive, gone on with later, believed when checked.

huggingface_hub downloads into a file of its own name each time and throws it away when the line drops, which for a
file of 5 GB on a home line means never; and it writes ten megabytes at a time. So the bytes are asked for here, with
its session and its headers, into `<blob>.incomplete` beside their place in its cache, under its lock. What is put into
that place has the checksum that the Hub lists: SHA-256 for large files, for small ones the SHA-1 of the git blob
(git-scm.com/docs/git-hash-object). The Hub's sizes are a guide only; the checksum decides.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import HubError
from vlcompare.runtime.loading.hub import errors
from vlcompare.runtime.loading.safetensors_files import file_sha256
from vlcompare.types import Notify

Count = Callable[[int], None]
CHECKSUM = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
LARGEST = {".safetensors": 50 << 30, "": 64 << 20}  # bytes by kind; the first is all that the Hub gives by plain HTTP
_SPARE = 16 << 20  # bytes that a file may have more than the listing says, which some mirrors get wrong
_NO_LINKS = (errno.EPERM, errno.ENOSYS, getattr(errno, "ENOTSUP", errno.ENOSYS), errno.EINVAL)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the listing of a commit has it; `size` and `checksum` are None where it does not say."""

    name: str
    size: int | None
    checksum: str | None  # 64 digits: SHA-256; 40: SHA-1 of the git blob


def matches(path: Path, checksum: str) -> bool:
    """Whether the whole file has this checksum of either kind."""
    if len(checksum) == 64:
        return file_sha256(path) == checksum
    total = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest() == checksum


def is_sound(path: Path, file: HubFile) -> bool:
    """Whether a file that is there is the listed one: small ones by their checksum, large ones by their size."""
    if file.checksum is None or not path.is_file() or not path.stat().st_size and file.size != 0:
        return False
    return (len(file.checksum) == 64 and path.stat().st_size == file.size) or matches(path, file.checksum)


def identified(file: HubFile, url: str, commit: str) -> HubFile:
    """The file with what the listing left out, by a look at the file itself. Raises HubError where that fails."""
    import huggingface_hub

    if file.checksum is not None:
        return file
    seen = errors.patiently(lambda: huggingface_hub.get_hf_file_metadata(url, endpoint=errors.endpoint()))
    if seen.commit_hash != commit or not seen.etag or not CHECKSUM.fullmatch(seen.etag):
        raise HubError(
            f"{file.name} cannot be checked: neither the listing nor the file's address gives its checksum and commit, "
            "as the Hub does; use another mirror, or unset HF_ENDPOINT."
        )
    return HubFile(file.name, file.size if file.size is not None else seen.size, seen.etag)


def most_bytes(name: str) -> int:
    """Bytes that a file of this name may have; small kinds are fetched and read before anything else is known."""
    return LARGEST.get(Path(name).suffix, LARGEST[""])


@dataclass(frozen=True, slots=True)
class Transfer:
    """A file on its way into a repository's folder of the cache. count: told the bytes there are; say: sentences."""

    folder: Path
    commit: str
    file: HubFile
    url: str
    count: Count
    say: Notify

    def bring(self) -> Path:
        """The file's blob, downloaded or finished where need be. Returns its path.

        Raises HubError for bytes that are not the Hub's, and `library_errors`.
        """
        checksum = str(self.file.checksum)
        blob = self.folder / "blobs" / checksum
        blob.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder.parent / ".locks" / self.folder.name / f"{checksum}.lock", self.file.name, self.say):
            if is_sound(blob, self.file):
                return blob
            part = incomplete(self.folder, self.file)
            begun = part.stat().st_size if part.is_file() else 0
            try:
                self._fill(part)
            finally:
                if part.is_file() and not part.stat().st_size and self.file.size != 0:
                    part.unlink()  # nothing came
            if begun and not matches(part, checksum):  # what lay there was of something else: once more from the start
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
        """Append to `part` until the server has no more; tries again while that brings anything new."""
        from huggingface_hub.errors import HfHubHTTPError

        attempt = 0
        with part.open("ab", buffering=0) as stream:  # unbuffered: what arrived is kept even if this process is killed
            self.count(stream.tell())
            while self.file.size is None or stream.tell() != self.file.size:
                before = stream.tell()
                try:
                    if self._append(stream):
                        return
                    failure: BaseException = HubError(f"{self.file.name} ends too early; what has arrived is kept.")
                except (HfHubHTTPError, errors.dropped()) as error:
                    failure = error
                attempt = 0 if stream.tell() > before else attempt + 1
                seconds = errors.pause(failure, attempt)
                if attempt >= errors.TRIES or seconds is None:
                    raise failure
                time.sleep(seconds)

    def _append(self, stream: Any) -> bool:
        """One request for what is not there yet, written as it arrives. Returns whether that was the file's end."""
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        begun = stream.tell()
        # without compression: bytes in the middle of a compressed file cannot be asked for
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if begun:
            headers["Range"] = f"bytes={begun}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self.url, headers=headers, timeout=timeout) as response:
            if begun and response.status_code == 416:  # no more to be had: whole, or longer than the Hub's
                return True
            hf_raise_for_status(response)
            self._check(response)
            if begun and not _goes_on(response, begun):
                stream.seek(stream.truncate(0))
                if response.status_code == 206:  # another part than the one that was asked for
                    return False
            for chunk in response.iter_bytes():
                self._write(stream, chunk)
            announced = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        return announced or self.file.size is None or stream.tell() >= self.file.size

    def _write(self, stream: Any, chunk: bytes) -> None:
        most = most_bytes(self.file.name) if self.file.size is None else self.file.size + _SPARE
        if stream.tell() + len(chunk) > most:
            raise HubError(f"{self.file.name} does not end where the Hub says that it does; try again later.")
        left = memoryview(chunk)
        while left:  # a disk that is almost full takes a part
            left = left[stream.write(left) :]
            self.count(stream.tell())

    def _check(self, response: Any) -> None:
        """Raise HubError for a page in a file's place, and for a file of another commit where the server says which."""
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise HubError(
                f"A web page came in the place of {self.file.name}: a network's sign-in page or a proxy is in between; "
                "open a web page in a browser and sign in there, then try again."
            )
        first = (*response.history, response)[0]  # large files come from another server, to which this one points
        said = first.headers.get("X-Repo-Commit")
        if said is None:
            self.say(f"This mirror does not say of which commit {self.file.name} is; its checksum is what is checked")
        elif said != self.commit:
            raise HubError(
                f"{self.file.name} came from commit {said[:12]} where {self.commit[:12]} was asked for; try again."
            )


def incomplete(folder: Path, file: HubFile) -> Path:
    """Where the bytes of an unfinished download lie."""
    blob = folder / "blobs" / str(file.checksum)
    part, former = (blob.with_name(blob.name + suffix) for suffix in (".incomplete", ".part"))
    if former.is_file() and not part.exists():  # of an earlier version of this program
        former.replace(part)
    return part


def link(blob: Path, place: Path) -> None:
    """Show a blob as a snapshot's file: a relative link, or the file itself where the system has no links."""
    place.parent.mkdir(parents=True, exist_ok=True)
    made = place.with_name(f"{place.name}.{os.getpid()}.link")
    try:
        made.unlink(missing_ok=True)
        made.symlink_to(os.path.relpath(blob, place.parent))
    except OSError as error:
        if error.errno not in _NO_LINKS and getattr(error, "winerror", None) is None:
            raise
        made = blob
    made.replace(place)


@contextmanager
def _locked(path: Path, name: str, say: Notify) -> Iterator[None]:
    """The lock that huggingface_hub takes for the same blob, so that two programs do not fetch it at once."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=1))
        except Timeout:
            say(f"Waiting for another program that downloads {name}")
            stack.enter_context(WeakFileLock(path))
        yield


def _goes_on(response: Any, begun: int) -> bool:
    """Whether an answer holds the bytes from `begun` on, as they are."""
    if response.status_code != 206 or response.headers.get("Content-Encoding", "identity") != "identity":
        return False
    return response.headers.get("Content-Range", f"bytes {begun}-").strip().startswith(f"bytes {begun}-")
