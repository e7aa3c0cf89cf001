"""NF4 and int8 weights for the large Linears of the language models. The only importer of bitsandbytes.

Handles one Linear at a time: its weight as 4- or 8-bit parts, the module that computes with them, where that is fast.
Embeddings, head, norms, convolution, time step, connector and vision encoder are not quantized.

NF4 ("QLoRA", arXiv 2305.14314, section 3): blocks of 64 values share their largest magnitude; each value is the nearest
of 16 quantiles of a normal distribution. int8 ("LLM.int8()", arXiv 2208.07339, section 2.1): a row is scaled by its
largest magnitude to -127 .. 127; activations are rounded the same way at run time (threshold 0: no outlier columns,
which would synchronise with the device in every layer). Both are computed here in float32 with exact operations, so
that a CPU and a GPU give the same bits, and a file written on one equals the result of quantizing at load on the
other.

On CPU the weights stay packed (`models.kernels.packed`); bitsandbytes is for CUDA. Where there are no kernels for the
processor, weights are rounded the same way and then held in the model's own dtype: the answers are those of the
quantized model, memory and speed are not, and a notice says so.
"""

from __future__ import annotations

import functools
import logging
import platform
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.kernels import agreement, fallback, packed, verdicts
from vlcompare.models.kernels.linear import int8_result, int8_rows, nf4_product
from vlcompare.models.kernels.packed import KeepsScales, PackedLinear
from vlcompare.models.kernels.packed_format import BLOCK, nf4_code, unpacked
from vlcompare.models.kernels.reference import Nf4Weight
from vlcompare.models.kernels.verdicts import Case
from vlcompare.types import QUANTIZATIONS

METHODS = ("nf4", "int8")
_LABELS = {"nf4": "NF4", "int8": "int8"}
_ROWS_OF_KERNEL = 32  # bitsandbytes' packed CPU layout takes this many output rows at a time

# the Linears that hold most of a language model, by the last part of their names
TARGETS: dict[str, frozenset[str]] = {
    "pythia": frozenset({"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "mamba": frozenset({"in_proj", "out_proj"}),
}
# tensors that replace a weight in files: suffix of the key -> dtype
PARTS: dict[str, dict[str, torch.dtype]] = {
    "nf4": {"nf4": torch.uint8, "absmax": torch.float32},
    "int8": {"int8": torch.int8, "absmax": torch.float32},
}


def check_quantization(quantization: str) -> None:
    """Raise RequestError for a name that is not in `types.QUANTIZATIONS`."""
    if quantization not in QUANTIZATIONS:
        raise RequestError(f"{quantization!r} is not a quantization: use none, int8 or nf4.")


def targets(model: nn.Module, family: str) -> dict[str, nn.Linear]:
    """The Linears to quantize below `model`, by name. Sizes that the kernels do not support are left out."""
    return {name: linear for name, linear in _large(model, family).items() if _fits(linear)}


def left_out(model: nn.Module, family: str) -> str | None:
    """A sentence about large Linears that cannot be quantized because of their sizes; None if there are none."""
    large = _large(model, family)
    count = sum(not _fits(linear) for linear in large.values())
    if not count:
        return None
    return (
        f"{count} of {len(large)} large layers stay as they are: quantizing needs a multiple of {BLOCK} inputs and of "
        f"{_ROWS_OF_KERNEL} outputs."
    )


def fits(rows: int, columns: int) -> bool:
    """Whether a weight of this shape can be quantized."""
    return columns % BLOCK == 0 and rows % _ROWS_OF_KERNEL == 0


def part_shapes(method: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that replace a weight (rows, columns)."""
    if method == "nf4":
        return {"nf4": (rows * columns // 2,), "absmax": (rows * columns // BLOCK,)}
    return {"int8": (rows, columns), "absmax": (rows,)}


def part_bytes(method: str, rows: int, columns: int) -> int:
    """Bytes of a quantized weight (rows, columns)."""
    return rows * columns // 2 + 4 * (rows * columns // BLOCK) if method == "nf4" else rows * columns + 4 * rows


def quantize(weight: Tensor, method: str) -> dict[str, Tensor]:
    """A weight (rows, columns) as its parts, on the weight's device."""
    return dict(zip((method, "absmax"), packed.quantized(weight, method), strict=True))


def dequantize(parts: Mapping[str, Tensor], method: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight that the parts encode."""
    return unpacked(method, parts[method], parts["absmax"], shape, dtype)


def has_kernels(method: str, device: torch.device) -> bool:
    """Whether this device multiplies in the quantized format: CUDA, or a CPU whose instructions have kernels."""
    if device.type == "cuda":
        return not fallback.failed("bitsandbytes")
    return device.type == "cpu" and bool(packed.supported())


def notice(method: str, dtype: torch.dtype, device: torch.device) -> str:
    """The notice for a machine without quantized kernels."""
    held, label = str(dtype).removeprefix("torch."), _LABELS[method]
    why = f"This machine has no fast path for {label} ({platform.machine()} without AVX2 or NEON, or without numba)"
    if device.type == "cuda":
        why = "bitsandbytes' kernels are not used here"
    return (
        f"{why}: the weights are rounded to {label} and held in {held}, so the answers are {label}'s, but memory and "
        f"speed are {held}'s."
    )


def use_own_kernel(model: nn.Module, on: bool | None) -> None:
    """Whether NF4 layers on CUDA take this project's own kernel for single positions; None: where it is faster."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "own_kernel"):
            layer.own_kernel = on


def quantized_linear(
    parts: Mapping[str, Tensor],
    method: str,
    shape: tuple[int, int],
    bias: Tensor | None,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
) -> nn.Module:
    """A module that multiplies with the parts, which are on `device`. dtype: of the model."""
    if device.type == "cuda":
        return bitsandbytes_linear(parts, method, shape, bias, dtype)
    return PackedLinear(method, parts[method], parts["absmax"], shape, bias)


def replace_linears(model: nn.Module, family: str, method: str, device: torch.device, dtype: torch.dtype) -> None:
    """Put quantized layers in the place of those that `targets` names, one after the other."""
    for name, linear in targets(model, family).items():
        shape = linear.out_features, linear.in_features
        parts = quantize(linear.weight.detach(), method)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, quantized_linear(parts, method, shape, linear.bias, device, dtype))


def bitsandbytes_linear(
    parts: Mapping[str, Tensor],
    method: str,
    shape: tuple[int, int],
    bias: Tensor | None,
    dtype: torch.dtype = torch.bfloat16,
) -> nn.Module:
    """`quantized_linear` with bitsandbytes' kernels, whatever the device."""
    if method == "int8":
        return Int8Linear(parts["int8"], parts["absmax"], bias)
    compute = torch.float16 if dtype == torch.float16 else torch.bfloat16  # what the kernels compute in
    return _nf4_linear(parts["nf4"], parts["absmax"], shape, bias, compute)


class Int8Linear(KeepsScales):
    """x W^T + b with W in int8 by rows and x rounded to int8 by rows at run time; products in int32. For CUDA."""

    may_end_process = True  # bitsandbytes' CUDA library calls exit() at an error, whosever it is

    def __init__(self, weight: Tensor, absmax: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        _bitsandbytes()
        self.register_buffer("weight", weight)
        self.register_buffer("absmax", absmax)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        y = _by_bitsandbytes(self, "int8", x)
        if y is not None:
            return y
        parts: dict[str, Any] = {"int8": self.weight, "absmax": self.absmax}
        weight = dequantize(parts, "int8", (self.out_features, self.in_features), x.dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))

    def product(self, x: Tensor) -> Tensor:
        """`forward` by bitsandbytes' kernel. Raises what that raises.

        Only its integer product is used: its kernels around that read and write float16, in which activations beyond
        65,504 are infinite; ours keep the range of x's dtype.
        """
        values, scales = int8_rows(x.reshape(-1, self.in_features).contiguous())
        sums = torch.ops.bitsandbytes.int8_linear_matmul.default(values, self.weight)  # int32
        return int8_result(sums, scales, self.absmax, self.bias, x.dtype).view(*x.shape[:-1], self.out_features)


def layer_case(method: str, shape: tuple[int, int], biased: bool, dtype: torch.dtype) -> Case:
    """What a verdict on bitsandbytes' kernel for a layer (rows, columns) is about."""
    return Case("bitsandbytes", method, dtype, (("rows", shape[0]), ("columns", shape[1]), ("biased", int(biased))))


def _by_bitsandbytes(layer: Any, method: str, x: Tensor) -> Tensor | None:
    """layer.product(x), or None where that raises or has raised for a layer of such sizes."""
    if fallback.failed("bitsandbytes"):
        return None
    case = layer_case(method, (layer.out_features, layer.in_features), layer.bias is not None, x.dtype)
    proof = verdicts.known(case, x.device)
    if proof is not None and proof.verdict == "failed":
        return None
    return agreement.attempt(case, x.device, layer.product, x)  # type: ignore[no-any-return]


def _nf4_linear(
    packed: Tensor, absmax: Tensor, shape: tuple[int, int], bias: Tensor | None, compute: torch.dtype
) -> nn.Module:
    library = _bitsandbytes()
    rows, columns = shape
    layer = _nf4_class()(
        columns, rows, bias=bias is not None, compute_dtype=compute, compress_statistics=False, quant_type="nf4",
        device="meta",
    )  # fmt: skip
    state = library.functional.QuantState(
        absmax=absmax, shape=torch.Size(shape), code=nf4_code(packed.device), blocksize=BLOCK, quant_type="nf4",
        dtype=compute,
    )  # fmt: skip
    layer.weight = library.nn.Params4bit(
        packed.view(-1, 1), requires_grad=False, quant_state=state, blocksize=BLOCK, compress_statistics=False,
        quant_type="nf4", module=layer, bnb_quantized=True,
    )  # fmt: skip
    layer.quant_state = state
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(compute), requires_grad=False)
    return layer.eval()


@functools.cache
def _nf4_class() -> Any:
    """bitsandbytes' NF4 layer, which falls back to the dequantized weights where its kernels fail."""

    class Linear4bit(_bitsandbytes().nn.Linear4bit):  # type: ignore[misc, name-defined]
        may_end_process = True
        own_kernel: bool | None = None  # see `use_own_kernel`

        @property
        def nf4(self) -> Nf4Weight | None:
            """The weight for this project's own kernels; None where they are not to be taken."""
            state = self.quant_state
            return None if self.own_kernel is False else Nf4Weight(self.weight.data, state.absmax, *state.shape)

        def forward(self, x: Tensor) -> Tensor:
            state, weight = self.quant_state, self.nf4
            if weight is not None:
                y = nf4_product(x, weight, self.bias, asked_for=bool(self.own_kernel))
                if y is not None:
                    return y
            y = _by_bitsandbytes(self, "nf4", x)
            if y is not None:
                return y
            parts = {"nf4": self.weight.data, "absmax": state.absmax}
            whole = dequantize(parts, "nf4", tuple(state.shape), x.dtype)
            return F.linear(x, whole, None if self.bias is None else self.bias.to(x.dtype))

        def product(self, x: Tensor) -> Tensor:
            """`forward` by bitsandbytes' kernel. Raises what that raises."""
            return super().forward(x.contiguous())  # the CPU's reads rows by their address, whatever the strides are

    return Linear4bit


def extra_bytes(module: nn.Module) -> int:
    """Bytes of a quantized module that are neither parameters nor buffers."""
    state = getattr(module, "quant_state", None)
    return 0 if state is None else state.absmax.nbytes


def _large(model: nn.Module, family: str) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in TARGETS[family]
    }


def _fits(linear: nn.Linear) -> bool:
    return fits(linear.out_features, linear.in_features)


def has_bitsandbytes() -> bool:
    """Whether it can be imported here."""
    try:
        return _bitsandbytes() is not None
    except CheckpointError:
        return False


def _bitsandbytes() -> Any:
    # on import it looks for optional packages and warns about each that is missing
    for name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.cextension", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except (ImportError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"bitsandbytes cannot be used here ({error}): choose quantization none, or install it again."
        ) from error
    return bitsandbytes
