"""Which kernel takes each operation and why none of the faster ones, and a real answer on each device.

An answer is compared with the plain torch functions' on the CPU: in float32 the tokens must be the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from vlcompare.models.config import PRESETS, MambaConfig
from vlcompare.models.kernels import dispatch, early_launch, fallback, packed, verdicts
from vlcompare.models.kernels.linear import native_bfloat16
from vlcompare.models.mamba import Mamba
from vlcompare.models.meta_init import structure_only
from vlcompare.models.pythia import Pythia
from vlcompare.paths import EMBEDDED, EXAMPLES
from vlcompare.runtime.doctor import software
from vlcompare.runtime.doctor.facts import Answered, Device, Operation, Trial
from vlcompare.runtime.engine import generate
from vlcompare.runtime.loading import prove, quantize
from vlcompare.runtime.loading.devices import resolve_dtype
from vlcompare.runtime.loading.load import load

PYTORCH = "plain PyTorch"
TOKENS = 6  # of each answer
# what a reader knows an operation as -> the function of `kernels`
DISPATCHED = {
    "prompt: scan": "selective_scan",
    "prompt: convolution": "causal_conv",
    "token: scan": "selective_step",
    "token: convolution": "conv_step",
}
_ONLY_TRITON = {
    "token: attention": "rotate_and_attend",
    "token: sums with norms": "add_norm",
    "token: sum, norm and product": "norm_product",
    "token: product": "row_product",
    "token: product in NF4": "nf4_product",
    "token: sum, norm and NF4": "nf4_norm_product",
    "rounding to int8": "int8_rows",
    "result in int8": "int8_result",
    "token: convolution to scan": "mix_step",
    "token: greedy choice": "greedy",
}
_NO_EARLY = "needs compute capability 9.0 and a Triton that knows it, and VLCOMPARE_EARLY_LAUNCH other than 0"
_LARGEST = ("mambavl_2.8b", "pythiavl_2.8b")
_OF_A_PROOF = ("case", "verdict", "seconds", "difference", "allowed", "exception", "ours", "theirs")


def answers(devices: Sequence[Device]) -> tuple[tuple[Answered, ...], list[str]]:
    """Each embedded checkpoint on each device."""
    found = [_answered(device.name, name) for device in devices for name in EMBEDDED]
    wrong = [one for one in found if not one.agrees]
    return tuple(found), [
        f"{one.checkpoint} on {one.device} does not answer as it should"
        + (f": {one.error}." if one.error else ": its tokens are not those of the plain functions on the CPU.")
        for one in wrong
    ]


def trials(devices: Sequence[Device]) -> tuple[tuple[Trial, ...], list[str]]:
    """Every kernel that a GPU's published models of the largest size call, in each quantization, and training.

    Beside the reference. A CPU's are compared through the answers alone.
    """
    for device in devices:
        if device.name != "cpu":
            _try_all(torch.device(device.name))
    found = [Trial(proof.device, *(getattr(proof, name) for name in _OF_A_PROOF)) for proof in verdicts.proofs()]
    found = [replace(one, exception=software.private(one.exception)) for one in found]
    wrong = [one for one in found if one.verdict in ("differs", "failed", "died")]
    return tuple(found), [f"A kernel is not used on {one.device}, where it {one.verdict}: {one.case}." for one in wrong]


def _try_all(device: torch.device) -> None:
    dtype = resolve_dtype("auto", device)
    packs = quantize.has_bitsandbytes()
    methods = [method for method in quantize.METHODS if packs and quantize.has_kernels(method, device)]
    models = []
    for config, method in itertools.product([PRESETS[shape] for shape in _LARGEST], ("none", *methods)):
        lm = _two_layers(config.language, device, dtype)
        if method != "none":
            quantize.replace_linears(lm, config.family, method, device, dtype)
        models.append(lm)
    prove.prove_models(models, dtype, device)
    del models
    prove.prove_training(_two_layers(PRESETS["mambavl_2.8b"].language, device, torch.float32), device)


def _two_layers(language: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A decoder of the true widths; of its numbers nothing is asked."""
    config = replace(language, layers=2)
    with structure_only():
        lm: Any = Mamba(config) if isinstance(config, MambaConfig) else Pythia(config)
    return lm.to(dtype).to_empty(device=device).eval()


def operations(devices: Sequence[Device]) -> tuple[tuple[Operation, ...], list[str]]:
    """Each operation of each device. Slow where it should be fast is a problem on the CPU, whose kernels are required.

    On a GPU Triton is as well, on systems for which it exists.
    """
    found = [one for device in devices for one in (_on_cpu() if device.name == "cpu" else _on_cuda(device.name))]
    problems = []
    if fallback.failed("numba"):
        problems.append("The compiled CPU kernels cannot be used; the notices say why.")
    return tuple(found), problems


def notices() -> tuple[tuple[str, ...], list[str]]:
    """What users are told about kernels, on any device."""
    return tuple(map(software.private, fallback.notices())), []


@cache
def _expected(checkpoint: str) -> tuple[int, ...]:
    with dispatch.use("reference"):
        return _ids(checkpoint, "cpu")


def _answered(device: str, checkpoint: str) -> Answered:
    began = time.perf_counter()
    try:
        ids = _ids(checkpoint, device)
        seconds = round(time.perf_counter() - began, 2)
        return Answered(device, checkpoint, seconds, len(ids), ids == _expected(checkpoint))
    except Exception as error:  # whatever a library raises on a machine that is not in order
        return Answered(device, checkpoint, 0.0, 0, False, software.reason(error))


def _ids(checkpoint: str, device: str) -> tuple[int, ...]:
    picture = min(EXAMPLES.glob("pictures/*.png"))
    model = load(checkpoint, device=device, dtype="float32")
    answer = generate(model, picture, task="captioning", max_new_tokens=TOKENS)
    return tuple(token.id for token in answer.tokens)


def _on_cpu() -> list[Operation]:
    numba, reason = ("numba", "") if not fallback.failed("numba") else (PYTORCH, _why("numba", "cpu"))
    found = [Operation("cpu", name, numba, reason) for name in (*DISPATCHED, "token: attention", "token: products")]
    native = native_bfloat16()
    slices = "" if native else "this processor has no bfloat16 instructions"
    found.append(
        Operation("cpu", "prompt: bfloat16 products", PYTORCH if native else "float32, slice by slice", slices)
    )
    return [*found, *_quantized("cpu")]


def _on_cuda(device: str) -> list[Operation]:
    present = dispatch.available(device)
    found = []
    for name, function in DISPATCHED.items():
        able = [one for one in dispatch.ORDER["cuda"] if function in dispatch.MODULES[one]]
        reasons = {one: _refused(one, function, device) if one in present else _why(one, device) for one in able}
        chosen = next((one for one in able if not reasons[one]), PYTORCH)
        faster = able[: able.index(chosen)] if chosen in able else able
        found.append(Operation(device, name, chosen, "; ".join(reasons[one] for one in faster)))
    for name, function in _ONLY_TRITON.items():
        reason = _refused("triton", function, device) if "triton" in present else _why("triton", device)
        found.append(Operation(device, name, PYTORCH if reason else "triton", reason))
    place = torch.device(device)
    early = early_launch.is_on(place)
    reason = "" if early else _refused("triton", "early_launch", device) if early_launch.supported(place) else _NO_EARLY
    found.append(Operation(device, "token: next kernel", "launched early" if early else "launched in turn", reason))
    graphs = not fallback.failed("graphs")
    found.append(
        Operation(
            device, "token: launches", "CUDA graphs" if graphs else "one by one", "" if graphs else "a graph failed"
        )
    )
    return [*found, *_quantized(device)]


def _quantized(device: str) -> list[Operation]:
    place, found = torch.device(device), []
    for method, label in (("int8", "int8"), ("nf4", "NF4")):
        able = quantize.has_kernels(method, place)
        reason = "" if able else "weights are held unpacked: right, but neither smaller nor faster"
        by = "bitsandbytes" if able else PYTORCH
        if able and place.type == "cpu":
            chosen = packed.variant(method)
            by = PYTORCH if chosen == packed.PLAIN else f"numba, {chosen}" + " and AMX" * packed.tiled(method)
            reason = "no variant gave the right numbers here: smaller, but not faster" if by == PYTORCH else ""
        found.append(Operation(device, f"products in {label}", by, reason))
    return found


def _refused(accelerator: str, function: str, device: str) -> str:
    """Why a kernel that was tried is not used; "" where it is, for any sizes, or was not tried."""
    tried = [
        one for one in verdicts.proofs() if one.device == device and one.case.split()[:2] == [accelerator, function]
    ]
    if not tried or any(one.agrees for one in tried):
        return ""
    last = tried[-1]
    if last.ours is not None and last.verdict == "slower":
        return f"{accelerator} slower: {last.ours:.3g} us beside {last.theirs:.3g}"
    return software.private(f"{accelerator} {last.verdict}" + f" ({last.exception})" * bool(last.exception))


def _why(accelerator: str, device: str) -> str:
    """Why an implementation is not used."""
    package: Any = {"mamba_ssm": "mamba-ssm"}.get(accelerator, accelerator)
    if not software.is_installed(package):
        return f"{package} is not installed"
    kind = torch.device(device).type
    said = [one for one in fallback.notices(kind) if one.startswith(fallback.name_of(accelerator))]
    return software.private(said[0]) if said else f"{package} is not used on this device"
