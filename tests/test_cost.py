"""What a checkpoint costs before it is fetched: sizes from the list, room in memory and on disk, and seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vlcompare.runtime.loading import cost as module
from vlcompare.runtime.loading.cost import Cost, Rate, answer_seconds, cost, measured_rate, obstacle
from vlcompare.types import ModelSpec

PAIR = ("finetuned_pythiavl_1b", "finetuned_mambavl_790m")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def spec(name: str, **how: str) -> ModelSpec:
    return ModelSpec(name, device="cpu", **how)  # type: ignore[arg-type]


def test_the_small_published_pair_is_4_8_gb_to_fetch_and_twice_that_in_float32(monkeypatch: Any) -> None:
    found = [cost(spec(name)) for name in PAIR]
    assert sum(one.download or 0 for one in found) / 1e9 == pytest.approx(4.8, abs=0.05)
    whole = [cost(spec(name, dtype="float32")) for name in PAIR]
    assert sum(one.weights or 0 for one in whole) / 1e9 == pytest.approx(9.7, abs=0.1)
    for instructions, size in ((True, 4.85), (False, 4.85 + 2 * 2 * 0.304)):  # the encoders stay in float32 without
        monkeypatch.setattr("vlcompare.runtime.loading.devices.native_bfloat16", lambda found=instructions: found)
        assert sum(cost(spec(name)).weights or 0 for name in PAIR) / 1e9 == pytest.approx(size, abs=0.1)
    assert cost(spec("finetuned_mambavl_2.8b")).download == pytest.approx(6.16e9)  # as the Hub shows it


def test_what_is_here_is_not_fetched_and_what_has_begun_counts(empty_cache: Path) -> None:
    assert cost(spec("tiny-pythia-vl")).download == 0
    blobs = empty_cache / "models--gpantaz--finetuned_pythiavl_1b" / "blobs"
    blobs.mkdir(parents=True)
    whole = cost(spec(PAIR[0])).download
    (blobs / "half.incomplete").write_bytes(b"0" * 1000)
    assert cost(spec(PAIR[0])).download == (whole or 0) - 1000
    unknown = cost(spec("somebody/something"))
    assert unknown.download is None and unknown.memory is None


@pytest.mark.parametrize(
    ("free", "disk", "budget", "evictable", "words"),
    [
        (30e9, 30e9, None, 0, ""),
        (3e9, 30e9, None, 0, "9.5 GB of memory, and 3.0 GB are free"),
        (3e9, 30e9, None, 8e9, ""),  # loaded models make room
        (30e9, 30e9, 4e9, 0, "4.0 GB are allowed here"),
        (30e9, 1e9, None, 0, "4.8 GB are to be fetched, and 1.0 GB are free on the disk"),
    ],
)
def test_what_does_not_fit_says_why(
    monkeypatch: pytest.MonkeyPatch, free: float, disk: float, budget: float | None, evictable: float, words: str
) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda device: int(free))
    monkeypatch.setattr(module, "free_disk", lambda: int(disk))
    costs = [Cost(int(2.6e9), int(5e9), int(0.5e9)), Cost(int(2.2e9), int(4e9), int(0.4e9))]
    said = obstacle(costs, "cpu", budget=None if budget is None else int(budget), evictable=int(evictable))
    assert said.endswith(words) and bool(said) == bool(words)


@pytest.mark.parametrize(
    ("name", "vision", "prefill", "token"), [(PAIR[0], 3.36, 7.56, 0.118), (PAIR[1], 3.36, 7.95, 0.140)]
)
def test_seconds_are_near_what_was_measured(name: str, vision: float, prefill: float, token: float) -> None:
    """At the rates of the machine of the README's table: some 120 GFLOP/s in float32, 28 GB/s."""
    measured = vision + prefill + 20 * token
    assert answer_seconds(spec(name), Rate(120e9, 28e9)) == pytest.approx(measured, rel=0.3)
    assert answer_seconds(spec("tiny-mamba-vl")) is None and answer_seconds(spec("somebody/something")) is None


def test_the_rate_is_measured_once_and_plausible() -> None:
    rate = measured_rate(torch.device("cpu"))
    assert 1e8 < rate.operations < 1e14 and 1e8 < rate.bytes < 1e13
    assert measured_rate(torch.device("cpu")) is rate
