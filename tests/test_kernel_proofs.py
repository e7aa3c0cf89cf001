"""Kernels prove themselves or stand aside: what is asked of them, where verdicts are kept, and processes that end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pretended_cuda
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import vlcompare
from tests.test_pretended_cuda import build
from vlcompare import paths
from vlcompare.models.config import PRESETS, MambaConfig
from vlcompare.models.kernels import agreement, dispatch, fallback, reference, verdicts
from vlcompare.models.kernels.verdicts import Case, Proof
from vlcompare.runtime.loading import prove

pytest.importorskip("triton")

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "examples/pictures/2026000004-vqa-0.png"
CPU, GPU = torch.device("cpu"), pretended_cuda.DEVICE
BF16 = torch.bfloat16

# what must agree on a card before a release says that it runs there: the published models' sizes, in bfloat16
SCAN = {"states": 16, "skip": 1, "gated": 1, "biased": 1, "smooth": 1}
MUST_AGREE = {
    shape: [
        *[("add_norm", {"width": c.hidden_size, "terms": t, "norms": 1, "centred": 1, "biased": 1}) for t in (1, 2)],
        *[("norm_product", {"width": c.hidden_size, "terms": t, "norms": 1, "centred": 1, "biased": 1,
                            "outputs": 2 * c.inner_size, "shifted": 0, "gelu": 0}) for t in (1, 2)],
        ("mix_step", {"width": c.inner_size, "states": 16, "rank": c.rank, "taps": 4, "biased": 1}),
        *[("row_product", {"width": w, "outputs": o, "shifted": 0, "wide": wide})
          for w, o, wide in ((c.inner_size, c.hidden_size, 0), (c.hidden_size, c.vocab_size, 1))],
        *[("causal_conv", {"width": c.inner_size, "taps": 4, "biased": 1, "started": s, "dense": 1}) for s in (0, 1)],
        *[("selective_scan", {"width": c.inner_size, "rank": c.inner_size, **SCAN, "started": s, "trained": 0,
                              "dense": 1}) for s in (0, 1)],
        ("greedy", {"vocabulary": c.vocab_size, "count": 5}),
    ]
    if isinstance(c, MambaConfig)
    else [
        *[("add_norm", {"width": c.hidden_size, "terms": t, "norms": n, "centred": 1, "biased": 1})
          for t, n in ((1, 2), (3, 2), (3, 1))],
        *[("norm_product", {"width": c.hidden_size, "terms": t, "norms": 1, "centred": 1, "biased": 1,
                            "outputs": o * c.hidden_size, "shifted": 1, "gelu": o == 4})
          for t, o in ((1, 3), (3, 3), (1, 4))],
        *[("row_product", {"width": w, "outputs": o, "shifted": s, "wide": wide})
          for w, o, s, wide in ((c.hidden_size, c.hidden_size, 1, 0), (c.intermediate_size, c.hidden_size, 1, 0),
                                (c.hidden_size, c.vocab_size, 0, 1))],
        ("rotate_and_attend", {"size": c.head_size, "rotated": c.rotary_size}),
        ("greedy", {"vocabulary": c.vocab_size, "count": 5}),
    ]
    for shape, c in ((shape, preset.language) for shape, preset in PRESETS.items())
}  # fmt: skip


# what takes its place where the large layers are packed: functions, and bitsandbytes' layers as (rows, columns, biased)
MUST_AGREE_PACKED: dict[tuple[str, str], tuple[list[Any], set[tuple[int, int, int]]]] = {
    ("mambavl_2.8b", "nf4"): (
        [*[("nf4_norm_product", {"width": 2560, "terms": t, "norms": 1, "centred": 1, "biased": 1, "outputs": 10240,
                                 "shifted": 0, "gelu": 0}) for t in (1, 2)],
         ("nf4_product", {"width": 5120, "outputs": 2560, "shifted": 0})],
        {(10240, 2560, 0), (2560, 5120, 0)},
    ),
    ("pythiavl_2.8b", "nf4"): (
        [*[("nf4_norm_product", {"width": 2560, "terms": t, "norms": 1, "centred": 1, "biased": 1, "outputs": o,
                                 "shifted": 1, "gelu": o == 10240}) for t, o in ((1, 7680), (3, 7680), (1, 10240))],
         *[("nf4_product", {"width": w, "outputs": 2560, "shifted": 1}) for w in (2560, 10240)]],
        {(7680, 2560, 1), (2560, 2560, 1), (10240, 2560, 1), (2560, 10240, 1)},
    ),
    ("mambavl_2.8b", "int8"): (
        [*[("int8_rows", {"width": w}) for w in (2560, 5120)],
         *[("int8_result", {"outputs": o, "shifted": 0}) for o in (10240, 2560)]],
        {(10240, 2560, 0), (2560, 5120, 0)},
    ),
    ("pythiavl_2.8b", "int8"): (
        [*[("int8_rows", {"width": w}) for w in (2560, 10240)],
         *[("int8_result", {"outputs": o, "shifted": 1}) for o in (7680, 2560, 10240)]],
        {(7680, 2560, 1), (2560, 2560, 1), (10240, 2560, 1), (2560, 10240, 1)},
    ),
}  # fmt: skip


# asked for where the larger kernels fail
OTHERWISE = {"selective_step", "projected_step", "conv_step", "add_norm", "row_product"}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path))
    monkeypatch.setattr(fallback, "_failed", {"mamba_ssm"})
    monkeypatch.setattr(fallback, "_sentences", {})
    verdicts.forget()
    yield
    verdicts.forget()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretended_cuda.pretended(monkeypatch):
        pretended_cuda.stand_ins(monkeypatch)
        yield


def functions(found: Any) -> set[tuple[str, tuple[tuple[str, int], ...]]]:
    return {(case.function, tuple(sorted(case.sizes))) for case in found}


@pytest.mark.parametrize(
    "shape", [s if s.endswith("2.8b") else pytest.param(s, marks=pytest.mark.slow) for s in sorted(MUST_AGREE)]
)
def test_every_kernel_of_a_published_model_is_on_the_list(shape: str, gpu: None, monkeypatch: Any) -> None:
    """A model of two layers in the true sizes asks for these and no others, under fake tensors."""
    final = asked_for(shape, "none", monkeypatch)
    expected = {(name, tuple(sorted(sizes.items()))) for name, sizes in MUST_AGREE[shape]}
    assert expected <= functions(final)
    assert {name for name, _ in functions(final) - expected} <= OTHERWISE


@pytest.mark.parametrize(("shape", "quantization"), sorted(MUST_AGREE_PACKED))
def test_every_kernel_of_packed_layers_is_on_the_list(
    shape: str, quantization: str, gpu: None, monkeypatch: Any
) -> None:
    kernels, layers = MUST_AGREE_PACKED[shape, quantization]
    final = asked_for(shape, quantization, monkeypatch)
    expected = {(name, tuple(sorted(sizes.items()))) for name, sizes in kernels}
    found = {one for one in functions(final) if one[0].startswith(("nf4", "int8")) and one[0] != quantization}
    assert expected <= found
    # where the fused product fails, its two parts are asked for
    assert {name for name, _ in found - expected} <= {"nf4_product"}
    asked = {tuple(dict(case.sizes).values()) for case in final if case.accelerator == "bitsandbytes"}
    assert asked == layers


def asked_for(shape: str, quantization: str, monkeypatch: Any) -> set[Case]:
    """All cases that two layers ask for, found right as they come up, bitsandbytes' layers among them."""
    pretended_cuda.shapes_only(monkeypatch)
    right = Proof("", "", "agrees", 0.0, 0.0)
    with FakeTensorMode(allow_non_fake_inputs=True), pretended_cuda.Factories(), torch.no_grad():
        lm = build(replace(PRESETS[shape].language, layers=2), quantization)
        asked = list(prove._layers(lm, BF16))
        while new := [case for case in prove.needed(lm, BF16, GPU) if case not in asked]:
            asked += new
            verdicts._found.update({(case, GPU): right for case in new})
    return {case for case in asked if dict(case.sizes).get("dense", 1)}  # the others are asked for before a verdict


def small_case(function: str, **sizes: int) -> Case:
    return Case("triton", function, torch.float32, tuple(sizes.items()))


SCAN_SIZES = {"width": 12, "states": 4, "rank": 12, "skip": 1, "gated": 1, "biased": 1, "smooth": 1}
CASES = [
    *[small_case("selective_scan", **SCAN_SIZES, started=s, trained=t, dense=1) for s in (0, 1) for t in (0, 1)],
    small_case("selective_step", **SCAN_SIZES),
    small_case("projected_step", **{**SCAN_SIZES, "rank": 3}),
    small_case("causal_conv", width=12, taps=4, biased=1, started=1, dense=0),
    small_case("conv_step", width=12, taps=4, biased=0),
    small_case("rotate_and_attend", size=20, rotated=6),
    small_case("add_norm", width=20, terms=3, norms=2, centred=1, biased=1),
    small_case("add_norm", width=20, terms=2, norms=1, centred=0, biased=0),
    small_case("greedy", vocabulary=100, count=3),
    small_case("norm_product", width=20, terms=3, norms=1, centred=1, biased=1, outputs=7, shifted=1, gelu=1),
    small_case("nf4_norm_product", width=64, terms=2, norms=1, centred=0, biased=0, outputs=7, shifted=0, gelu=1),
    small_case("row_product", width=20, outputs=7, shifted=1, wide=0),
    Case("triton", "row_product", BF16, (("width", 20), ("outputs", 7), ("shifted", 0), ("wide", 1))),
    small_case("nf4_product", width=64, outputs=7, shifted=1),
    small_case("int8_rows", width=20),
    small_case("int8_result", outputs=7, shifted=1),
    small_case("mix_step", width=12, states=4, rank=3, taps=4, biased=1),
]


def right(case: Case) -> Callable[..., Any]:
    return agreement._greedy if case.function == "greedy" else getattr(reference, case.function)


def changed(results: Any, at: int) -> Any:
    """The results with the one at a place a little wrong."""
    if isinstance(results, torch.Tensor):
        return results * 1.1 + 0.1
    flat = list(results)
    flat[at] = flat[at] + 1 if not flat[at].is_floating_point() else flat[at] * 1.1 + 0.1
    return flat


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kernel_is_right_or_found_out(case: Case) -> None:
    assert agreement.agrees(case, right(case), CPU)
    with torch.no_grad():
        count = 1 if "step" in case.function or case.function == "rotate_and_attend" else 2
    for at in range(count if case.function != "add_norm" else 1):
        verdicts.forget()
        assert not agreement.agrees(case, lambda *given: changed(right(case)(*given), at), CPU)  # noqa: B023
    verdicts.forget()
    assert not agreement.agrees(case, lambda *given: None, CPU)
    assert verdicts.proofs()[-1].verdict == "declines" and len(fallback.notices()) == 1


def test_what_a_kernel_raises_is_kept_for_display_and_tried_again_by_the_next_process() -> None:
    def fails(*given: Any) -> None:
        raise RuntimeError("out of resource: shared memory\nmore lines")

    assert not agreement.agrees(CASES[0], fails, CPU)
    (proof,) = verdicts.proofs()
    assert (proof.verdict, proof.exception) == ("failed", "RuntimeError: out of resource: shared memory")
    assert proof.seconds >= 0 and not proof.lasting and "out of resource" in fallback.notices()[0]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_lack_of_memory_is_no_verdict(error: Exception) -> None:
    def starved(*given: Any) -> None:
        raise error

    assert not agreement.agrees(CASES[0], starved, CPU)
    assert verdicts.proofs() == () and fallback.notices() == ()
    assert agreement.agrees(CASES[0], right(CASES[0]), CPU)


def test_a_lost_device_is_said_and_remembered(gpu: None) -> None:
    def lost(*given: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        agreement.agrees(CASES[0], lost, GPU)
    verdicts.forget()
    assert verdicts.known(CASES[0], GPU).verdict == "died"  # type: ignore[union-attr]


def test_verdicts_are_kept_for_this_gpu_these_versions_and_these_sources(gpu: None, monkeypatch: Any) -> None:
    calls = []
    kernel = lambda *given: calls.append(1) or right(CASES[4])(*given)  # noqa: E731
    for _ in range(2):
        assert agreement.agrees(CASES[4], kernel, GPU)
        verdicts.forget()
    assert len(calls) == 1
    other = CASES[4]._replace(dtype=BF16)
    assert verdicts.known(other, GPU) is None
    for module, name, value in ((torch.cuda, "get_device_name", lambda *_: "another"), (torch.version, "cuda", "99.9"),
                                (verdicts, "_digest", lambda: "other sources")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            verdicts.machine.cache_clear()
            verdicts.forget()
            assert verdicts.known(CASES[4], GPU) is None
    verdicts.machine.cache_clear()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 99, "proofs": {}}', '{"version": 2, "proofs": 3}'])
def test_a_damaged_file_is_a_miss(damage: str, gpu: None) -> None:
    assert agreement.agrees(CASES[4], right(CASES[4]), GPU)
    verdicts.forget()
    (paths.data_folder() / verdicts.FILE).write_text(damage)
    assert verdicts.known(CASES[4], GPU) is None
    assert agreement.agrees(CASES[4], right(CASES[4]), GPU)


@pytest.mark.parametrize(
    "change",
    [{"verdict": "right"}, {"difference": "0"}, {"difference": 9.0}, {"difference": None}, {"seconds": []}, {"a": 1}],
)
def test_a_damaged_entry_is_a_miss(change: dict[str, Any], gpu: None) -> None:
    assert agreement.agrees(CASES[4], right(CASES[4]), GPU)
    file = paths.data_folder() / verdicts.FILE
    record = json.loads(file.read_text())
    next(iter(record["proofs"].values())).update(change)
    file.write_text(json.dumps(record))
    verdicts.forget()
    assert verdicts.known(CASES[4], GPU) is None


def test_a_wrong_kernel_stands_aside_from_the_first_token_on(gpu: None, monkeypatch: Any) -> None:
    from vlcompare.models.kernels.cuda import mix, step

    for module, function in ((step, "projected_step"), (mix, "mix_step")):
        stand_in = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *given, stand_in=stand_in: stand_in(*given) * 1.5)
    model = vlcompare.load("tiny-mamba-vl", device="cuda:0", dtype="float32")
    before = [proof.case for proof in verdicts.proofs()]
    wrong = [proof for proof in verdicts.proofs() if not proof.agrees]
    assert [(proof.verdict, proof.case.split()[1]) for proof in wrong] == [
        ("differs", "mix_step"), ("differs", "projected_step"),
    ]  # fmt: skip
    told = model.notices_for(vlcompare.Request("captioning"))
    assert any("not used for mix_step" in sentence for sentence in told)
    pretended_cuda.counts.clear()
    answer = vlcompare.generate(model, PICTURE, task="captioning", max_new_tokens=3)
    assert answer.text.startswith("A yellow") and not pretended_cuda.counts.launches["projected_step"]
    assert not pretended_cuda.counts.launches["mix_step"]
    assert pretended_cuda.counts.launches["selective_step"]
    tried = [proof.case for proof in verdicts.proofs() if not proof.case.startswith("graph of")]
    assert tried == before  # nothing was left to be tried in the answer


def test_a_kernel_that_raises_in_earnest_gives_up_one_case(gpu: None, monkeypatch: Any) -> None:
    """That call is made by what comes next, as is every later one of its sizes; all other kernels go on."""
    from vlcompare.models.kernels.cuda import int8, mix

    rows, calls = int8.int8_rows, []

    def limited(x: torch.Tensor) -> Any:
        calls.append(x.shape[1])
        if len(calls) > 2 and x.shape[1] == 64:  # behind the proofs
            raise RuntimeError("out of resource: shared memory")
        return rows(x)

    monkeypatch.setattr(int8, "int8_rows", limited)
    with torch.no_grad():
        for width in (64, 32):
            assert agreement.call("triton", "cuda.int8", "int8_rows", GPU, torch.ones(1, width, device="cuda"))
        calls[:] = [0, 0, 0]
        for width, taken in ((64, False), (64, False), (32, True)):
            x = torch.ones(1, width, device="cuda")
            assert (agreement.call("triton", "cuda.int8", "int8_rows", GPU, x) is not None) is taken
    assert calls[3:] == [64, 32] and "out of resource" in fallback.notices()[0] and not fallback.failed("triton")

    monkeypatch.setattr(fallback, "_sentences", {})
    model = vlcompare.load("tiny-mamba-vl", device="cuda:0", dtype="float32")
    ask: dict[str, Any] = {"task": "captioning", "max_new_tokens": 3, "graphs": False}
    truth = vlcompare.generate(model, PICTURE, **ask)

    def refused(*given: Any) -> None:
        raise RuntimeError("out of resource: threads")

    monkeypatch.setattr(mix, "mix_step", refused)
    pretended_cuda.counts.clear()
    answer = vlcompare.generate(model, PICTURE, **ask)
    assert answer.tokens == truth.tokens and "not used for mix_step" in fallback.notices("cuda")[0]
    launches = pretended_cuda.counts.launches
    assert launches["projected_step"] and launches["selective_scan"] and launches["greedy"]
    assert dispatch.available("cuda")[0] == "triton"


def test_what_leaves_the_device_or_its_memory_unusable_is_no_failure_of_a_case(gpu: None) -> None:
    for error in (torch.OutOfMemoryError("no"), RuntimeError("CUDA error: an illegal memory access was encountered")):
        with pytest.raises(type(error)):
            verdicts.withdraw(CASES[4], GPU, error)
    assert verdicts.proofs() == ()


def test_a_product_is_taken_where_it_is_faster_and_nowhere_else(gpu: None, monkeypatch: Any) -> None:
    """The times are kept with the verdict; nobody is told of what is right and slower."""
    from vlcompare.models.kernels import speed

    monkeypatch.setattr(speed, "measured", lambda ours, theirs, device: (2.0, 1.5))
    model = vlcompare.load("tiny-pythia-vl", device="cuda:0", dtype="bfloat16", quantization="nf4")
    slower = [proof for proof in verdicts.proofs() if proof.verdict == "slower"]
    assert {proof.case.split()[1] for proof in slower} >= {"row_product", "nf4_product"}
    assert all((proof.ours, proof.theirs) == (2.0, 1.5) and not proof.agrees for proof in slower)
    pretended_cuda.counts.clear()
    answer = vlcompare.generate(model, PICTURE, task="captioning", max_new_tokens=3)
    assert answer.text.startswith("A yellow") and fallback.notices() == ()
    launches = pretended_cuda.counts.launches
    assert not launches.keys() & speed._TIMED and launches["rotate_and_attend"]
    case = Case("triton", "nf4_product", BF16, (("width", 128), ("outputs", 128), ("shifted", 1)))
    verdicts.forget()
    proof = verdicts.known(case, GPU)
    assert proof is not None and proof.verdict == "slower" and proof.theirs == 1.5


def test_products_are_left_to_torch_where_their_time_cannot_be_told(gpu: None, monkeypatch: Any) -> None:
    monkeypatch.setenv("VLCOMPARE_GRAPHS", "0")
    case = next(case for case in CASES if case.function == "row_product")
    assert not agreement.agrees(case, right(case), GPU) and verdicts.proofs() == ()
    assert agreement.agrees(CASES[4], right(CASES[4]), GPU)


def test_both_are_timed_over_more_weights_than_a_cache_holds(gpu: None, monkeypatch: Any) -> None:
    from vlcompare.models.kernels import speed

    monkeypatch.undo()
    seen: list[tuple[int, int]] = []
    case = Case("triton", "row_product", torch.float32, (("width", 256), ("outputs", 128), ("shifted", 0), ("wide", 0)))
    given = speed.arguments(case, CPU)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(L2_cache_size=1 << 20))
    assert speed._copies(given, GPU) == 16 and speed._copies((torch.zeros(1 << 22),), GPU) == 1
    monkeypatch.setattr(speed, "measured", lambda ours, theirs, device: seen.append((len(ours), len(theirs))) or (1, 2))
    assert speed.compare(case, right(case), CPU, None) is None and not seen
    assert [call().shape for call in (lambda: right(case)(*speed._one_row("row_product", given)),)] == [(1, 128)]


@pytest.mark.parametrize(
    ("found", "times", "verdict"),
    [(0.0, (1.0, 2.0), "agrees"), (0.0, (2.0, 1.0), "slower"), (float("inf"), (1.0, 2.0), "differs")],
)
def test_kernels_are_launched_early_where_whole_steps_are_right_and_faster(
    found: float, times: tuple[float, float], verdict: str, gpu: None, monkeypatch: Any
) -> None:
    from vlcompare.models.kernels import early_launch
    from vlcompare.models.kernels.cuda.common import early
    from vlcompare.runtime.loading import prove_early

    monkeypatch.setattr(early_launch, "supported", lambda device: True)
    monkeypatch.setattr(prove_early, "difference", lambda device: found)
    monkeypatch.setattr(prove_early, "times", lambda device: times)
    prove._decide_early_launch(GPU)
    on = verdict == "agrees"
    assert [proof.verdict for proof in verdicts.proofs()] == [verdict] and early_launch.is_on(GPU) is on
    assert early(GPU) == ({"EARLY": True, "launch_pdl": True} if on else {"EARLY": False})
    assert bool(fallback.notices()) is (verdict == "differs")
    with torch.no_grad():
        x = torch.ones(1, 8, device="cuda")
        case = agreement.case_of("triton", "row_product", x, x, None, False)
        assert dict(case.sizes).get("early", 0) == on  # a kernel is compiled, and so proved, for the one or the other
        assert "early" not in dict(agreement.case_of("triton", "int8_rows", x).sizes)
    monkeypatch.setenv("VLCOMPARE_EARLY_LAUNCH", "0")
    assert not early_launch.is_on(GPU)


@pytest.mark.parametrize("wrong", [False, True])
def test_whole_steps_tell_whether_early_launch_is_right(wrong: bool, gpu: None, monkeypatch: Any) -> None:
    """Both families, plain and in NF4, whose kernel gives something else here where it is launched early."""
    from vlcompare.models.config import PythiaConfig
    from vlcompare.models.kernels import early_launch
    from vlcompare.models.kernels.cuda import nf4
    from vlcompare.runtime.loading import prove_early

    def placed(lm: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        for module in lm.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    own = pretended_cuda.OnCuda(value.data.to(dtype))
                    module._parameters[name] = torch.nn.Parameter(own, requires_grad=False)
        return lm

    monkeypatch.setattr(torch.nn.Module, "to", placed)
    monkeypatch.setattr(prove_early, "STEPS", 2)
    monkeypatch.setattr(prove_early, "MambaConfig", lambda *given: MambaConfig(64, 64, 1))
    monkeypatch.setattr(prove_early, "PythiaConfig", lambda *given, **more: PythiaConfig(64, 64, 1, 4, 128))
    product = nf4.nf4_norm_product

    def early(*given: Any) -> Any:
        total, y = product(*given)
        return total, y + 1 if wrong and early_launch.is_on(GPU) else y

    monkeypatch.setattr(nf4, "nf4_norm_product", early)
    assert prove_early.difference(GPU) == (float("inf") if wrong else 0.0)


def test_early_launch_needs_a_gpu_that_has_it(gpu: None, monkeypatch: Any) -> None:
    from vlcompare.models.kernels import early_launch

    monkeypatch.undo()
    for capability, able in (((8, 9), False), ((9, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        assert early_launch.supported(GPU) is able and not early_launch.supported(CPU)
    monkeypatch.setenv("VLCOMPARE_EARLY_LAUNCH", "0")
    assert not early_launch.supported(GPU)


def test_a_process_that_tries_kernels_starts_no_further_ones() -> None:
    assert prove._environment()[prove.WHERE] == "here"


def test_a_quantized_layer_that_is_wrong_is_held_unpacked(gpu: None, monkeypatch: Any) -> None:
    from vlcompare.runtime.loading import quantize

    product = quantize.Int8Linear.product
    monkeypatch.setattr(quantize.Int8Linear, "product", lambda self, x: product(self, x) * (1 + (x.shape[-1] == 512)))
    model = vlcompare.load("tiny-pythia-vl", device="cuda:0", dtype="bfloat16", quantization="int8")
    kinds = {type(module).__name__ for name, module in model.vlm.named_modules() if name.endswith("dense_4h_to_h")}
    others = {type(module).__name__ for name, module in model.vlm.named_modules() if name.endswith("dense_h_to_4h")}
    assert (kinds, others) == ({"Linear"}, {"Int8Linear"})
    assert any("4 layers in int8 are held unpacked" in sentence for sentence in model.notices)
    answer = vlcompare.generate(model, PICTURE, task="captioning", max_new_tokens=3)
    assert answer.text.startswith("A yellow")


@pytest.mark.parametrize("name", [pytest.param("tiny-mamba-vl", marks=pytest.mark.slow), "tiny-pythia-vl"])
def test_kernels_and_graphs_can_be_switched_off(name: str, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLCOMPARE_KERNELS", "torch")
    monkeypatch.setenv("VLCOMPARE_GRAPHS", "0")
    model = vlcompare.load(name, device="cuda:0", dtype="bfloat16", quantization="nf4")
    pretended_cuda.counts.clear()
    answer = vlcompare.generate(model, PICTURE, task="captioning", max_new_tokens=3)
    assert answer.text.startswith("A yellow") and not answer.timings.graphed and not pretended_cuda.counts.graphs
    assert not pretended_cuda.counts.launches.keys() & set(pretended_cuda.LAUNCHES) and verdicts.proofs() == ()
    assert dispatch.available("cuda") == dispatch.available("cpu") == ("reference",)


# ---- other processes -------------------------------------------------------------------------------------------------

CHILD = """
import json, os, signal, sys
for index, line in enumerate(sys.stdin):
    case = json.loads(line)
    print(json.dumps({"case": index, "begun": True, "proof": None}), flush=True)
    print("a library says something")
    if case["function"] == "conv_step":
        print("an illegal memory access was encountered", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGABRT)
    proof = {"case": "c", "device": "cuda:0", "verdict": "agrees", "seconds": 0.1, "difference": 0.0, "allowed": 0.1,
             "exception": ""}
    print(json.dumps({"case": index, "begun": False, "proof": proof}), flush=True)
"""


def test_a_kernel_that_ends_its_process_ends_no_other(gpu: None) -> None:
    prove.in_processes(CASES, GPU, (sys.executable, "-c", CHILD))
    assert len(verdicts.proofs()) >= 2
    for case in CASES:
        proof = verdicts.known(case, GPU)
        assert proof is not None and proof.verdict == ("died" if case.function == "conv_step" else "agrees")
        assert case.function != "conv_step" or "illegal memory access" in proof.exception
    verdicts.forget()
    assert not agreement.agrees(CASES[7], right(CASES[7]), GPU)  # not even once more


@pytest.mark.parametrize("begin", ["study", "language"])
def test_a_training_has_its_kernels_tried_in_other_processes(begin: str, gpu: None, monkeypatch: Any) -> None:
    """A process that only trains loads no model, which would see to that."""
    from vlcompare.study import train
    from vlcompare.study.grid import grid_of
    from vlcompare.synth.train import language

    fixed = {"task": "position", "order": "query_first", "length": 4, "vocabulary": 8, "width": 32, "recipe": "smoke",
             "learning_rate": 0.004, "budget": 64}  # fmt: skip
    setting = grid_of({"name": "tiny", "axes": {"family": ["mamba"]}, "fixed": fixed}).entries[0].setting({})
    monkeypatch.setattr(language, "Learner", lambda *given: torch.nn.Linear(1, 1))
    monkeypatch.setattr(language, "optimizers", lambda *given: [])
    for device, expected in ((CPU, None), (GPU, prove.try_elsewhere)):
        monkeypatch.setattr(verdicts, "elsewhere", None)
        if begin == "study":
            train.Training(setting, device)
        else:
            language.LanguageTraining.fresh("mamba", SimpleNamespace(language=None), 1, device)
        assert verdicts.elsewhere is expected


def test_processes_that_cannot_begin_leave_the_cases_to_this_one(gpu: None) -> None:
    prove.in_processes(CASES, GPU, (sys.executable, "-c", "raise SystemExit('no memory')"))
    assert verdicts.proofs() == ()


def test_the_other_process_tries_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "kernel_of", right)
    said: list[str] = []
    given = [json.dumps(prove._as_json(case)) for case in CASES]
    assert prove._main(CPU, iter(given), said.append) == 0
    records = [json.loads(line) for line in said]
    assert [record["case"] for record in records] == [index for index in range(len(CASES)) for _ in range(2)]
    assert all(record["proof"]["verdict"] == "agrees" for record in records if not record["begun"])


def test_the_other_process_is_one_that_runs() -> None:
    """A kernel of Triton on a CPU, where it has no driver: told as failed, and the process goes on."""
    lines = "".join(json.dumps(prove._as_json(case)) + "\n" for case in CASES[:2])
    command = [sys.executable, "-m", "vlcompare.runtime.loading.prove", "cpu"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["case"] for record in records] == [0, 0, 1, 1] and command[2] == prove._MODULE
    assert all(record["proof"]["verdict"] == "failed" for record in records if not record["begun"])


def test_doctor_lists_what_was_tried(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.runtime.doctor import operations
    from vlcompare.runtime.doctor.facts import Device

    monkeypatch.setattr(operations, "_try_all", lambda device: None)  # what was tried before is listed
    assert agreement.agrees(CASES[4], right(CASES[4]), GPU)
    assert not agreement.agrees(CASES[6], lambda *given: changed(right(CASES[6])(*given), 0), GPU)
    device = Device(**{**dict.fromkeys(Device.__dataclass_fields__), "name": "cuda:0"})
    trials, problems = operations.trials([device])
    assert {"agrees", "differs"} <= {trial.verdict for trial in trials}
    (problem,) = (text for text in problems if "causal_conv" in text)
    assert "it differs" in problem
