"""From loading to the last token on a pretended GPU: the CPU's tokens, no wait inside a step, launches pinned."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_session
import pretended_cuda
import pytest
import torch
from pretended_cuda import counts, nobody_waits

import vlcompare
from vlcompare.bench import models as bench
from vlcompare.comparison import compare
from vlcompare.models.config import PRESETS, MambaConfig
from vlcompare.models.kernels import agreement, dispatch, fallback, fused, reference, verdicts
from vlcompare.models.kernels.linear import Linear
from vlcompare.models.mamba import Mamba
from vlcompare.models.meta_init import structure_only
from vlcompare.models.pythia import Pythia
from vlcompare.runtime import engine, step_graphs
from vlcompare.runtime.batch import generate_batch
from vlcompare.runtime.clock import Clock
from vlcompare.runtime.loading import prove, quantize
from vlcompare.runtime.loading.estimate import estimate
from vlcompare.runtime.picture_cache import PictureCache
from vlcompare.runtime.sampling import greedy
from vlcompare.runtime.warm_up import warm_up
from vlcompare.types import ModelSpec, Request, Side

pytest.importorskip("triton")

ROOT = Path(__file__).parents[1]
PICTURES = [ROOT / "examples/pictures" / name for name in ("2026000004-vqa-0.png", "2026000005-grounding-0.png")]
FAMILIES = {"mamba": "tiny-mamba-vl", "pythia": "tiny-pythia-vl"}
PRECISIONS = {"fp32": ("float32", "none"), "bf16": ("bfloat16", "none"), "int8": ("bfloat16", "int8"),
              "nf4": ("bfloat16", "nf4")}  # fmt: skip
ASK: dict[str, Any] = {"task": "captioning", "max_new_tokens": 4}
QUICK = {  # in the quick suite: Triton's interpreter is slow, and batches run Mamba through it
    "triton": [("pythia", "nf4")],
    "torch": [("mamba", "int8"), ("pythia", "bf16")],
}


def quick(family: str, precision: str, path: str) -> Any:
    return () if (family, precision) in QUICK[path] else pytest.mark.slow


GRID = [
    pytest.param(family, precision, path, marks=quick(family, precision, path))
    for family in FAMILIES
    for precision in PRECISIONS
    for path in ("triton", "torch")
]


@functools.cache
def loaded(family: str, precision: str) -> Any:
    """A model on the CPU, which answers with the reference alone: nothing is compiled for it."""
    dtype, quantization = PRECISIONS[precision]
    with dispatch.use("reference"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlcompare.runtime.loading.load.compiling", lambda *given: threading.Thread())
        return vlcompare.load(FAMILIES[family], device="cpu", dtype=dtype, quantization=quantization)


@functools.cache
def truth(family: str, precision: str) -> tuple[list[int], list[float]]:
    with dispatch.use("reference"):
        answer = vlcompare.generate(loaded(family, precision), PICTURES[0], **ASK)
    return [token.id for token in answer.tokens], [token.logprob for token in answer.tokens]


def on_cuda(family: str, precision: str) -> Any:
    dtype, quantization = PRECISIONS[precision]
    return vlcompare.load(FAMILIES[family], device="cuda:0", dtype=dtype, quantization=quantization)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """A pretended GPU; the parameter `path` says whose kernels run on it."""
    monkeypatch.setattr(fallback, "_failed", set())
    monkeypatch.setattr(fallback, "_sentences", {})
    path = request.node.callspec.params.get("path", "torch") if hasattr(request.node, "callspec") else "torch"
    for family in FAMILIES:  # outside: on the real CPU
        truth(family, "fp32")
    with pretended_cuda.pretended(monkeypatch):
        if path == "triton":
            pretended_cuda.stand_ins(monkeypatch)
        else:
            fallback._failed.update(("triton", "mamba_ssm"))
        yield


@pytest.fixture
def steps_without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may wait for nothing in the middle of a step, captured or not."""
    for runner in (step_graphs.EagerRunner, step_graphs.GraphRunner):
        for name in ("__call__", "ahead"):
            step = getattr(runner, name)

            def quiet(self: Any, ids: Any, step: Callable[..., Any] = step, first: bool = name == "__call__") -> Any:
                if first and getattr(self, "graphed", False):
                    self.prepare(1)  # a recording waits for the device when it begins
                with nobody_waits():
                    return step(self, ids)

            monkeypatch.setattr(runner, name, quiet)


@pytest.mark.parametrize(("family", "precision", "path"), GRID)
@pytest.mark.usefixtures("steps_without_waits")
def test_the_answer_is_the_cpus(family: str, precision: str, path: str, request: pytest.FixtureRequest) -> None:
    ids, logprobs = truth(family, precision)
    request.getfixturevalue("gpu")
    model = on_cuda(family, precision)
    placed = [*model.vlm.named_parameters(), *model.vlm.named_buffers()]
    assert [name for name, tensor in placed if tensor.device.type != "cuda"] == []
    for graphs in (True, False):
        answer = vlcompare.generate(model, PICTURES[0], graphs=graphs, **ASK)
        assert answer.timings.graphed is graphs, fallback.notices()
        assert [token.id for token in answer.tokens] == ids
        assert [token.logprob for token in answer.tokens] == pytest.approx(logprobs, abs=0.05)
    assert fallback.notices() == ()


def script(model: Any) -> dict[str, Any]:
    """A batch with rows of different lengths, with pictures kept too; a drawn answer; follow-ups."""
    requests = [(PICTURES[0], Request("captioning", max_new_tokens=4)),
                (PICTURES[1], Request("vqa", "How many things are there?", max_new_tokens=4)),
                (PICTURES[1], Request("grounding", "the red heart", max_new_tokens=6))]  # fmt: skip
    found: dict[str, Any] = {"batch": [ids(answer) for answer in generate_batch(model, requests)]}
    drawn = vlcompare.generate(model, PICTURES[0], temperature=0.8, top_p=0.9, top_k=40, seed=3, **ASK)
    found["drawn"] = ids(drawn)
    pictures = PictureCache()
    for asked in ("new", "kept"):
        shared = generate_batch(model, requests, pictures=pictures)
        *_, single = engine.stream_request(model, PICTURES[1], requests[2][1], pictures=pictures)
        assert bool(single.timings.known_positions) and pictures.nbytes()
        found[f"{asked} pictures"] = [ids(answer) for answer in (*shared, single)]
    session = engine.Session()
    for how in (None, "continue", "anew"):
        answer = vlcompare.generate(model, PICTURES[0], task="vqa", text=f"What is it{how}?", max_new_tokens=4,
                                    session=session, follow_up=how)  # fmt: skip
        found[f"follow up {how}"] = ids(answer)
    return found


def ids(answer: Any) -> list[int]:
    assert answer.error is None, answer.error
    return [token.id for token in answer.tokens]


@pytest.mark.parametrize(("family", "path"), [("mamba", "triton"), ("pythia", "triton"),
                         *[pytest.param(f, "torch", marks=pytest.mark.slow) for f in FAMILIES]])  # fmt: skip
@pytest.mark.usefixtures("steps_without_waits")
def test_batches_drawn_answers_and_follow_ups_are_the_cpus(
    family: str, path: str, request: pytest.FixtureRequest
) -> None:
    with dispatch.use("reference"):
        expected = script(loaded(family, "fp32"))
    request.getfixturevalue("gpu")
    assert script(on_cuda(family, "fp32")) == expected
    assert fallback.notices() == ()


@pytest.mark.parametrize("mode", ["race", pytest.param("measure", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("gpu")
def test_both_sides_answer(mode: Any) -> None:
    sides = {family: Side(name, device="cuda:0", dtype="float32") for family, name in FAMILIES.items()}
    answers = {event.side: event.value for event in compare(PICTURES[0], Request(**ASK), sides, mode=mode)
               if event.kind == "answer"}  # fmt: skip
    for family, answer in answers.items():
        assert ids(answer) == truth(family, "fp32")[0] and answer.timings.graphed
    assert sorted(answers) == sorted(FAMILIES) and fallback.notices() == ()


# what the host waits for in an answer whose graphs are captured: a lap each, among them one a token; checks of the ids,
# and what crosses: pixels and ids, and Pythia's rotary tables
WAITS = {
    "mamba": {"an event": 8, "aten._local_scalar_dense.default": 3, "a copy to cuda": 2},
    "pythia": {"an event": 8, "aten._local_scalar_dense.default": 3, "a copy to cuda": 4},
}


@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.usefixtures("gpu")
def test_waits_of_a_whole_answer(family: str, path: str) -> None:
    model = on_cuda(family, "fp32")
    vlcompare.generate(model, PICTURES[0], **ASK)
    counts.clear()
    vlcompare.generate(model, PICTURES[0], **ASK)
    assert counts.waits == Counter(WAITS[family]) and not counts.graphs


# a token is sent to the host behind its replay; from the second one on, the next replay is launched before it is waited
# for, and the last of these is dropped
ORDER = ["send", "wait", "replay", "send", *3 * ["replay", "send", "wait"]]


@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.usefixtures("gpu")
def test_the_next_token_is_on_its_way_before_one_is_waited_for(family: str, path: str) -> None:
    """What a graph does not hold is launched for a token as well: a copy to the host; for a session of Mamba's, copies
    of what the dropped step overwrites."""
    model = on_cuda(family, "fp32")
    vlcompare.generate(model, PICTURES[0], **ASK)
    found = {}
    for kept in (False, True):
        session = engine.Session() if kept else None
        counts.clear()
        items = iter(vlcompare.stream(model, PICTURES[0], session=session, **ASK))
        next(items)
        before = len(counts.order)
        assert isinstance(next(items), vlcompare.Step)
        launches = counts.launches.copy()
        assert isinstance(next(items), vlcompare.Step)
        found[kept] = counts.launches - launches
        *_, answer = items
        assert ids(answer) == truth(family, "fp32")[0]
        assert counts.order[before - 2 :][: len(ORDER)] == ORDER
    sent = {"a copy to pinned memory": 1}
    clones = {"aten.clone.default": 3 if family == "mamba" else 1}
    assert {name: n for name, n in found[False].items() if name in sent or name in clones} == sent
    assert {name: n for name, n in found[True].items() if name in sent or name in clones} == sent | clones


@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.usefixtures("gpu")
def test_a_token_that_is_read_too_early_is_caught(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    model = on_cuda("mamba", "fp32")
    monkeypatch.setattr(Clock, "lap", lambda self, *marks: 0.0)
    with pytest.raises(ValueError, match="NaN"):
        vlcompare.generate(model, PICTURES[0], **ASK)


@pytest.mark.usefixtures("gpu")
def test_a_wait_inside_a_step_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_cuda("pythia", "fp32")
    language_model = type(model.vlm.language_model)
    step = language_model.step

    def waits(self: Any, embeddings: Any, state: Any, **more: Any) -> Any:
        state.positions.max().item()
        return step(self, embeddings, state, **more)

    monkeypatch.setattr(language_model, "step", waits)
    answer = vlcompare.generate(model, PICTURES[0], **ASK)
    assert not answer.timings.graphed and ids(answer) == truth("pythia", "fp32")[0]
    assert "when stream is capturing" in fallback.notices("cuda")[0]
    with nobody_waits(), pytest.raises(RuntimeError, match="the host waits"):
        state = model.vlm.language_model.new_state(1, 4)
        waits(model.vlm.language_model, torch.zeros(1, 128, device="cuda"), state)


@pytest.mark.usefixtures("gpu")
def test_a_tensor_on_the_cpu_inside_a_step_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_cuda("pythia", "fp32")
    language_model = type(model.vlm.language_model)
    step = language_model.step
    mixed = lambda self, x, state, **more: step(self, x + torch.zeros(x.shape[-1]), state, **more)  # noqa: E731
    monkeypatch.setattr(language_model, "step", mixed)
    with pytest.raises(RuntimeError, match="found cuda:0 and cpu"):
        vlcompare.generate(model, PICTURES[0], **ASK)


@pytest.mark.usefixtures("gpu")
def test_a_capture_runs_nothing_and_a_replay_computes_on_the_same_memory() -> None:
    x, total = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total += x * 2
        last = total + 1
        with pytest.raises(RuntimeError, match="capturing"):
            total.tolist()
    assert total.tolist() == [0.0] * 3
    x.fill_(5.0)
    for expected in (10.0, 20.0):
        graph.replay()
        assert total.tolist() == [expected] * 3 and last.tolist() == [expected + 1] * 3


@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.usefixtures("gpu")
def test_what_no_single_kernel_takes_is_done_in_parts(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two layers that read one sum, a kernel takes the first `taken`; norms, products and GELU are the same."""
    asked: list[Any] = []

    def one(terms: Any, norm: Any, layer: Any, gelu: bool) -> Any:
        asked.append(layer)
        given = terms, norm, layer.weight, layer.bias, gelu
        return reference.norm_product(*given) if len(asked) <= taken else None

    monkeypatch.setattr(fused, "_norm_product", one)
    with torch.no_grad():
        terms = [torch.randn(1, 16).to("cuda") for _ in range(2)]
        norms = [torch.nn.LayerNorm(16, device="cuda") for _ in range(2)]
        layers = [Linear(16, 8, device="cuda") for _ in range(2)]
        total, found = fused.norm_linears(terms, norms, layers, (False, True))
        plain = [layer(norm(terms[0] + terms[1])) for norm, layer in zip(norms, layers, strict=True)]
        expected = [terms[0] + terms[1], plain[0], torch.nn.functional.gelu(plain[1])]
        assert [x.tolist() for x in (total, *found)] == [x.tolist() for x in expected]
    assert asked == layers[: taken + 1]


LAUNCHES = {  # a token, with bfloat16 around packed layers
    ("mambavl_2.8b", "none"): 262, ("pythiavl_2.8b", "none"): 198,
    ("mambavl_2.8b", "nf4"): 262, ("pythiavl_2.8b", "nf4"): 198,
    ("mambavl_2.8b", "int8"): 582, ("pythiavl_2.8b", "int8"): 518,
}  # fmt: skip


@pytest.mark.parametrize(("shape", "quantization"), sorted(LAUNCHES))
def test_launches_of_a_token_at_the_largest_size(
    shape: str, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under fake tensors: true widths, no memory. Of one and of two layers, from which all layers' follow."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    language = PRESETS[shape].language
    monkeypatch.setattr(agreement, "agrees", lambda *given: True)
    monkeypatch.setattr(fallback, "_failed", {"mamba_ssm"})
    monkeypatch.setattr(fallback, "_sentences", {})
    with FakeTensorMode(allow_non_fake_inputs=True), pretended_cuda.pretended(monkeypatch), torch.no_grad():
        pretended_cuda.stand_ins(monkeypatch)
        pretended_cuda.shapes_only(monkeypatch)
        one, two = (launches_of_a_token(replace(language, layers=layers), quantization) for layers in (1, 2))
    assert one + (two - one) * (language.layers - 1) == LAUNCHES[shape, quantization], counts.launches
    assert fallback.notices() == ()


def build(config: Any, quantization: str = "none") -> Any:
    """A language model on the device, in bfloat16 as it is loaded, with no numbers in it."""
    with structure_only():
        lm: Any = Mamba(config) if isinstance(config, MambaConfig) else Pythia(config)
    made: dict[int, torch.nn.Parameter] = {}
    for module in lm.modules():
        for name, meta in module._parameters.items():
            if meta is not None and id(meta) not in made:
                wide = name in ("A_log", "D") or (name == "bias" and meta.shape[0] == getattr(config, "inner_size", 0))
                empty = torch.empty(meta.shape, device="cuda", dtype=torch.float32 if wide else torch.bfloat16)
                made[id(meta)] = torch.nn.Parameter(empty)
            module._parameters[name] = None if meta is None else made[id(meta)]
    if quantization != "none":
        family = "mamba" if isinstance(lm, Mamba) else "pythia"
        quantize.replace_linears(lm, family, quantization, pretended_cuda.DEVICE, torch.bfloat16)
    return lm.eval()


def launches_of_a_token(config: Any, quantization: str) -> int:
    """After a prompt of 620 positions."""
    lm = build(config, quantization)
    state = lm.new_state(1, 1024, device="cuda", dtype=torch.bfloat16)
    lm(torch.empty(1, 620, config.hidden_size, device="cuda", dtype=torch.bfloat16), state)
    token = torch.zeros(1, device="cuda", dtype=torch.long)
    with nobody_waits():
        lm.step(lm.embed_tokens(token), state)  # what a first step computes once is kept
        counts.clear()
        greedy(5)(lm.logits(lm.step(lm.embed_tokens(token), state)))
    return sum(counts.launches.values())


@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.usefixtures("gpu")
def test_the_warm_up_compiles_and_captures_all_that_the_answer_needs(family: str, path: str) -> None:
    """With a limit of tokens that crosses a grain of the buffers, and a prompt in two parts."""
    model = on_cuda(family, "fp32")
    request = Request("vqa", "How many things are there?", max_new_tokens=1100)
    never = threading.Event()
    warm_up(model, PICTURES[0], request, never, in_parts=True)
    tried, buffers = verdicts.proofs(), list(step_graphs._kept[model.vlm.language_model])
    counts.clear()
    pictures = PictureCache()
    pictures.begin_question()
    items = engine.stream_request(model, PICTURES[0], request, pictures=pictures, session=engine.Session())
    steps = [item for _, item in zip(range(4), items, strict=False)]
    assert len(steps) == 4 and not counts.graphs and counts.launches
    assert verdicts.proofs() == tried and step_graphs._kept[model.vlm.language_model] == buffers


@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.parametrize(
    ("family", "quantization"), [pytest.param("mamba", "none", marks=pytest.mark.slow), ("pythia", "nf4")]
)
@pytest.mark.usefixtures("gpu")
def test_a_gpu_without_bfloat16_units_runs_in_float16(
    family: str, quantization: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Language model and encoder, packed layers, too; with a sentence, and one more where the scores overflow."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    model = vlcompare.load(FAMILIES[family], device="cuda:0", quantization=quantization)
    assert model.dtype == model.vision_dtype == torch.float16
    assert [one for one in model.notices if "no units for bfloat16" in one and "runs in float16" in one]
    dtypes = {value.dtype for name, value in model.vlm.named_parameters() if not name.endswith(("A_log", ".D"))}
    assert torch.bfloat16 not in dtypes
    answer = vlcompare.generate(model, PICTURES[0], **ASK)
    assert answer.dtype == "float16" and answer.timings.graphed and ids(answer) == truth(family, "fp32")[0]
    assert fallback.notices() == ()
    norm = model.vlm.language_model.norm_f if family == "mamba" else model.vlm.language_model.final_layer_norm
    norm.weight.fill_(6e4)
    assert "float32 does not overflow" in str(vlcompare.generate(model, PICTURES[0], **ASK).error)
    explicit = vlcompare.load(FAMILIES[family], device="cuda:0", dtype="float32")
    assert explicit.dtype == torch.float32 and not any("bfloat16" in one for one in explicit.notices)


@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.parametrize(
    ("capability", "says"),
    [((7, 0), "no units for bfloat16"), ((9, 0), "end at 65,504")],
)
@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
def test_float16_can_be_asked_for(
    capability: tuple[int, int], says: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    model = vlcompare.load(FAMILIES["mamba"], device="cuda:0", dtype="float16", quantization="int8")
    assert model.dtype == model.vision_dtype == torch.float16
    assert len([one for one in model.notices if says in one]) == 1
    answer = vlcompare.generate(model, PICTURES[0], **ASK)
    assert answer.dtype == "float16" and ids(answer) == truth("mamba", "fp32")[0]
    model.vlm.language_model.norm_f.weight.fill_(6e4)
    assert "float32 does not overflow" in str(vlcompare.generate(model, PICTURES[0], **ASK).error)


@pytest.mark.parametrize("path", ["triton", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("gpu")
def test_scores_that_are_no_numbers_end_the_answer_and_nothing_else(path: str) -> None:
    model = on_cuda("mamba", "fp32")
    whole = vlcompare.generate(model, PICTURES[0], **ASK)
    norm = model.vlm.language_model.norm_f
    for value in (float("nan"), float("inf")):
        before = norm.weight.clone()
        norm.weight.fill_(value)
        answer = vlcompare.generate(model, PICTURES[0], **ASK)
        assert answer.stop_reason == "error" and "not numbers" in str(answer.error) and not answer.tokens
        norm.weight.copy_(before)
    assert ids(vlcompare.generate(model, PICTURES[0], **ASK)) == ids(whole)


def test_a_model_that_only_seems_to_be_on_a_gpu_is_prepared_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeroGPU: the main process has tensors of the CPU on a device that is called cuda; a forked worker has the GPU."""
    tried: list[Any] = []
    monkeypatch.setattr(prove, "prove_model", lambda *given: tried.append(given) or [])
    model = vlcompare.load(FAMILIES["pythia"], device="cpu")
    model.device, model.quantization = torch.device("cuda", 0), "nf4"
    model.prepare()
    assert not tried
    with pretended_cuda.pretended(monkeypatch):
        model.vlm.to("cuda")
        for _ in range(2):
            model.prepare()
    assert len(tried) == 1


@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.usefixtures("gpu")
def test_an_error_left_on_the_device_is_raised_before_a_library_that_ends_the_process_sees_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "prove_model", lambda *given: [])
    packed = on_cuda("pythia", "nf4")
    product = type(packed.vlm.language_model.layers[0].mlp.dense_4h_to_h)
    monkeypatch.setattr(product, "forward", lambda *given: pytest.fail("bitsandbytes was called"))

    def pending(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("vlcompare.runtime.loading.model.raise_pending", pending)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        vlcompare.generate(packed, PICTURES[0], **ASK)


@pytest.mark.parametrize("shape", ["mambavl_2.8b", "pythiavl_2.8b"])
@pytest.mark.usefixtures("gpu")
def test_an_answers_memory_is_left_free_when_a_model_is_placed(shape: str) -> None:
    """Two caches of the longest text (one in graphs' buffers), and 256 MiB for pools and workspaces."""
    weights, beside = estimate(ModelSpec(f"finetuned_{shape}", device="cuda:0"))
    with structure_only():
        language = PRESETS[shape].language
        lm: Any = Mamba(language) if isinstance(language, MambaConfig) else Pythia(language)
    assert weights > 5e9 and beside >= 2 * lm.bfloat16().state_bytes_formula(2048) + (256 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["triton"])
@pytest.mark.usefixtures("gpu")
def test_a_bench_takes_the_kernels_that_answers_take(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tried before anything is timed, and NF4 is measured as it is chosen, and by bitsandbytes alone."""
    monkeypatch.setattr(bench, "describe", lambda device: {"gbytes_per_s": 1.0})
    verdicts.forget()
    options = bench.ModelOptions(("pythiavl_2.8b",), ("nf4",), "cuda:0", 20, 3, 1, vision=False, peers=False)
    report = bench.run(options, presets=gpu_session.presets(small=True))
    assert [row.who for row in report.rows] == [
        "vlcompare", "vlcompare, graphed", "vlcompare, graphed, bitsandbytes"
    ]  # fmt: skip
    assert all(row.token_ms and not row.note for row in report.rows)
    assert {"nf4_norm_product", "nf4"} <= {proof.case.split()[1] for proof in verdicts.proofs()}


@pytest.mark.usefixtures("gpu")
def test_a_token_lasts_as_long_as_the_device_or_the_host_was_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is longer; what the consumer does meanwhile does not count, though the device works on."""
    now = [0.0]
    times = SimpleNamespace(perf_counter=lambda: now[0], thread_time=lambda: 0.0)
    monkeypatch.setattr("vlcompare.runtime.clock.time", times)
    monkeypatch.setattr(pretended_cuda, "time", times)
    clock = Clock(pretended_cuda.DEVICE)

    def lap(device: float, before: float, consumer: float, after: float) -> float:
        begin, end = clock.mark(), clock.mark()
        end.at = begin.at + device
        now[0] += before
        with clock.paused():
            now[0] += consumer
        now[0] += after
        return clock.lap(begin, end)

    assert lap(device=3.0, before=0.5, consumer=0.0, after=2.5) == 3.0
    assert lap(device=3.0, before=0.5, consumer=9.0, after=0.25) == 3.0
    assert lap(device=3.0, before=2.0, consumer=9.0, after=2.0) == 4.0
    assert clock.total == 10.0
    now[0] += 0.5
    last = clock.mark()
    now[0] += 7.0  # more was launched since the mark, which is not waited for
    assert clock.lap(None, last) == 0.5
