"""A step through all layers by one compiled call, beside the layers one by one and beside plain torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.kernels import dispatch, fallback, packed, packed_proofs, stack
from vlcompare.models.kernels.agreement import apart
from vlcompare.models.kernels.packed import PackedLinear
from vlcompare.models.kernels.stack_parts import reference_step
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.runtime.loading import quantize

MAMBA = MambaConfig(100, 64, 3, time_step_rank=16)
PYTHIA = PythiaConfig(100, 64, 3, 2, 192, rotary_share=0.5)
VARIANTS = ("", *packed.supported())
# compiling each takes seconds; `test_packed` tries the products of all of them
TRIED = [pytest.param(name, marks=[pytest.mark.slow] if number > 1 else []) for number, name in enumerate(VARIANTS)]

pytestmark = pytest.mark.skipif(dispatch.active("cpu") != "numba", reason="numba does not run here")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def built(config: MambaConfig | PythiaConfig, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    with torch.inference_mode(False), torch.no_grad():
        model: Any = Mamba(config) if isinstance(config, MambaConfig) else Pythia(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
            if name.endswith("A_log"):
                parameter.add_(torch.rand_like(parameter))
        return model.to(dtype).requires_grad_(False).eval()


def quantized(model: Any, method: str) -> Any:
    """With every large Linear packed, which are fewer outputs than a checkpoint's loader takes."""
    for name, module in list(model.named_modules()):
        if name.rsplit(".", 1)[-1] in quantize.TARGETS["mamba"] | quantize.TARGETS["pythia"]:
            parts = quantize.quantize(module.weight, method)
            made = PackedLinear(method, parts[method], parts["absmax"], tuple(module.weight.shape), module.bias)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, made)
    return model


def steps(model: Any, rows: int = 1, count: int = 3) -> list[Tensor]:
    """Hidden states of some steps after a prompt, and what they leave in the state."""
    torch.manual_seed(2)
    state = model.new_state(rows, 12)
    dtype = next(model.parameters()).dtype
    model(torch.randn(rows, 4, 64).to(dtype), state)
    found = [model.step(torch.randn(rows, 64).to(dtype), state) for _ in range(count)]
    assert state.length == 4 + count and state.positions.tolist() == [4 + count] * rows
    return [*found, *(x.clone() for x in vars(state).values() if isinstance(x, Tensor))]


def one_by_one(monkeypatch: pytest.MonkeyPatch, work: Callable[[], list[Tensor]]) -> list[Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "stack_step", lambda *arguments: None)
        return work()


def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step was taken whole, as they come."""
    seen: list[bool] = []
    whole = stack.step

    def watched(*arguments: Any) -> Tensor | None:
        result = whole(*arguments)
        seen.append(result is not None)
        return result

    monkeypatch.setattr(stack, "step", watched)
    return seen


@pytest.mark.parametrize("variant", TRIED)
@pytest.mark.parametrize("family", ["mamba", "pythia"])
def test_every_variant_gives_what_plain_torch_gives(family: str, variant: str) -> None:
    assert stack.agrees(family, variant)
    for rows in (1, 3):
        parts, x, state = stack.example(family, variant, rows)
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            own = [tensor.clone() for tensor in state]
            taken = fallback.load_and_call(stack.MODULE, "prepare", parts, variant)
            results.append([fallback.load_and_call(stack.MODULE, "step", taken, x, own), *own])
        truth = [reference_step(parts, x, state), *state]
        assert all(
            apart(one, other) < (2e-4 if variant else 2e-6) for one, other in zip(results[0], truth, strict=True)
        )
        for other in results[1:]:  # how many threads there are changes no bit
            assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


CONFIGS = {
    "mamba": MAMBA,
    "mamba, plain norms, no biases": replace(MAMBA, norm="rmsnorm", conv_bias=False, conv_size=2, state_size=32),
    "mamba, a rank that is no whole vector": replace(MAMBA, time_step_rank=5),
    "mamba, biases": replace(MAMBA, projection_bias=True, conv_size=1, expand=1.5),
    "pythia": PYTHIA,
    "pythia, one after the other": replace(PYTHIA, parallel_residual=False, attention_bias=False, rotary_share=0.25),
    "pythia, a head, all of it rotated": replace(PYTHIA, heads=1, rotary_share=1.0, intermediate_size=64),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_whole_step_is_the_layers_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, bound in ((torch.float32, 3e-6), (torch.bfloat16, 3e-2)):
        model = built(CONFIGS[name], dtype)
        for rows in (1, 4):
            expected = one_by_one(monkeypatch, lambda rows=rows, model=model: steps(model, rows))  # type: ignore[misc]
            seen = calls(monkeypatch)
            found = steps(model, rows)
            assert seen == [True] * 3
            assert all(apart(one, other) < bound for one, other in zip(found, expected, strict=True))


@pytest.mark.skipif(not packed.supported(), reason="no kernels for packed weights on this processor")
@pytest.mark.parametrize("method", ["nf4", "int8"])
@pytest.mark.parametrize("config", [MAMBA, PYTHIA], ids=["mamba", "pythia"])
def test_packed_models_step_whole(config: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized(built(config), method)
    seen = calls(monkeypatch)
    with packed.use(packed.PLAIN):
        unpacked = steps(model)
    assert seen == [False] * 3
    with packed.use(packed.supported()[0]):
        expected = one_by_one(monkeypatch, lambda: steps(model))
        found = steps(model)
    assert all(apart(one, other) < 2e-4 for one, other in zip(found, expected, strict=True))
    assert all(apart(one, other) < 5e-3 for one, other in zip(found, unpacked, strict=True))
    assert seen[3:] == [True] * 3


def test_rows_of_different_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])

    def work() -> list[Tensor]:
        torch.manual_seed(3)
        state = model.new_state(2, 9)
        model(torch.randn(2, 5, 64), state, mask)
        return [model.step(torch.randn(2, 64), state) for _ in range(3)]

    for config in (MAMBA, PYTHIA):
        model = built(config)
        expected = one_by_one(monkeypatch, work)
        assert all(apart(one, other) < 3e-6 for one, other in zip(work(), expected, strict=True))


@pytest.mark.parametrize("config", [MAMBA, PYTHIA], ids=["mamba", "pythia"])
def test_what_changes_in_a_model_is_seen_by_the_next_step(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(config)
    layer = model.layers[1]
    norm, linear = (layer.norm, layer.mixer) if config is MAMBA else (layer.input_layernorm, layer.attention)
    name = "out_proj" if config is MAMBA else "dense"

    def in_place() -> None:
        norm.weight.mul_(2)

    def another_parameter() -> None:
        norm.bias = torch.nn.Parameter(torch.ones(64), requires_grad=False)

    def other_data() -> None:
        getattr(linear, name).weight.data = torch.randn_like(getattr(linear, name).weight) / 9

    def another_module() -> None:
        with torch.inference_mode(False):
            made = torch.nn.Linear(getattr(linear, name).in_features, 64).requires_grad_(False)
        setattr(linear, name, made)

    before = steps(model)
    for change in (in_place, another_parameter, other_data, another_module):
        with torch.inference_mode(False), torch.no_grad():
            change()
        expected, found = one_by_one(monkeypatch, lambda: steps(model)), steps(model)
        assert apart(found[0], expected[0]) < 3e-6 and apart(found[0], before[0]) > 1e-3, change.__name__
        before = found


def test_steps_that_are_not_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    for config in (MAMBA, PYTHIA):
        model = built(config)
        assert steps(model, rows=5) and not any(seen)  # more rows than are read from the cache
        with dispatch.use("reference"):
            steps(model)
        assert not any(seen)
        with torch.inference_mode(False), torch.enable_grad():
            steps(model, count=1)
        assert not any(seen)
    odd = replace(MAMBA, state_size=8), replace(PYTHIA, activation="relu"), replace(PYTHIA, heads=8)
    for config in odd:
        steps(built(config))
        assert not any(seen), config


def test_a_step_whose_proof_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(MAMBA)
    monkeypatch.setattr(packed_proofs, "proven", lambda check, *arguments: False)
    seen = calls(monkeypatch)
    steps(model)
    assert seen == [False] * 3


def answered(model: Any, barrier: threading.Barrier | None = None) -> list[list[Tensor]]:
    """Hidden states of eight steps after a prompt, six times over, on two threads of this thread's own."""
    torch.set_num_threads(2)
    if barrier is not None:
        barrier.wait()
    found = []
    with torch.inference_mode():
        for _ in range(6):
            state, generator = model.new_state(1, 12), torch.Generator().manual_seed(2)
            model(torch.randn(1, 4, 64, generator=generator), state)
            found.append([model.step(torch.randn(1, 64, generator=generator), state) for _ in range(8)])
    return found


def race(models: list[Any]) -> None:
    """Each model in a thread of its own, all at once: what each gives is what it gives alone."""
    expected = [answered(model)[0] for model in models]
    found, barrier = dict[int, list[list[Tensor]]](), threading.Barrier(len(models))

    def side(number: int) -> None:
        found[number] = answered(models[number], barrier)

    threads = [threading.Thread(target=side, args=(number,)) for number in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(len(models)))
    for number, alone in enumerate(expected):
        for results in found[number]:
            assert all(torch.equal(one, other) for one, other in zip(results, alone, strict=True))


@pytest.mark.parametrize("config", [MAMBA, PYTHIA], ids=["mamba", "pythia"])
def test_sides_race_with_one_model(config: Any) -> None:
    race([built(config)] * 3)


@pytest.mark.skipif(not packed.supported(), reason="no kernels for packed weights on this processor")
@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_two_sides_with_packed_weights_race(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    race([quantized(built(config), method) for config in (MAMBA, PYTHIA, MAMBA)])
    assert all(seen)
