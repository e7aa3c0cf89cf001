"""Which safetensors files make up a checkpoint, and their checksums; what they hold is read by `safetensors_files`.

Does not import torch, so that listing checkpoints is quick.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
from pathlib import Path

from vlcompare.errors import CheckpointError
from vlcompare.runtime.bounded_files import is_there, read_json

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"^model-(\d{5})-of-(\d{5})\.safetensors$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
_LARGEST_INDEX = 4 << 20  # bytes; of the same keys
_MAX_FILES = 256  # of one checkpoint; published ones have two at most


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one file, or all its shards, with or without an index.

    Raises CheckpointError where a shard is missing, or where there are only files that can run code when opened.
    """
    if is_there(folder / ONE_FILE):
        return [folder / ONE_FILE]
    names = names_in_index(folder / INDEX) if is_there(folder / INDEX) else _names_of_shards(folder)
    if not names:
        raise CheckpointError(_nothing_usable(folder))
    if len(names) > _MAX_FILES:
        raise CheckpointError(f"{folder} claims to hold {len(names)} files of weights; at most {_MAX_FILES} are read.")
    for name in names:
        if not is_there(folder / name):
            raise CheckpointError(f"The shard {name} is missing in {folder}: download the checkpoint again.")
    return [folder / name for name in names]


def names_in_index(index: Path) -> list[str]:
    """The files that an index lists. Raises CheckpointError where it is damaged or points out of its folder."""
    try:
        names = sorted(set(read_json(index, _LARGEST_INDEX)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index.name} cannot be read; delete it or download the checkpoint again.") from error
    for name in names:
        # a name with a folder in it could point anywhere on this machine
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index.name} names {reprlib.repr(name)}, which is not a safetensors file of this folder."
            )
    return names


def _names_of_shards(folder: Path) -> list[str]:
    """`model-00001-of-0000N.safetensors` and its siblings: all N of them, whether they are there or not."""
    counts = {int(match[2]) for path in folder.iterdir() if (match := SHARD.match(path.name))}
    if len(counts) > 1:
        listed = " and ".join(map(str, sorted(counts)))
        raise CheckpointError(f"{folder} holds shards of different sets (of {listed} files): keep one set.")
    count = counts.pop() if counts else 0
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _nothing_usable(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} holds {pickles[0]} and no safetensors file: such files can run code when they are opened, so "
            "they are not loaded; convert the checkpoint to model.safetensors with safetensors.torch.save_file first."
        )
    return f"{folder} holds no model.safetensors and no model-00001-of-0000N.safetensors: it is not a whole checkpoint."


def file_sha256(file: Path) -> str:
    """SHA-256 of a whole file, as the Hub lists it for large files."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
