"""On a CUDA GPU: graphs give what eager steps give, both families, bf16, int8 and NF4; the oracle on CUDA."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlcompare.bench import contestants
from vlcompare.models import pythia
from vlcompare.models.config import MambaConfig, ModelConfig, PythiaConfig, VisionConfig
from vlcompare.models.kernels.cuda.graph_capture import recording, release_cached_memory
from vlcompare.runtime.clock import Clock
from vlcompare.runtime.sampling import Sampler, Sampling, greedy
from vlcompare.runtime.step_graphs import step_runner

pytestmark = pytest.mark.gpu

SCENE = {"stem": [8, 8, 16, 24], "depth": 1, "heads": 2, "hidden": 32, "grid": 4}
VISION = VisionConfig("vlcompare/scene", 64, scene=SCENE)
# wide enough for the quantized kernels, deep enough for errors to show, small enough to build in a second
MODELS = {
    "pythia": ModelConfig("pythia", VISION, PythiaConfig(1024, 512, 6, 8, 2048), 64),
    "mamba": ModelConfig("mamba", VISION, MambaConfig(1024, 512, 6), 64),
}
VARIANTS = ("a_pythia_single_f32", "b_mamba_ln_both", "e_mamba_rms", "f_pythia_shards_bf16", "h_mamba_clipflags_336")


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Raises where the host waits for the device, as far as torch notices."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def answer(lm: Any, embeddings: Tensor, tokens: int, graphs: bool) -> tuple[list[int], Any]:
    """Greedy ids; 100 positions and 64 tokens cross from one window of the cache to the next.

    Chosen as the engine chooses: two logits in bf16 may be equal, and then not every way of choosing takes the same.
    """
    choose = greedy(5)
    state = lm.new_state(1, embeddings.shape[1] + tokens)
    with torch.inference_mode():
        hidden = lm(embeddings, state)
        ids = [choose(lm.logits(hidden[:, -1])).ids]
        runner = step_runner(lm, state, graphs=graphs)
        for _ in range(tokens - 1):
            ids.append(choose(runner(ids[-1])).ids)
    assert state.length == embeddings.shape[1] + tokens - 1
    return [int(token) for token in ids], runner


@pytest.mark.parametrize("family", sorted(MODELS))
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_graphs_give_the_same_64_tokens(family: str, precision: str) -> None:
    if precision in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    vlm = contestants.build(MODELS[family], precision, torch.device("cuda"))
    torch.manual_seed(0)
    dtype = vlm.language_model.embed_tokens(torch.zeros(1, dtype=torch.long, device="cuda")).dtype
    embeddings = torch.randn(1, 100, 512, device="cuda").to(dtype)
    eager, _ = answer(vlm.language_model, embeddings, 64, False)
    graphed, runner = answer(vlm.language_model, embeddings, 64, True)
    assert runner.graphed, runner.reason
    assert graphed == eager
    again, _ = answer(vlm.language_model, embeddings, 64, True)  # on graphs that were captured before
    assert again == eager


@pytest.mark.parametrize("family", sorted(MODELS))
def test_batched_graphs_give_the_same_tokens(family: str) -> None:
    vlm = contestants.build(MODELS[family], "fp32", torch.device("cuda"))
    lm, embeddings = vlm.language_model, torch.randn(3, 20, 512, device="cuda")
    mask = torch.ones(3, 20, dtype=torch.bool, device="cuda")
    mask[1, :7] = False
    results = []
    for graphs in (False, True):
        state = lm.new_state(3, 40)
        with torch.inference_mode():
            ids = [lm.logits(lm(embeddings, state, mask)[:, -1]).argmax(-1)]
            runner = step_runner(lm, state, graphs=graphs)
            for _ in range(12):
                ids.append(runner(ids[-1]).argmax(-1))
        assert runner.graphed is graphs
        results.append(torch.stack(ids))
    assert torch.equal(*results)


@pytest.mark.parametrize("family", sorted(MODELS))
def test_own_nf4_product_gives_the_same_first_tokens(family: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from vlcompare.runtime.loading.quantize import use_own_kernel

    lm = contestants.build(MODELS[family], "nf4", torch.device("cuda")).language_model
    embeddings = torch.randn(1, 100, 512, device="cuda").bfloat16()
    use_own_kernel(lm, False)
    theirs, _ = answer(lm, embeddings, 4, False)
    use_own_kernel(lm, True)
    ours, _ = answer(lm, embeddings, 4, False)
    assert ours[0] == theirs[0]  # the prompt's many rows stay bitsandbytes'
    use_own_kernel(lm, False)
    assert answer(lm, embeddings, 4, False)[0] == theirs


@pytest.mark.parametrize("family", sorted(MODELS))
def test_choosing_inside_the_graph_reports_what_choosing_outside_does(family: str) -> None:
    """Ids, log-probabilities and alternatives; and no copy to the host but the one that reads them."""
    lm = contestants.build(MODELS[family], "bf16", torch.device("cuda")).language_model
    embeddings = torch.randn(1, 30, 512, device="cuda").bfloat16()
    plain, _ = answer(lm, embeddings, 40, True)
    sampler = Sampler([Sampling()], torch.device("cuda"))
    found = []
    for graphs in (True, False):
        state = lm.new_state(1, 100)
        with torch.inference_mode():
            logits = lm.logits(lm(embeddings, state)[:, -1])
            runner = step_runner(lm, state, tail=sampler.tail, graphs=graphs)
            chosen, choices = sampler.choose(logits), []
            runner.prepare(39)
            for _ in range(40):
                choices.append(sampler.read(chosen)[0])
                with nobody_waits():
                    chosen = runner(chosen.ids)
        assert runner.graphed is graphs, runner.reason
        found.append(choices)
    assert [choice.id for choice in found[0]] == [choice.id for choice in found[1]] == plain
    for graphed, eager in zip(*found, strict=True):
        assert graphed.top_ids == eager.top_ids
        assert graphed.top_logprobs == pytest.approx(eager.top_logprobs, abs=1e-2)


def test_windows_of_torch_attention_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel that finds the filled slots itself does not run: a graph for each window, with a mask."""
    monkeypatch.setattr(pythia, "finds_filled_slots", lambda *given: False)
    lm = contestants.build(MODELS["pythia"], "fp32", torch.device("cuda")).language_model
    torch.manual_seed(0)
    embeddings = torch.randn(1, 100, 512, device="cuda")
    eager, _ = answer(lm, embeddings, 64, False)
    graphed, runner = answer(lm, embeddings, 64, True)
    assert runner.graphed, runner.reason
    assert sorted(window for _, window in runner.buffers.graphs) == [128, 256]
    assert graphed == eager


@pytest.mark.parametrize("rule", [Sampling(0.8, seed=1), Sampling(0.8, 0.9, 40, seed=1)])
def test_drawing_waits_for_nothing(rule: Sampling) -> None:
    sampler = Sampler([rule], torch.device("cuda"))
    logits = torch.randn(1, 50_000, device="cuda")
    with torch.inference_mode():
        sampler.choose(logits)  # first calls load kernels
        with nobody_waits():
            chosen = sampler.choose(logits)
        assert 0 <= sampler.read(chosen)[0].id < 50_000


def test_a_failed_capture_spoils_neither_memory_nor_the_next_one() -> None:
    device, side = torch.device("cuda", 0), torch.cuda.Stream()
    values = torch.ones(8, device=device)
    with pytest.raises(RuntimeError, match="captur"), recording(device, side):
        float(values.sum())  # the host cannot wait for what is only recorded
    release_cached_memory()
    assert torch.randn(8, device=device).isfinite().all()
    with recording(device, side) as graph:
        doubled = values * 2
    graph.replay()
    assert doubled.tolist() == [2.0] * 8


def test_two_threads_answer_with_graphs_at_the_same_time() -> None:
    """Both families, captured while the other thread computes: the tokens are those of one after the other."""
    built = {family: contestants.build(MODELS[family], "bf16", torch.device("cuda")) for family in MODELS}
    torch.manual_seed(0)
    embeddings = torch.randn(1, 50, 512, device="cuda").bfloat16()
    alone = {family: answer(vlm.language_model, embeddings, 60, False)[0] for family, vlm in built.items()}
    found: dict[str, tuple[list[int], Any]] = {}
    threads = [
        threading.Thread(target=lambda f=f: found.update({f: answer(built[f].language_model, embeddings, 60, True)}))  # type: ignore[misc]
        for f in built
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {family: tokens for family, (tokens, _) in found.items()} == alone
    assert all(runner.graphed for _, runner in found.values()), [runner.reason for _, runner in found.values()]


def test_the_clock_tells_the_device_s_time() -> None:
    """A lap lasts as long as the work that was queued in it, and what the consumer does between two is not in it."""
    matrix = torch.randn(4096, 4096, device="cuda")
    clock = Clock(torch.device("cuda"))
    for _ in range(3):
        matrix @ matrix
    clock.lap()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(20):
        matrix @ matrix
    end.record()
    seconds = clock.lap()
    assert end.query()
    assert seconds == pytest.approx(begin.elapsed_time(end) / 1e3, rel=0.2)
    with clock.paused():
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
    assert clock.lap() < seconds / 2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("order", ["image_first", "instruction_first"])
def test_reference_variants_on_cuda(reference: Path, reference_checkpoints: Path, variant: str, order: str) -> None:
    import vlcompare

    folder = reference_checkpoints / variant
    if not folder.exists():
        pytest.skip(f"the oracle has no variant {variant}")
    expected = np.load(reference / "expected" / f"{variant}.npz")
    model = vlcompare.load(folder, device="cuda", dtype="float32")
    pixels = np.load(reference / "expected" / f"pixel_values_{model.config.image_size}.npz")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        logits = model.logits(
            pixels[pixels.files[0]].reshape(3, model.config.image_size, -1), expected[f"{order}.input_ids"].reshape(-1)
        )
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    truth = torch.from_numpy(expected[f"{order}.last_logits"]).reshape(-1)
    torch.testing.assert_close(logits[-1], truth, rtol=0, atol=1e-3)
