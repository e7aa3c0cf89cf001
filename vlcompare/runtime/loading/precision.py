"""Which precision fits a model and a processor, and what to do where a model does not fit.

What is quantized in memory follows what the kernels do (`quantize.has_kernels`): weights that a device unpacks take the
memory of its own dtype, so advice never names them there.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlcompare.runtime.loading import registry
from vlcompare.types import ModelSpec


def advice(specs: Sequence[ModelSpec]) -> str:
    """What would make these models fit, as a sentence that begins with a verb: only what can help."""
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
        elif not packs and resolve_dtype(spec.dtype, device).itemsize == 4:
            helps.append("bfloat16")
    found = list(dict.fromkeys(helps))
    return f"choose {' or '.join(found)}" if found else "free memory by closing other programs"


def _is_smaller(spec: ModelSpec) -> bool:
    """Whether there is a smaller checkpoint to choose; of those that are not listed nothing is known."""
    known = registry.find(spec.checkpoint)
    if known is None or not known.parameters:
        return known is None
    return any(other.parameters and other.parameters < known.parameters for other in registry.registry().checkpoints)
