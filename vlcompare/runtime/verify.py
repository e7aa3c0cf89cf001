"""Whether a checkpoint on this machine is whole: checksums, headers, keys, shapes, and every value finite.

Reads all of it once, one tensor at a time; loads nothing to a device. Says what it checked, or raises what is wrong.
"""

from __future__ import annotations

from pathlib import Path

from vlcompare.errors import CheckpointError
from vlcompare.models.vlm import meta_model
from vlcompare.runtime import hub
from vlcompare.runtime.fill import account
from vlcompare.runtime.keys import stored_norm
from vlcompare.runtime.source import find_source, read_stored
from vlcompare.runtime.weights import check_finite, file_sha256, read_tensor


def verify(checkpoint: str | Path, *, revision: str | None = None, progress: hub.Progress | None = None) -> list[str]:
    """Check a checkpoint without any network. Returns what was found right, as sentences.

    Raises CheckpointError for what is wrong, or where the checkpoint is not on this machine.
    """
    say = progress or (lambda sentence, done, total: None)
    source = find_source(checkpoint, revision=revision, offline=True)
    if source is None:
        raise CheckpointError(
            f"{checkpoint} is not on this machine: `python -m vlcompare checkpoints download` fetches it."
        )
    found = [f"config.json describes a {source.config.family} model for {source.config.image_size} pixels."]
    stored = read_stored(source)
    files = sorted({entry.file for entry in stored.values()})
    found.append(f"{len(stored)} tensors in {len(files)} file{'s' * (len(files) > 1)}, headers and sizes agree.")
    if source.repository is not None and source.revision is not None:
        found.append(_check_sums(hub.Snapshot(source.repository, source.revision, source.folder), files, say))
    config = source.config.with_norm(stored_norm(stored, source.config.family))  # type: ignore[arg-type]
    account(meta_model(config), stored, source.quantization)
    found.append("Every key has its place and its shape, and none is missing.")
    total, done = sum(entry.bytes for entry in stored.values()), 0
    for entry in stored.values():
        check_finite(read_tensor(entry), entry)
        done += entry.bytes
        say("Looking for NaN", done, total)
    found.append("All values are finite.")
    return found


def _check_sums(snapshot: hub.Snapshot, files: list[Path], say: hub.Progress) -> str:
    known = hub.checksums(snapshot)
    checked = 0
    for file in files:
        if file.name in known:
            say(f"Checking {file.name}", 0, 0)
            if file_sha256(file) != known[file.name]:
                raise CheckpointError(
                    f"{file.name} differs from the Hub's (SHA-256): `checkpoints remove` it and download it again."
                )
            checked += 1
    return f"SHA-256 of {checked} of {len(files)} weight files is the Hub's at commit {snapshot.commit}."
