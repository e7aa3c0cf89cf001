"""From what somebody calls a checkpoint to a folder with a config, and how large it will be, before anything is loaded.

A name in `checkpoints/`, a folder, or a Hub id. Reads config.json and refuses what asks to run code or was quantized by
somebody else's scheme. Knows nothing of tensors' values or of devices.
"""

from __future__ import annotations

import math
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.config import PRESETS, ModelConfig, PythiaConfig, from_dict
from vlcompare.paths import CHECKPOINTS
from vlcompare.runtime.bounded_files import LARGEST_CONFIG, read_json
from vlcompare.runtime.loading import hub, quantize, registry
from vlcompare.runtime.loading.keys import model_key
from vlcompare.runtime.loading.safetensors_files import Stored, read_headers, weight_files

SECTION = "vlcompare_quantization"  # in config.json of a checkpoint that `vlcompare quantize` wrote
BESIDE = 640 << 20  # see `bytes_beside`
FLOAT32 = (".A_log", ".D", ".dt_proj.bias")  # Mamba's recurrence stays float32 in every precision


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint found: its files are on this machine, its config is read."""

    name: str  # as it was asked for
    folder: Path
    revision: str | None  # the commit, for those from the Hub
    data: dict[str, Any]  # config.json as it stands
    config: ModelConfig
    quantization: str  # how the files are stored: "none", "nf4" or "int8"
    repository: str | None = None  # on the Hub, for those from there


def find_source(
    checkpoint: str | Path, *, revision: str | None = None, progress: hub.Progress | None = None, offline: bool = False
) -> Source | None:
    """The checkpoint's folder, downloaded where need be. None only with `offline`, where it is not on this machine.

    Raises CheckpointError where there is no such checkpoint or its config cannot be used.
    """
    name = str(checkpoint)
    known = registry.find(name)
    folder = _local_folder(name, known)
    if folder is not None:
        if revision is not None:
            raise RequestError(f"{name} lies on this machine; a revision is for checkpoints on the Hub.")
        return _read(name, folder, None)
    repository = known.repository if known and known.repository else name
    if not hub.is_repository(repository):
        raise CheckpointError(
            f"{name!r} is neither a known checkpoint ({', '.join(registry.names())}), nor a folder, nor a Hub id."
        )
    revision = revision or (known.revision if known else None)
    if offline:
        snapshot = hub.cached(repository, revision=revision)
        if snapshot is None:
            return None
    else:
        snapshot = hub.fetch(repository, revision=revision, progress=progress, check=read_config)
    return _read(name, snapshot.folder, snapshot.commit, repository)


def read_config(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """config.json of a folder, as it stands and understood. Raises CheckpointError where it cannot be used."""
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


def read_stored(source: Source) -> dict[str, Stored]:
    """Everything that the checkpoint's files hold, checked against their sizes."""
    return read_headers(weight_files(source.folder))


def estimate_bytes(
    checkpoint: str | Path,
    quantization: str = "none",
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
) -> int:
    """Bytes of weights once loaded so, from file headers or the registry, without loading or any network.

    0 where nothing is known: a repository that is neither listed nor in the cache. Raises RequestError for a
    quantization, a dtype or a device that there is not.
    """
    return _estimate(checkpoint, quantization, dtype, device, revision)[0]


def estimate_beside(
    checkpoint: str | Path,
    quantization: str = "none",
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
) -> int:
    """Bytes that must be free beside those weights, by `bytes_beside`; 0 where nothing is known. Raises likewise."""
    return _estimate(checkpoint, quantization, dtype, device, revision)[1]


def bytes_beside(stored: dict[str, Stored], weights: int, device: torch.device) -> int:
    """Bytes that must be free beside the weights: the tensor that is being loaded, as it is stored, and on the CPU all
    that an answer takes, where too little memory ends the process without a word.

    The latter was measured with the 790M model: 0.42 GB for the libraries' code and the compiled kernels, 0.33 GB for
    the picture's and the prompt's intermediate values. Small models need less.
    """
    largest = max((entry.bytes for entry in stored.values()), default=0)
    return largest + (min(BESIDE, weights // 2) if device.type == "cpu" else 0)


def _estimate(
    checkpoint: str | Path, quantization: str, dtype: str, device: str, revision: str | None
) -> tuple[int, int]:
    from vlcompare.runtime.loading.load import check_quantization, resolve_device, resolve_dtype

    check_quantization(quantization)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    source = find_source(checkpoint, revision=revision, offline=True)
    if source is None:
        known = registry.find(str(checkpoint))
        weights = _guess(known, quantization, kind, place) if known and known.preset else 0
        return weights, bytes_beside({}, weights, place)
    method = source.quantization if source.quantization != "none" else quantization
    stored = read_stored(source)
    weights = bytes_of(stored, source.config.family, method, kind, place)
    return weights, bytes_beside(stored, weights, place)


def _local_folder(name: str, known: registry.Checkpoint | None) -> Path | None:
    if known is not None and known.folder is not None:
        if not known.available:
            raise CheckpointError(f"{name} belongs to this project, but {known.folder} is missing; install it again.")
        return known.folder
    if known is not None:
        return None
    # by os.path, which has an answer for a name that is too long for a path and for a user who does not exist, too
    if name and Path(name).name == name and os.path.isfile(CHECKPOINTS / name / "config.json"):
        return CHECKPOINTS / name
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        raise CheckpointError(f"{name} is a file; give the folder that holds config.json and the safetensors.")
    return path if name and os.path.isdir(path) else None


def _read(name: str, folder: Path, revision: str | None, repository: str | None = None) -> Source:
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
    return Source(name, folder, revision, data, config, method, repository)


def bytes_of(stored: dict[str, Stored], family: str, method: str, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes that stored tensors take once they are loaded so."""
    total, seen = 0, set()
    for key, entry in stored.items():
        name = model_key(key, family)
        if name is None or name in seen:  # the tied twin takes no room of its own
            continue
        seen.add(name)
        total += _bytes_of_one(name, entry, family, method, dtype, device)
    return total


def _bytes_of_one(name: str, entry: Stored, family: str, method: str, dtype: torch.dtype, device: torch.device) -> int:
    count = math.prod(entry.shape)
    kernels = method != "none" and quantize.has_kernels(method, device)
    suffix = name.rsplit(".", 1)[-1]
    if method != "none" and suffix in quantize.PARTS[method]:
        if kernels:
            return entry.bytes
        # unpacked into the model's dtype: two values in a byte of NF4; the scales are gone
        return 0 if suffix == "absmax" else (2 if suffix == "nf4" else 1) * entry.bytes * dtype.itemsize
    target = name.endswith(".weight") and name.rsplit(".", 2)[-2] in quantize.TARGETS[family]
    if kernels and target and len(entry.shape) == 2 and quantize.fits(*entry.shape):
        return quantize.part_bytes(method, *entry.shape)
    if not entry.dtype.is_floating_point:
        return entry.bytes
    return count * (4 if name.endswith(FLOAT32) else dtype.itemsize)


def _guess(known: registry.Checkpoint, method: str, dtype: torch.dtype, device: torch.device) -> int:
    """The same for a published shape that is not on this machine, by counting: nothing is built."""
    shape = PRESETS[str(known.preset)].language
    if isinstance(shape, PythiaConfig):
        h, m = shape.hidden_size, shape.intermediate_size
        large = [(3 * h, h), (h, h), (m, h), (h, m)]
        kept = 0
    else:
        large = [(2 * shape.inner_size, shape.hidden_size), (shape.hidden_size, shape.inner_size)]
        kept = shape.layers * shape.inner_size * (shape.state_size + 2)  # A, D and the time step's bias
    total = int(known.parameters or 0) * dtype.itemsize + kept * (4 - dtype.itemsize)
    if method != "none" and quantize.has_kernels(method, device):
        for rows, columns in large:
            total += shape.layers * (quantize.part_bytes(method, rows, columns) - rows * columns * dtype.itemsize)
    return total
