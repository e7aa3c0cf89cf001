"""From the name of a checkpoint (a name in `checkpoints/`, a folder, or a Hub id) to its folder and config.

Reads config.json, and refuses one that asks to run code or was quantized by another tool.
"""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.config import ModelConfig, from_dict
from vlcompare.paths import CHECKPOINTS
from vlcompare.runtime.bounded_files import LARGEST_CONFIG, is_there, read_json
from vlcompare.runtime.loading import hub, quantize, registry
from vlcompare.runtime.loading.safetensors_files import Stored, read_headers
from vlcompare.runtime.loading.weight_files import weight_files

SECTION = "vlcompare_quantization"  # in config.json of a checkpoint that `vlcompare quantize` wrote


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint whose files are on this machine and whose config is read."""

    name: str  # as it was asked for
    folder: Path
    revision: str | None  # the commit, for those from the Hub
    data: dict[str, Any]  # config.json, parsed and otherwise unchanged
    config: ModelConfig
    quantization: str  # how the files are stored: "none", "nf4" or "int8"
    repository: str | None = None  # on the Hub, for those from there

    def loaded_as(self, quantization: str) -> str:
        """The quantization once loaded: as stored, else as asked for."""
        return self.quantization if self.quantization != "none" else quantization


def find_source(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    progress: hub.Progress | None = None,
    offline: bool = False,
    names_only: bool = False,
) -> CheckpointSource | None:
    """The checkpoint, downloaded where need be. None only with `offline`, where it is not on this machine.

    names_only: it is a known name or a Hub id; whether there is a folder of that name is not looked up. For names from
    elsewhere, whose sender must not learn what is on this machine.
    Raises CheckpointError for a checkpoint that is not found or whose config cannot be used.
    """
    name = str(checkpoint)
    known = registry.find(name)
    folder = _embedded_folder(known) if names_only or known is not None else local_folder(name)
    if folder is not None:
        if revision is not None:
            raise RequestError(f"{name} lies on this machine; a revision is for checkpoints on the Hub.")
        return _read(name, folder, None)
    repository, revision = on_the_hub(name, revision)
    if offline:
        snapshot = hub.cached(repository, revision=revision)
        if snapshot is None:
            return None
    else:
        snapshot = hub.fetch(repository, revision=revision, progress=progress, check=read_config)
    return _read(name, snapshot.folder, snapshot.commit, repository)


def name_of(folder: Path) -> str:
    """The name that stands for this folder: its path, with "./" in front where `find_source` takes it for another."""
    name = str(folder)
    other = registry.find(name) is not None or _is_shipped(name)
    return f".{os.sep}{name}" if other and not folder.is_absolute() else name


def look_up(checkpoint: str, revision: str | None = None, progress: hub.Progress = lambda *said: None) -> hub.Listed:
    """What the Hub lists of a checkpoint, whose config can be used; the weights are not fetched.

    progress: as in `hub.look_up`.
    """
    repository, revision = on_the_hub(checkpoint, revision)
    return hub.look_up(repository, revision=revision, progress=progress, check=read_config)


def on_the_hub(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """The repository of a name, and the revision: the given one, else the one that the registry pins.

    Raises CheckpointError for a name that stands for no repository.
    """
    known, repository = registry.find(name), registry.repository_of(name)
    if not hub.is_repository(repository):
        raise CheckpointError(registry.unknown(name))
    return repository, revision or (known.revision if known else None)


def read_config(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """config.json of a folder, raw and as a model's configuration. Raises CheckpointError if it cannot be used."""
    path = folder / "config.json"
    try:
        data = read_json(path, LARGEST_CONFIG)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no config.json; it is not a checkpoint.") from error
    except OSError as error:
        raise CheckpointError(f"config.json in {folder} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"config.json in {folder} cannot be read: it is damaged, download it again.") from error
    if isinstance(data, dict) and data.get("auto_map"):
        raise CheckpointError(
            f"config.json in {folder} asks to run Python code that comes with the checkpoint (auto_map); foreign code "
            "is not run here: remove that entry if the model is a Pythia-VL or Mamba-VL one."
        )
    if isinstance(data, dict) and data.get("quantization_config"):
        raise CheckpointError(
            f"config.json in {folder} says that the weights were quantized by another tool (quantization_config); use "
            "the original checkpoint, or one that `python -m vlcompare quantize` wrote."
        )
    return data, from_dict(data)


def read_stored(source: CheckpointSource) -> dict[str, Stored]:
    """All tensors in the checkpoint's files, by key; headers are checked against the files' sizes."""
    return read_headers(weight_files(source.folder))


def _embedded_folder(known: registry.Checkpoint | None) -> Path | None:
    if known is None or known.folder is None:
        return None
    if not known.available:
        raise CheckpointError(f"{known.name} belongs to this project, but {known.folder} is missing; install it again.")
    return known.folder


def local_folder(name: str) -> Path | None:
    """The folder that a name stands for where no known checkpoint has it. Raises CheckpointError for a file."""
    # by os.path, which has an answer for a name that is too long for a path and for a user who does not exist, too
    if _is_shipped(name):
        return CHECKPOINTS / name
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        raise CheckpointError(f"{name} is a file; give the folder that holds config.json and the safetensors.")
    return path if name and os.path.isdir(path) else None


def _is_shipped(name: str) -> bool:
    return bool(name) and Path(name).name == name and os.path.isfile(CHECKPOINTS / name / "config.json")


def _read(name: str, folder: Path, revision: str | None, repository: str | None = None) -> CheckpointSource:
    data, config = read_config(folder)
    section = data.get(SECTION)
    method: Any = "none"
    if section is not None:
        method = section.get("method") if isinstance(section, dict) else None
        if method not in quantize.METHODS or section.get("version") != 1 or section.get("block") != quantize.BLOCK:
            raise CheckpointError(
                f"config.json in {folder}: {SECTION!r} is {reprlib.repr(section)}, which cannot be read here; quantize "
                "again."
            )
    return CheckpointSource(name, folder, revision, data, config, method, repository)


def local_tokenizer(source: CheckpointSource) -> Path | None:
    """The checkpoint's own tokenizer.json, or the shared one where it is on this machine already."""
    own = source.folder / "tokenizer.json"
    if is_there(own):
        return own
    known = registry.registry()
    shared = hub.cached(known.tokenizer_repository, files=[known.tokenizer_file])
    return shared.folder / known.tokenizer_file if shared else None
