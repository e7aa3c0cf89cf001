"""Filling an empty model from files: one tensor at a time, straight to its device and dtype.

Knows a model on the meta device, a plan of which stored tensor fills what, and how a weight becomes a quantized one.
Peak memory is the finished model and one tensor. Whatever goes wrong is one sentence that names file and key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vlcompare.errors import CheckpointError
from vlcompare.models.meta_init import registering
from vlcompare.models.vision import BUFFERS_IN_WEIGHTS_DTYPE, resample_position_embedding
from vlcompare.models.vlm import VisionLanguageModel
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.loading.keys import Plan, plan
from vlcompare.runtime.loading.locate import FLOAT32
from vlcompare.runtime.loading.safetensors_files import Stored, as_bytes, check_finite, read_tensor

Said = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Target:
    """What the filled model shall be. `stored`: how the files are quantized already."""

    device: torch.device
    dtype: torch.dtype
    method: str = "none"
    stored: str = "none"
    zero_norm_biases: bool = False


@dataclass
class _Place:
    """Where a tensor belongs: every module that holds it (a tied one has several), and its shape while empty."""

    shape: tuple[int, ...]
    floating: bool
    holders: list[tuple[dict[str, Tensor | None], str]] = field(default_factory=list)


def fill(
    vlm: VisionLanguageModel, stored: dict[str, Stored], target: Target, said: Said = lambda done, total: None
) -> list[str]:
    """Read everything that `stored` lists into `vlm`, which is whole afterwards. Returns what should be made known.

    Raises CheckpointError where files and model do not fit together or values are damaged.
    """
    return _Filler(vlm, target).run(stored, said)


def read_through(
    vlm: VisionLanguageModel, stored: dict[str, Stored], quantization: str, said: Said = lambda done, total: None
) -> list[str]:
    """All that `fill` does, one tensor at a time, and nothing is kept. quantization: how the files are stored.

    Returns and raises as `fill` does.
    """
    target = Target(torch.device("cpu"), torch.float32, quantization, quantization)
    return _Filler(vlm, target, keep=False).run(stored, said)


def account(vlm: VisionLanguageModel, stored: dict[str, Stored], quantization: str) -> Plan:
    """What `fill` would take from where, without reading any of it. quantization: how the files are stored.

    Raises CheckpointError for a key that has no place or another shape, and for one that is missing.
    """
    return _Filler(vlm, Target(torch.device("cpu"), torch.float32, quantization, quantization)).plan(stored)


class _Filler:
    def __init__(self, vlm: VisionLanguageModel, target: Target, keep: bool = True) -> None:
        self.vlm, self.target, self.keep = vlm, target, keep
        self.family = vlm.config.family
        self.linears = quantize.targets(vlm, self.family) if target.method != "none" else {}
        self.parts: dict[str, dict[str, Tensor]] = {}  # quantized weights, by the Linear they belong to
        self.places, self.same = _places(vlm)
        encoder = vlm.vision_encoder
        self.position = f"vision_encoder.model.{encoder.position_key}" if encoder.position_key else None

    def run(self, stored: dict[str, Stored], said: Said) -> list[str]:
        todo = self.plan(stored)
        for entry in todo.must_be_zero:
            _check_zero(entry)
        twins = _Twins(todo)
        names = {entry.key: name for name, entry in todo.fill.items()}
        total, done = sum(entry.bytes for entry in todo.fill.values()), 0
        for entry in sorted(stored.values(), key=lambda entry: (entry.file, entry.begin)):
            if entry.key not in names and entry.key not in twins.keys:
                continue
            tensor = read_tensor(entry)
            twins.look(entry, tensor)
            # looked through where it goes: one core of a CPU takes 0.7 s for each GB, which a GPU copies in less
            name = names.get(entry.key)
            tensor = tensor if name in (None, self.position) else tensor.to(self.target.device)
            check_finite(tensor, entry)
            if name is not None:
                if self.keep:
                    self.put(name, tensor)
                done += entry.bytes
                said(done, total)
        if not self.keep:
            return twins.notices()
        for name in todo.zero:
            self.set(name, torch.zeros(self.places[name].shape, dtype=self.target.dtype, device=self.target.device))
        self.finish()
        return twins.notices()

    def plan(self, stored: dict[str, Stored]) -> Plan:
        """What fills what; every stored key and every wanted name is accounted for."""
        zero = self.target.zero_norm_biases
        todo = plan(stored, self.wanted(), self.family, same=lambda n: self.same.get(n, n), zero_norm_biases=zero)
        for name, entry in [*todo.fill.items(), *todo.replaced.items()]:
            self.check_dtype(name, entry)
        return todo

    def check_dtype(self, name: str, entry: Stored) -> None:
        """Raises CheckpointError where the file's dtype is none that the place can take."""
        linear, _, last = name.rpartition(".")
        if linear in self.linears and name not in self.places:
            if entry.dtype != quantize.PARTS[self.target.stored][last]:
                raise CheckpointError(f"{entry.where} is stored as {entry.dtype}: quantize the checkpoint again.")
        elif entry.dtype.is_floating_point != self.places[name].floating:
            raise CheckpointError(f"{entry.where} is stored as {entry.dtype}, which does not belong there.")

    def wanted(self) -> dict[str, tuple[int, ...]]:
        """Every name that must be filled, and the shape that the files must have for it."""
        shapes = {name: place.shape for name, place in self.places.items()}
        if self.position is not None:
            shapes[self.position] = self.trained_positions(shapes[self.position])
        if self.target.stored != "none":
            for name, linear in self.linears.items():
                del shapes[f"{name}.weight"]
                parts = quantize.part_shapes(self.target.stored, linear.out_features, linear.in_features)
                shapes.update({f"{name}.{part}": shape for part, shape in parts.items()})
        return shapes

    def trained_positions(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The position embedding's shape at the size that was trained: (..., prefix + patches, C)."""
        encoder = self.vlm.vision_encoder
        side = self.vlm.config.trained_image_size // encoder.patch_size
        return (*shape[:-2], encoder.prefix_tokens + side * side, shape[-1])

    def put(self, name: str, tensor: Tensor) -> None:
        """One tensor to where it belongs, quantized or resampled on the way where that is wanted."""
        linear, _, last = name.rpartition(".")
        device = self.target.device
        if linear in self.linears and name not in self.places:
            self.add_part(linear, {last: tensor.to(device)})
            return
        place = self.places[name]
        if linear in self.linears and last == "weight":
            self.add_part(linear, quantize.quantize(tensor.to(device), self.target.method))
            return
        if name == self.position and tuple(tensor.shape) != place.shape:
            encoder = self.vlm.vision_encoder
            tensor = resample_position_embedding(tensor.float(), encoder.grid, encoder.prefix_tokens)
        dtype = torch.float32 if name.endswith(FLOAT32) else self.target.dtype
        self.set(name, tensor.to(device, dtype if place.floating else tensor.dtype))

    def add_part(self, name: str, parts: dict[str, Tensor]) -> None:
        """Keep a quantized weight's parts; once whole, unpack it where the device has no fast path for it."""
        held = self.parts.setdefault(name, {})
        held.update(parts)
        method = self.target.method
        if len(held) == len(quantize.PARTS[method]) and not quantize.has_kernels(method, self.target.device):
            linear = self.linears[name]
            shape = (linear.out_features, linear.in_features)
            self.set(f"{name}.weight", quantize.dequantize(self.parts.pop(name), method, shape, self.target.dtype))

    def set(self, name: str, tensor: Tensor) -> None:
        holders = self.places[name].holders
        is_parameter = isinstance(holders[0][0][holders[0][1]], nn.Parameter)
        value = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        for table, last in holders:
            table[last] = value

    def finish(self) -> None:
        """Put quantized modules in their Linears' places, and the computed buffers on the device."""
        for name, parts in self.parts.items():
            linear = self.linears[name]
            shape = (linear.out_features, linear.in_features)
            with registering:
                module = quantize.quantized_linear(parts, self.target.method, shape, linear.bias, self.target.dtype)
            parent, _, last = name.rpartition(".")
            setattr(self.vlm.get_submodule(parent), last, module)
        for module in self.vlm.modules():
            for last, buffer in module._buffers.items():
                if buffer is not None:
                    dtype = self.target.dtype if last in BUFFERS_IN_WEIGHTS_DTYPE else buffer.dtype
                    module._buffers[last] = buffer.to(self.target.device, dtype)


class _Twins:
    """Where both of two tied tensors are stored: whether they are the same."""

    def __init__(self, todo: Plan) -> None:
        self._pairs = [(todo.fill[name], other) for name, other in todo.replaced.items()]
        self._sums: dict[str, bytes] = {}
        self.keys = {entry.key for pair in self._pairs for entry in pair}

    def look(self, entry: Stored, tensor: Tensor) -> None:
        if entry.key in self.keys:
            self._sums[entry.key] = hashlib.sha256(as_bytes(tensor)).digest()

    def notices(self) -> list[str]:
        return [
            f"{used.key} and {other.key} are tied but differ in the files; {used.key} serves as both."
            for used, other in self._pairs
            if self._sums[used.key] != self._sums[other.key]
        ]


def _places(vlm: VisionLanguageModel) -> tuple[dict[str, _Place], dict[str, str]]:
    """All that must be filled, by its first name; and for every name of a tied parameter its first."""
    first: dict[int, str] = {}
    places: dict[str, _Place] = {}
    same: dict[str, str] = {}
    stored_names = vlm.state_dict(keep_vars=True)  # leaves out what is computed
    for prefix, module in vlm.named_modules():
        for table in (module._parameters, module._buffers):
            for last, value in table.items():
                name = f"{prefix}.{last}" if prefix else last
                if value is None or name not in stored_names:
                    continue
                same[name] = first.setdefault(id(value), name)
                place = _Place(tuple(value.shape), value.is_floating_point())
                places.setdefault(same[name], place).holders.append((table, last))
    return places, same


def _check_zero(entry: Stored) -> None:
    if bool(read_tensor(entry).any()):
        raise CheckpointError(
            f"{entry.where} is a bias that is not zero, but the norms are run as RMSNorm, which has none: load with "
            "norm='auto'."
        )
