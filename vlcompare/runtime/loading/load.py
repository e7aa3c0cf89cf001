"""`load`: from the name, folder or Hub id of a checkpoint to a model that is ready to answer.

Returns a whole model, or raises an error of one sentence and keeps nothing half-loaded in memory.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from vlcompare.errors import DeviceMemoryError, RequestError, VLCompareError
from vlcompare.machine import threads
from vlcompare.models.config import ModelConfig
from vlcompare.models.kernels import fallback
from vlcompare.models.kernels.cuda.graph_capture import release_cached_memory
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.bounded_files import is_there
from vlcompare.runtime.loading import hub, quantize, registry, shared_encoders
from vlcompare.runtime.loading.compile_ahead import compiling
from vlcompare.runtime.loading.devices import resolve_device, resolve_dtype, vision_dtype
from vlcompare.runtime.loading.estimate import estimate, sizes, sizes_by_listing
from vlcompare.runtime.loading.fill import Target, fill
from vlcompare.runtime.loading.keys import stored_norm
from vlcompare.runtime.loading.locate import CheckpointSource, find_source, local_tokenizer, look_up, read_stored
from vlcompare.runtime.loading.model import Model
from vlcompare.runtime.loading.precision import advice, chosen, other_choice
from vlcompare.runtime.loading.safetensors_files import Stored, parameters_in
from vlcompare.runtime.memory import check_room, return_freed_memory
from vlcompare.runtime.tokenizer import Tokenizer, tokenizer_file
from vlcompare.types import NORMS, ModelSpec, Norm, Quantization

_LARGEST_IMAGE = 4096


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
    progress: hub.Progress | None = None,
) -> Model:
    """Load a checkpoint: a name in `checkpoints/`, else a folder, else a Hub id (downloaded once, then offline).

    device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1". dtype: "auto" is bfloat16, but float32 for a
    model of less than 500 million parameters on a CPU, and float16 on a GPU without units for bfloat16. On a CPU
    without bfloat16 instructions the vision encoder of either stays in float32. quantization: the language model's
    large Linears in NF4 or int8; a checkpoint that is stored quantized loads as stored. image_size: another than the
    trained one resamples the position embedding, with a notice. revision: of a Hub repository. tokenizer: path of a
    tokenizer.json, else the folder's, else that of EleutherAI/gpt-neox-20b, read at first use. norm: Mamba's norms;
    "auto" follows the tensors, "layernorm" without stored biases takes zeros, as the authors' own loader does.
    progress: called with (sentence, bytes done, bytes in all).

    Raises CheckpointError (HubError for downloads) with one sentence naming file and key, DeviceMemoryError where the
    device is too small, RequestError for options that do not fit.
    """
    dtype = str(dtype).removeprefix("torch.")
    path = None if tokenizer is None else str(tokenizer)
    spec = ModelSpec(str(checkpoint), quantization, str(device), dtype, image_size, revision, path, norm)
    return load_spec(spec, progress)


def load_spec(spec: ModelSpec, progress: hub.Progress | None = None, *, names_only: bool = False) -> Model:
    """`load` with its options in one value. names_only: as in `find_source`."""
    try:
        return _load(spec, progress, names_only)
    except VLCompareError as error:
        failure: VLCompareError = error.with_traceback(None)
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and "alloc" not in str(error).lower():  # a CPU's allocator raises a bare RuntimeError
            raise
        failure = DeviceMemoryError(f"The device has too little memory for {spec.checkpoint}: {advice([spec])}.")
    # outside of the handlers, whose tracebacks would keep what was half loaded
    failure.__cause__ = failure.__context__ = None
    gc.collect()
    release_cached_memory()
    raise failure


def fetch(spec: ModelSpec, progress: hub.Progress | None = None, *, names_only: bool = False) -> CheckpointSource:
    """The checkpoint's files, downloaded where need be; no byte of weights of a model that would not fit."""
    source = find_source(spec.checkpoint, revision=spec.revision, offline=True, names_only=names_only)
    if source is None:
        device = resolve_device(spec.device)
        known = sum(estimate(spec, names_only=names_only))
        told = progress or (lambda *said: None)
        needed = known or sum(sizes_by_listing(spec, look_up(spec.checkpoint, spec.revision, told)))
        check_room(spec.checkpoint, needed, device, other_choice([spec]))
        source = find_source(spec.checkpoint, revision=spec.revision, progress=progress, names_only=names_only)
    assert source is not None
    return source


def needs_tokenizer(source: CheckpointSource, given: str | None) -> bool:
    """Whether the shared tokenizer has to be downloaded before this checkpoint can answer. given: a path, or None."""
    return given is None and local_tokenizer(source) is None


def fetch_tokenizer(source: CheckpointSource, given: str | None, progress: hub.Progress | None = None) -> None:
    """Download the shared tokenizer where it is needed and not here, which would else happen with the first answer."""
    if needs_tokenizer(source, given):
        _shared_tokenizer(progress)


def spared_bytes(spec: ModelSpec, *, names_only: bool = False) -> int:
    """Bytes of this model that are in memory already: an encoder that a loaded model shares with it."""
    if not shared_encoders.any_held():  # what follows reads the encoder
        return 0
    source = find_source(spec.checkpoint, revision=spec.revision, offline=True, names_only=names_only)
    return 0 if source is None else shared_encoders.bytes_of(shared_encoders.find(stored_encoder(spec, source)[0]))


def stored_encoder(spec: ModelSpec, source: CheckpointSource) -> tuple[shared_encoders.EncoderKey, int]:
    """The key and the bytes that this checkpoint's encoder has once it is loaded. Reads its tensors, the first time."""
    stored, device = read_stored(source), resolve_device(spec.device)
    config, _ = _config(source, stored, spec)
    dtype = vision_dtype(resolve_dtype(spec.dtype, device, parameters_in(stored)), device)
    size = shared_encoders.stored_parameters(stored, config.family) * dtype.itemsize
    return shared_encoders.encoder_key(stored, config, dtype, device), size


def _load(spec: ModelSpec, progress: hub.Progress | None, names_only: bool) -> Model:
    _limit_threads()
    device = resolve_device(spec.device)
    resolve_dtype(spec.dtype, device)  # refused before a download
    _check_options(spec)
    source = fetch(spec, progress, names_only=names_only)
    method = source.loaded_as(spec.quantization)
    if spec.quantization not in ("none", method):
        raise RequestError(f"{source.name} is stored in {method}; it cannot be loaded as {spec.quantization}.")
    stored = read_stored(source)
    dtype = resolve_dtype(spec.dtype, device, parameters_in(stored))
    config, notices = _config(source, stored, spec)
    notices += chosen(spec, method, dtype, device)
    key = shared_encoders.encoder_key(stored, config, vision_dtype(dtype, device), device)
    encoder = shared_encoders.find(key)
    needed = sum(sizes(stored, config.family, method, dtype, device)) - shared_encoders.bytes_of(encoder)
    check_room(source.name, needed, device, other_choice([spec]))
    vlm = meta_model(config)
    vlm.vision_encoder = encoder or vlm.vision_encoder
    kernels = compiling(config.family, dtype, method) if device.type == "cpu" else None
    if method != "none" and (sentence := quantize.left_out(vlm, config.family)):
        notices.append(sentence)
    target = Target(
        device, dtype, method, source.quantization, spec.norm == "layernorm", key.dtype,
        filled=shared_encoders.PREFIX if encoder is not None else "",
    )  # fmt: skip
    notices += fill(vlm, stored, target, _percent(progress, source.name))
    vlm.eval().requires_grad_(False)
    vlm.vision_encoder = shared_encoders.hold(key, vlm.vision_encoder)
    if method != "none" and not quantize.has_kernels(method, device):
        notices.append(quantize.notice(method, dtype, device))
    if kernels is not None and kernels.is_alive():
        if progress is not None:
            progress("Preparing kernels for this processor, which are compiled the first time", 0, 0)
        kernels.join()
    if device.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in convolutions too
    model = Model(
        vlm=vlm,
        config=config,
        tokenizer=_tokenizer(source, spec.tokenizer, progress),
        device=device,
        dtype=dtype,
        quantization=method,
        checkpoint=source.name,
        revision=source.revision,
        notices=(*notices, *fallback.notices(device.type)),
        stored=tuple(stored.values()),
    )
    if progress is not None and device.type == "cuda":
        progress("Trying the kernels for this GPU, once", 0, 0)
    model.prepare()
    return_freed_memory(collect=False)
    return model


def _limit_threads() -> None:
    """Where torch was imported before this package: no more threads than can run at once. A lower number stays."""
    most = threads.budget()
    if torch.get_num_threads() > most:
        torch.set_num_threads(most)


def _check_options(spec: ModelSpec) -> None:
    """Refuse what can be refused without the checkpoint, before gigabytes of it are fetched or read."""
    quantize.check_quantization(spec.quantization)
    if spec.norm not in NORMS:
        raise RequestError(f"{spec.norm!r} is not a kind of norm: use auto, layernorm or rmsnorm.")
    size = spec.image_size
    if size is not None and (type(size) is not int or not 0 < size <= _LARGEST_IMAGE):
        raise RequestError(f"An image size of {size!r} cannot be used: give a whole number up to {_LARGEST_IMAGE}.")
    if spec.tokenizer is not None:
        tokenizer_file(spec.tokenizer)


def _config(source: CheckpointSource, stored: Mapping[str, Stored], spec: ModelSpec) -> tuple[ModelConfig, list[str]]:
    """The stored config with the norms and the image size to run with, and notices about these."""
    config = source.config
    if config.family == "pythia" and spec.norm == "rmsnorm":
        raise RequestError(f"{source.name} is a Pythia model, whose norms are LayerNorm: leave norm at auto.")
    norm = stored_norm(stored, config.family) if spec.norm == "auto" else spec.norm
    config = config.with_norm(norm)  # type: ignore[arg-type]
    if spec.image_size is None or spec.image_size == config.trained_image_size:
        return config, []
    notice = (
        f"{source.name} was trained at {config.trained_image_size} pixels and is run at {spec.image_size}: its "
        "position embedding is resampled, which was not trained."
    )
    return config.with_image_size(spec.image_size), [notice]


def _tokenizer(source: CheckpointSource, given: str | None, progress: hub.Progress | None) -> Tokenizer:
    own = source.folder / "tokenizer.json"
    found = given or (own if is_there(own) else lambda: _shared_tokenizer(progress))
    return Tokenizer(found, vocabulary=source.config.language.vocab_size)


def _shared_tokenizer(progress: hub.Progress | None) -> Path:
    """The tokenizer that all published checkpoints share, downloaded when it is first needed."""
    known = registry.registry()
    name = known.tokenizer_file
    return hub.fetch(known.tokenizer_repository, files=[name], progress=progress).folder / name


def _percent(progress: hub.Progress | None, name: str) -> Callable[[int, int], None]:
    """Reports what has been read, once a percent."""
    last = [-1]

    def report(done: int, total: int) -> None:
        share = 100 * done // max(1, total)
        if progress is not None and share != last[0]:
            last[0] = share
            progress(f"Reading the weights of {name}", done, total)

    return report
