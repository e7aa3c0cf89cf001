"""Whether a checkpoint on this machine is whole: checksums, headers, keys, shapes, and every value finite.

Reads all of it once, one tensor at a time; loads nothing to a device. Says what it checked, or raises what is wrong.
"""

from __future__ import annotations

from pathlib import Path

from vlcompare.errors import CheckpointError
from vlcompare.models.vlm import meta_model
from vlcompare.runtime import hub, registry
from vlcompare.runtime.fill import account
from vlcompare.runtime.keys import stored_norm
from vlcompare.runtime.source import find_source, read_stored
from vlcompare.runtime.weights import check_finite, read_tensor


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
        found += _check_sums(hub.Snapshot(source.repository, source.revision, source.folder), files, say)
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


def _check_sums(snapshot: hub.Snapshot, files: list[Path], say: hub.Progress) -> list[str]:
    """All that is loaded of a checkpoint from the Hub, the shared tokenizer with it, against the Hub's checksums."""

    def check(of: hub.Snapshot, names: list[str]) -> int:
        return len(hub.check_files(of, names, lambda sentence: say(sentence, 0, 0)))

    known = registry.registry()
    shared = hub.cached(known.tokenizer_repository, files=[known.tokenizer_file])
    small = [name for name in hub.SMALL if (snapshot.folder / name).is_file()]
    checked = check(snapshot, [file.name for file in files])
    sentences = [f"SHA-256 of {checked} of {len(files)} weight files is the Hub's at commit {snapshot.commit}."]
    sentences.append(f"{check(snapshot, small)} of {len(small)} small files ({', '.join(small)}) are the Hub's.")
    if "tokenizer.json" not in small and shared is not None and check(shared, [known.tokenizer_file]):
        sentences.append(f"The tokenizer of {shared.repository} is the Hub's.")
    return sentences
