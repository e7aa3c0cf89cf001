"""Which models are in memory: a budget, the least recently used are evicted first, and an estimate before every load.

Safe to use from several threads: a
model that two of them want is loaded once, and a model in use is never evicted.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vlcompare.errors import DeviceMemoryError
from vlcompare.runtime.loading.devices import choose_gpu, free_bytes_of_gpus, resolve_device
from vlcompare.runtime.memory import available_bytes, readable
from vlcompare.types import ModelSpec

Say = Callable[[str], None]
Waiting = Callable[[], None]


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    model: Any = None
    users: int = 0
    last_used: int = 0
    bytes: int = 0


class ModelPool:
    """Loaded models, at most `budget_bytes` of weights (None: what the device has free when a model is wanted).

    load: spec, progress -> model (with `.weights_bytes`). estimate: spec -> bytes of weights. free: spec -> bytes that
    its weights may still take on its device. gpus: free bytes by device, where there are several GPUs to choose from.
    Tests pass their own; the defaults are the package's.
    """

    def __init__(
        self,
        budget_bytes: int | None = None,
        *,
        load: Callable[[ModelSpec, Say], Any] | None = None,
        estimate: Callable[[ModelSpec], int] | None = None,
        free: Callable[[ModelSpec], int] | None = None,
        gpus: Callable[[], dict[str, int]] | None = None,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._load = load or _load
        self._estimate = estimate or _estimate
        self._free = free or _free
        self._gpus = gpus or free_bytes_of_gpus
        self._entries: dict[ModelSpec, _Entry] = {}
        self._guard = threading.Lock()
        self._room = threading.Lock()  # one load at a time makes room, so that two cannot count the same bytes
        self._clock = 0

    @contextmanager
    def acquire(
        self, key: ModelSpec, say: Say = lambda sentence: None, waiting: Waiting = lambda: None
    ) -> Iterator[Any]:
        """The model for `key`, loaded now if need be, kept in memory until the block ends.

        say: told in sentences what is happening. waiting: called again and again while somebody else is loading, which
        may be a download of minutes; it may raise. Raises what `vlcompare.load` raises, and DeviceMemoryError when the
        model does not fit even with every idle model gone.
        """
        key, entry = self._enter(key)
        try:
            with _held(entry.lock, say, waiting):
                if entry.model is None:
                    entry.model = self._load_with_room(key, say, waiting)
                    entry.bytes = int(entry.model.weights_bytes)
            yield entry.model
        finally:
            with self._guard:
                entry.users -= 1
                if entry.model is None and entry.users == 0:
                    self._entries.pop(key, None)

    def resident(self) -> dict[ModelSpec, int]:
        """Bytes of weights of every loaded model."""
        with self._guard:
            return {key: entry.bytes for key, entry in self._entries.items() if entry.model is not None}

    def evict_idle(self, device: str = "auto") -> list[ModelSpec]:
        """Let go of every model that nobody is using; returns which. `device` "cuda:N": of those on that GPU."""
        gone = []
        while (key := self._evict_one(device)) is not None:
            gone.append(key)
        return gone

    def _enter(self, key: ModelSpec) -> tuple[ModelSpec, _Entry]:
        with self._guard:
            key = self._placed(key)
            entry = self._entries.setdefault(key, _Entry())
            self._clock += 1
            entry.users += 1
            entry.last_used = self._clock
            return key, entry

    def _placed(self, key: ModelSpec) -> ModelSpec:
        """The key with the GPU that its model is on, or goes to, where it may be on any of several."""
        if key.device not in ("auto", "cuda") or key in self._entries:
            return key
        there = next((known for known in self._entries if replace(known, device=key.device) == key
                      and known.device.startswith("cuda:")), None)  # fmt: skip
        if there is not None:
            return there
        models = Counter(known.device for known in self._entries)
        return replace(key, device=choose_gpu(key.device, self._gpus(), models))

    def _load_with_room(self, key: ModelSpec, say: Say, waiting: Waiting) -> Any:
        with _held(self._room, say, waiting):
            needed = self._estimate(key)
            self._make_room(key, needed, say)
            say(f"Loading {key.checkpoint} (about {readable(needed)})")
            try:
                return self._load(key, say)
            except DeviceMemoryError:
                gone = self.evict_idle(key.device)
                if not gone:
                    raise
                say(f"Out of memory: {', '.join(k.checkpoint for k in gone)} left the device; trying once more")
                return self._load(key, say)

    def _make_room(self, key: ModelSpec, needed: int, say: Say) -> None:
        while needed > self._left(key):
            gone = self._evict_one(key.device)
            if gone is None:
                left = readable(max(0, self._left(key)))
                raise DeviceMemoryError(
                    f"{key.checkpoint} needs about {readable(needed)} and {left} are free for it: choose "
                    "a smaller checkpoint or nf4, or wait until the models in use are done."
                )
            say(f"{gone.checkpoint} left memory to make room")

    def _left(self, key: ModelSpec) -> int:
        free = self._free(key)
        if self.budget_bytes is not None:
            free = min(free, self.budget_bytes - sum(self.resident().values()))
        return free

    def _evict_one(self, device: str) -> ModelSpec | None:
        with self._guard:
            idle = [
                (entry.last_used, key)
                for key, entry in self._entries.items()
                if entry.users == 0 and entry.model is not None and not _apart(device, key.device)
            ]
            if not idle:
                return None
            _, key = min(idle, key=lambda pair: pair[0])
            entry = self._entries.pop(key)
        entry.model = None
        gc.collect()
        _release_cached_memory()
        return key


@contextmanager
def _held(lock: threading.Lock, say: Say, waiting: Waiting) -> Iterator[None]:
    """The lock, for which one can stop waiting."""
    if not lock.acquire(blocking=False):
        say("Waiting until another checkpoint is loaded")
        while not lock.acquire(timeout=0.1):
            waiting()
    try:
        yield
    finally:
        lock.release()


def _apart(one: str, other: str) -> bool:
    """Whether these are certainly two different GPUs: letting go of a model on one makes no room on the other."""
    return one.startswith("cuda:") and other.startswith("cuda:") and one != other


def _load(key: ModelSpec, say: Say) -> Any:
    from vlcompare.runtime.loading.load import load

    def progress(sentence: str, done: int = 0, total: int = 0) -> None:
        say(f"{sentence} ({100 * done // total} %)" if total else sentence)

    return load(**asdict(key), progress=progress)


def _estimate(key: ModelSpec) -> int:
    from vlcompare.runtime.loading.estimate import estimate

    return estimate(key).weights


def _free(key: ModelSpec) -> int:
    """Bytes for the weights, without what loading them and an answer take."""
    from vlcompare.runtime.loading.estimate import estimate

    return available_bytes(resolve_device(key.device)) - estimate(key).beside


def _release_cached_memory() -> None:
    from vlcompare.models.kernels.cuda.graph_capture import release_cached_memory

    release_cached_memory()
