"""Equal vision encoders are held once: the published pairs look with one frozen encoder, stored in each checkpoint.

Equal means equal: the SHA-256 over the encoder's stored tensors, the same structure at the same size, and the same
precision and device. This package never changes a loaded model's encoder, so that models can share it; one that a
program has moved or cast is not given to later models.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from vlcompare.models.config import ModelConfig
from vlcompare.models.vision import VisionEncoder
from vlcompare.runtime.loading.keys import model_key
from vlcompare.runtime.loading.safetensors_files import NAMES, Stored, as_bytes, read_tensor

PREFIX = "vision_encoder."


class EncoderKey(NamedTuple):
    """What two encoders must have in common to be one."""

    sha256: str  # over the stored tensors: names in order, each with dtype, shape and bytes
    structure: str
    dtype: torch.dtype
    device: torch.device


_held: weakref.WeakValueDictionary[EncoderKey, VisionEncoder] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def encoder_key(
    stored: Mapping[str, Stored], config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> EncoderKey:
    """The key of the encoder in these files, once loaded in `dtype` on `device`. Reads its tensors."""
    parts = _parts(stored, config.family)
    files = {entry.file: entry.file.stat() for _, entry in parts}
    stamps = tuple((str(file), found.st_mtime_ns, found.st_ino) for file, found in files.items())
    return EncoderKey(_sha256(parts, stamps), repr(config.vision), dtype, device)


def stored_parameters(stored: Mapping[str, Stored], family: str) -> int:
    """How many parameters the encoder in these files has."""
    return sum(math.prod(entry.shape) for _, entry in _parts(stored, family))


def _parts(stored: Mapping[str, Stored], family: str) -> tuple[tuple[str, Stored], ...]:
    """The encoder's tensors, by their names in the model, sorted."""
    named = {model_key(key, family) or "": entry for key, entry in stored.items()}
    return tuple((name, entry) for name, entry in sorted(named.items()) if name.startswith(PREFIX))


@lru_cache(maxsize=16)
def _sha256(parts: tuple[tuple[str, Stored], ...], stamps: tuple[Any, ...]) -> str:
    """Over named tensors. stamps: of their files, which are read again once these have changed."""
    total = hashlib.sha256()
    for name, entry in parts:
        total.update(f"{name}|{NAMES[entry.dtype]}|{entry.shape}|".encode())
        total.update(as_bytes(read_tensor(entry)))
    return total.hexdigest()


def find(key: EncoderKey) -> VisionEncoder | None:
    """The encoder of a model that is loaded."""
    with _lock:
        return _as_loaded(key)


def any_held() -> bool:
    """Whether there is an encoder of a loaded model."""
    return len(_held) > 0


def key_of(encoder: Any) -> EncoderKey | None:
    """The key under which a loaded model's encoder is held; None where it is not."""
    with _lock:
        return next((key for key, held in _held.items() if held is encoder), None)


def hold(key: EncoderKey, encoder: VisionEncoder) -> VisionEncoder:
    """The one encoder for this key: `encoder`, or an equal one that another thread has loaded meanwhile."""
    with _lock:
        _held[key] = encoder = _as_loaded(key) or encoder
        return encoder


def _as_loaded(key: EncoderKey) -> VisionEncoder | None:
    encoder, asked = _held.get(key), (key.dtype, key.device.type, key.device.index or 0)
    if encoder is None:
        return None
    found = {(value.dtype, value.device.type, value.device.index or 0) for value in encoder.parameters()}
    return encoder if found == {asked} else None


def bytes_of(encoder: VisionEncoder | None) -> int:
    """Bytes of an encoder's weights; 0 for None."""
    return 0 if encoder is None else sum(value.nbytes for value in encoder.parameters())


def unique_bytes(models: Iterable[Any]) -> int:
    """Bytes of weights of all these models, an encoder that several of them hold counted once."""
    encoders, total = set[int](), 0
    for model in models:
        total += int(model.weights_bytes)
        if (encoder := getattr(getattr(model, "vlm", None), "vision_encoder", None)) is not None:
            total -= bytes_of(encoder) if id(encoder) in encoders else 0
            encoders.add(id(encoder))
    return total
