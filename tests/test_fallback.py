"""Accelerators that fail when they are called: plain torch takes over, and one sentence says so."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vlcompare.models.kernels import agreement, attention, dispatch, fallback, fused, reference, verdicts
from vlcompare.models.kernels.cpu import disk_cache, scan, simd, step
from vlcompare.models.kernels.linear import linear
from vlcompare.models.kernels.reference import ScanInputs

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_failed_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fallback, "_failed", set())
    monkeypatch.setattr(fallback, "_sentences", {})
    verdicts.forget()
    yield
    verdicts.forget()


def broken(*_: Any, **__: Any) -> Any:
    raise OSError("No space left on device")


def scan_inputs() -> ScanInputs:
    torch.manual_seed(0)
    u, delta, B, C = (torch.randn(1, channels, 5) for channels in (32, 32, 16, 16))
    return ScanInputs(u, delta, -torch.rand(32, 16), B, C)


def test_a_scan_that_fails_is_the_references_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(scan, "selective_scan", lambda *given: calls.append(given) or broken())
    inputs = scan_inputs()
    for _ in range(2):
        for ours, truth in zip(dispatch.selective_scan(inputs), reference.selective_scan(inputs), strict=True):
            assert torch.equal(ours, truth)
    assert len(calls) == 1 and dispatch.active("cpu") == "reference" and dispatch.available("cpu") == ("reference",)
    assert len(fallback.notices("cpu")) == 1 and "No space left on device" in fallback.notices("cpu")[0]
    assert fallback.notices("cuda") == ()


def test_a_failure_in_the_middle_of_an_answer_is_told_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import vlcompare
    from vlcompare.comparison import compare

    picture = ROOT / "examples/pictures/2026000004-vqa-0.png"
    monkeypatch.setattr(scan, "selective_scan", broken)
    side = vlcompare.Side("tiny-mamba-vl", device="cpu")
    request = vlcompare.Request("vqa", "How many?", max_new_tokens=2)
    events = list(compare(picture, request, {"left": side, "right": side}))
    told = [(event.side, event.value) for event in events if event.kind == "notice"]
    assert sorted(side for side, sentence in told if "compiled CPU kernels" in sentence) == ["left", "right"]
    assert all(event.value.error is None for event in events if event.kind == "answer")


def test_a_step_that_fails_leaves_its_state_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.loops, "step", broken)
    torch.manual_seed(0)
    state, further = torch.randn(2, 1, 32, 16).unbind()
    further.copy_(state)
    given = (torch.randn(1, 32), torch.randn(1, 32), -torch.rand(32, 16), torch.randn(1, 16), torch.randn(1, 16))
    inputs = ScanInputs(*given)
    assert torch.equal(dispatch.selective_step(state, inputs), reference.selective_step(further, inputs))
    assert torch.equal(state, further)


@pytest.mark.parametrize("needed", [range(9), (6,), (2, 5)], ids=["all", "gate", "A and D"])
def test_backward_passes_of_the_scan_that_fail_are_the_references(
    needed: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan.loops, "backward", broken)
    torch.manual_seed(0)
    extras = torch.randn(32), torch.randn(1, 32, 5), torch.randn(32), torch.randn(1, 32, 16)
    gradients = []
    for function in (dispatch.selective_scan, reference.selective_scan):
        inputs = ScanInputs(*(x.clone() for x in (*scan_inputs()[:5], *extras)))
        y, last = function(inputs._replace(**{ScanInputs._fields[at]: inputs[at].requires_grad_() for at in needed}))
        (y.square().sum() + last.sum()).backward()
        gradients.append([inputs[at].grad for at in needed])
    for ours, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)
    assert fallback.failed("numba") and len(fallback.notices("cpu")) == 1


def test_a_backward_pass_of_the_convolution_that_fails_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.loops, "conv_backward", broken)
    gradients = []
    for function in (dispatch.causal_conv, reference.causal_conv):
        torch.manual_seed(0)
        inputs = [torch.randn(shape).requires_grad_() for shape in ((1, 32, 5), (32, 4), (32,), (1, 32, 3))]
        y, window = function(*inputs)
        (y.square().sum() + window.sum()).backward()
        gradients.append([x.grad for x in inputs])
    for ours, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)
    assert fallback.failed("numba")


def test_products_and_attention_that_fail_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.models.kernels.cpu import attention_loops

    x, weight = torch.randn(1, 512), torch.randn(512, 512)
    monkeypatch.setattr(step.loops, "product", broken)
    torch.testing.assert_close(linear(x, weight), x @ weight.T)
    assert fallback.failed("numba")
    fallback._failed.clear()
    monkeypatch.setattr(attention_loops, "attend", broken)
    cache = torch.randn(1, 2, 8, 16)
    assert attention.attend_one(torch.randn(1, 2, 16), cache, cache, torch.tensor([3])) is None
    assert fallback.failed("numba") and len(fallback.notices()) == 1


def test_memory_that_does_not_suffice_is_no_failure_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (MemoryError("too little"), torch.OutOfMemoryError("too little")):

        def starved(*_: Any, error: BaseException = error) -> Any:
            raise error

        monkeypatch.setattr(scan, "selective_scan", starved)
        with pytest.raises(type(error)):
            dispatch.selective_scan(scan_inputs())
    assert not fallback.failed("numba") and fallback.notices() == ()


def test_an_extra_that_is_absent_is_not_spoken_of_and_a_damaged_one_is() -> None:
    fallback.give_up("mamba_ssm", ModuleNotFoundError("No module named 'mamba_ssm'", name="mamba_ssm"))
    assert fallback.notices() == () and fallback.failed("mamba_ssm")
    fallback.give_up("mamba_ssm", ImportError("selective_scan_cuda.so: undefined symbol"))
    fallback.give_up("numba", ModuleNotFoundError("No module named 'numba'", name="numba"))
    assert len(fallback.notices("cuda")) == 1 and len(fallback.notices("cpu")) == 1


def test_norms_and_choice_that_fail_on_a_gpu_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from vlcompare.models.kernels.cuda import norm_and_argmax

    def called(function: str, tensor: torch.Tensor, *given: Any, module: str = fused.MODULE) -> Any:
        return agreement.call("triton", module, function, tensor.device, *given)

    monkeypatch.setattr(norm_and_argmax, "add_norm", broken)
    monkeypatch.setattr(norm_and_argmax, "greedy", broken)
    monkeypatch.setattr(fused, "_kernel", called)
    norm, x = torch.nn.LayerNorm(8), torch.randn(1, 8)
    total, normed = fused.add_norm([x, x], [norm])
    assert torch.equal(total, x + x) and torch.equal(normed[0], norm(x + x))
    assert int(fused.greedy(x, 3)[0]) == int(x.argmax())
    assert len(fallback.notices()) == 1 and not fallback.failed("triton")


def test_attention_that_fails_on_a_gpu_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotation of queries and keys, the new slot, and what each row sees, against one position written out."""
    from vlcompare.models.rotary import rotary_table, rotate

    pytest.importorskip("triton")
    from vlcompare.models.kernels.cuda import attention as triton_attention

    monkeypatch.setattr(triton_attention, "rotate_and_attend", broken)
    torch.manual_seed(0)
    config = type("Config", (), {"rotary_size": 4, "rotary_base": 10000.0})
    cos, sin = rotary_table(config, 9, torch.device("cpu"), torch.float32)
    qkv, keys, values = torch.randn(2, 3, 3, 16), torch.randn(2, 3, 9, 16), torch.randn(2, 3, 9, 16)
    before, positions = keys.clone(), torch.tensor([4, 7])
    out = attention.rotate_and_attend(qkv, cos, sin, positions, keys, values)
    for row, at in enumerate(positions.tolist()):
        query, key = (rotate(qkv[row, :, part], cos[at], sin[at]) for part in (0, 1))
        torch.testing.assert_close(keys[row, :, at], key)
        assert torch.equal(values[row, :, at], qkv[row, :, 2])
        assert torch.equal(keys[row, :, :at], before[row, :, :at])
        weights = (keys[row, :, : at + 1] @ query[:, :, None] / 4).softmax(1)
        torch.testing.assert_close(out[row], (weights * values[row, :, : at + 1]).sum(1))


def test_int8_products_that_fail_are_computed_from_the_weights_they_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.runtime.loading import quantize

    pytest.importorskip("bitsandbytes")
    weight, x = torch.randn(64, 64), torch.randn(2, 64)
    parts = quantize.quantize(weight, "int8")
    layer = quantize.Int8Linear(parts["int8"], parts["absmax"], None)
    monkeypatch.setattr(layer, "product", broken)
    torch.testing.assert_close(layer(x), x @ quantize.dequantize(parts, "int8", (64, 64), torch.float32).T)
    assert "bitsandbytes" in fallback.notices("cpu")[0]


ASK = """
import sys, torch
{before}
import vlcompare
from vlcompare.models.kernels import dispatch
model = vlcompare.load("tiny-mamba-vl")
answer = vlcompare.generate(model, "examples/pictures/2026000004-vqa-0.png", task="vqa", text="How many?",
                            max_new_tokens=3)
print(answer.error, len(answer.tokens), dispatch.active("cpu"))
print(*model.notices_for(vlcompare.Request("vqa", "How many?")), sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("before", "environment", "reason"),
    [
        ("", {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT"),
        pytest.param(
            "import types; sys.modules['numba'] = types.ModuleType('numba')", {}, "numba", marks=pytest.mark.slow
        ),
    ],
    ids=["switched off", "of another version"],
)
def test_a_model_answers_without_numba(before: str, environment: dict[str, str], reason: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASK.format(before=before)], env={**os.environ, **environment},
                          capture_output=True, text=True, cwd=ROOT, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["None", "3", "reference"]
    sentences = [line for line in done.stderr.splitlines() if "compiled CPU kernels" in line]
    assert len(sentences) == 1 and reason in sentences[0]


@pytest.fixture
def compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Computes with a kernel as a new process would, its cache in `tmp_path`; says whether it was found there."""
    from numba import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    window, x, weight, bias = torch.randn(16, 3), torch.randn(16), torch.randn(16, 4), torch.randn(16)
    truth = reference.conv_step(window[None].clone(), x[None], weight, bias)[0]

    def compute() -> bool:
        fallback._sentences.clear()
        kernel, y = simd.compiled()(step.loops.conv_step.py_func), torch.empty(16)
        kernel(*(part.clone().view(-1).numpy() for part in (window, x, weight, bias)), y.numpy(), 1, 16, 4)
        torch.testing.assert_close(y, truth)
        return bool(kernel.stats.cache_hits)

    return compute


def test_a_damaged_file_of_the_cache_is_a_miss(tmp_path: Path, compiled_anew: Callable[[], bool]) -> None:
    """Cut off, empty, one bit turned: compiled and written anew, so that the next start finds it whole."""
    assert not compiled_anew() and compiled_anew() and fallback.notices() == ()
    (file,) = tmp_path.rglob("*.kernel*")
    whole = file.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) // 2] ^= 1
    for damage in (b"", whole[: len(whole) // 2], bytes(turned), b"\0" * len(whole)):
        file.write_bytes(damage)
        assert not compiled_anew() and "damaged" in fallback.notices("cpu")[0]
        assert compiled_anew() and fallback.notices() == ()
    assert list(tmp_path.rglob("*.kernel*")) == [file]


def test_kernels_of_other_sources_and_processors_are_not_taken(
    tmp_path: Path, compiled_anew: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core.codegen import JITCPUCodegen

    assert not compiled_anew() and compiled_anew()
    with monkeypatch.context() as changed:
        changed.setattr(JITCPUCodegen, "magic_tuple", lambda self: ("x86_64", "another-processor", ""))
        assert not compiled_anew() and compiled_anew()
    monkeypatch.setattr(disk_cache, "_digest_of_sources", lambda: "of other sources")
    assert not compiled_anew()
    assert len(list(tmp_path.rglob("*.kernel"))) == 3 and fallback.notices() == ()


def test_a_full_disk_costs_a_sentence(
    tmp_path: Path, compiled_anew: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert not compiled_anew() and not compiled_anew()
    (sentence,) = fallback.notices("cpu")
    assert "not kept" in sentence and "No space left" in sentence and not list(tmp_path.rglob("*.kernel*"))
