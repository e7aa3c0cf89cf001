"""Checkpoints on the Hugging Face Hub: downloads the needed files into the Hub's own cache; later loads are offline.

Only this package imports huggingface_hub. `transfer` downloads one file, resumes it after an interruption, and accepts
it once its checksum is the Hub's. The cache has huggingface_hub's layout, so other programs find what is downloaded
here, and this one what they have downloaded.

At the first download a branch such as `main` is resolved to its commit. The commit is reported, recorded in
`revisions.json` in the user's data folder, and used from then on, so that a name keeps its weights.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlcompare import terminal
from vlcompare.errors import CheckpointError, HubError
from vlcompare.runtime.loading.hub import disk, errors, record, transfer
from vlcompare.runtime.loading.hub.listing import choose, listing
from vlcompare.runtime.loading.hub.reach import reachability, signed_in
from vlcompare.runtime.loading.hub.transfer import HubFile
from vlcompare.runtime.loading.hub.upload import commit_file, is_repository, push
from vlcompare.runtime.loading.weight_files import INDEX, weight_files
from vlcompare.types import Notify
from vlcompare.units import format_bytes

__all__ = [
    "FileCheck", "Listed", "Progress", "SMALL", "Snapshot", "cache_folder", "cached", "cached_bytes", "check_files",
    "checksums", "commit_file", "fetch", "is_repository", "look_up", "push", "reachability", "remove",
    "repository_folder", "signed_in",
]  # fmt: skip

Progress = Callable[[str, int, int], None]  # a sentence, bytes done, bytes in all (0: not known)
FileCheck = Callable[[Path], Any]

SMALL = ("config.json", "tokenizer.json", INDEX)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit, complete on this machine."""

    repository: str
    commit: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Listed:
    """A repository at one commit before its weights are fetched; the folder holds the small files."""

    snapshot: Snapshot
    small: list[HubFile]
    weights: list[HubFile]

    @property
    def stored(self) -> int:
        """Bytes of the weights as the Hub lists them."""
        return sum(file.size or 0 for file in self.weights)

    @property
    def missing(self) -> int:
        """Bytes of the weights that are not on this machine, unfinished files counted as far as they are."""
        folder = repository_folder(self.snapshot.repository)
        left = [file for file in self.weights if not (self.snapshot.folder / file.name).exists()]
        begun = [part for file in left if file.checksum and (part := transfer.incomplete(folder, file)).is_file()]
        return max(0, sum(file.size or 0 for file in left) - sum(part.stat().st_size for part in begun))


def look_up(
    repository: str,
    *,
    revision: str | None = None,
    progress: Progress = lambda *said: None,
    check: FileCheck | None = None,
) -> Listed:
    """What `fetch` would fetch: the listing is asked for, and the small files are; no byte of the weights.

    progress: also called while nothing arrives; it may raise to give up. Raises HubError, and what `check` raises.
    """
    requested = revision or "main"
    try:
        return _begin(repository, requested, _known_commit(repository, requested), progress, check)
    except CheckpointError:
        raise
    except errors.library_errors() as error:
        raise HubError(errors.message_for(error, repository, requested)) from error


def fetch(
    repository: str,
    *,
    revision: str | None = None,
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
    check: FileCheck | None = None,
    update: bool = False,
) -> Snapshot:
    """The repository's files on this machine; those that are missing are downloaded.

    revision: a commit, branch or tag; None is `main`. A branch that was resolved before keeps its commit, unless
    `update`. files: exactly these; None: config.json, tokenizer.json and the safetensors. check: called with the folder
    once the small files are there, to refuse a checkpoint before its weights are fetched.
    Raises HubError with one sentence: not found, gated, offline, disk full.
    """
    if not is_repository(repository):
        raise HubError(f"{repository!r} is not a Hub id of the form owner/name.")
    requested, wanted = revision or "main", None if files is None else tuple(files)
    snapshot = None if update else cached(repository, revision=revision, files=wanted)
    if snapshot is not None:
        return snapshot
    try:
        return _download(repository, requested, wanted, progress or terminal.Progress(), check, update)
    except CheckpointError:
        raise
    except errors.library_errors() as error:
        known = None if update else _known_commit(repository, requested)
        raise HubError(errors.message_for(error, repository, known or requested)) from error


def cached(repository: str, *, revision: str | None = None, files: Iterable[str] | None = None) -> Snapshot | None:
    """The repository's snapshot in the cache, without any network; None if a file is missing."""
    commit = _known_commit(repository, revision or "main")
    if commit is None:
        return None
    folder = repository_folder(repository) / "snapshots" / commit
    if files is not None:
        complete = all(_has_content(folder / name) for name in files)
    else:
        complete = _has_content(folder / "config.json") and _has_weights(folder)
    return Snapshot(repository, commit, folder) if complete else None


def remove(repository: str) -> int:
    """Delete a repository from the cache, complete or not. Returns the bytes that were freed."""
    folder = repository_folder(repository)
    freed = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if folder.is_dir():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise HubError(f"{folder} cannot be removed ({error.strerror}); remove it by hand.") from error
    record.forget(repository)
    return freed


def cached_bytes(repository: str) -> int:
    """Bytes of a repository in the cache, complete or not."""
    blobs = repository_folder(repository) / "blobs"
    return sum(path.stat().st_size for path in blobs.iterdir() if path.is_file()) if blobs.is_dir() else 0


def checksums(snapshot: Snapshot) -> dict[str, str]:
    """The Hub's checksums of a snapshot's files, by name: recorded ones, else the names of the cache's blobs.

    64 digits are a SHA-256, 40 the SHA-1 of a git blob.
    """
    sums = record.checksums(snapshot.repository, snapshot.commit)
    for path in sorted(snapshot.folder.iterdir()):
        name = path.resolve().name
        if path.name not in sums and transfer.CHECKSUM.fullmatch(name):
            sums[path.name] = name
    return sums


def check_files(snapshot: Snapshot, names: Iterable[str], notify: Notify) -> list[str]:
    """Compare files of a snapshot with the Hub's checksums. Returns the names of the files that have one.

    Raises CheckpointError for a file that differs.
    """
    known = checksums(snapshot)
    checked = [name for name in names if name in known]
    for name in checked:
        notify(f"Checking {name}")
        if not transfer.matches(snapshot.folder / name, known[name]):
            kind = "SHA-256" if len(known[name]) == 64 else "git SHA-1"
            raise CheckpointError(
                f"{name} differs from the Hub's ({kind}): `checkpoints remove {snapshot.repository}`, and it is "
                "downloaded anew when it is next needed."
            )
    return checked


def repository_folder(repository: str) -> Path:
    """A repository's folder in the Hub's cache. Raises HubError for a name that is not a Hub id."""
    if not is_repository(repository):
        raise HubError(f"{repository!r} is not a Hub id of the form owner/name.")
    return cache_folder() / ("models--" + repository.replace("/", "--"))


def cache_folder() -> Path:
    """The Hub's cache, which may not exist yet."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)


# ------------------------------------------------------------------------------------------------ downloading


def _download(
    repository: str,
    revision: str,
    wanted: tuple[str, ...] | None,
    progress: Progress,
    check: FileCheck | None,
    update: bool,
) -> Snapshot:
    known = None if update else _known_commit(repository, revision)
    if wanted is None:
        found = _begin(repository, revision, known, progress, check)
        snapshot, small, chosen = found.snapshot, found.small, found.weights
        if not update:  # what goes on later goes on with this commit, even if the branch has moved on meanwhile
            record.remember(repository, revision, snapshot.commit, {})
    else:
        snapshot, listed = _look_up(repository, revision, known, progress)
        absent = [name for name in wanted if name not in listed]
        if absent:
            raise HubError(f"{repository} has no file {absent[0]} at commit {snapshot.commit[:12]}.")
        small, chosen = [], [listed[name] for name in wanted]
    chosen = _get_all(snapshot, chosen, progress)
    sums = {file.name: file.checksum for file in (*small, *chosen) if file.checksum}
    record.remember(repository, revision, snapshot.commit, sums)
    if known is None and snapshot.commit != revision:
        _note_reference(snapshot, revision)
    return snapshot


def _begin(repository: str, revision: str, known: str | None, progress: Progress, check: FileCheck | None) -> Listed:
    """The listing, and the small files, which are fetched and checked: all but the weights."""
    snapshot, listed = _look_up(repository, revision, known, progress)
    small = _get_all(snapshot, [listed[name] for name in SMALL if name in listed], progress)
    if check is not None:
        check(snapshot.folder)
    return Listed(snapshot, small, choose(repository, listed, snapshot.folder))


def _look_up(
    repository: str, revision: str, known: str | None, progress: Progress
) -> tuple[Snapshot, dict[str, HubFile]]:
    """The commit, and its files by name. known: the commit that is recorded for the revision."""
    commit, listed = listing(repository, known or revision, partial(progress, f"Looking up {repository}", 0, 0))
    if known is not None and commit != known:
        raise HubError(f"{repository} was requested at commit {known[:12]} and answered with {commit[:12]}; try again.")
    if known is None:
        progress(f"{repository}: {revision} is commit {commit}", 0, 0)
    return Snapshot(repository, commit, repository_folder(repository) / "snapshots" / commit), listed


def _note_reference(snapshot: Snapshot, revision: str) -> None:
    """Record the branch's commit in the cache as huggingface_hub does; other programs need it offline."""
    reference = _reference(snapshot.repository, revision)
    if reference is None:
        return
    try:
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(snapshot.commit, encoding="utf-8")
    except OSError:  # this program does not need it
        return


def _get_all(snapshot: Snapshot, files: list[HubFile], progress: Progress) -> list[HubFile]:
    """Download missing files into the cache, and link them into the snapshot's folder.

    Returns all files, with the checksums and sizes that the listing left out.
    """
    import huggingface_hub

    folder, commit, endpoint = repository_folder(snapshot.repository), snapshot.commit, errors.endpoint()
    urls = {
        file.name: huggingface_hub.hf_hub_url(snapshot.repository, file.name, revision=commit, endpoint=endpoint)
        for file in files
    }
    looking_up = partial(progress, f"Looking up {snapshot.repository}", 0, 0)
    files = [transfer.with_checksum(file, urls[file.name], commit, looking_up) for file in files]
    waiting = [file for file in files if not transfer.is_valid(snapshot.folder / file.name, file)]
    for file in waiting:
        if (file.size or 0) > transfer.max_bytes(file.name):
            size = format_bytes(file.size or 0)
            raise HubError(f"{snapshot.repository}: {file.name} has {size}, too many for such a file.")
    total, done = sum(file.size or 0 for file in waiting), 0
    parts = [transfer.incomplete(folder, file) for file in waiting]
    begun = sum(part.stat().st_size for part in parts if part.is_file())
    with disk.room(snapshot.repository, folder, total - begun) as still_missing:
        for file in waiting:

            def count(bytes_of_file: int, file: HubFile = file, before: int = done) -> None:
                still_missing(total - before - bytes_of_file)
                progress(f"Downloading {snapshot.repository}: {file.name}", before + bytes_of_file, total)

            download = transfer.Transfer(
                folder, commit, file, urls[file.name], count, lambda text: progress(text, 0, 0)
            )
            transfer.link(download.run(), snapshot.folder / file.name)
            count(file.size or 0)
            done += file.size or 0
    return files


def _has_content(file: Path) -> bool:
    """Whether a file exists and is not empty: an interrupted program may leave an empty one."""
    return file.is_file() and file.stat().st_size > 0


def _has_weights(folder: Path) -> bool:
    try:
        return all(map(_has_content, weight_files(folder)))
    except CheckpointError:
        return False


def _known_commit(repository: str, revision: str) -> str | None:
    """The commit of a revision without the network: itself, the recorded one, or the one in the Hub's cache."""
    if record.COMMIT.fullmatch(revision):
        return revision
    commit = record.revision(repository, revision)
    if commit is not None:
        return commit
    reference = _reference(repository, revision)
    if reference is None or not os.path.isfile(reference):  # False for a name that is too long, too
        return None
    commit = reference.read_text(encoding="utf-8", errors="replace").strip()
    return commit if record.COMMIT.fullmatch(commit) else None


def _reference(repository: str, revision: str) -> Path | None:
    """The cache's own file with a branch's commit; None for a name that might lead out of its folder."""
    plain = re.fullmatch(r"\w[\w./-]*", revision) and ".." not in revision
    return repository_folder(repository) / "refs" / revision if plain else None
