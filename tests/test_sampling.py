"""Choosing a token: greedy, the cuts, and seeds that give the same tokens in any batch."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vlcompare.runtime.sampling import Sampler, Sampling

CPU = torch.device("cpu")


def logits(seed: int, rows: int = 3, vocabulary: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def test_greedy_takes_the_likeliest_and_reports_it() -> None:
    values = logits(0)
    ids, choices = Sampler([Sampling()] * 3, CPU)(values)
    expected = torch.log_softmax(values, -1)
    assert ids.tolist() == values.argmax(-1).tolist() == [choice.id for choice in choices]
    for row, choice in enumerate(choices):
        assert choice.top_ids[0] == choice.id
        assert choice.logprob == pytest.approx(expected[row, choice.id].item(), abs=1e-6)
        assert list(choice.top_logprobs) == sorted(choice.top_logprobs, reverse=True)


def test_a_row_draws_the_same_in_any_batch() -> None:
    rule = Sampling(temperature=1.0, seed=7)
    alone, others = Sampler([rule], CPU), Sampler([Sampling(), rule, Sampling(0.5, seed=1)], CPU)
    for step in range(20):
        values = logits(step)
        assert alone(values[1:2])[0].item() == others(values)[0][1].item()


def test_another_seed_draws_other_tokens() -> None:
    draws = [[Sampler([Sampling(1.5, seed=seed)], CPU)(logits(s, 1))[0].item() for s in range(30)] for seed in (1, 2)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (Sampling(temperature=5.0, top_k=2), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.6), {0, 1}),  # 0.5 alone does not reach 0.6, so 1 belongs to it
        (Sampling(temperature=1.0, top_p=0.4), {0}),
        (Sampling(temperature=1.0, top_p=1e-9), {0}),
    ],
)
def test_cuts(rule: Sampling, allowed: set[int]) -> None:
    values = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    sampler = Sampler([rule], CPU)
    assert {sampler(values)[0].item() for _ in range(200)} == allowed


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-40, 5e-324])
def test_next_to_no_temperature_draws_the_likeliest(temperature: float) -> None:
    values = logits(1, rows=2)
    for cuts in ({}, {"top_k": 7, "top_p": 0.9}):
        assert Sampler([Sampling(temperature, **cuts)] * 2, CPU)(values)[0].tolist() == values.argmax(-1).tolist()


@pytest.mark.parametrize(
    "rule", [Sampling(), Sampling(0.7), Sampling(0.7, top_k=5), Sampling(0.7, top_p=0.9), Sampling(0.7, 0.9, 5)]
)
def test_choosing_never_waits_for_the_device(rule: Sampling) -> None:
    """Tensors without values raise where the host asks for one: each such question would be a wait, every token."""
    with FakeTensorMode():
        chosen = Sampler([rule, Sampling()], CPU).choose(torch.empty(2, 50))
    assert tuple(chosen.ids.shape) == (2,)


def test_draws_follow_the_distribution() -> None:
    values = torch.tensor([[0.6, 0.3, 0.1]]).log()
    sampler = Sampler([Sampling(temperature=1.0, seed=3)], CPU)
    counts = torch.bincount(torch.tensor([sampler(values)[0].item() for _ in range(3000)]), minlength=3) / 3000
    assert torch.allclose(counts, torch.tensor([0.6, 0.3, 0.1]), atol=0.04)


def test_alternatives_are_as_many_as_asked_for() -> None:
    for count in (0, 1, 3):
        (choice,) = Sampler([Sampling()], CPU, count)(logits(1, 1))[1]
        assert len(choice.top_ids) == len(choice.top_logprobs) == count
