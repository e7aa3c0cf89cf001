"""How fast, on this machine: load, vision, prefill, first token and every further token, beside other people's code.

Weights are random, at the published shapes. Contestants take turns in the same run (A B A B), and medians are reported,
so that a busy machine is unfair to none. Whatever a token must read, divided by its time, gives the bandwidth that was
reached, set against the bandwidth measured here by plain copying and reading.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from vlcompare.bench.contestants import (
    Contestant,
    MambaSsm,
    Ours,
    Transformers,
    build,
    decide_kernels,
    prompt_ids,
    token_bytes,
)
from vlcompare.bench.machine import describe
from vlcompare.bench.peer_command import PeerCommand
from vlcompare.errors import CheckpointError, DeviceMemoryError, RequestError
from vlcompare.models.config import PRESETS, MambaConfig, ModelConfig
from vlcompare.models.kernels import dispatch
from vlcompare.models.kernels.cuda.graph_capture import release_cached_memory
from vlcompare.models.vlm import VisionLanguageModel, meta_model
from vlcompare.runtime.bandwidth import timed
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.loading.devices import resolve_device
from vlcompare.runtime.memory import PeakMemory, check_room, return_freed_memory

PRECISIONS = ("fp32", "bf16", "int8", "nf4")
SMALL = ("mambavl_790m", "pythiavl_1b")  # what is measured by default
_WARM = 16  # positions


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What to measure. `peers`: other people's implementations, too."""

    shapes: tuple[str, ...] = SMALL
    precisions: tuple[str, ...] = ("bf16",)
    device: str = "cpu"
    prompt: int = 620
    tokens: int = 32
    repeats: int = 5
    vision: bool = True
    peers: bool = True
    peer_command: str = ""  # another program beside them, see `peer_command`


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One contestant at one shape and precision. None: not measured, and `note` may say why."""

    shape: str
    precision: str
    who: str
    load_s: float | None = None
    vision_ms: float | None = None
    join_ms: float | None = None  # connector, and its output put among the prompt's embeddings
    prefill_ms: float | None = None
    ttft_ms: float | None = None  # picture's tensor in, first token out
    token_ms: float | None = None
    gbytes_per_s: float | None = None
    bandwidth_share: float | None = None
    token_bytes: int | None = None  # weights, and state or cache in the middle of the answer
    state_bytes: int | None = None
    peak_bytes: int | None = None
    resident_bytes: int | None = None  # CPU: what the process holds more than before the model was made
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Everything measured in one run, and what has to be known to compare it with another."""

    machine: dict[str, Any]
    options: ModelOptions
    rows: tuple[ModelRow, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, **asdict(self)}


def run(
    options: ModelOptions,
    *,
    presets: Mapping[str, ModelConfig] = PRESETS,
    progress: Callable[[str], None] = lambda sentence: None,
    kept: Callable[[ModelReport], None] = lambda report: None,
) -> ModelReport:
    """Measure; `progress` is called with what is being measured. Raises RequestError for what cannot be measured here.

    `kept` is called with the report so far after each shape and precision, so that a run that is stopped is not lost.
    """
    _check(options, presets)
    device = resolve_device(options.device)
    progress("Measuring the memory's bandwidth.")
    try:
        machine = describe(device)
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{device} has too little free memory to measure its bandwidth: end what else uses it."
        ) from error
    rows: list[ModelRow] = []
    vision: dict[str, tuple[float, float]] = {}
    for shape in options.shapes:
        for precision in options.precisions:
            if precision in quantize.METHODS and not quantize.has_kernels(precision, device):
                note = f"no fast path for {precision} on this device"
                rows.append(ModelRow(shape, precision, "vlcompare", note=note))
                continue
            try:
                with torch.inference_mode():
                    case = _Case(presets[shape], shape, precision, device, options, machine, vision, progress)
                    rows += case.measure()
            except torch.OutOfMemoryError as error:
                raise DeviceMemoryError(
                    f"{shape} in {precision} does not fit into the memory of {device}: choose a smaller shape."
                ) from error
            except CheckpointError as error:  # quantizing without bitsandbytes: the other precisions still run
                rows.append(ModelRow(shape, precision, "vlcompare", note=str(error)))
            kept(ModelReport(machine, options, tuple(rows)))
    return ModelReport(machine, options, tuple(rows))


def check_names(shapes: Sequence[str], precisions: Sequence[str], presets: Mapping[str, ModelConfig]) -> None:
    """Raise RequestError for a shape or a precision that is not known."""
    for kind, given, known in (("shape", shapes, presets), ("precision", precisions, PRECISIONS)):
        if unknown := [name for name in given if name not in known]:
            raise RequestError(f"The {kind} {unknown[0]!r} is not known; choose from {', '.join(known)}.")


def _check(options: ModelOptions, presets: Mapping[str, ModelConfig]) -> None:
    check_names(options.shapes, options.precisions, presets)
    if min(options.prompt, options.tokens, options.repeats) < 1:
        raise RequestError("Prompt, tokens and repeats must each be at least 1.")


@dataclass
class _Case:
    """One shape in one precision: the model, its contestants, and their turns."""

    config: ModelConfig
    shape: str
    precision: str
    device: torch.device
    options: ModelOptions
    machine: dict[str, Any]
    vision: dict[str, tuple[float, float]]  # by dtype: the encoder is the same in all shapes, so it is timed once
    progress: Callable[[str], None]

    def measure(self) -> list[ModelRow]:
        self.progress(f"{self.shape}, {self.precision}: filling with random weights.")
        return_freed_memory()  # else the model before would count as in use, and its memory as this one's
        release_cached_memory()
        count = sum(value.numel() for value in meta_model(self.config).parameters())  # imports are not what is measured
        width = 4 if self.precision == "fp32" else 2
        check_room(f"{self.shape} in {self.precision}", count * width, self.device)
        peak = PeakMemory(self.device)
        before = peak.measure()
        load_s, vlm = timed(lambda: build(self.config, self.precision, self.device), self.device)
        if self.device.type == "cuda":
            self.progress(f"{self.shape}, {self.precision}: trying the kernels for this GPU, once.")
        notes = decide_kernels(vlm, self.precision, self.device)
        pixels = torch.zeros(1, 3, self.config.image_size, self.config.image_size).to(
            self.device, vlm.vision_encoder.dtype
        )
        ids, has_image = prompt_ids(self.config, vlm, self.options.prompt, self.device)
        return_freed_memory()
        resident = PeakMemory(self.device).measure() - before if self.device.type == "cpu" else None
        features = vlm.encode_image(pixels) if has_image else None
        embeddings = vlm.embed(ids, features)
        ours = [Ours(vlm, embeddings, self.options.tokens, graphs=False)]
        if self.device.type == "cuda":
            ours.append(Ours(vlm, embeddings, self.options.tokens, graphs=True))
        if self.device.type == "cuda" and self.precision == "nf4":
            ours.append(Ours(vlm, embeddings, self.options.tokens, graphs=True, bitsandbytes=True))
        for contestant in ours:
            self._warm(contestant)
        peak_bytes = peak.measure()
        peers, failed = self._peers(vlm, embeddings)
        times = self._rounds([*ours, *peers])
        vision = self._vision(vlm, pixels) if has_image and self.options.vision else (None, None)
        first = ModelRow(self.shape, self.precision, "", load_s=load_s, vision_ms=vision[0], peak_bytes=peak_bytes)
        first = replace(first, resident_bytes=resident)
        if vision[0] is not None:
            first = replace(first, join_ms=self._join(vlm, pixels, ids))
        if not has_image and self.options.vision:
            notes.append(
                f"a prompt of {self.options.prompt} positions has no room for a picture, so vision is not timed"
            )
        said = {who: " ".join([who.reason, *notes]).strip() for who in ours}
        rows = [self._ours(replace(first, who=who.name, note=said[who]), who, vlm, times[who.name]) for who in ours]
        for peer in peers:
            prefill_ms, token_ms = times[peer.name]
            rows.append(ModelRow(self.shape, self.precision, peer.name, prefill_ms=prefill_ms, token_ms=token_ms))
        if vision[1] is not None:
            rows.append(ModelRow(self.shape, self.precision, "timm", vision_ms=vision[1]))
        return rows + [ModelRow(self.shape, self.precision, name, note=reason) for name, reason in failed.items()]

    def _ours(self, row: ModelRow, contestant: Ours, vlm: VisionLanguageModel, times: tuple[float, float]) -> ModelRow:
        prefill_ms, token_ms = times
        middle = self.options.prompt + self.options.tokens // 2
        state_bytes = vlm.language_model.state_bytes_formula(middle)
        count = token_bytes(vlm) + state_bytes
        rate = count / token_ms / 1e6
        ttft = None if row.vision_ms is None else row.vision_ms + (row.join_ms or 0.0) + prefill_ms
        return replace(
            row, prefill_ms=prefill_ms, token_ms=token_ms, ttft_ms=ttft, token_bytes=count, gbytes_per_s=rate,
            bandwidth_share=rate / self.machine["gbytes_per_s"], state_bytes=contestant.state.nbytes(),
        )  # fmt: skip

    def _peers(
        self, vlm: VisionLanguageModel, embeddings: torch.Tensor
    ) -> tuple[list[Contestant | PeerCommand], dict[str, str]]:
        """The contestants that run here, warmed up, and why the others do not."""
        makers: dict[str, Callable[[], Contestant | PeerCommand]] = {}
        if self.options.peers and self.precision not in quantize.METHODS:
            makers["transformers"] = lambda: Transformers(vlm, embeddings)
            language = self.config.language
            if isinstance(language, MambaConfig) and dispatch.active(self.device) == "mamba_ssm":
                length, tokens = self.options.prompt, self.options.tokens
                makers["mamba-ssm"] = lambda: MambaSsm(language, length, tokens, self.device, embeddings.dtype)
        if self.options.peer_command:
            makers["peer command"] = self._command
        peers, failed = [], {}
        for name, make in makers.items():
            try:
                peer = make()
                self._warm(peer)
                peers.append(peer)
            except Exception as error:  # a foreign package's code: a row says that it did not run
                failed[name] = f"did not run: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
        return peers, failed

    def _command(self) -> PeerCommand:
        return PeerCommand(
            self.options.peer_command, shape=self.shape, precision=self.precision, prompt=self.options.prompt,
            tokens=self.options.tokens, threads=torch.get_num_threads(),
        )  # fmt: skip

    def _rounds(self, contestants: Sequence[Contestant | PeerCommand]) -> dict[str, tuple[float, float]]:
        """Medians of (prefill, token) in milliseconds; the contestants alternate."""
        rounds: dict[str, list[tuple[float, float]]] = {contestant.name: [] for contestant in contestants}
        for number in range(self.options.repeats):
            self.progress(f"{self.shape}, {self.precision}: round {number + 1} of {self.options.repeats}.")
            for contestant in contestants:
                rounds[contestant.name].append(self._round(contestant))
        return {
            name: (statistics.median(prefill for prefill, _ in times), statistics.median(token for _, token in times))
            for name, times in rounds.items()
        }

    def _warm(self, contestant: Contestant | PeerCommand) -> None:
        """Compile, capture and allocate, not measured. On a CPU a short prompt does for that."""
        whole = getattr(contestant, "embeddings", None)
        if isinstance(contestant, PeerCommand) or whole is None or self.device.type != "cpu":
            self._round(contestant)
            return
        contestant.embeddings = whole[:, :_WARM]  # type: ignore[attr-defined]
        contestant.ready()
        contestant.prefill()
        contestant.step()
        contestant.embeddings = whole  # type: ignore[attr-defined]

    def _round(self, contestant: Contestant | PeerCommand) -> tuple[float, float]:
        """One prompt and its answer: milliseconds of the prompt, and the median over the tokens."""
        if isinstance(contestant, PeerCommand):
            return contestant.measure()
        contestant.ready()
        prefill = self._milliseconds(contestant.prefill)
        return prefill, statistics.median(self._milliseconds(contestant.step) for _ in range(self.options.tokens))

    def _vision(self, vlm: VisionLanguageModel, pixels: torch.Tensor) -> tuple[float, float]:
        """Our encoder beside the foreign module called directly, in turns."""
        encoder = vlm.vision_encoder
        key = f"{self.config.vision.name} {encoder.dtype}"
        if key not in self.vision:
            plain = getattr(encoder.model, "forward_features", encoder.model)
            rounds = [
                (self._milliseconds(lambda: encoder(pixels)), self._milliseconds(lambda: plain(pixels)))
                for _ in range(self.options.repeats + 1)
            ]
            ours, theirs = zip(*rounds[1:], strict=True)  # the first round sets up what the others use
            self.vision[key] = statistics.median(ours), statistics.median(theirs)
        return self.vision[key]

    def _join(self, vlm: VisionLanguageModel, pixels: torch.Tensor, ids: torch.Tensor) -> float:
        """The time of the layers between the encoder and the language model, in milliseconds."""
        patches = vlm.vision_encoder(pixels)
        times = [
            self._milliseconds(lambda: vlm.embed(ids, vlm.connector(patches))) for _ in range(self.options.repeats + 1)
        ]
        return statistics.median(times[1:])

    def _milliseconds(self, work: Callable[[], Any]) -> float:
        return 1e3 * timed(work, self.device)[0]
