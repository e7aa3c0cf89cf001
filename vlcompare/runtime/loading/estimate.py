"""How many bytes a checkpoint takes once it is loaded, from file headers or the registry, without loading it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch

from vlcompare.models.config import PRESETS, ModelConfig, PythiaConfig
from vlcompare.runtime.loading import hub, quantize, registry
from vlcompare.runtime.loading.devices import resolve_device, resolve_dtype, vision_dtype
from vlcompare.runtime.loading.keys import FLOAT32, model_key
from vlcompare.runtime.loading.locate import SECTION, find_source, read_config, read_stored
from vlcompare.runtime.loading.safetensors_files import Stored, parameters_in
from vlcompare.types import ModelSpec

# on CPU, for an answer of the 790M model: 0.42 GB of libraries' code and compiled kernels, 0.33 GB of the picture's and
# the prompt's intermediate values; small models need less, at most half of their weights
_ANSWER = 640 << 20
# on a GPU, for an answer of a 2.8B model: a cache of 2,048 positions and its double in graphs' buffers (2 x 0.67 GB for
# the Transformer), the graphs' own pool, workspaces of libraries, and the prompt's intermediate values
_ANSWER_ON_GPU = 2 << 30


VISION_PARAMETERS = 304_000_000  # of EVA-02 large, which all published models look with


class Sizes(NamedTuple):
    """Bytes of weights, and bytes that must be free beside them while they are loaded and used."""

    weights: int
    beside: int


def estimate(spec: ModelSpec, *, names_only: bool = False) -> Sizes:
    """Sizes of a model before it is loaded, without any network. names_only: as in `find_source`.

    0 where nothing is known: a repository that is neither listed nor in the cache. Raises RequestError for an unknown
    quantization, dtype or device.
    """
    quantize.check_quantization(spec.quantization)
    device = resolve_device(spec.device)
    resolve_dtype(spec.dtype, device)  # refused before anything is looked for
    source = find_source(spec.checkpoint, revision=spec.revision, offline=True, names_only=names_only)
    if source is not None:
        stored = read_stored(source)
        dtype = resolve_dtype(spec.dtype, device, parameters_in(stored))
        return sizes(stored, source.config.family, source.loaded_as(spec.quantization), dtype, device)
    known = registry.find(spec.checkpoint)
    if known is None or known.preset is None:
        return _with_room_beside(0, 0, device)
    parameters = int(known.parameters or 0)
    dtype = resolve_dtype(spec.dtype, device, parameters)
    return counted(parameters, PRESETS[known.preset], spec.quantization, dtype, device)


def sizes_by_listing(spec: ModelSpec, files: hub.Listed) -> Sizes:
    """Sizes of a model whose files are on the Hub, by the listing and the config. Raises as `estimate`."""
    device = resolve_device(spec.device)
    data, config = read_config(files.snapshot.folder)
    parameters = files.stored // (4 if data.get("torch_dtype") == "float32" else 2)
    if SECTION in data:  # stored quantized: about as large in memory, where it is not unpacked
        return _with_room_beside(files.stored, 0, device)
    return counted(parameters, config, spec.quantization, resolve_dtype(spec.dtype, device, parameters), device)


def sizes(stored: Mapping[str, Stored], family: str, method: str, dtype: torch.dtype, device: torch.device) -> Sizes:
    """Sizes of a model whose files hold `stored`. method: its quantization once loaded."""
    by_name: dict[str, Stored] = {}
    for key, entry in stored.items():
        by_name.setdefault(model_key(key, family) or "", entry)  # two tied tensors are held once
    by_name.pop("", None)
    weights = sum(_bytes_of(name, entry, family, method, dtype, device) for name, entry in by_name.items())
    return _with_room_beside(weights, max((entry.bytes for entry in stored.values()), default=0), device)


def _with_room_beside(weights: int, largest: int, device: torch.device) -> Sizes:
    """largest: bytes of the largest stored tensor, which lies beside the others while it is loaded.

    The memory of an answer counts, too: on a CPU a process that runs out of memory is killed without a message, and on
    a GPU a model that has just been placed could not answer.
    """
    return Sizes(weights, largest + min(_ANSWER if device.type == "cpu" else _ANSWER_ON_GPU, weights // 2))


def _bytes_of(name: str, entry: Stored, family: str, method: str, dtype: torch.dtype, device: torch.device) -> int:
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
    held = vision_dtype(dtype, device) if name.startswith("vision_encoder.") else dtype
    return count * (4 if name.endswith(FLOAT32) else held.itemsize)


def counted(parameters: int, config: ModelConfig, method: str, dtype: torch.dtype, device: torch.device) -> Sizes:
    """Sizes of a model that is not on this machine, by counting: nothing is built. parameters: of the whole model."""
    shape = config.language
    if isinstance(shape, PythiaConfig):
        h, m = shape.hidden_size, shape.intermediate_size
        large = [(3 * h, h), (h, h), (m, h), (h, m)]
        kept = 0
    else:
        large = [(2 * shape.inner_size, shape.hidden_size), (shape.hidden_size, shape.inner_size)]
        kept = shape.layers * shape.inner_size * (shape.state_size + 2)  # A, D and the time step's bias
    total = parameters * dtype.itemsize + kept * (4 - dtype.itemsize)
    total += VISION_PARAMETERS * (vision_dtype(dtype, device).itemsize - dtype.itemsize)
    if method != "none" and quantize.has_kernels(method, device):
        for rows, columns in large:
            total += shape.layers * (quantize.part_bytes(method, rows, columns) - rows * columns * dtype.itemsize)
    return _with_room_beside(max(0, total), 0, device)
