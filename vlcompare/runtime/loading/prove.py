"""Before a model's first answer on a GPU: every kernel that it will call is tried, compiled as it will be.

A kernel that writes where it must not leaves a process without its GPU, and bitsandbytes' library may end one. So what
has no verdict yet is tried in a process of its own, once for each GPU and set of versions:

    python -m vlcompare.runtime.loading.prove cuda:0 < cases

VLCOMPARE_PROOFS=here tries in this process, as does ZeroGPU, whose workers live for one call only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.machine.zerogpu import on_zerogpu
from vlcompare.models.kernels import agreement, dispatch, early_launch, fallback, speed, verdicts
from vlcompare.models.kernels.linear import Linear
from vlcompare.models.kernels.reference import Nf4Weight
from vlcompare.models.kernels.verdicts import Case, Proof
from vlcompare.paths import PACKAGE
from vlcompare.runtime.loading import prove_early, quantize
from vlcompare.runtime.sampling import greedy

WHERE = "VLCOMPARE_PROOFS"
SECONDS = 600.0  # for one process: Triton compiles a kernel in about a second
BATCH = 8  # rows
ALTERNATIVES = 5  # likeliest tokens that an answer reports unless asked otherwise
_LARGEST = {"mix_step", "norm_product", "rotate_and_attend", "nf4_product", "nf4_norm_product"}
_EARLY = Case("triton", "early_launch", torch.bfloat16, ())
_MODULE = __spec__.name if __spec__ is not None else __name__
_ALLOWED = {"nf4": 2e-2, "int8": 4e-2}  # int8 rounds its input, too


def prove_model(vlm: Any, dtype: torch.dtype, device: torch.device) -> list[str]:
    """Try what the model needs, and take the place of layers that are not right; returns notices for the user.

    Raises what leaves the device unusable.
    """
    return prove_models([vlm.language_model], dtype, device)


def prove_models(language_models: Sequence[Any], dtype: torch.dtype, device: torch.device) -> list[str]:
    """`prove_model` for several, in hardly more processes than one of them takes."""
    _decide_early_launch(device)
    layers = [_layers(lm, dtype) for lm in language_models]
    settle_all(list({case: None for one in layers for case in one}), device)
    notices = []
    for case, found in (item for one in layers for item in one.items()):
        proof = verdicts.known(case, device)
        if proof is None or not proof.agrees:
            for parent, name, layer in found:
                setattr(parent, name, _plain(layer, dtype))
            notices.append(_unpacked(case, len(found)))
    # what follows a kernel that is used may be compiled otherwise than behind plain torch: until nothing is new
    asked: list[Case] = []
    while new := [case for case in _all_needed(language_models, dtype, device) if case not in asked]:
        # the largest first: what stands in for one of them is asked for no more where it is right
        new = [case for case in new if case.function in _LARGEST] or new
        asked += new
        settle_all(new, device)
    return notices


def _all_needed(language_models: Sequence[Any], dtype: torch.dtype, device: torch.device) -> list[Case]:
    return list({case: None for lm in language_models for case in needed(lm, dtype, device)})


def prove_training(language_model: Any, device: torch.device) -> None:
    """Try what a training's passes call, gradients included; float32 weights under autocast, as trainings run."""
    with verdicts.asking() as asked, torch.enable_grad(), torch.autocast(device.type, torch.bfloat16):
        ids = torch.zeros(1, 2, dtype=torch.long, device=device)
        language_model(language_model.embed_tokens(ids))
    settle_all(list(asked), device)


def _decide_early_launch(device: torch.device) -> None:
    """First, since it changes how the kernels of a step are compiled. On ZeroGPU it would take a visitor's seconds."""
    able = early_launch.supported(device) and not on_zerogpu()
    if able and not fallback.failed("triton") and not fallback.failed("graphs"):
        settle_all([_EARLY], device)
        proof = verdicts.known(_EARLY, device)
        early_launch.use(device, proof is not None and proof.agrees)


@torch.inference_mode()
def needed(lm: Any, dtype: torch.dtype, device: torch.device) -> list[Case]:
    """The cases without a verdict that a prompt, one that continues it, a step and the choice of a token ask for.

    For one row, and for more than the kernels for few rows take, as in a batch; not where they are tried in this
    process, whose time it is.
    """
    with verdicts.asking() as asked:
        for rows in (1,) if _tried_here() else (1, BATCH):
            state = lm.new_state(rows, 8, device=device, dtype=dtype)
            ids = torch.zeros(rows, 2, dtype=torch.long, device=device)
            for _ in range(2):
                lm(lm.embed_tokens(ids), state)
            greedy(ALTERNATIVES)(lm.logits(lm.step(lm.embed_tokens(ids[:, 0]), state)))
    return list(asked)


def settle_all(cases: Sequence[Case], device: torch.device) -> None:
    """A verdict for each case that has none: in a process of its own, or in this one where there can be no other."""

    def unknown() -> list[Case]:
        return [case for case in cases if not fallback.failed(case.accelerator) and not verdicts.known(case, device)]

    if unknown() and not _tried_here():
        in_processes(unknown(), device)
    for case in unknown():
        settle(case, device)


def _tried_here() -> bool:
    return os.environ.get(WHERE) == "here" or on_zerogpu()


def settle(case: Case, device: torch.device, kernel: Callable[..., Any] | None = None) -> Proof | None:
    """A verdict in this process; None where memory does not suffice. kernel: by default the one that is dispatched."""
    if case.accelerator == "bitsandbytes":
        return verdicts.settle(case, device, lambda: layer_difference(case, device), _ALLOWED[case.function])
    if case == _EARLY:
        whole, times = partial(prove_early.difference, device), partial(prove_early.times, device)
        return verdicts.settle(case, device, whole, 0.0, times)
    rival = _RIVALS.get(case.function)
    return agreement.settle(case, kernel or dispatch.kernel_of(case), device, rival)


def _nf4_layer_alone(x: Tensor, weight: Nf4Weight, bias: Tensor | None) -> Callable[[], Any]:
    """What our own NF4 product takes the place of: bitsandbytes' kernel."""
    layer = _nf4_layer(weight, bias, x.dtype)
    return lambda: layer.product(x)


def _norm_then_nf4_layer(
    terms: Sequence[Tensor], norm: Any, weight: Nf4Weight, bias: Tensor | None, gelu: bool
) -> Callable[[], Any]:
    """What our own NF4 product with its norm takes the place of: a norm, and the layer by whichever kernel it takes."""
    layer = _nf4_layer(weight, bias, terms[0].dtype)
    layer(terms[0])  # which kernel it takes is decided now, not while it is timed
    return lambda: speed.norm_then(layer, terms, norm, gelu)


_RIVALS: dict[str, Callable[..., Callable[[], Any]]] = {
    "nf4_product": _nf4_layer_alone,
    "nf4_norm_product": _norm_then_nf4_layer,
}


def _nf4_layer(weight: Nf4Weight, bias: Tensor | None, dtype: torch.dtype) -> Any:
    parts = {"nf4": weight.packed.reshape(-1), "absmax": weight.absmax}
    return quantize.bitsandbytes_linear(parts, "nf4", (weight.rows, weight.columns), bias, dtype)


def try_elsewhere(case: Case, device: torch.device, kernel: Callable[..., Any]) -> Proof | None:
    """The verdict on a case that comes up in the middle of an answer or a training."""
    if _tried_here():
        return settle(case, device, kernel)
    settle_all([case], device)
    return verdicts.known(case, device)


verdicts.elsewhere = try_elsewhere


# ---- other processes -------------------------------------------------------------------------------------------------


def in_processes(
    cases: Sequence[Case], device: torch.device, command: Sequence[str] = (sys.executable, "-m", _MODULE)
) -> None:
    """Try the cases one after the other in another process, and in a further one behind each that ends it.

    A process that does not get as far as its first case leaves the rest without a verdict.
    """
    rest = list(cases)
    while rest:
        given = "".join(json.dumps(_as_json(case)) + "\n" for case in rest)
        try:
            done = subprocess.run(
                [*command, str(device)], input=given, capture_output=True, text=True, timeout=SECONDS, check=False,
                env=_environment(),
            )  # fmt: skip
            lines, reason = done.stdout, f"exit status {done.returncode}, {_last_line(done.stderr)}"
        except subprocess.TimeoutExpired as late:
            lines, reason = _text(late.stdout), f"it took more than {SECONDS:.0f} s"
        except OSError:
            return
        begun, told = _read(lines, rest, device)
        if begun is None:
            return
        case = rest[begun]
        if begun not in told:
            proof = Proof(str(case), str(device), "died", 0.0, exception=reason[:200])
            verdicts.record(case, device, proof)
        rest = rest[begun + 1 :]


def _read(lines: str, cases: Sequence[Case], device: torch.device) -> tuple[int | None, set[int]]:
    """Keep the verdicts of a process; the last case that it began, and those of which it told."""
    begun, told = None, set()
    for line in lines.splitlines():
        try:
            record = json.loads(line)
            index = record["case"]
            if record["proof"] is None and record["begun"]:
                begun = index
                continue
            told.add(index)
            if record["proof"] is not None:
                verdicts.record(cases[index], device, verdicts.proof_of(record["proof"]))
        except (ValueError, TypeError, KeyError, IndexError):
            continue  # what a library prints
    return begun, told


def _main(device: torch.device, source: Iterator[str], say: Callable[[str], None]) -> int:
    """In the other process: cases in, one line for each begun and one for each tried out."""
    for index, line in enumerate(source):
        case = _from_json(json.loads(line))
        say(json.dumps({"case": index, "begun": True, "proof": None}))
        proof = settle(case, device)
        say(json.dumps({"case": index, "begun": False, "proof": None if proof is None else asdict(proof)}))
    return 0


def _as_json(case: Case) -> dict[str, Any]:
    return {**case._asdict(), "dtype": str(case.dtype).removeprefix("torch."), "sizes": dict(case.sizes)}


def _from_json(value: dict[str, Any]) -> Case:
    sizes = tuple((name, int(size)) for name, size in value["sizes"].items())
    return Case(value["accelerator"], value["function"], getattr(torch, value["dtype"]), sizes)


def _environment() -> dict[str, str]:
    """This process's, in which this package is found wherever it was imported from."""
    found = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(PACKAGE.parent), *([found] if found else [])])
    return {**os.environ, "PYTHONPATH": path, WHERE: "here"}  # it starts no further ones


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


# ---- quantized layers ------------------------------------------------------------------------------------------------


def _layers(model: nn.Module, dtype: torch.dtype) -> dict[Case, list[tuple[nn.Module, str, nn.Module]]]:
    """The quantized layers by case, each with its parent and its name there."""
    found: dict[Case, list[tuple[nn.Module, str, nn.Module]]] = {}
    layer: Any
    for parent in model.modules():
        for name, layer in parent.named_children():
            if method := _method(layer):
                shape = layer.out_features, layer.in_features
                case = quantize.layer_case(method, shape, layer.bias is not None, dtype)
                found.setdefault(case, []).append((parent, name, layer))
    return found


def _method(layer: nn.Module) -> str:
    """How the layer's weight is quantized; "" where it is not."""
    if isinstance(layer, quantize.Int8Linear):
        return "int8"
    return "nf4" if getattr(layer, "quant_state", None) is not None else ""


@torch.no_grad()
def _plain(layer: Any, dtype: torch.dtype) -> nn.Linear:
    """A Linear with the weight that a quantized layer stands for."""
    method, shape = _method(layer), (layer.out_features, layer.in_features)
    absmax = layer.absmax if method == "int8" else layer.quant_state.absmax
    parts = {method: layer.weight.data, "absmax": absmax}
    plain: Any = Linear(shape[1], shape[0], bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(quantize.dequantize(parts, method, shape, dtype), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.to(dtype), requires_grad=False)
    return plain.eval()


@torch.inference_mode()
def layer_difference(case: Case, device: torch.device) -> float:
    """A layer of random weights beside the product with the weights that it stands for; one row, and rows apart."""
    sizes = dict(case.sizes)
    rows, columns = sizes["rows"], sizes["columns"]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, case.dtype)

    parts = quantize.quantize(random(rows, columns) / columns**0.5, case.function)
    bias = random(rows) if sizes["biased"] else None
    layer: Any = quantize.bitsandbytes_linear(parts, case.function, (rows, columns), bias, case.dtype)
    weight = quantize.dequantize(parts, case.function, (rows, columns), torch.float32)
    largest = 0.0
    for x in (random(1, columns), random(1, columns, 70).transpose(1, 2)):
        truth = F.linear(x.float(), weight, None if bias is None else bias.float())
        largest = max(largest, agreement.apart(layer.product(x), truth))
    return largest


def _unpacked(case: Case, count: int) -> str:
    label = {"nf4": "NF4", "int8": "int8"}[case.function]
    return (
        f"{count} layers in {label} are held unpacked, because bitsandbytes' kernel for them is not right on this "
        f"device: the answers are {label}'s, memory and speed are not."
    )


if __name__ == "__main__":
    sys.exit(_main(torch.device(sys.argv[1]), iter(sys.stdin), lambda line: print(line, flush=True)))
