"""Checkpoints on the Hugging Face Hub: only the needed files, into the Hub's own cache, resumable, and offline from it.

The home of huggingface_hub. Knows repositories, files and bytes; nothing of models or keys. huggingface_hub throws a
half-downloaded file away, which for a file of 5 GB on a home line means never; so the bytes are fetched here, into
`<blob>.part` beside their place in its cache, and go on from there the next time.

At the first download a branch such as `main` is resolved to its commit, which is said, recorded in `revisions.json` in
the user's data folder, and used from then on: what ran yesterday runs today.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vlcompare.errors import CheckpointError, HubError
from vlcompare.paths import data_folder
from vlcompare.runtime.weights import INDEX, ONE_FILE, SHARD, file_sha256, names_in_index, weight_files

Progress = Callable[[str, int, int], None]  # a sentence, bytes done, bytes in all (0: not known)
Check = Callable[[Path], Any]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SMALL = ("config.json", "tokenizer.json")
_LARGEST_SMALL = 64 << 20  # bytes of those and of an index: fetched and read before anything is known of a repository
_LARGEST = 50 << 30  # bytes of one file of weights; the Hub gives no more by plain HTTP
_record_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit, complete on this machine."""

    repository: str
    commit: str
    folder: Path


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    sha256: str | None  # of large files; small ones have none on the Hub


def is_repository(name: str) -> bool:
    """Whether this can be a Hub id, `owner/name`, of at most 96 characters as there."""
    return len(name) <= 96 and _REPOSITORY.fullmatch(name) is not None


def fetch(
    repository: str,
    *,
    revision: str | None = None,
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
    check: Check | None = None,
    update: bool = False,
) -> Snapshot:
    """The repository's files on this machine, downloaded where they are not there yet.

    revision: a commit, branch or tag; None is `main`. A branch that was resolved before keeps its commit, unless
    `update`. files: exactly these; None: config.json, tokenizer.json and the safetensors. check: called with the folder
    once the small files are there, to refuse a checkpoint before its weights are fetched.
    Raises HubError with one sentence: not found, gated, offline, disk full.
    """
    if not is_repository(repository):
        raise HubError(f"{repository!r} is neither a folder nor a Hub id of the form owner/name.")
    asked, wanted = revision or "main", None if files is None else tuple(files)
    found = None if update else cached(repository, revision=revision, files=wanted)
    if found is not None:
        return found
    try:
        return _download(repository, asked, wanted, progress or terminal_progress(), check, update)
    except CheckpointError:
        raise
    except _library_errors() as error:
        known = None if update else _known_commit(repository, asked)
        raise HubError(_sentence(error, repository, known or asked)) from error


def cached(repository: str, *, revision: str | None = None, files: Iterable[str] | None = None) -> Snapshot | None:
    """The repository as it lies complete in the cache, without any network; None where something is missing."""
    commit = _known_commit(repository, revision or "main")
    if commit is None:
        return None
    folder = repository_folder(repository) / "snapshots" / commit
    if files is not None:
        complete = all((folder / name).is_file() for name in files)
    else:
        complete = (folder / "config.json").is_file() and _has_weights(folder)
    return Snapshot(repository, commit, folder) if complete else None


def remove(repository: str) -> int:
    """Free what the cache holds of a repository, finished or not. Returns the bytes that were freed."""
    folder = repository_folder(repository)
    freed = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if folder.is_dir():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise HubError(f"{folder} cannot be removed ({error.strerror}); remove it by hand.") from error
    _change_record(lambda record: record.pop(repository, None))
    return freed


def cached_bytes(repository: str) -> int:
    """Bytes that the cache holds of a repository, finished or not."""
    blobs = repository_folder(repository) / "blobs"
    return sum(path.stat().st_size for path in blobs.iterdir() if path.is_file()) if blobs.is_dir() else 0


def checksums(snapshot: Snapshot) -> dict[str, str]:
    """What the Hub says about the large files' SHA-256: by the record, else by the names that the cache gives blobs."""
    sums = dict(_record().get(snapshot.repository, {}).get("sha256", {}).get(snapshot.commit, {}))
    for path in sorted(snapshot.folder.iterdir()):
        name = path.resolve().name
        if path.name not in sums and _SHA256.fullmatch(name):
            sums[path.name] = name
    return sums


def push(folder: Path, repository: str, *, progress: Progress | None = None) -> str:
    """Upload a folder as a model repository, which is created where it does not exist. Returns its address."""
    import huggingface_hub

    if not is_repository(repository):
        raise HubError(f"{repository!r} is no Hub id of the form owner/name.")
    if progress:
        progress(f"Uploading {folder.name} to {repository}", 0, 0)
    try:
        api = huggingface_hub.HfApi(endpoint=_endpoint())
        url = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Upload a quantized checkpoint")
    except _library_errors() as error:
        raise HubError(_sentence(error, repository, "main")) from error
    return str(url)


def commit_file(repository: str, path: str, content: bytes, message: str) -> None:
    """Add one file to a private dataset repository, which is created where it does not exist."""
    import huggingface_hub

    if not is_repository(repository):
        raise HubError(f"{repository!r} is no Hub id of the form owner/name.")
    try:
        api = huggingface_hub.HfApi(endpoint=_endpoint())
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_file(
            path_or_fileobj=content, path_in_repo=path, repo_id=repository, repo_type="dataset", commit_message=message
        )
    except _library_errors() as error:
        raise HubError(_sentence(error, repository, "main")) from error


def repository_folder(repository: str) -> Path:
    """Where the Hub's cache keeps a repository."""
    from huggingface_hub import constants

    if not is_repository(repository):
        raise HubError(f"{repository!r} is no Hub id of the form owner/name.")
    cache = Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)
    return cache / ("models--" + repository.replace("/", "--"))


def terminal_progress() -> Progress:
    """A progress bar on the terminal, or, where there is none, each sentence once."""
    last: list[str] = []

    def show(sentence: str, done: int, total: int) -> None:
        if sys.stderr.isatty() and total:
            width = 30 * done // total
            end = "\n" if done >= total else ""
            bar = f"[{'#' * width}{'.' * (30 - width)}] {done / 1e9:.2f} of {total / 1e9:.2f} GB"
            print(f"\r{sentence} {bar}", end=end, file=sys.stderr, flush=True)
        elif last != [sentence]:
            print(sentence, file=sys.stderr, flush=True)
        last[:] = [sentence]

    return show


# ------------------------------------------------------------------------------------------------ downloading


def _download(
    repository: str, revision: str, wanted: tuple[str, ...] | None, say: Progress, check: Check | None, update: bool
) -> Snapshot:
    import huggingface_hub

    known = None if update else _known_commit(repository, revision)
    say(f"Looking up {repository}", 0, 0)
    info = huggingface_hub.HfApi(endpoint=_endpoint()).model_info(
        repository, revision=known or revision, files_metadata=True
    )
    commit = str(info.sha)
    if known is None:
        say(f"{repository}: {revision} is commit {commit}", 0, 0)
    listed = {file.name: file for file in map(_listed, info.siblings or [])}
    snapshot = Snapshot(repository, commit, repository_folder(repository) / "snapshots" / commit)
    small = [listed[name] for name in (*_SMALL, INDEX) if name in listed]
    if wanted is None:
        _get_all(snapshot, small, say)
        if check is not None:
            check(snapshot.folder)
        chosen = _choose(repository, listed, snapshot.folder)
    else:
        absent = [name for name in wanted if name not in listed]
        if absent:
            raise HubError(f"{repository} has no file {absent[0]} at commit {commit[:12]}.")
        chosen = [listed[name] for name in wanted]
    _get_all(snapshot, chosen, say)
    _remember(snapshot, revision, [*small, *chosen])
    return snapshot


def _choose(repository: str, listed: dict[str, _File], folder: Path) -> list[_File]:
    """The weights among a repository's files: one file, or shards with or without an index."""
    if ONE_FILE in listed:
        names = [ONE_FILE]
    elif INDEX in listed:
        names = names_in_index(folder / INDEX)
    else:
        names = sorted(name for name in listed if SHARD.match(name))
    missing = [name for name in names if name not in listed]
    if missing:
        raise HubError(f"{repository} lists the shard {missing[0]} in its index, but does not have it.")
    if not names:
        pickles = [name for name in listed if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        reason = (
            f"holds {pickles[0]} and no safetensors: such files can run code when they are opened; ask its owner for a "
            "model.safetensors, or convert it yourself"
            if pickles
            else "holds no safetensors; it is no checkpoint for this program"
        )
        raise HubError(f"{repository} {reason}.")
    return [listed[name] for name in names]


def _get_all(snapshot: Snapshot, files: list[_File], say: Progress) -> None:
    """Bring the files that are not there yet into the cache, and link them into the snapshot's folder."""
    waiting = [file for file in files if not (snapshot.folder / file.name).is_file()]
    for file in waiting:
        if file.size > (_LARGEST if file.name.endswith(".safetensors") else _LARGEST_SMALL):
            raise HubError(f"{snapshot.repository}: {file.name} has {file.size / 1e9:,.1f} GB, too many for its kind.")
    _check_disk(snapshot, sum(file.size for file in waiting))
    total, done = sum(file.size for file in waiting), 0
    for file in waiting:

        def count(bytes_of_file: int, file: _File = file, before: int = done) -> None:
            say(f"Downloading {snapshot.repository}: {file.name}", before + bytes_of_file, total)

        _get(snapshot, file, count)
        done += file.size


def _get(snapshot: Snapshot, file: _File, count: Callable[[int], None]) -> None:
    import huggingface_hub
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers, disable_progress_bars

    endpoint = _endpoint()
    url = huggingface_hub.hf_hub_url(snapshot.repository, file.name, revision=snapshot.commit, endpoint=endpoint)
    etag = huggingface_hub.get_hf_file_metadata(url, endpoint=endpoint).etag
    if not etag or Path(etag).name != etag:
        raise HubError(f"The Hub gives no usable identity for {snapshot.repository}: {file.name}; try again later.")
    blob = repository_folder(snapshot.repository) / "blobs" / etag
    part = blob.with_name(blob.name + ".part")
    blob.parent.mkdir(parents=True, exist_ok=True)
    disable_progress_bars("huggingface_hub.http_get")  # one bar over all files is shown instead
    lock = blob.parents[2] / ".locks" / blob.parents[1].name / (blob.name + ".part.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not blob.is_file():
            with part.open("ab") as stream:
                begun = stream.tell() if stream.tell() <= file.size else stream.truncate(0)
                count(begun)
                headers = build_hf_headers()
                counted: Any = _Counted(stream, count)
                http_get(url, counted, resume_size=begun, headers=headers, expected_size=file.size)
            _check_part(part, file, etag)
            part.replace(blob)
    # the blob lies in its place: this only links it into the snapshot, in whichever way the system allows
    huggingface_hub.hf_hub_download(
        snapshot.repository, file.name, revision=snapshot.commit, endpoint=endpoint, cache_dir=blob.parents[2]
    )
    count(file.size)


class _Counted:
    """A file that says how many bytes it holds after each write."""

    def __init__(self, stream: BinaryIO, count: Callable[[int], None]) -> None:
        self._stream, self._count = stream, count

    def write(self, data: bytes) -> int:
        written = self._stream.write(data)
        self._count(self._stream.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _check_part(part: Path, file: _File, etag: str) -> None:
    """The whole file, byte by byte, where the Hub says what it should be. A wrong one is thrown away."""
    expected = file.sha256 or (etag if _SHA256.fullmatch(etag) else None)
    if expected is not None and file_sha256(part) != expected:
        part.unlink()
        raise HubError(f"{file.name} arrived damaged (its SHA-256 is not the Hub's) and was deleted; try again.")


def _check_disk(snapshot: Snapshot, size: int) -> None:
    folder = repository_folder(snapshot.repository)
    blobs = folder / "blobs"
    begun = sum(path.stat().st_size for path in blobs.glob("*.part")) if blobs.is_dir() else 0
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if size - begun > free:
        raise HubError(
            f"The disk is too full for {snapshot.repository}: {(size - begun) / 1e9:.1f} GB are needed and "
            f"{free / 1e9:.1f} GB are free in {place}; free some, or set HF_HOME to another disk."
        )


def _listed(sibling: Any) -> _File:
    lfs = sibling.lfs
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    return _File(sibling.rfilename, int(sibling.size or 0), sha256)


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except CheckpointError:
        return False


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


# ------------------------------------------------------------------------------------------------ the record


def _record_file() -> Path:
    return data_folder() / "revisions.json"


def _record() -> dict[str, Any]:
    """{repository: {"revisions": {name: commit}, "sha256": {commit: {file: sum}}}}; empty where it cannot be read."""
    try:
        record = json.loads(_record_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _change_record(change: Callable[[dict[str, Any]], Any]) -> None:
    """A record that cannot be written costs a look-up at the next start, not the download."""
    with _record_lock:
        record = _record()
        change(record)
        file = _record_file()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.{os.getpid()}")
            partial.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
            partial.replace(file)
        except OSError:
            return


def _remember(snapshot: Snapshot, revision: str, files: list[_File]) -> None:
    def change(record: dict[str, Any]) -> None:
        entry = record.setdefault(snapshot.repository, {})
        if not _COMMIT.fullmatch(revision):
            entry.setdefault("revisions", {})[revision] = snapshot.commit
        sums = {file.name: file.sha256 for file in files if file.sha256}
        entry.setdefault("sha256", {}).setdefault(snapshot.commit, {}).update(sums)

    _change_record(change)


def _known_commit(repository: str, revision: str) -> str | None:
    """The commit of a revision as far as this machine knows: itself, as recorded, or as the Hub's cache last saw it."""
    if _COMMIT.fullmatch(revision):
        return revision
    commit = _record().get(repository, {}).get("revisions", {}).get(revision)
    if commit is None and re.fullmatch(r"\w[\w./-]*", revision) and ".." not in revision:
        reference = repository_folder(repository) / "refs" / revision
        commit = reference.read_text().strip() if os.path.isfile(reference) else None  # False for a name too long, too
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


# ------------------------------------------------------------------------------------------------ what went wrong


def _library_errors() -> tuple[type[BaseException], ...]:
    """All that huggingface_hub raises for the Hub's and the network's faults, whichever HTTP client it is built on."""
    from huggingface_hub import errors

    # its own HTTP error derives from the client's base error and from OSError
    return (*errors.HfHubHTTPError.__bases__, errors.HFValidationError, errors.LocalTokenNotFoundError, OSError)


def _sentence(error: BaseException, repository: str, revision: str) -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repository} is gated: accept its conditions at {page} while signed in, then run `hf auth login` or set "
            "HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        again = "; `checkpoints download --update` looks a recorded one up again" if _COMMIT.fullmatch(revision) else ""
        return f"{repository} has no revision {revision!r}: all that it has are listed at {page}/commits/main{again}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"There is no repository {repository} on the Hub; check the name, or sign in with `hf auth login` if it is "
            "private."
        )
    if isinstance(error, errors.HFValidationError):
        return f"{repository!r} is no valid Hub id of the form owner/name."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: {repository} is kept as far as it came; free some, or set HF_HOME to another disk."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"The Hub's cache cannot be written ({error.strerror}: {error.filename}); set HF_HOME to another folder."
    if status in (401, 403):
        return f"The Hub refuses access to {repository} ({status}): sign in with `hf auth login` or set HF_TOKEN."
    if status is not None:
        return f"The Hub answered {repository} with an error ({status}); try again later."
    return (
        f"The Hub cannot be reached and {repository} is not complete in the cache: go online and try again (what has "
        "arrived is kept), or give a local folder."
    )
