"""Which models are in memory: a budget, eviction of the least recently used, and an estimate before every load.

Thread-safe: a model that several threads request is loaded once, and a model in use is never evicted.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from vlcompare.errors import DeviceMemoryError, VLCompareError
from vlcompare.runtime import picture_cache
from vlcompare.runtime.loading import registry
from vlcompare.runtime.loading.downloads import Downloads
from vlcompare.runtime.loading.precision import advice
from vlcompare.runtime.loading.told import Told
from vlcompare.types import ModelSpec, Notify
from vlcompare.units import format_bytes

# devices and memory import torch, which takes seconds: they are imported where they are used, and a page opens first

Waiting = Callable[[], None]
Idle = Callable[[], AbstractContextManager[None]]


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    model: Any = None
    users: int = 0
    last_used: int = 0
    bytes: int = 0


class ModelPool:
    """Loaded models, at most `budget_bytes` of weights (None: the device's free memory when a model is requested).

    load: spec, progress -> model (with `.weights_bytes`). estimate: spec -> bytes of weights. free: spec -> bytes that
    are free for its weights on its device. gpus: () -> free bytes by device, where there are several GPUs.
    missing: spec -> whether files must be brought to this machine. fetch: spec, progress: brings them. cost: spec,
    progress -> a Cost, by the Hub's listing.
    Tests pass their own; the defaults are the package's. folders: checkpoint -> whether it may be a folder; the others
    are known names or Hub ids, and no folder of that name is looked for.
    """

    def __init__(
        self,
        budget_bytes: int | None = None,
        *,
        load: Callable[[ModelSpec, Notify], Any] | None = None,
        estimate: Callable[[ModelSpec], int] | None = None,
        free: Callable[[ModelSpec], int] | None = None,
        gpus: Callable[[], dict[str, int]] | None = None,
        missing: Callable[[ModelSpec], bool] | None = None,
        fetch: Callable[[ModelSpec, Notify], None] | None = None,
        cost: Callable[[ModelSpec, Notify], Any] | None = None,
        folders: Callable[[str], bool] = lambda checkpoint: True,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._missing = missing or (lambda key: load is None and _missing(key, not folders(key.checkpoint)))
        self._fetch = fetch or (lambda key, say: _fetch(key, say, not folders(key.checkpoint)))
        self._spared = (lambda key: 0) if load else (lambda key: _spared(key, not folders(key.checkpoint)))
        self._cost = cost or (lambda key, say: _cost(key, say, not folders(key.checkpoint)))
        self._load = load or (lambda key, say: _load(key, say, not folders(key.checkpoint)))
        self._estimate = estimate or (lambda key: _sizes(key, not folders(key.checkpoint)).weights)
        self._free = free or (lambda key: _free(key, not folders(key.checkpoint)))
        self._gpus = gpus or _free_bytes_of_gpus
        self._entries: dict[ModelSpec, _Entry] = {}
        self._downloads = Downloads()
        self._guard = threading.Lock()
        self._room = threading.Lock()  # one load at a time, so that no two count the same free bytes
        self._uses = 0

    @contextmanager
    def acquire(
        self,
        key: ModelSpec,
        say: Notify = lambda sentence: None,
        waiting: Waiting = lambda: None,
        idle: Idle = nullcontext,
    ) -> Iterator[Any]:
        """The model for `key`, fetched and loaded if necessary, and kept in memory until the block ends.

        say: called with a sentence at each step. waiting: called repeatedly while another thread is loading, which may
        take minutes; it may raise to stop waiting. idle: entered while nothing is computed for this call: for a
        download, and while another thread is loading. Raises what `vlcompare.load` raises, and DeviceMemoryError if the
        model does not fit even after every idle model is evicted.
        """
        key, entry = self._enter(key)
        try:
            if entry.model is None:
                # while it is fetched, other models are loaded, and none is evicted for it
                self.fetch(key, say, waiting, idle)
            with _acquired(entry.lock, say, waiting, idle):
                if entry.model is None:
                    entry.model = self._load_with_room(key, say, waiting, idle)
                    entry.bytes = int(entry.model.weights_bytes)
            yield entry.model
        finally:
            with self._guard:
                entry.users -= 1
                if entry.model is None and entry.users == 0:
                    self._entries.pop(key, None)

    def missing(self, key: ModelSpec) -> bool:
        """Whether the model is not in memory and files of its checkpoint are not on this machine."""
        with self._guard:
            entry = self._entries.get(self._with_device(key))
        return (entry is None or entry.model is None) and self._missing(key)

    def fetch(
        self,
        key: ModelSpec,
        say: Notify = lambda sentence: None,
        waiting: Waiting = lambda: None,
        idle: Idle = nullcontext,
    ) -> None:
        """Bring what is missing of a checkpoint to this machine. The arguments are those of `acquire`.

        No model is loaded or evicted for it. Raises RequestError where too many downloads wait already, and what
        `vlcompare.load` raises before it reads any weights.
        """
        if not self.missing(key):
            return
        name = registry.repository_of(key.checkpoint)
        with idle():
            self._downloads.run(name, lambda told: self._fetch(key, told), say, waiting)

    def check_together(
        self, keys: Iterable[ModelSpec], say: Notify = lambda sentence: None
    ) -> dict[ModelSpec, VLCompareError]:
        """Raise DeviceMemoryError for models that must be fetched first and cannot be held in memory together.

        Sizes are the Hub's; not a byte of weights is fetched for it. Equal encoders count once. Returns what is wrong
        with models whose size cannot be had: they cannot be fetched either. say: called with a sentence at each step,
        also while the Hub is silent; it may raise to give up.
        """
        from vlcompare.runtime.loading.cost import loaded_encoder, obstacle
        from vlcompare.runtime.loading.shared_encoders import unique_bytes

        with self._guard:
            wanted = {self._with_device(key): key for key in keys}
            held = {key: entry.model for key, entry in self._entries.items() if entry.model is not None}
            stay = {key: model for key, model in held.items() if key in wanted or self._entries[key].users}
        kept, device = unique_bytes(stay.values()), next(iter(wanted)).device
        costs, failed = {}, {}
        for key, given in wanted.items():
            if key not in held:
                try:
                    costs[key] = self._cost(key, say)
                except VLCompareError as error:
                    failed[given] = error
        if not any(one.download for one in costs.values()):
            return failed
        budget = None if self.budget_bytes is None else self.budget_bytes - kept
        evictable = unique_bytes(held.values()) - kept + picture_cache.held_bytes()
        encoders = [found for key, model in stay.items() if (found := loaded_encoder(key, model)) is not None]
        why = obstacle(list(costs.values()), device, budget=budget, evictable=evictable, held=encoders)
        if why:
            names = " and ".join(key.checkpoint for key in costs)
            raise DeviceMemoryError(f"Nothing was fetched of {names}: {why}; {advice(list(costs))}.")
        return failed

    def resident(self) -> dict[ModelSpec, int]:
        """Bytes of weights of every loaded model."""
        with self._guard:
            return {key: entry.bytes for key, entry in self._entries.items() if entry.model is not None}

    def evict_idle(self, device: str = "auto") -> list[ModelSpec]:
        """Evict every model that is not in use; returns their specs. `device` "cuda:N": only those on that GPU."""
        evicted = []
        while (key := self._evict_one(device)) is not None:
            evicted.append(key)
        return evicted

    def _enter(self, key: ModelSpec) -> tuple[ModelSpec, _Entry]:
        with self._guard:
            key = self._with_device(key)
            entry = self._entries.setdefault(key, _Entry())
            self._uses += 1
            entry.users += 1
            entry.last_used = self._uses
            return key, entry

    def _with_device(self, key: ModelSpec) -> ModelSpec:
        """The key with its GPU where any of several may be used: the one that holds the model, else the best one."""
        from vlcompare.runtime.loading.devices import choose_gpu

        if key.device not in ("auto", "cuda") or key in self._entries:
            return key
        resident = next((known for known in self._entries if replace(known, device=key.device) == key
                      and known.device.startswith("cuda:")), None)  # fmt: skip
        if resident is not None:
            return resident
        models = Counter(known.device for known in self._entries)
        return replace(key, device=choose_gpu(key.device, self._gpus(), models))

    def _load_with_room(self, key: ModelSpec, say: Notify, waiting: Waiting, idle: Idle) -> Any:
        with _acquired(self._room, say, waiting, idle):
            needed = self._make_room(key, self._estimate(key), say)
            say(f"Loading {key.checkpoint} (about {format_bytes(needed)})")
            try:
                return self._load(key, say)
            except DeviceMemoryError:
                evicted = self.evict_idle(key.device)
                if not evicted:
                    raise
                say(f"Out of memory: evicted {', '.join(spec.checkpoint for spec in evicted)}; trying again")
                return self._load(key, say)

    def _make_room(self, key: ModelSpec, weights: int, say: Notify) -> int:
        """Evict until a model of `weights` bytes fits; returns how many it takes beside the loaded ones."""
        while True:
            needed = weights - self._spared(key)  # anew: a model that is evicted may take the encoder along
            left = self._bytes_left(key)
            if needed <= left:
                return needed
            if picture_cache.evict_one():  # soon made again, a model is not
                continue
            evicted = self._evict_one(key.device)
            if evicted is None:
                raise DeviceMemoryError(
                    f"{key.checkpoint} needs about {format_bytes(needed)} and {format_bytes(max(0, left))} are free "
                    f"for it: {advice([key])}, or wait until the models in use are done."
                )
            say(f"{evicted.checkpoint} was evicted to make room")

    def _bytes_left(self, key: ModelSpec) -> int:
        free = self._free(key)
        if self.budget_bytes is not None:
            free = min(free, self.budget_bytes - self.held_bytes())
        return free

    def held_bytes(self) -> int:
        """Bytes of all weights, an encoder that several models share counted once, and of what is kept of pictures."""
        from vlcompare.runtime.loading.shared_encoders import unique_bytes

        with self._guard:
            models = [entry.model for entry in self._entries.values() if entry.model is not None]
        return unique_bytes(models) + picture_cache.held_bytes()

    def _evict_one(self, device: str) -> ModelSpec | None:
        with self._guard:
            idle = [
                (entry.last_used, key)
                for key, entry in self._entries.items()
                if entry.users == 0 and entry.model is not None and not _different_gpus(device, key.device)
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
def _acquired(lock: threading.Lock, say: Notify, waiting: Waiting, idle: Idle) -> Iterator[None]:
    """Hold the lock. `waiting` is called while another thread holds it, in `idle`, and may raise to give up."""
    if not lock.acquire(blocking=False):
        say("Waiting until another checkpoint is loaded")
        with idle():
            while not lock.acquire(timeout=0.1):
                waiting()
    try:
        yield
    finally:
        lock.release()


def _different_gpus(one: str, other: str) -> bool:
    """Whether these name two different GPUs, so that eviction on one frees no memory on the other."""
    return one.startswith("cuda:") and other.startswith("cuda:") and one != other


def _load(key: ModelSpec, say: Notify, names_only: bool) -> Any:
    from vlcompare.runtime.loading.load import load_spec

    return load_spec(key, Told(say), names_only=names_only)


def _fetch(key: ModelSpec, say: Notify, names_only: bool) -> None:
    """Download what is missing, unless the model would not fit even alone."""
    from vlcompare.runtime.loading.load import fetch, fetch_tokenizer

    fetch_tokenizer(fetch(key, Told(say), names_only=names_only), key.tokenizer, Told(say))


def _missing(key: ModelSpec, names_only: bool) -> bool:
    """Whether files of this checkpoint must be downloaded before it can answer."""
    from vlcompare.runtime.loading.load import needs_tokenizer
    from vlcompare.runtime.loading.locate import find_source

    source = find_source(key.checkpoint, revision=key.revision, offline=True, names_only=names_only)
    return source is None or needs_tokenizer(source, key.tokenizer)


def _spared(key: ModelSpec, names_only: bool) -> int:
    from vlcompare.runtime.loading.load import spared_bytes

    return spared_bytes(key, names_only=names_only)


def _cost(key: ModelSpec, say: Notify, names_only: bool) -> Any:
    from vlcompare.runtime.loading.cost import cost

    return cost(key, names_only=names_only, thorough=True, progress=Told(say))


def _free_bytes_of_gpus() -> dict[str, int]:
    from vlcompare.runtime.loading.devices import free_bytes_of_gpus

    return free_bytes_of_gpus()


def _sizes(key: ModelSpec, names_only: bool) -> Any:
    from vlcompare.runtime.loading.estimate import estimate

    return estimate(key, names_only=names_only)


def _free(key: ModelSpec, names_only: bool) -> int:
    """Free bytes for the weights, after what loading and an answer's buffers take."""
    from vlcompare.runtime.loading.devices import resolve_device
    from vlcompare.runtime.memory import available_bytes

    return available_bytes(resolve_device(key.device)) - _sizes(key, names_only).beside


def _release_cached_memory() -> None:
    from vlcompare.models.kernels.cuda.graph_capture import release_cached_memory

    release_cached_memory()
