"""Which precision fits a model and a processor, and what to do where a model does not fit.

What is quantized in memory follows what the kernels do (`quantize.has_kernels`): weights that a device unpacks take the
memory of its own dtype, so advice never names them there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlcompare.runtime.loading import registry
from vlcompare.types import ModelSpec, Quantization


def preferred(device: str) -> tuple[Quantization, ...]:
    """The quantizations in which a published model is offered on a device, best first: the first that fits is taken.

    On a GPU bfloat16 is as fast and needs no rounding. A CPU's tokens take as long as reading the weights, so the
    smallest form that it multiplies with comes first; forms that it unpacks spare nothing.
    """
    from vlcompare.runtime.loading.devices import resolve_device
    from vlcompare.runtime.loading.quantize import has_kernels

    found = resolve_device(device)
    if found.type != "cpu":
        return ("none", "int8", "nf4")
    packed: tuple[Quantization, ...] = ("nf4", "int8")
    return (*(method for method in packed if has_kernels(method, found)), "none")


def first_choices(spec: ModelSpec, *, names_only: bool = False) -> tuple[Quantization, ...]:
    """`preferred` for a checkpoint of a published size; "none" alone for a small one, and for one that is stored
    quantized. names_only: as in `find_source`.
    """
    from vlcompare.runtime.loading.devices import LARGE
    from vlcompare.runtime.loading.locate import find_source, read_stored
    from vlcompare.runtime.loading.safetensors_files import parameters_in

    parameters = _parameters(spec)
    if registry.find(spec.checkpoint) is None:
        source = find_source(spec.checkpoint, revision=spec.revision, offline=True, names_only=names_only)
        if source is not None and source.quantization == "none":
            parameters = parameters_in(read_stored(source))
    return preferred(spec.device) if parameters >= LARGE else ("none",)


def reason(method: str, device: str) -> str:
    """Why a quantization is offered first on a CPU, and what it costs: a sentence; "" elsewhere."""
    from vlcompare.runtime.loading.devices import resolve_device

    if method == "none" or method != preferred(device)[0] or resolve_device(device).type != "cpu":
        return ""
    bits = {"nf4": 4, "int8": 8}[method]
    return (
        f"On a CPU {bits} bits a weight are offered first, since a token takes as long as reading the weights: the "
        "large layers take least memory and time, and rounding them may change an answer a little."
    )


def chosen(spec: ModelSpec, method: str, dtype: Any, device: Any) -> list[str]:
    """What "auto" and the processor have chosen, why, and what it costs: sentences for the user, if any."""
    from vlcompare.runtime.loading.devices import has_bfloat16_units, vision_dtype

    def name(dtype: Any) -> str:
        return str(dtype).removeprefix("torch.")

    if device.type == "cuda" and name(dtype) != "float32" and not has_bfloat16_units(device):
        return [_on_an_old_gpu(name(dtype))]
    if name(dtype) == "float16":
        return [
            "float16's numbers end at 65,504: should an answer's overflow, it says so. bfloat16, which this GPU has "
            "units for as well, does not."
        ]
    if device.type != "cpu" or name(dtype) != "bfloat16":
        return []
    said = []
    if spec.dtype == "auto":
        what = "What is not quantized" if method != "none" else spec.checkpoint
        said.append(
            f"{what} runs in bfloat16: half of float32's memory, figures to three digits. float32 gives exact ones."
        )
    if vision_dtype(dtype, device) != dtype:
        said.append(
            "Its vision encoder runs in float32: this processor has no bfloat16 instructions, without which a picture "
            "takes several times as long. That costs two bytes more for each of the encoder's weights."
        )
    return said


def _on_an_old_gpu(dtype: str) -> str:
    if dtype == "float16":
        return (
            "This GPU has no units for bfloat16, so the model runs in float16, whose numbers end at 65,504: should an "
            "answer's overflow, it says so, and float32 does not."
        )
    return "This GPU has no units for bfloat16 and computes in it slowly: with auto the model runs in float16."


def advice(specs: Sequence[ModelSpec]) -> str:
    """What would make these models fit, from a verb on: only what can help."""
    return other_choice(specs) or "free memory by closing other programs"


def other_choice(specs: Sequence[ModelSpec]) -> str:
    """ "choose .. or ..": what takes less memory than these models; empty where nothing does."""
    from vlcompare.runtime.loading.devices import resolve_device, resolve_dtype
    from vlcompare.runtime.loading.quantize import has_kernels

    helps: list[str] = []
    if any(_is_smaller(spec) for spec in specs):
        helps.append("a smaller checkpoint")
    for spec in specs:
        device = resolve_device(spec.device)
        packs = has_kernels("nf4", device)
        if packs and spec.quantization != "nf4":
            helps.append("nf4")
        elif not packs and resolve_dtype(spec.dtype, device, _parameters(spec)).itemsize == 4:
            helps.append("bfloat16")
    found = list(dict.fromkeys(helps))
    return f"choose {' or '.join(found)}" if found else ""


def _parameters(spec: ModelSpec) -> int:
    known = registry.find(spec.checkpoint)
    return int(known.parameters or 0) if known else 0


def _is_smaller(spec: ModelSpec) -> bool:
    """Whether there is a smaller checkpoint to choose; of those that are not listed nothing is known."""
    known = registry.find(spec.checkpoint)
    if known is None or not known.parameters:
        return known is None
    return any(other.parameters and other.parameters < known.parameters for other in registry.registry().checkpoints)
