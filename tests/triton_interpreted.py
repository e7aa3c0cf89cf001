"""Run by test_kernels_triton in a process of its own with TRITON_INTERPRET=1: prints each case's largest error as JSON.

The kernels run on CPU tensors in Triton's interpreter, beside the torch reference. The interpreter goes through a scan
number by number, so chunks are of 8 positions here (but for one case); the lengths lie around that as real ones around
the chunk of a GPU.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from vlcompare.models import pythia
from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.kernels import agreement, fallback, fused, reference
from vlcompare.models.kernels.cuda import attention as triton_attention
from vlcompare.models.kernels.cuda import conv, int8, mix, nf4, norm_and_argmax, product, scan_backward, step
from vlcompare.models.kernels.cuda import scan as triton_scan
from vlcompare.models.kernels.reference import ScanInputs
from vlcompare.models.kernels.verdicts import Case
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia, rotate

CHUNK = 8
# batch, channels, states, positions: around the chunk and the block of 8 channels; odd states
SIZES = ((2, 9, 4, 7), (1, 8, 16, 9), (1, 3, 5, 18), (1, 10, 16, 1))
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def arguments(batch: int, channels: int, states: int, length: int) -> list[Tensor]:
    torch.manual_seed(channels + length)
    rows = [torch.randn(batch, length, channels).transpose(1, 2) for _ in range(3)]
    small = [torch.randn(batch, length, states).transpose(1, 2) for _ in range(2)]
    A = -torch.rand(channels, states) * 2
    state = torch.randn(batch, channels, states)
    return [rows[0], rows[1], A, *small, torch.randn(channels), rows[2], torch.randn(channels), state]


def error(ours: Tensor | None, truth: Tensor | None) -> float:
    assert ours is not None and truth is not None and ours.shape == truth.shape
    if not truth.numel():
        return 0.0
    return float((ours.float() - truth.float()).abs().max() / max(1.0, float(truth.float().abs().max())))


def scan(module: object, values: list[Tensor | None], smooth: bool = True) -> tuple[Tensor, Tensor]:
    return module.selective_scan(ScanInputs(*values, smooth))  # type: ignore[attr-defined, arg-type]


def forward() -> dict[str, float]:
    out = {}
    for size in SIZES:
        values = arguments(*size)
        pairs = zip(scan(triton_scan, values), scan(reference, values), strict=True)
        out[f"forward {size}"] = max(error(ours, truth) for ours, truth in pairs)
    for name in ("D", "z", "delta_bias", "initial_state"):
        values: list[Tensor | None] = list(arguments(1, 5, 4, 9))
        values[NAMES.index(name)] = None
        pairs = zip(scan(triton_scan, values), scan(reference, values), strict=True)
        out[f"forward without {name}"] = max(error(ours, truth) for ours, truth in pairs)
    values = arguments(1, 5, 4, 9)
    values[1] = values[1].abs()
    pairs = zip(scan(triton_scan, values, False), scan(reference, values, False), strict=True)
    out["forward without softplus"] = max(error(ours, truth) for ours, truth in pairs)
    return out


def continued() -> dict[str, float]:
    values = arguments(1, 5, 16, 24)
    whole, last = scan(reference, values)
    state, parts = values[8], []
    for start, end in ((0, 3), (3, 20), (20, 24)):
        piece = [value[:, :, start:end] if index in (0, 1, 3, 4, 6) else value for index, value in enumerate(values)]
        y, state = scan(triton_scan, [*piece[:8], state])
        parts.append(y)
    return {"continued": max(error(torch.cat(parts, 2), whole), error(state, last))}


def backward() -> dict[str, float]:
    out = {}
    for size in SIZES:
        gradients = []
        for module in (triton_scan, reference):
            leaves = [value.clone().requires_grad_() for value in arguments(*size)]
            y, last = scan(module, list(leaves))
            torch.manual_seed(1)
            ((y * torch.randn(y.shape)).sum() + (last * torch.randn(last.shape)).sum()).backward()
            gradients.append([leaf.grad for leaf in leaves])
        for name, ours, truth in zip(NAMES, *gradients, strict=True):
            out[f"gradient of {name} {size}"] = error(ours, truth)
    return out


def whole_chunk() -> dict[str, float]:
    """The chunk that GPUs run with."""
    triton_scan.CHUNK = WHOLE
    values = arguments(1, 2, 2, WHOLE + 1)
    pairs = zip(scan(triton_scan, values), scan(reference, values), strict=True)
    triton_scan.CHUNK = CHUNK
    return {"forward whole chunk": max(error(ours, truth) for ours, truth in pairs)}


def attention() -> dict[str, float]:
    """Around the block of 32 slots and the shares of 8; all channels turned, some, none; channels of any number."""
    out = {}
    for batch, heads, size, turned, places in ((2, 3, 20, 6, (40, 0)), (1, 2, 16, 16, (31,)), (1, 1, 5, 0, (299,))):
        torch.manual_seed(size)
        capacity = max(places) + 2
        qkv = torch.randn(batch, heads, 3, size)
        keys, values = torch.randn(2, batch, heads, capacity, size)
        angles = torch.randn(capacity, turned // 2).repeat(1, 2)
        cos, sin = angles.cos(), torch.cat((-angles.sin()[:, : turned // 2], angles.sin()[:, turned // 2 :]), 1)
        true_keys, true_values = keys.clone(), values.clone()
        ours = triton_attention.rotate_and_attend(qkv, cos, sin, torch.tensor(places), keys, values)
        for row, place in enumerate(places):
            query, key = (rotate(qkv[row, :, part], cos[place], sin[place]) for part in (0, 1))
            true_keys[row, :, place], true_values[row, :, place] = key, qkv[row, :, 2]
            past = true_keys[row, :, : place + 1], true_values[row, :, : place + 1]
            truth = torch.nn.functional.scaled_dot_product_attention(query[:, None], *past)[:, 0]
            out[f"attention {size} {place}"] = error(ours[row], truth)
        out[f"attention's cache {size}"] = max(error(keys, true_keys), error(values, true_values))
    sizes = ("size", 80), ("rotated", 20)
    case = Case("triton", "rotate_and_attend", torch.float32, sizes)
    out["attention agrees"] = agreement.difference(case, triton_attention.rotate_and_attend, torch.device("cpu"))
    return out


def attention_in_the_model() -> dict[str, float]:
    """Pythia's step through these kernels, rows of different lengths among them, beside its step on CPU."""
    torch.manual_seed(0)
    lm = Pythia(PythiaConfig(30, 48, 2, 3, 64, max_positions=64)).eval()
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False
    hidden, alone = [], pythia.finds_filled_slots
    with torch.inference_mode():
        for takes in (alone, lambda *given: True):
            pythia.finds_filled_slots = takes
            state = lm.new_state(2, 20)
            lm(lm.embed_tokens(torch.arange(12).view(2, 6)), state, mask)
            tokens = [lm.step(lm.embed_tokens(torch.tensor([t, t + 7])), state) for t in range(3)]
            hidden.append(torch.stack([*tokens, state.keys_nbhsk[0, :, :, :7].flatten(1)[:, :48]]))
    pythia.finds_filled_slots = alone
    return {"attention in the model": error(hidden[1], hidden[0])}


def steps() -> dict[str, float]:
    out = {}
    for size in ((2, 5, 4, 3), (1, 37, 16, 3)):
        u, delta, A, B, C, D, z, bias, state = arguments(*size)
        ours, truth = state.clone(), state.clone()
        for t in range(3):
            inputs = ScanInputs(u[:, :, t], delta[:, :, t], A, B[:, :, t], C[:, :, t], D, z[:, :, t], bias)
            y = step.selective_step(ours, inputs)
            out[f"step {size} {t}"] = error(y, reference.selective_step(truth, inputs))
        out[f"step's state {size}"] = error(ours, truth)
        for taps in (4, 3, 2, 1):
            window, weight = torch.randn(size[0], size[1], taps - 1), torch.randn(size[1], taps)
            other = window.clone()
            for t in range(3):
                y = conv.conv_step(window, u[:, :, t], weight, bias)
                truth_y = reference.conv_step(other, u[:, :, t], weight, bias)
                out[f"convolution {size} {taps} {t}"] = error(y, truth_y)
            out[f"convolution's window {size} {taps}"] = error(window, other)
    return out


def projected_steps() -> dict[str, float]:
    """Few rows, which the kernel projects itself; more are not taken; a rank that is not a power of two."""
    out = {}
    for rows in (1, 2, step.PROJECTED_ROWS):
        u, _, A, B, C, D, z, bias, state = arguments(rows, 37, 16, 1)
        factors, weight = torch.randn(rows, 6), torch.randn(37, 6)
        inputs = ScanInputs(u[:, :, 0], factors, A, B[:, :, 0], C[:, :, 0], D, z[:, :, 0], bias)
        ours, truth = state.clone(), state.clone()
        y = step.projected_step(ours, inputs, weight)
        out[f"step projected {rows}"] = error(y, reference.projected_step(truth, inputs, weight))
        out[f"step projected, its state {rows}"] = error(ours, truth)
    many = inputs._replace(u=torch.randn(step.PROJECTED_ROWS + 1, 37))
    out["step projected, more rows"] = float(step.projected_step(ours, many, weight) is not None)
    return out


def products() -> dict[str, float]:
    """Sum, norm and product in one; widths around a program's columns, outputs around its rows, several rows."""
    out = {}
    for width, outputs, rows, terms in ((80, 7, 1, 3), (1030, 9, 1, 2), (64, 4, 2, 1)):
        torch.manual_seed(width)
        given = [torch.randn(rows, width) + 1 for _ in range(terms)]
        weight, bias = torch.randn(outputs, width) / width**0.5, torch.randn(outputs)
        for norm in (
            torch.nn.LayerNorm(width),
            torch.nn.RMSNorm(width, eps=1e-5),
            torch.nn.LayerNorm(width, bias=False),
        ):
            for parameter in norm.parameters():
                parameter.data = torch.randn(width)
            for shift, gelu in ((bias, True), (None, False)):
                ours = product.norm_product(given, norm, weight, shift, gelu)
                with torch.no_grad():
                    truth = reference.norm_product(given, norm, weight, shift, gelu)
                label = f"product {type(norm).__name__} {len(list(norm.parameters()))} {width} {gelu}"
                out[label] = max(error(*pair) for pair in zip(ours, truth, strict=True))
                out[f"{label}, the sum"] = float(not torch.equal(ours[0], truth[0]))
    return out


def single_products() -> dict[str, float]:
    """Without anything before it; in bfloat16 widened behind its rounding."""
    out = {}
    for width, outputs in ((80, 7), (1030, 9)):
        torch.manual_seed(width)
        x, weight, bias = torch.randn(1, width), torch.randn(outputs, width) / width**0.5, torch.randn(outputs)
        for shift in (bias, None):
            ours, truth = (part.row_product(x, weight, shift, False) for part in (product, reference))
            out[f"product alone {width} {shift is None}"] = error(ours, truth)
        whole = torch.randint(-3, 4, (1, width)).bfloat16(), torch.randint(-3, 4, (outputs, width)).bfloat16()
        ours, truth = (part.row_product(*whole, None, True) for part in (product, reference))
        out[f"product of scores {width}"] = error(ours, truth) + float(ours.dtype != torch.float32)
    return out


def integers() -> dict[str, float]:
    """Rounding to int8 and back: halves to even, rows of zeros, numbers beyond float16, and what is no number."""
    out = {}
    x = torch.randn(3, 70)
    x[0] = torch.arange(70) * 0.5 - 17.5
    x[0, 0], x[1], x[2, 5] = 127.0, 0.0, 3e38
    ours, truth = int8.int8_rows(x), reference.int8_rows(x)
    out["int8 rows"] = max(float(not torch.equal(*pair)) for pair in zip(ours, truth, strict=True))
    for value in (float("nan"), float("inf")):
        x[1, 3] = value
        out[f"int8 rows {value}"] = float(bool(int8.int8_rows(x)[1][1].isfinite()))
    sums, bias = torch.randint(-(10**7), 10**7, (3, 1030), dtype=torch.int32), torch.randn(1030)
    for shift in (bias, None):
        given = sums, torch.rand(3), torch.rand(1030), shift, torch.float32
        out[f"int8 result {shift is None}"] = error(int8.int8_result(*given), reference.int8_result(*given))
    return out


def mixes() -> dict[str, float]:
    """A Mamba block between its projections: channels around a program's, shares around a turn's, odd ranks."""
    out = {}
    for rows, width, states, rank, taps in ((1, 37, 5, 3, 4), (2, 140, 16, 6, 4), (1, 1100, 4, 2, 2)):
        torch.manual_seed(width)
        weights = reference.MixWeights(
            torch.randn(width, taps), torch.randn(width) if taps > 2 else None,
            torch.randn(rank + 2 * states, width) / width**0.5, torch.randn(width, rank) / rank**0.5,
            -torch.rand(width, states), torch.randn(width), torch.randn(width),
        )  # fmt: skip
        moved = [(torch.zeros(rows, width, taps - 1), torch.zeros(rows, width, states)) for _ in range(2)]
        for t in range(3):
            xz = torch.randn(rows, 2 * width)
            ours, truth = (part.mix_step(*own, xz, weights) for part, own in zip((mix, reference), moved, strict=True))
            out[f"mix {width} {t}"] = error(ours, truth)
        out[f"mix {width}, what moves"] = max(error(*pair) for pair in zip(*moved, strict=True))
    many = (torch.zeros(mix.MAX_ROWS + 1, 8, 3), torch.zeros(mix.MAX_ROWS + 1, 8, 4))
    out["mix, more rows"] = float(mix.mix_step(*many, torch.zeros(mix.MAX_ROWS + 1, 16), weights) is not None)
    return out


def convolutions() -> dict[str, float]:
    """Around the block of 16 positions, from zeros and from a window, with and without a bias."""
    out = {}
    for batch, channels, length, taps in ((2, 5, 17, 4), (1, 130, 2, 4), (1, 3, 40, 2), (1, 4, 1, 1)):
        torch.manual_seed(length)
        x, weight = torch.randn(batch, length, channels).transpose(1, 2), torch.randn(channels, taps)
        for bias in (torch.randn(channels), None):
            for window in (torch.randn(batch, channels, taps - 1), None):
                ours, truth = (part.causal_conv(x, weight, bias, window) for part in (conv, reference))
                label = f"prompt's convolution {channels} x {length} {bias is None} {window is None}"
                out[label] = max(error(one, other) for one, other in zip(ours, truth, strict=True))
    return out


def fused_in_the_models() -> dict[str, float]:
    """Prompt, step and greedy choice of both families through the fused kernels, beside torch's own functions."""
    cpu = torch.device("cpu")
    # the interpreter cuts numbers down to bfloat16 where a GPU rounds them
    out = {}
    for kind, terms, count in ((0, 2, 1), (1, 1, 1), (1, 3, 2), (1, 2, 1)):
        sizes = ("width", 80), ("terms", terms), ("norms", count), ("centred", kind), ("biased", kind)
        case = Case("triton", "add_norm", torch.float32, sizes)
        out[f"fused norms agree {sizes}"] = agreement.difference(case, norm_and_argmax.add_norm, cpu)
    case = Case("triton", "greedy", torch.float32, (("vocabulary", 3074), ("count", 5)))
    out["fused greedy agrees"] = agreement.difference(case, norm_and_argmax.greedy, cpu)
    models: dict[str, Pythia | Mamba] = {
        "parallel": Pythia(PythiaConfig(1100, 48, 2, 3, 64, max_positions=16)),
        "sequential": Pythia(PythiaConfig(1100, 48, 2, 3, 64, max_positions=16, parallel_residual=False)),
        "LayerNorm": Mamba(MambaConfig(1100, 48, 2, state_size=4)),
        "RMSNorm": Mamba(MambaConfig(1100, 48, 2, state_size=4, norm="rmsnorm")),
    }
    kernel = fused._kernel
    forced = lambda function, tensor, *given, module=fused.MODULE: fallback.load_and_call(module, function, *given)  # noqa: E731
    with torch.inference_mode():
        for name, lm in models.items():
            told = []
            for taken in (kernel, forced):
                fused._kernel = taken
                state = lm.new_state(2, 8)
                hidden = [lm(lm.embed_tokens(torch.arange(6).view(2, 3)), state)[:, -1]]
                hidden.append(lm.step(lm.embed_tokens(torch.tensor([3, 4])), state))
                told.append(torch.stack([fused.greedy(lm.logits(x) * 9, 3)[1] for x in hidden]))
            out[f"fused {name}"] = error(told[1], told[0])
            fused._kernel = kernel
    # of equal logits the first; a row that is shorter than a share
    chosen, packed = norm_and_argmax.greedy(torch.tensor([[0.0, 2.0, 1.0, 2.0]]), 2)
    told = torch.tensor([[1.0, 0, 1, 3, 0, 0]], dtype=torch.float64)
    told[:, [1, 4, 5]] = torch.tensor([0.0, 2.0, 1.0, 2.0], dtype=torch.float64).log_softmax(-1)[1]
    out["fused ties"] = error(packed, told) + float(chosen.tolist() != [1])
    return out


def quantized() -> dict[str, float]:
    """Widths around a turn of 512 numbers, outputs around a program's rows; alone, and with sum, norm and GELU."""
    out = {}
    for outputs, inputs, terms in ((7, 64, 1), (5, 1088, 3), (8, 2048, 2)):
        torch.manual_seed(outputs)
        code = torch.linspace(-1, 1, 16)
        nibbles = torch.randint(0, 16, (outputs * inputs,))
        absmax = torch.rand(outputs * inputs // 64) + 0.1
        packed = (nibbles[0::2] << 4 | nibbles[1::2]).to(torch.uint8)[:, None]  # bitsandbytes' order and shape
        weight = (code[nibbles].view(-1, 64) * absmax[:, None]).view(outputs, inputs)
        parts = reference.Nf4Weight(packed, absmax, outputs, inputs)
        given, bias = [torch.randn(1, inputs) + 1 for _ in range(terms)], torch.randn(outputs)
        _, ours = nf4.product(given[:1], parts, code, bias=bias)
        out[f"nf4 {outputs} x {inputs}"] = error(ours, torch.nn.functional.linear(given[0], weight, bias))
        for norm in (torch.nn.LayerNorm(inputs), torch.nn.RMSNorm(inputs, eps=1e-5)):
            norm.weight.data = torch.randn(inputs) / inputs**0.5
            for gelu in (True, False):
                total, ours = nf4.product(given, parts, code, norm=norm, bias=bias if gelu else None, gelu=gelu)
                with torch.no_grad():
                    truth = reference.norm_product(given, norm, weight, bias if gelu else None, gelu)
                label = f"nf4 {type(norm).__name__} {inputs} {gelu}"
                out[label] = error(ours, truth[1]) + float(not torch.equal(total, truth[0]))
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    WHOLE = triton_scan.CHUNK
    triton_scan.CHUNK = scan_backward.CHUNK = CHUNK
    cases: dict[str, float] = {}
    scans, others = (forward, whole_chunk, continued, backward), (attention, attention_in_the_model, quantized)
    single = (steps, projected_steps, products, single_products, integers, mixes)
    for part in (*scans, *single, convolutions, fused_in_the_models, *others):
        cases.update(part())
    json.dump(cases, sys.stdout)
