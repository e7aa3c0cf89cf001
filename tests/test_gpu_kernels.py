"""On a CUDA GPU: every kernel against the torch reference, in float32 and bf16, forward, backward, step and NF4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlcompare.models.kernels import dispatch, reference
from vlcompare.models.kernels.reference import Nf4Weight, ScanInputs

pytestmark = pytest.mark.gpu

# batch, channels, states, positions: a published width at a real prompt's length, odd ones, one position
SIZES = ((1, 5120, 16, 620), (2, 130, 16, 65), (1, 48, 8, 1), (3, 64, 16, 200))


def arguments(batch: int, channels: int, states: int, length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(channels + length)

    def rows() -> Tensor:
        return torch.randn(batch, length, channels, device="cuda").to(dtype).transpose(1, 2)

    def small() -> Tensor:
        return torch.randn(batch, length, states, device="cuda").to(dtype).transpose(1, 2)

    A = -torch.rand(channels, states, device="cuda") * 4
    vectors = torch.randn(2, channels, device="cuda")
    state = torch.randn(batch, channels, states, device="cuda")
    return [rows(), rows() - 2, A, small(), small(), vectors[0], rows(), vectors[1], state]


def scan(name: str, values: list[Tensor]) -> tuple[Tensor, Tensor]:
    with dispatch.use(name):
        return dispatch.selective_scan(ScanInputs(*values))


def assert_close(ours: Tensor, truth: Tensor, tolerance: float) -> None:
    assert ours.shape == truth.shape
    scale = max(1.0, float(truth.float().abs().max()))
    torch.testing.assert_close(ours.float(), truth.float(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", ["triton", "mamba_ssm"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scan_equals_reference(name: str, size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    if name not in dispatch.available("cuda"):
        pytest.skip(f"{name} does not run here (mamba-ssm: not installed, or it disagrees with the reference)")
    values = arguments(*size, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, truth in zip(scan(name, values), scan("reference", values), strict=True):
        assert_close(ours, truth, tolerance)


@pytest.mark.parametrize("size", SIZES[1:])
def test_gradients_equal_autograd_through_reference(size: tuple[int, int, int, int]) -> None:
    gradients = []
    for name in ("triton", "reference"):
        leaves = [value.clone().requires_grad_() for value in arguments(*size)]
        y, last = scan(name, list(leaves))
        torch.manual_seed(1)
        ((y * torch.randn_like(y)).sum() + (last * torch.randn_like(last)).sum()).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, truth in zip(*gradients, strict=True):
        assert ours is not None and truth is not None
        assert_close(ours, truth, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_equal_reference(dtype: torch.dtype) -> None:
    u, delta, A, B, C, D, z, bias, state = arguments(2, 5120, 16, 4, dtype)
    weight = torch.randn(5120, 4, device="cuda").to(dtype)
    window = torch.randn(2, 5120, 3, device="cuda")
    ours, truth, our_window, true_window = state.clone(), state.clone(), window.clone(), window.clone()
    for t in range(4):
        inputs = ScanInputs(u[:, :, t], delta[:, :, t], A, B[:, :, t], C[:, :, t], D, z[:, :, t], bias)
        with dispatch.use("triton"):
            y = dispatch.selective_step(ours, inputs)
            x = dispatch.conv_step(our_window, u[:, :, t], weight, bias)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        assert_close(y, reference.selective_step(truth, inputs), tolerance)
        assert_close(x, reference.conv_step(true_window, u[:, :, t], weight, bias), tolerance)
    assert_close(ours, truth, 1e-5)
    assert torch.equal(our_window, true_window)


@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projected_steps_equal_reference(dtype: torch.dtype, rows: int) -> None:
    u, _, A, B, C, D, z, bias, state = arguments(rows, 5120, 16, 1, dtype)
    factors = torch.randn(rows, 160, device="cuda").to(dtype)
    weight = (torch.randn(5120, 160, device="cuda") / 13).to(dtype)
    inputs = ScanInputs(u[:, :, 0], factors, A, B[:, :, 0], C[:, :, 0], D, z[:, :, 0], bias)
    ours, truth = state.clone(), state.clone()
    with dispatch.use("triton"):
        y = dispatch.projected_step(ours, inputs, weight)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2  # torch's product may sum in another order, or in TF32
    assert_close(y, reference.projected_step(truth, inputs, weight), tolerance)
    assert_close(ours, truth, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("started", [False, True])
def test_convolution_equals_reference(dtype: torch.dtype, started: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 620, 5120, device="cuda").to(dtype).transpose(1, 2)
    weight, bias = torch.randn(5120, 4, device="cuda").to(dtype), torch.randn(5120, device="cuda").to(dtype)
    window = torch.randn(2, 5120, 3, device="cuda") if started else None
    with dispatch.use("triton"):
        y, last = dispatch.causal_conv(x, weight, bias, window)
    truth, true_last = reference.causal_conv(x.float(), weight.float(), bias.float(), window)
    assert_close(y, truth, 1e-5 if dtype == torch.float32 else 1e-2)
    assert torch.equal(last.float(), true_last)


@pytest.mark.parametrize(("outputs", "inputs"), [(7680, 2560), (2560, 10240), (33, 64)])
def test_nf4_product_equals_unpacked_weights(outputs: int, inputs: int) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from vlcompare.models.kernels.cuda import nf4
    from vlcompare.runtime.loading import quantize

    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16)
    parts = quantize.quantize(weight, "nf4")
    unpacked = quantize.dequantize(parts, "nf4", (outputs, inputs), torch.float32)
    x, bias = torch.randn(1, inputs, device="cuda").bfloat16(), torch.randn(outputs, device="cuda").bfloat16()
    code = quantize.nf4_code("cuda").float()
    _, ours = nf4.product((x,), Nf4Weight(parts["nf4"], parts["absmax"], outputs, inputs), code, bias=bias)
    assert_close(ours, torch.nn.functional.linear(x.float(), unpacked, bias.float()), 4e-3)


@pytest.mark.parametrize("right", [True, False])
def test_own_nf4_product_is_taken_only_where_it_is_right(
    right: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from vlcompare.models.kernels import verdicts
    from vlcompare.models.kernels.cuda import nf4
    from vlcompare.runtime.loading import quantize

    monkeypatch.setenv("VLCOMPARE_PROOFS", "here")
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path))
    verdicts.forget()
    torch.manual_seed(0)
    layers = torch.nn.ModuleList()
    for outputs, inputs in ((7680, 2560), (2560, 2560), (2560, 10240)):
        parts = quantize.quantize(torch.randn(outputs, inputs, device="cuda"), "nf4")
        layers.append(quantize.quantized_linear(parts, "nf4", (outputs, inputs), None, torch.device("cuda")))
    if not right:
        product = nf4.nf4_product
        monkeypatch.setattr(nf4, "nf4_product", lambda *given: product(*given) * 2)
    with torch.inference_mode():
        for layer in layers:
            x = torch.randn(1, layer.in_features, device="cuda").bfloat16()
            quantize.use_own_kernel(layers, False)
            before = layer(x)
            quantize.use_own_kernel(layers, None)
            assert_close(layer(x), before, 2e-2)
    found = [proof for proof in verdicts.proofs() if "nf4_product" in proof.case]
    print([(proof.case, proof.verdict, proof.ours, proof.theirs) for proof in found])
    expected = ("agrees", "slower") if right else ("differs",)
    assert len(found) == 3 and all(proof.verdict in expected for proof in found)
    verdicts.forget()


def test_dispatch_takes_a_compiled_kernel() -> None:
    assert dispatch.active("cuda") in ("mamba_ssm", "triton")
    assert dispatch.available("cuda")[-2:] == ("triton", "reference")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.nn.LayerNorm, torch.nn.RMSNorm])
def test_sums_and_norms_equal_torch(kind: type[torch.nn.LayerNorm | torch.nn.RMSNorm], dtype: torch.dtype) -> None:
    from vlcompare.models.kernels.cuda import norm_and_argmax

    torch.manual_seed(0)
    terms = [torch.randn(2, 7, 2560, device="cuda").to(dtype) for _ in range(3)]
    norms = [kind(2560, eps=1e-5).to("cuda", dtype) for _ in range(2)]
    with torch.inference_mode():
        total, normed = norm_and_argmax.add_norm(terms, norms)
        truth = terms[0] + terms[1] + terms[2]
        assert torch.equal(total, truth)
        for ours, norm in zip(normed, norms, strict=True):
            assert_close(ours, norm(truth), 1e-5 if dtype == torch.float32 else 1e-2)


def test_the_greedy_choice_equals_torch() -> None:
    from vlcompare.models.kernels.cuda import norm_and_argmax

    torch.manual_seed(0)
    logits = torch.randn(3, 50280, device="cuda") * 5
    logits[1, [77, 9000]] = 40.0  # of equal ones the first
    chosen, packed = norm_and_argmax.greedy(logits, 5)
    logprobs, ids = torch.log_softmax(logits.double(), -1).sort(dim=-1, descending=True, stable=True)
    assert torch.equal(chosen, ids[:, 0]) and torch.equal(packed[:, 2:7].long(), ids[:, :5])
    assert_close(packed[:, 7:], logprobs[:, :5], 1e-5)
