"""Checkpoints on the Hugging Face Hub: only the needed files, into the Hub's own cache, resumable, and offline from it.

The home of huggingface_hub. Knows repositories, files and bytes; nothing of models or keys. A file's bytes are fetched
in `transfer`, kept as they arrive and believed once their checksum is the Hub's; the cache has huggingface_hub's
layout, so that other programs find what is fetched here and the other way round.

At the first download a branch such as `main` is resolved to its commit, which is said, recorded in `revisions.json` in
the user's data folder, and used from then on: what ran yesterday runs today.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import CheckpointError, HubError
from vlcompare.runtime.loading.hub import errors, record, transfer
from vlcompare.runtime.loading.hub.transfer import HubFile
from vlcompare.runtime.loading.hub.upload import commit_file, is_repository, push
from vlcompare.runtime.loading.safetensors_files import INDEX, ONE_FILE, SHARD, names_in_index, weight_files
from vlcompare.units import format_bytes

__all__ = [
    "FileCheck", "Progress", "SMALL", "Snapshot", "cached", "cached_bytes", "check_files", "checksums", "commit_file",
    "fetch", "is_repository", "push", "remove", "repository_folder", "terminal_progress",
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


def fetch(
    repository: str,
    *,
    revision: str | None = None,
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
    check: FileCheck | None = None,
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
    except errors.library_errors() as error:
        known = None if update else _known_commit(repository, asked)
        raise HubError(errors.sentence(error, repository, known or asked)) from error


def cached(repository: str, *, revision: str | None = None, files: Iterable[str] | None = None) -> Snapshot | None:
    """The repository as it lies complete in the cache, without any network; None where something is missing."""
    commit = _known_commit(repository, revision or "main")
    if commit is None:
        return None
    folder = repository_folder(repository) / "snapshots" / commit
    if files is not None:
        complete = all(_is_there(folder / name) for name in files)
    else:
        complete = _is_there(folder / "config.json") and _has_weights(folder)
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
    record.forget(repository)
    return freed


def cached_bytes(repository: str) -> int:
    """Bytes that the cache holds of a repository, finished or not."""
    blobs = repository_folder(repository) / "blobs"
    return sum(path.stat().st_size for path in blobs.iterdir() if path.is_file()) if blobs.is_dir() else 0


def checksums(snapshot: Snapshot) -> dict[str, str]:
    """What the Hub says of a snapshot's files: by the record, else by the names that the cache gives blobs.

    64 digits are a SHA-256, 40 the SHA-1 of a git blob.
    """
    sums = record.checksums(snapshot.repository, snapshot.commit)
    for path in sorted(snapshot.folder.iterdir()):
        name = path.resolve().name
        if path.name not in sums and transfer.CHECKSUM.fullmatch(name):
            sums[path.name] = name
    return sums


def check_files(snapshot: Snapshot, names: Iterable[str], say: Callable[[str], None]) -> list[str]:
    """Read files of a snapshot and compare them with the Hub's checksums. Returns the names of those that have one.

    Raises CheckpointError for one that differs.
    """
    known = checksums(snapshot)
    checked = [name for name in names if name in known]
    for name in checked:
        say(f"Checking {name}")
        if not transfer.matches(snapshot.folder / name, known[name]):
            kind = "SHA-256" if len(known[name]) == 64 else "git SHA-1"
            raise CheckpointError(
                f"{name} differs from the Hub's ({kind}): `checkpoints remove` it and download it again."
            )
    return checked


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
            bar = f"[{'#' * width}{'.' * (30 - width)}] {format_bytes(done)} of {format_bytes(total)}"
            print(f"\r{sentence} {bar}", end=end, file=sys.stderr, flush=True)
        elif last != [sentence]:
            print(sentence, file=sys.stderr, flush=True)
        last[:] = [sentence]

    return show


# ------------------------------------------------------------------------------------------------ downloading


def _download(
    repository: str, revision: str, wanted: tuple[str, ...] | None, say: Progress, check: FileCheck | None, update: bool
) -> Snapshot:
    known = None if update else _known_commit(repository, revision)
    say(f"Looking up {repository}", 0, 0)
    commit, listed = _listing(repository, known or revision)
    if known is not None and commit != known:
        raise HubError(f"{repository} was asked for at commit {known[:12]} and answered with {commit[:12]}; try again.")
    if known is None:
        say(f"{repository}: {revision} is commit {commit}", 0, 0)
    snapshot = Snapshot(repository, commit, repository_folder(repository) / "snapshots" / commit)
    small = [listed[name] for name in SMALL if name in listed]
    if wanted is None:
        small = _get_all(snapshot, small, say)
        if check is not None:
            check(snapshot.folder)
        chosen = _choose(repository, listed, snapshot.folder)
    else:
        small = []
        absent = [name for name in wanted if name not in listed]
        if absent:
            raise HubError(f"{repository} has no file {absent[0]} at commit {commit[:12]}.")
        chosen = [listed[name] for name in wanted]
    chosen = _get_all(snapshot, chosen, say)
    sums = {file.name: file.checksum for file in (*small, *chosen) if file.checksum}
    record.remember(repository, revision, commit, sums)
    if known is None and commit != revision:
        _note_reference(snapshot, revision)
    return snapshot


def _listing(repository: str, revision: str) -> tuple[str, dict[str, HubFile]]:
    """The commit that a revision is, and its files. Raises HubError for an answer that is no listing."""
    import huggingface_hub
    from huggingface_hub import constants

    api = huggingface_hub.HfApi(endpoint=errors.endpoint())
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        info = errors.patiently(
            lambda: api.model_info(repository, revision=revision, files_metadata=True, timeout=timeout)
        )
        commit, listed = str(info.sha), {file.name: file for file in map(_listed, info.siblings or [])}
    except errors.library_errors():
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HubError(errors.no_listing(repository)) from error
    if not record.COMMIT.fullmatch(commit):
        raise HubError(errors.no_listing(repository))
    return commit, listed


def _note_reference(snapshot: Snapshot, revision: str) -> None:
    """Tell other programs which commit the branch stood at, as huggingface_hub does; they need it offline."""
    reference = _reference(snapshot.repository, revision)
    if reference is None:
        return
    try:
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(snapshot.commit, encoding="utf-8")
    except OSError:  # all is there for this program
        return


def _choose(repository: str, listed: dict[str, HubFile], folder: Path) -> list[HubFile]:
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


def _get_all(snapshot: Snapshot, files: list[HubFile], say: Progress) -> list[HubFile]:
    """Bring the files that are not there yet into the cache, and link them into the snapshot's folder.

    Returns all of them with what the listing left out, so that each has a checksum.
    """
    import huggingface_hub

    folder, commit, endpoint = repository_folder(snapshot.repository), snapshot.commit, errors.endpoint()
    urls = {
        file.name: huggingface_hub.hf_hub_url(snapshot.repository, file.name, revision=commit, endpoint=endpoint)
        for file in files
    }
    files = [transfer.identified(file, urls[file.name], commit) for file in files]
    waiting = [file for file in files if not transfer.is_sound(snapshot.folder / file.name, file)]
    for file in waiting:
        if (file.size or 0) > transfer.most_bytes(file.name):
            size = format_bytes(file.size or 0)
            raise HubError(f"{snapshot.repository}: {file.name} has {size}, too many for its kind.")
    total, done = sum(file.size or 0 for file in waiting), 0
    _check_disk(snapshot, waiting, total)
    for file in waiting:

        def count(bytes_of_file: int, file: HubFile = file, before: int = done) -> None:
            say(f"Downloading {snapshot.repository}: {file.name}", before + bytes_of_file, total)

        way = transfer.Transfer(folder, commit, file, urls[file.name], count, lambda sentence: say(sentence, 0, 0))
        transfer.link(way.bring(), snapshot.folder / file.name)
        count(file.size or 0)
        done += file.size or 0
    return files


def _check_disk(snapshot: Snapshot, waiting: list[HubFile], total: int) -> None:
    folder = repository_folder(snapshot.repository)
    parts = [transfer.incomplete(folder, file) for file in waiting]
    begun = sum(part.stat().st_size for part in parts if part.is_file())
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if total - begun > free:
        raise HubError(
            f"The disk is too full for {snapshot.repository}: {format_bytes(total - begun)} are needed and "
            f"{format_bytes(free)} are free in {place}; free some, or set HF_HOME to another disk."
        )


def _listed(sibling: Any) -> HubFile:
    lfs = sibling.lfs
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    checksum = str(sha256 or (sibling.blob_id if lfs is None else None) or "")
    size = None if sibling.size is None else int(sibling.size)
    return HubFile(str(sibling.rfilename), size, checksum if transfer.CHECKSUM.fullmatch(checksum) else None)


def _is_there(file: Path) -> bool:
    """Whether a file is there with anything in it: an empty one is left by programs that were cut short."""
    return file.is_file() and file.stat().st_size > 0


def _has_weights(folder: Path) -> bool:
    try:
        return all(map(_is_there, weight_files(folder)))
    except CheckpointError:
        return False


def _known_commit(repository: str, revision: str) -> str | None:
    """The commit of a revision as far as this machine knows: itself, as recorded, or as the Hub's cache last saw it."""
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
    """The cache's own file that holds a branch's commit; None for a name that might point out of its folder."""
    plain = re.fullmatch(r"\w[\w./-]*", revision) and ".." not in revision
    return repository_folder(repository) / "refs" / revision if plain else None
