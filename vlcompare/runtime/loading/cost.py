"""What a checkpoint costs before it is fetched: bytes to download, memory, and about how long an answer takes here.

Nothing is downloaded or loaded for it. Sizes come from files that are here, else from the list of known checkpoints;
the time from the model's shape and from how fast this machine multiplies matrices and reads memory, measured once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from vlcompare.models.config import PRESETS, PythiaConfig
from vlcompare.models.kernels.linear import linear
from vlcompare.runtime.loading import hub, quantize, registry, shared_encoders
from vlcompare.runtime.loading.devices import resolve_device, resolve_dtype, vision_dtype
from vlcompare.runtime.loading.estimate import VISION_PARAMETERS, estimate, sizes_by_listing
from vlcompare.runtime.loading.hub.disk import free_bytes
from vlcompare.runtime.loading.load import stored_encoder
from vlcompare.runtime.loading.locate import CheckpointSource, find_source, look_up
from vlcompare.runtime.memory import available_bytes
from vlcompare.types import ModelSpec
from vlcompare.units import format_bytes

STORED_BYTES = 2  # a parameter in a published file: bfloat16
ANSWER_TOKENS = 20  # of an answer, for its time: a box, or a short sentence
PROMPT_TOKENS = 40  # beside the picture's
PICTURE_POSITIONS = 577  # of EVA-02 large at 336 pixels


class Encoder(NamedTuple):
    """A vision encoder that several models hold as one, and its bytes in memory.

    keys: what it is known by: the list of published models, the hash of its weights, or both. Two with a key in common
    are equal.
    """

    keys: frozenset[Hashable]
    bytes: int


class Cost(NamedTuple):
    """Bytes: to download (0 where all is here), of weights in memory, and beside them while an answer is made.

    None where it is not known: a repository that is neither listed nor here. encoder: part of its weights, where it is
    known which.
    """

    download: int | None
    weights: int | None
    beside: int
    encoder: Encoder | None = None

    @property
    def memory(self) -> int | None:
        return None if self.weights is None else self.weights + self.beside


class Rate(NamedTuple):
    """How fast a device is: floating-point operations and bytes read, in a second."""

    operations: float
    bytes: float


def cost(
    spec: ModelSpec,
    *,
    names_only: bool = False,
    thorough: bool = False,
    progress: hub.Progress = lambda *said: None,
) -> Cost:
    """What this model costs. names_only: as in `find_source`.

    thorough: for a model that is about to be loaded: by the Hub's listing, where it is not here; where it is, its
    encoder is read for its hash. progress: as in `hub.look_up`. Raises what `estimate` raises; if thorough also
    HubError, and CheckpointError for a config that cannot be used.
    """
    sizes = estimate(spec, names_only=names_only)
    known = registry.find(spec.checkpoint)
    source = find_source(spec.checkpoint, revision=spec.revision, offline=True, names_only=names_only)
    weights, encoder = sizes.weights or None, published_encoder(spec)
    if source is not None:
        return Cost(0, weights, sizes.beside, _with_hash(encoder, spec, source) if thorough else encoder)
    if thorough:
        files = look_up(spec.checkpoint, spec.revision, progress)
        sizes = sizes_by_listing(spec, files)
        return Cost(files.missing, sizes.weights or None, sizes.beside, encoder)
    if known is None or not known.parameters:
        return Cost(None, weights, sizes.beside)
    stored = 1e9 * sum(known.download_gb) if known.download_gb else known.parameters * STORED_BYTES
    begun = hub.cached_bytes(known.repository) if known.repository else 0
    return Cost(max(0, int(stored) - begun), weights, sizes.beside, encoder)


def published_encoder(spec: ModelSpec) -> Encoder | None:
    """The vision encoder of a published model; None for others, whose files alone tell which encoders are equal.

    All published models look with one encoder, which stayed frozen in training (the paper, section 3). Whether that is
    so is seen again by its weights when a model is loaded.
    """
    known = registry.find(spec.checkpoint)
    if known is None or known.preset is None:
        return None
    vision, device = PRESETS[known.preset].vision, resolve_device(spec.device)
    dtype = vision_dtype(resolve_dtype(spec.dtype, device, int(known.parameters or 0)), device)
    key = vision.name, spec.image_size or vision.image_size, dtype, device
    return Encoder(frozenset([key]), VISION_PARAMETERS * dtype.itemsize)


def _with_hash(listed_as: Encoder | None, spec: ModelSpec, source: CheckpointSource) -> Encoder:
    """The encoder of a checkpoint that is here, by the hash of its weights and by what it is listed as."""
    key, size = stored_encoder(spec, source)
    return Encoder(frozenset([key]) | (listed_as.keys if listed_as else frozenset()), size)


def loaded_encoder(spec: ModelSpec, model: Any) -> Encoder | None:
    """The encoder of a loaded model, by the same keys; None where neither is known."""
    encoder, listed_as = getattr(getattr(model, "vlm", None), "vision_encoder", None), published_encoder(spec)
    key = shared_encoders.key_of(encoder)
    if key is None:
        return listed_as
    return Encoder(frozenset([key]) | (listed_as.keys if listed_as else frozenset()), shared_encoders.bytes_of(encoder))


def weights_together(costs: Iterable[Cost], held: Iterable[Encoder] = ()) -> int:
    """Bytes of weights of these models in memory at once, an encoder of several counted once.

    held: encoders of models that are in memory already, which are not counted at all.
    """
    total, seen = 0, set[Hashable]().union(*(encoder.keys for encoder in held))
    for one in costs:
        total += one.weights or 0
        if one.weights and one.encoder is not None:
            total -= one.encoder.bytes if one.encoder.keys & seen else 0
            seen |= one.encoder.keys
    return total


def obstacle(
    costs: Sequence[Cost],
    device: str = "auto",
    *,
    budget: int | None = None,
    evictable: int = 0,
    held: Iterable[Encoder] = (),
) -> str:
    """Why these models cannot be fetched and held in memory together, as a sentence; "" where they can.

    budget: the operator's limit of weights in bytes. evictable: bytes of loaded models that would make room. held:
    encoders of loaded models that would stay.
    """
    weights = weights_together(costs, held)
    needed = weights + max((one.beside for one in costs), default=0)
    free = available_bytes(resolve_device(device)) + evictable
    if needed > free:
        return f"they need about {format_bytes(needed)} of memory, and {format_bytes(free)} are free"
    if budget is not None and weights > budget:
        return f"they need about {format_bytes(weights)} of memory, and {format_bytes(budget)} are allowed here"
    download = sum(one.download or 0 for one in costs)
    room = free_disk()
    if download > room:
        return f"{format_bytes(download)} are to be fetched, and {format_bytes(room)} are free on the disk"
    return ""


def free_disk() -> int:
    """Bytes that are free where downloads are kept."""
    return free_bytes(hub.repository_folder("owner/name"))


def answer_seconds(spec: ModelSpec, rate: Rate | None = None) -> float | None:
    """About how many seconds one answer of a published model takes: picture, prompt, and 20 tokens.

    Counted from the matrices alone: two operations for each parameter and position of the vision encoder and of the
    prefill, then for each token one reading of the language model's weights. None for a shape that is not listed.
    """
    known = registry.find(spec.checkpoint)
    if known is None or known.preset is None:
        return None
    device = resolve_device(spec.device)
    rate = rate or measured_rate(device)
    shape = PRESETS[known.preset].language
    if isinstance(shape, PythiaConfig):
        width, matrices = shape.hidden_size, shape.layers * 12 * shape.hidden_size**2
    else:
        width, matrices = shape.hidden_size, shape.layers * 3 * shape.hidden_size * shape.inner_size
    operations = 2 * PICTURE_POSITIONS * VISION_PARAMETERS + 2 * (PICTURE_POSITIONS + PROMPT_TOKENS) * matrices
    element: float = resolve_dtype(spec.dtype, device, int(known.parameters or 0)).itemsize
    if spec.quantization != "none" and quantize.has_kernels(spec.quantization, device):
        element = {"int8": 1, "nf4": 0.5}[spec.quantization]
    read = element * (matrices + width * shape.vocab_size)
    return operations / rate.operations + ANSWER_TOKENS * read / rate.bytes


@lru_cache(maxsize=8)
def measured_rate(device: torch.device) -> Rate:
    """The device's rate, measured by a few products at the first call: some tenths of a second."""
    cuda = device.type == "cuda"
    dtype, side = (torch.bfloat16, 8192) if cuda else (torch.float32, 1024)

    def best(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        return min(times)

    with torch.inference_mode():
        square = torch.ones(side, side, dtype=dtype, device=device)
        operations = 2 * side**3 / best(lambda: square @ square)
        rows = torch.ones(16384, 4096, dtype=dtype, device=device)
        row = torch.ones(1, 4096, dtype=dtype, device=device)
        read = rows.nbytes / best(lambda: linear(row, rows))
    return Rate(operations, read)
