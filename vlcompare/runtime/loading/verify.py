"""Whether a checkpoint on this machine can be used: every step of loading it and asking it is tried.

Checksums, headers, keys, shapes, dtypes, tokenizer and every value are looked at by the very code that `load` uses, and
then one question is asked, where the machine has room for the model; where it has not, the files are read through one
tensor at a time. Says what it checked, or raises what is wrong.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vlcompare.errors import CheckpointError, DeviceMemoryError
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.engine import generate
from vlcompare.runtime.loading import hub, registry
from vlcompare.runtime.loading.fill import account, read_through
from vlcompare.runtime.loading.keys import stored_norm
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.loading.locate import CheckpointSource, find_source, local_tokenizer, read_stored
from vlcompare.runtime.tokenizer import Tokenizer


def verify(checkpoint: str | Path, *, revision: str | None = None, progress: hub.Progress | None = None) -> list[str]:
    """Check a checkpoint without any network. Returns what was found right, as sentences.

    Raises CheckpointError for what is wrong, or where the checkpoint is not on this machine; RequestError where the
    shortest question does not fit the model.
    """
    say = progress or (lambda sentence, done, total: None)
    source = find_source(checkpoint, revision=revision, offline=True)
    if source is None:
        command = f"checkpoints download {checkpoint}" + (f" --revision {revision}" if revision else "")
        raise CheckpointError(f"{checkpoint} is not on this machine: `python -m vlcompare {command}` fetches it.")
    found = [f"config.json describes a {source.config.family} model for {source.config.image_size} pixels."]
    stored = read_stored(source)
    files = sorted({entry.file for entry in stored.values()})
    found.append(f"{len(stored)} tensors in {len(files)} file{'s' * (len(files) > 1)}, headers and sizes agree.")
    if source.repository is not None and source.revision is not None:
        found += _check_sums(hub.Snapshot(source.repository, source.revision, source.folder), files, say)
    config = source.config.with_norm(stored_norm(stored, source.config.family))  # type: ignore[arg-type]
    empty = meta_model(config)
    account(empty, stored, source.quantization)
    found.append("Every key has its place, its shape and a dtype that fits, and none is missing.")
    tokenizer = local_tokenizer(source)
    if tokenizer is not None:
        Tokenizer(tokenizer, vocabulary=config.language.vocab_size).check()
        found.append("The tokenizer spells questions, and its ids are the model's.")
    try:
        _ask(checkpoint, source, tokenizer, say)
    except DeviceMemoryError as error:
        total = sum(entry.bytes for entry in stored.values())
        read_through(empty, stored, source.quantization, lambda done, _: say("Reading the weights", done, total))
        return [*found, "All values are finite.", f"No question was asked: {error}"]
    asked = "A question was answered." if tokenizer else "No question was asked: the tokenizer is not on this machine."
    return [*found, "All values are finite.", asked]


def _ask(checkpoint: str | Path, source: CheckpointSource, tokenizer: Path | None, say: hub.Progress) -> None:
    """Load it as `ask` does, and ask for the first words about a grey picture."""
    revision = source.revision if source.repository else None
    model = load(checkpoint, revision=revision, tokenizer=tokenizer, progress=say)
    if tokenizer is None:
        return
    side = model.config.image_size
    answer = generate(model, Image.new("RGB", (side, side), "grey"), task="captioning", max_new_tokens=3)
    if answer.error:
        raise CheckpointError(answer.error)


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
