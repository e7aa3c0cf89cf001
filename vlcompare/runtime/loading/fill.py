"""Filling an empty model from files: one tensor at a time, straight to its device and dtype.

Peak memory is the finished model and one tensor. Every error is one sentence that names file and key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vlcompare.errors import CheckpointError
from vlcompare.models.vision import BUFFERS_IN_WEIGHTS_DTYPE, resample_position_embedding
from vlcompare.models.vlm import VisionLanguageModel
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.loading.keys import FLOAT32, Plan, highest_value, plan
from vlcompare.runtime.loading.safetensors_files import Stored, as_bytes, check_finite, read_tensor
from vlcompare.runtime.memory import return_freed_memory

ByteProgress = Callable[[int, int], None]  # bytes done, bytes in all
_FREED = 64 << 20  # bytes read, of which copies are freed, after which the allocator gives back what it keeps of them


@dataclass(frozen=True, slots=True)
class Target:
    """Device, dtype and quantization of the filled model. stored: how the files are quantized already.

    vision_dtype: the vision encoder's own; None: the model's. filled: what names begin with that need no filling; "":
    all need it.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    method: str = "none"
    stored: str = "none"
    zero_norm_biases: bool = False
    vision_dtype: torch.dtype | None = None
    filled: str = ""

    def dtype_of(self, name: str) -> torch.dtype:
        """In which dtype the tensor of this name is held, where it holds no integers."""
        if name.endswith(FLOAT32):
            return torch.float32
        return (self.vision_dtype or self.dtype) if name.startswith("vision_encoder.") else self.dtype


@dataclass
class _Slot:
    """A tensor of the model: its shape, and every module that holds it (a tied one has several)."""

    shape: tuple[int, ...]
    floating: bool
    holders: list[tuple[dict[str, Tensor | None], str]] = field(default_factory=list)  # module's dict, name in it


def fill(
    vlm: VisionLanguageModel, stored: dict[str, Stored], target: Target, report: ByteProgress = lambda done, total: None
) -> list[str]:
    """Read all `stored` tensors into `vlm`, which is complete afterwards. Returns notices for the user.

    Raises CheckpointError where files and model do not fit together or values are damaged.
    """
    return _Filler(vlm, target).run(stored, report)


def read_through(
    vlm: VisionLanguageModel,
    stored: dict[str, Stored],
    quantization: str,
    report: ByteProgress = lambda done, total: None,
) -> list[str]:
    """Check all that `fill` checks, one tensor at a time, and keep nothing. quantization: how the files are stored.

    Returns and raises as `fill` does.
    """
    return _Filler(vlm, Target(method=quantization, stored=quantization), keep=False).run(stored, report)


def account(vlm: VisionLanguageModel, stored: dict[str, Stored], quantization: str) -> Plan:
    """Which stored tensor fills which of the model's, without reading any. quantization: how the files are stored.

    Raises CheckpointError for a key that is not the model's, has another shape, or is missing.
    """
    return _Filler(vlm, Target(method=quantization, stored=quantization)).plan(stored)


class _Filler:
    def __init__(self, vlm: VisionLanguageModel, target: Target, keep: bool = True) -> None:
        self.vlm, self.target, self.keep = vlm, target, keep
        self.family = vlm.config.family
        self.linears = quantize.targets(vlm, self.family) if target.method != "none" else {}
        self.parts: dict[str, dict[str, Tensor]] = {}  # quantized weights, by the Linear they belong to
        self.slots, self.first_name = _slots(vlm)
        encoder = vlm.vision_encoder
        self.position = f"vision_encoder.model.{encoder.position_key}" if encoder.position_key else None

    def run(self, stored: dict[str, Stored], report: ByteProgress) -> list[str]:
        todo = self.plan(stored)
        for entry in todo.must_be_zero:
            _check_zero(entry)
        tied = [(todo.fill[name], other) for name, other in todo.replaced.items()]
        digests = {entry.key: b"" for pair in tied for entry in pair}
        filled = self.target.filled
        names = {e.key: name for name, e in todo.fill.items() if not filled or not name.startswith(filled)}
        total, done, since = sum(todo.fill[name].bytes for name in names.values()), 0, 0
        for entry in sorted(stored.values(), key=lambda entry: (entry.file, entry.begin)):
            if entry.key not in names and entry.key not in digests:
                continue
            tensor = read_tensor(entry)
            if entry.key in digests:
                digests[entry.key] = hashlib.sha256(as_bytes(tensor)).digest()
            # checked on the target device: a CPU core takes 0.7 s a GB, a GPU less than copying takes
            name = names.get(entry.key)
            tensor = tensor if name in (None, self.position) else tensor.to(self.target.device)
            check_finite(tensor, entry, highest_value(entry.key))
            if name is not None:
                if self.keep:
                    self.put(name, tensor)
                done += entry.bytes
                report(done, total)
            del tensor
            since += entry.bytes
            if since > _FREED:
                return_freed_memory(collect=False)
                since = 0
        if self.keep:
            for name in todo.zero:
                self.set(name, torch.zeros(self.slots[name].shape, dtype=self.target.dtype, device=self.target.device))
            self.finish()
        return [
            f"{used.key} and {other.key} are tied but differ in the files; {used.key} serves as both."
            for used, other in tied
            if digests[used.key] != digests[other.key]
        ]

    def plan(self, stored: dict[str, Stored]) -> Plan:
        """Which stored tensor fills which of the model's; no stored key and no tensor of the model is left over."""
        todo = plan(stored, self.wanted(), self.family, self.first_name, zero_norm_biases=self.target.zero_norm_biases)
        for name, entry in [*todo.fill.items(), *todo.replaced.items()]:
            self.check_dtype(name, entry)
        return todo

    def check_dtype(self, name: str, entry: Stored) -> None:
        """Raise CheckpointError if the file's dtype does not fit the tensor."""
        linear, _, last = name.rpartition(".")
        if linear in self.linears and name not in self.slots:
            if entry.dtype != quantize.PARTS[self.target.stored][last]:
                raise CheckpointError(f"{entry.where} is stored as {entry.dtype}: quantize the checkpoint again.")
        elif entry.dtype.is_floating_point != self.slots[name].floating:
            raise CheckpointError(f"{entry.where} is stored as {entry.dtype}, which does not belong there.")

    def wanted(self) -> dict[str, tuple[int, ...]]:
        """Every name that must be filled, and the shape that the files must have for it."""
        shapes = {name: slot.shape for name, slot in self.slots.items()}
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
        """Store one tensor in the model, quantized or resampled where needed."""
        linear, _, last = name.rpartition(".")
        device = self.target.device
        if linear in self.linears and name not in self.slots:
            self.add_part(linear, {last: tensor.to(device)})
            return
        slot = self.slots[name]
        if linear in self.linears and last == "weight":
            self.add_part(linear, quantize.quantize(tensor.to(device), self.target.method))
            return
        if name == self.position and tuple(tensor.shape) != slot.shape:
            encoder = self.vlm.vision_encoder
            tensor = resample_position_embedding(tensor.float(), encoder.grid, encoder.prefix_tokens)
        self.set(name, tensor.to(device, self.target.dtype_of(name) if slot.floating else tensor.dtype))

    def add_part(self, name: str, parts: dict[str, Tensor]) -> None:
        """Keep a quantized weight's parts; once complete, dequantize it where the device has no fast path for it."""
        held = self.parts.setdefault(name, {})
        held.update(parts)
        method = self.target.method
        if len(held) == len(quantize.PARTS[method]) and not quantize.has_kernels(method, self.target.device):
            linear = self.linears[name]
            shape = (linear.out_features, linear.in_features)
            self.set(f"{name}.weight", quantize.dequantize(self.parts.pop(name), method, shape, self.target.dtype))

    def set(self, name: str, tensor: Tensor) -> None:
        holders = self.slots[name].holders
        is_parameter = isinstance(holders[0][0][holders[0][1]], nn.Parameter)
        value = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        for table, last in holders:
            table[last] = value

    def finish(self) -> None:
        """Put quantized modules in their Linears' places, and the computed buffers on the device."""
        for name, parts in self.parts.items():
            linear = self.linears[name]
            shape = (linear.out_features, linear.in_features)
            target = self.target
            module = quantize.quantized_linear(parts, target.method, shape, linear.bias, target.device, target.dtype)
            parent, _, last = name.rpartition(".")
            setattr(self.vlm.get_submodule(parent), last, module)
        for module in self.vlm.modules():
            for last, buffer in module._buffers.items():
                if buffer is not None:
                    weights = self.target.dtype_of("vision_encoder.")  # only there such buffers are
                    dtype = weights if last in BUFFERS_IN_WEIGHTS_DTYPE else buffer.dtype
                    module._buffers[last] = buffer.to(self.target.device, dtype)


def _slots(vlm: VisionLanguageModel) -> tuple[dict[str, _Slot], dict[str, str]]:
    """All tensors that must be filled, by their first name; and for every name of a tied one its first."""
    first: dict[int, str] = {}
    slots: dict[str, _Slot] = {}
    first_name: dict[str, str] = {}
    stored_names = vlm.state_dict(keep_vars=True)  # without buffers that are computed
    for prefix, module in vlm.named_modules():
        for table in (module._parameters, module._buffers):
            for last, value in table.items():
                name = f"{prefix}.{last}" if prefix else last
                if value is None or name not in stored_names:
                    continue
                first_name[name] = first.setdefault(id(value), name)
                slot = _Slot(tuple(value.shape), value.is_floating_point())
                slots.setdefault(first_name[name], slot).holders.append((table, last))
    return slots, first_name


def _check_zero(entry: Stored) -> None:
    if bool(read_tensor(entry).any()):
        raise CheckpointError(
            f"{entry.where} is a bias that is not zero, but the norms are run as RMSNorm, which has none: load with "
            "norm='auto'."
        )
