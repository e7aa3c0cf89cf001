"""What is kept of pictures, so that another question on one of them does not begin anew: features and prefixes.

Features are a vision encoder's, before the connector; models with equal encoders hold one encoder (see
`loading.shared_encoders`), and so share them. A prefix is a language model's state after the picture's positions, where
the picture comes first. Both are bounded by bytes and leave by least recent use, of all caches where memory is short.

A cache belongs to one user: a tab of the page, one evaluation, one call. Users who ask about the same picture share
nothing: the second one could tell from the time to the first token that somebody had asked about it before.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from vlcompare.runtime.loading.model import Model

MAX_BYTES = 512 << 20  # a prefix at 336 pixels has 80-200 MB in a Transformer, 11-25 MB in a state-space model
LEAST_FREE = 256 << 20  # bytes of the device's memory that are left free
_SHARED_PART, _MAX_SHARED = 4, 4 << 30  # of free memory, for SharedFeatures: one part of so many; and bytes at most

Key = tuple[str, Any, "weakref.ref[Any]"]


class Encoded(NamedTuple):
    """A picture's features (P, C), the seconds that they took, and for which question they were made."""

    features: Tensor
    image_seconds: float
    vision_seconds: float
    cpu_seconds: float
    question: int


class _Kept(NamedTuple):
    value: Any
    bytes: int
    used: int


_caches: weakref.WeakSet[PictureCache] = weakref.WeakSet()
_uses = itertools.count()


class PictureCache:
    """One user's pictures. prefixes: keep those too; features alone are enough where a picture has one question.

    shared: features of models before this one, and for those after it. Thread-safe; entries of models and encoders that
    are no longer loaded are dropped.
    """

    def __init__(
        self, most_bytes: int = MAX_BYTES, *, prefixes: bool = True, shared: SharedFeatures | None = None
    ) -> None:
        self.prefixes = prefixes
        self._shared = shared
        self.question = 0
        self._most = most_bytes
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._lock = threading.RLock()
        _caches.add(self)

    def begin_question(self) -> None:
        """Count the questions, so that it is known which features were made for the present one, by another side."""
        self.question += 1

    def encoded(self, picture: Any, model: Model) -> Encoded | None:
        """What the model's encoder made of the picture; `picture` as `picture_key` returns it."""
        encoder = model.vlm.vision_encoder
        found: Encoded | None = self._get(("features", picture, weakref.ref(encoder)))
        if found is None and self._shared is not None and picture is not None:
            features = self._shared.get(picture, encoder)
            found = None if features is None else Encoded(features.to(model.device), 0.0, 0.0, 0.0, -1)
        return found

    def keep_encoded(
        self, picture: Any, model: Model, features: Tensor, seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> Encoded:
        """Keep features (P, C). seconds: of opening the picture, of the encoder, and of CPU time in both."""
        encoded = Encoded(features, *seconds, self.question)
        key = ("features", picture, weakref.ref(model.vlm.vision_encoder))
        self._put(key, encoded, features.nbytes, features.device)
        if self._shared is not None and picture is not None:
            self._shared.keep(picture, model.vlm.vision_encoder, features)
        return encoded

    def prefix(self, picture: Any, model: Model) -> Any:
        """The model's state (one row) after the picture's positions, or None. Not to be changed."""
        return self._get(("prefix", picture, weakref.ref(model)))

    def keep_prefix(self, picture: Any, model: Model, state: Any) -> None:
        """Keep a snapshot of the model's state after the picture's positions."""
        if self.prefixes:
            key = ("prefix", picture, weakref.ref(model))
            self._put(key, state, state.allocated_nbytes(), state.positions.device)

    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        with self._lock:
            self._drop_unloaded()
            return sum(kept.bytes for kept in self._kept.values())

    def clear(self) -> None:
        """Free all tensors."""
        with self._lock:
            self._kept.clear()

    def _get(self, key: Key) -> Any:
        with self._lock:
            kept = self._kept.get(key)
            if key[1] is None or kept is None:
                return None
            self._kept[key] = kept._replace(used=next(_uses))
            self._kept.move_to_end(key)
            return kept.value

    def _put(self, key: Key, value: Any, size: int, device: Any) -> None:
        if key[1] is None:
            return
        with self._lock:
            self._kept[key] = _Kept(value, size, next(_uses))
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and self.nbytes() > self._most:
                self._kept.popitem(last=False)
        _leave_room(device)

    def _oldest(self) -> int | None:
        with self._lock:
            self._drop_unloaded()
            return next((kept.used for kept in self._kept.values()), None)

    def _evict(self) -> None:
        with self._lock:
            if self._kept:
                self._kept.popitem(last=False)

    def _drop_unloaded(self) -> None:
        for key in [key for key in self._kept if key[2]() is None]:
            del self._kept[key]


class SharedFeatures:
    """Features of pictures for models that follow one another, as long as their encoders are equal; on the CPU.

    The encoder is held as well, so that the next model with an equal one takes it (`loading.shared_encoders`). The
    first pictures are kept, up to a part of the memory that is free at the first: every model is asked about the
    pictures in one order, in which the least recently used one is always the next.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most = most_bytes
        self._encoder: Any = None
        self._kept: dict[Any, Tensor] = {}
        self.nbytes = 0

    def get(self, picture: Any, encoder: Any) -> Tensor | None:
        """A picture's features (P, C). Another encoder than before ends what was kept."""
        if self._encoder is not None and encoder is not self._encoder:
            self.clear()
        return self._kept.get(picture)

    def keep(self, picture: Any, encoder: Any, features: Tensor) -> None:
        """Keep features that `encoder` has made, while there is room."""
        import torch

        from vlcompare.runtime.memory import available_bytes

        self._encoder, free = encoder, available_bytes(torch.device("cpu"))
        if self._most is None:
            self._most = min(_MAX_SHARED, free // _SHARED_PART)
        if self.nbytes + features.nbytes <= self._most and features.nbytes + LEAST_FREE <= free:
            self._kept[picture] = features.cpu()
            self.nbytes += features.nbytes

    def clear(self) -> bool:
        """Free everything; False where nothing was kept."""
        kept, self._encoder, self._kept, self.nbytes = bool(self._kept), None, {}, 0
        return kept


def held_bytes() -> int:
    """Bytes that all caches of the process keep."""
    return sum(cache.nbytes() for cache in list(_caches))


def evict_one() -> bool:
    """Drop what was used least recently in any cache. False where nothing is kept."""
    ages = [(used, cache) for cache in list(_caches) if (used := cache._oldest()) is not None]
    if not ages:
        return False
    min(ages, key=lambda pair: pair[0])[1]._evict()
    return True


def _leave_room(device: Any) -> None:
    """Evict until the device has memory to spare, what was just kept last of all."""
    from vlcompare.runtime.memory import available_bytes

    while available_bytes(device) < LEAST_FREE and evict_one():
        pass


def picture_key(image: Any) -> Any:
    """What tells pictures apart: a file's path, size and time, else a hash of the bytes or pixels; None: not kept."""
    if isinstance(image, (str, Path)):
        try:
            found = os.stat(image)
        except (OSError, ValueError):
            return None
        return str(image), found.st_size, found.st_mtime_ns
    if isinstance(image, (bytes, bytearray)):
        return hashlib.sha256(image).digest()
    if hasattr(image, "tobytes") and hasattr(image, "mode"):  # PIL
        orientation = image.getexif().get(0x0112)
        return image.mode, image.size, orientation, hashlib.sha256(image.tobytes()).digest()
    return None
