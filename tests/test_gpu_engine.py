"""On a CUDA GPU: graphs give what eager steps give, both families, bf16, int8 and NF4; the oracle on CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlcompare.bench import contestants
from vlcompare.models.config import MambaConfig, ModelConfig, PythiaConfig, VisionConfig
from vlcompare.runtime.graphs import step_runner
from vlcompare.runtime.sampling import Sampler, Sampling, greedy

pytestmark = pytest.mark.gpu

SCENE = {"stem": [8, 8, 16, 24], "depth": 1, "heads": 2, "hidden": 32, "grid": 4}
VISION = VisionConfig("vlcompare/scene", 64, scene=SCENE)
# wide enough for the quantized kernels, deep enough for errors to show, small enough to build in a second
MODELS = {
    "pythia": ModelConfig("pythia", VISION, PythiaConfig(1024, 512, 6, 8, 2048), 64),
    "mamba": ModelConfig("mamba", VISION, MambaConfig(1024, 512, 6), 64),
}
VARIANTS = ("a_pythia_single_f32", "b_mamba_ln_both", "e_mamba_rms", "f_pythia_shards_bf16", "h_mamba_clipflags_336")


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
    from vlcompare.models.kernels import nf4

    lm = contestants.build(MODELS[family], "nf4", torch.device("cuda")).language_model
    embeddings = torch.randn(1, 100, 512, device="cuda").bfloat16()
    theirs, _ = answer(lm, embeddings, 4, False)
    assert nf4.take_over(lm) > 0
    ours, _ = answer(lm, embeddings, 4, False)
    assert ours[0] == theirs[0]  # the prompt's many rows stay bitsandbytes'
    assert nf4.take_over(lm, False) > 0
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
                torch.cuda.set_sync_debug_mode("error")
                chosen = runner(chosen.ids)
                torch.cuda.set_sync_debug_mode("default")
        assert runner.graphed is graphs, runner.reason
        found.append(choices)
    assert [choice.id for choice in found[0]] == [choice.id for choice in found[1]] == plain
    for graphed, eager in zip(*found, strict=True):
        assert graphed.top_ids == eager.top_ids
        assert graphed.top_logprobs == pytest.approx(eager.top_logprobs, abs=1e-2)


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
