"""`load`: a checkpoint's name, folder or Hub id in; a model that is ready to answer out.

Joins what the other modules know: where it lies (source), what is stored (weights), what fills what (keys), how it gets
there (fill). Knows nothing of prompts, decoding or what a model is asked. Either a whole model comes back, or an error
with one sentence, and nothing half-loaded stays in memory.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlcompare.errors import CheckpointError, DeviceMemoryError, RequestError, VLCompareError
from vlcompare.machine import threads
from vlcompare.models.config import ModelConfig
from vlcompare.models.kernels import fallback
from vlcompare.models.kernels.cuda.graph_capture import release_cached_memory
from vlcompare.models.vlm import VisionLanguageModel, meta_model
from vlcompare.runtime.bounded_files import is_there
from vlcompare.runtime.image import ImageTransform, open_image
from vlcompare.runtime.loading import hub, quantize, registry
from vlcompare.runtime.loading.compile_ahead import compiling
from vlcompare.runtime.loading.fill import Target, fill
from vlcompare.runtime.loading.keys import stored_norm
from vlcompare.runtime.loading.locate import (
    Source,
    bytes_beside,
    bytes_of,
    estimate_beside,
    estimate_bytes,
    find_source,
    read_stored,
)
from vlcompare.runtime.loading.safetensors_files import NAMES, Stored, as_bytes, read_tensor
from vlcompare.runtime.memory import check_room
from vlcompare.runtime.tokenizer import Tokenizer
from vlcompare.types import NORMS, QUANTIZATIONS, Norm, Quantization, Request

__all__ = ["Model", "estimate_bytes", "load", "resolve_device", "resolve_dtype"]

Progress = hub.Progress

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}
_LARGEST_IMAGE = 4096


@dataclass(eq=False)
class Model:
    """A loaded checkpoint. Holds the three parts (`vlm`) and all that an answer has to say about them."""

    vlm: VisionLanguageModel
    config: ModelConfig
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    quantization: str = "none"
    checkpoint: str = ""
    revision: str | None = None
    notices: tuple[str, ...] = ()  # sentences that a user should see beside every answer
    stored: tuple[Stored, ...] = field(default=(), repr=False)
    weights_bytes: int = 0

    def __post_init__(self) -> None:
        self._transform = ImageTransform(self.config.image_size)
        self._sha256: str | None = None
        if not self.weights_bytes:
            self.weights_bytes = _bytes_held(self.vlm)

    @property
    def vision_dtype(self) -> torch.dtype:
        """What pixels should come in."""
        return self.vlm.vision_encoder.dtype

    @property
    def threads(self) -> int:
        """How many threads compute on the CPU; 0 on another device."""
        return torch.get_num_threads() if self.device.type == "cpu" else 0

    @property
    def trained_image_size(self) -> int:
        return self.config.trained_image_size

    def notices_for(self, request: Request) -> tuple[str, ...]:
        """Sentences that a user should see beside the answer to this request."""
        sentences = [*self.notices, *fallback.notices(self.device.type)]
        if request.prompt_order not in self.config.trained_prompt_orders:
            first = {"image_first": "the image", "instruction_first": "the instruction"}[request.prompt_order]
            sentences.append(f"{self.checkpoint} was not trained with {first} first, as it is asked here.")
        if request.task in self.config.tasks_at_chance:
            task = request.task.replace("_", " ")
            sentences.append(f"{self.checkpoint} guesses at {task}: it is right hardly more often than by chance.")
        return tuple(dict.fromkeys(sentences))

    def preprocess(self, image: Any) -> Tensor:
        """An upright picture (PIL) as the encoder takes it: float32 (3, H, W), on the CPU."""
        image = image if image.mode == "RGB" else open_image(image)
        return torch.from_numpy(self._transform.apply(image))

    @torch.inference_mode()
    def hidden(self, pixel_values: Any, input_ids: Any) -> Tensor:
        """Hidden states after the final norm, float32 (L, D), on the CPU; image positions in `input_ids` hold -200."""
        return self._hidden(pixel_values, input_ids).float().cpu()

    @torch.inference_mode()
    def logits(self, pixel_values: Any, input_ids: Any) -> Tensor:
        """Scores over the vocabulary at every position, float32 (L, V), on the CPU."""
        return self.vlm.language_model.logits(self._hidden(pixel_values, input_ids)).float().cpu()

    def weights_sha256(self) -> str:
        """SHA-256 over the weights as they are stored: keys in order, each with dtype, shape and bytes.

        The same for one file and for shards, whatever precision they were loaded in. Read from the files, once.
        """
        if self._sha256 is None:
            total = hashlib.sha256()
            for entry in sorted(self.stored, key=lambda entry: entry.key):
                total.update(f"{entry.key}|{NAMES[entry.dtype]}|{entry.shape}|".encode())
                total.update(as_bytes(read_tensor(entry)))
            if not self.stored:
                for name, value in sorted(self.vlm.state_dict().items()):
                    total.update(f"{name}|{NAMES[value.dtype]}|{tuple(value.shape)}|".encode())
                    total.update(as_bytes(value))
            self._sha256 = total.hexdigest()
        return self._sha256

    def _hidden(self, pixel_values: Any, input_ids: Any) -> Tensor:
        pixels = torch.as_tensor(pixel_values).to(self.device, self.vision_dtype)
        ids = torch.as_tensor(input_ids).to(self.device, torch.long)
        wanted = (3, self.config.image_size, self.config.image_size)
        if tuple(pixels.shape) != wanted or ids.dim() != 1:
            raise RequestError(
                f"Pixels must be {wanted} and ids (L,), not {tuple(pixels.shape)} and {tuple(ids.shape)}."
            )
        features = self.vlm.encode_image(pixels[None])
        embeddings = self.vlm.embed(ids[None], features if bool((ids < 0).any()) else None)
        language_model = self.vlm.language_model
        state = language_model.new_state(1, max(1, ids.numel()), device=self.device, dtype=self.dtype)
        return language_model(embeddings, state)[0]


def load(
    checkpoint: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    quantization: Quantization = "none",
    image_size: int | None = None,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    norm: Norm = "auto",
    progress: Progress | None = None,
) -> Model:
    """Load a checkpoint: a name in `checkpoints/`, else a folder, else a Hub id (downloaded once, then offline).

    device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1". dtype: "auto" is float32 on CPU and bfloat16 on
    CUDA. quantization: the language model's large Linears in NF4 or int8; a checkpoint that is stored quantized needs
    no mention. image_size: another than the trained one resamples the position embedding, with a notice. revision: of
    a Hub repository. tokenizer: path of a tokenizer.json, else the folder's, else that of EleutherAI/gpt-neox-20b,
    read at first use. norm: Mamba's norms; "auto" goes by the tensors, "layernorm" without stored biases takes zeros,
    as the authors' own loader does. progress: called with (sentence, bytes done, bytes in all).

    Raises CheckpointError (HubError for downloads) with one sentence naming file and key, DeviceMemoryError where the
    device is too small, RequestError for options that do not fit.
    """
    try:
        return _load(checkpoint, device, dtype, quantization, image_size, revision, tokenizer, norm, progress)
    except VLCompareError as error:
        failure: VLCompareError = error.with_traceback(None)
    except torch.OutOfMemoryError:
        failure = DeviceMemoryError(_too_large(str(checkpoint)))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error).lower():
            raise
        failure = DeviceMemoryError(_too_large(str(checkpoint)))
    # outside of the handlers, where no traceback holds on to what was half loaded
    failure.__cause__ = failure.__context__ = None
    gc.collect()
    release_cached_memory()
    raise failure


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for. Raises RequestError where it does not exist."""
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"{name!r} is no device: use auto, cpu, cuda, or cuda:1.") from error
    if place.type not in ("cpu", "cuda"):
        raise RequestError(f"{name!r} is no device that is supported: use auto, cpu, cuda, or cuda:1.")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"{name!r} was asked for, but this machine has {torch.cuda.device_count()} CUDA devices.")
    return place


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that a name stands for on a device. Raises RequestError for another than float32 and bfloat16."""
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise RequestError(f"{name!r} is no precision that models run in: use auto, float32 or bfloat16.")
    return DTYPES[name]


def _load(
    checkpoint: str | Path,
    device: str | torch.device,
    dtype: str | torch.dtype,
    quantization: str,
    image_size: int | None,
    revision: str | None,
    tokenizer: str | Path | None,
    norm: str,
    progress: Progress | None,
) -> Model:
    _limit_threads()
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    _check_options(quantization, image_size, tokenizer, norm)
    if place.type == "cpu":  # before a download of gigabytes that could not be used here
        how = (quantization, str(dtype), str(place), revision)
        check_room(str(checkpoint), estimate_bytes(checkpoint, *how) + estimate_beside(checkpoint, *how), place)
    source = find_source(checkpoint, revision=revision, progress=progress)
    assert source is not None
    method = _method(source, quantization)
    stored = read_stored(source)
    weights = bytes_of(stored, source.config.family, method, kind, place)
    check_room(source.name, weights + bytes_beside(stored, weights, place), place)
    notices: list[str] = []
    config = _config(source, stored, image_size, norm, notices)
    vlm = meta_model(config)
    kernels = compiling(config.family, kind) if place.type == "cpu" else None
    if method != "none" and (sentence := quantize.left_out(vlm, config.family)):
        notices.append(sentence)
    target = Target(place, kind, method, source.quantization, zero_norm_biases=norm == "layernorm")
    notices += fill(vlm, stored, target, _percent(progress, source.name))
    vlm.eval().requires_grad_(False)
    if method == "nf4" and place.type == "cuda":
        quantize.choose_kernels(vlm.language_model)
    if method != "none" and not quantize.has_kernels(method, place):
        notices.append(quantize.notice(method, kind))
    if kernels is not None and kernels.is_alive():
        if progress is not None:
            progress("Compiling kernels for this processor, once", 0, 0)
        kernels.join()
    if place.type == "cuda" and kind == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in convolutions too
    return Model(
        vlm=vlm,
        config=config,
        tokenizer=_tokenizer(source, tokenizer, progress),
        device=place,
        dtype=kind,
        quantization=method,
        checkpoint=source.name,
        revision=source.revision,
        notices=(*notices, *fallback.notices(place.type)),
        stored=tuple(stored.values()),
    )


def _limit_threads() -> None:
    """Where torch was imported before this package: no more threads than can run at once. A lower number is left."""
    most = threads.budget()
    if torch.get_num_threads() > most:
        torch.set_num_threads(most)


def _check_options(quantization: str, image_size: int | None, tokenizer: str | Path | None, norm: str) -> None:
    """What can be refused without a checkpoint is refused before gigabytes of one are fetched or read."""
    check_quantization(quantization)
    if norm not in NORMS:
        raise RequestError(f"{norm!r} is no kind of norm: use auto, layernorm or rmsnorm.")
    if image_size is not None and (type(image_size) is not int or not 0 < image_size <= _LARGEST_IMAGE):
        raise RequestError(
            f"An image size of {image_size!r} cannot be used: give a whole number up to {_LARGEST_IMAGE}."
        )
    if tokenizer is not None and not os.path.exists(os.path.expanduser(tokenizer)):
        raise CheckpointError(f"The tokenizer {tokenizer} does not exist; give the path of a tokenizer.json.")


def check_quantization(quantization: str) -> None:
    """Raise RequestError for a quantization that there is not."""
    if quantization not in QUANTIZATIONS:
        raise RequestError(f"{quantization!r} is no quantization: use none, int8 or nf4.")


def _method(source: Source, wanted: str) -> str:
    if source.quantization != "none" and wanted not in ("none", source.quantization):
        raise RequestError(f"{source.name} is stored in {source.quantization}; it cannot be loaded as {wanted}.")
    return source.quantization if source.quantization != "none" else wanted


def _config(
    source: Source, stored: dict[str, Stored], image_size: int | None, norm: str, notices: list[str]
) -> ModelConfig:
    """The file's config with what was asked for, and the norms that the tensors show."""
    config = source.config
    if config.family == "pythia" and norm == "rmsnorm":
        raise RequestError(f"{source.name} is a Pythia model, whose norms are LayerNorm: leave norm at auto.")
    config = config.with_norm(stored_norm(stored, config.family) if norm == "auto" else norm)  # type: ignore[arg-type]
    if image_size is None or image_size == config.trained_image_size:
        return config
    notices.append(
        f"{source.name} was trained at {config.trained_image_size} pixels and is run at {image_size}: its position "
        "embedding is resampled, which was not trained."
    )
    return config.with_image_size(image_size)


def _tokenizer(source: Source, given: str | Path | None, progress: Progress | None) -> Tokenizer:
    own, size = source.folder / "tokenizer.json", source.config.language.vocab_size
    if given is not None:
        return Tokenizer(os.path.expanduser(given), vocabulary=size)
    return Tokenizer(own if is_there(own) else _shared_tokenizer(progress), vocabulary=size)


def _shared_tokenizer(progress: Progress | None) -> Callable[[], Path]:
    """Finds the tokenizer that all published checkpoints share, when it is first needed."""

    def find() -> Path:
        known = registry.registry()
        name = known.tokenizer_file
        return hub.fetch(known.tokenizer_repository, files=[name], progress=progress).folder / name

    return find


def _percent(progress: Progress | None, name: str) -> Callable[[int, int], None]:
    """Tells about reading, once a percent."""
    last = [-1]

    def said(done: int, total: int) -> None:
        share = 100 * done // max(1, total)
        if progress is not None and share != last[0]:
            last[0] = share
            progress(f"Reading the weights of {name}", done, total)

    return said


def _bytes_held(vlm: VisionLanguageModel) -> int:
    """Bytes of everything that the model keeps, tied tensors once."""
    held: dict[int, int] = {}
    for value in [*vlm.parameters(), *vlm.buffers()]:
        held[id(value)] = value.nbytes
    return sum(held.values()) + sum(quantize.extra_bytes(module) for module in vlm.modules())


def _too_large(name: str) -> str:
    return (
        f"The device has too little memory for {name}: choose a smaller checkpoint, bfloat16, or nf4 where the "
        "device has a fast path for it."
    )
