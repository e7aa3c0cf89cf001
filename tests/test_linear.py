"""Products of few and of many rows: equal to torch's in float64, whatever kernel took them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vlcompare.models.kernels import linear as linear_module
from vlcompare.models.kernels.linear import Linear, linear

# rows, inputs, outputs: one row, several, an odd number of outputs, more outputs than one thread's share
SIZES = ((1, 512, 130), (3, 96, 1001), (4, 1024, 64))
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


def worst(ours: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> float:
    truth = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert ours.shape == truth.shape and ours.dtype == x.dtype
    return float((ours.double() - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_few_rows(size: tuple[int, int, int], dtype: torch.dtype, biased: bool) -> None:
    torch.manual_seed(0)
    rows, inputs, outputs = size
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    bias = torch.randn(outputs).to(dtype) if biased else None
    from vlcompare.models.kernels.cpu import step

    product = step.product(x, weight, bias)
    assert product is not None and worst(product, x, weight, bias) <= TOLERANCE[dtype]
    with torch.inference_mode():
        assert worst(linear(x, weight, bias), x, weight, bias) <= TOLERANCE[dtype]


def test_threads_change_nothing() -> None:
    from vlcompare.models.kernels.cpu import step

    x, weight = torch.randn(2, 256), torch.randn(300, 256)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(step.product(x, weight, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_many_bfloat16_rows_without_instructions_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(linear_module, "native_bfloat16", lambda: False)
    monkeypatch.setattr(linear_module, "_SLICE", 64 * 40)  # several slices, the last one shorter
    x, layer = torch.randn(2, 9, 64).bfloat16(), Linear(64, 100).bfloat16()
    with torch.no_grad():
        ours = layer(x)
    assert ours.shape == (2, 9, 100)
    assert worst(ours.view(18, 100), x.view(18, 64), layer.weight, layer.bias) <= TOLERANCE[torch.bfloat16]


def test_what_the_kernel_does_not_take_goes_to_torch() -> None:
    from vlcompare.models.kernels.cpu import step

    weight = torch.randn(40, 32)
    assert step.product(torch.randn(1, 30), torch.randn(40, 30), None) is None  # no multiple of sixteen
    assert step.product(torch.randn(1, 32).double(), weight.double(), None) is None
    assert step.product(torch.randn(1, 32), weight[:, ::2], None) is None
    assert step.product(torch.randn(1, 32, requires_grad=True), weight, None) is None
    assert linear(torch.randn(0, 32), weight).shape == (0, 40)


def test_gradients_pass_through() -> None:
    layer = Linear(512, 200)
    layer(torch.randn(1, 512)).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, torch.ones(200))


def test_same_parameters_as_torch() -> None:
    ours, theirs = Linear(8, 4), torch.nn.Linear(8, 4)
    assert isinstance(ours, torch.nn.Linear)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(3, 8)
    assert torch.equal(ours(x), theirs(x))
