"""Capture logic with a fake in place of CUDA: windows, homes, the fallback, and the same logits as eager steps."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlcompare.errors import RequestError
from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.runtime import graphs
from vlcompare.runtime.graphs import step_runner


class FakeCapturer:
    """Runs the recorded function again at each replay."""

    def __init__(self, fail: bool = False) -> None:
        self.fail = fail
        self.state: Any = None
        self.warmed = self.captured = 0

    def warm(self, function: Callable[[], Any]) -> None:
        self.warmed += 1
        function()

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        if self.fail:
            raise RuntimeError("operation not permitted when stream is capturing\nand more lines")
        self.captured += 1
        before = self.state.snapshot()
        out = function()
        self.state.copy_(before)

        return lambda: out.copy_(function()), out


def language_model(family: str) -> Any:
    torch.manual_seed(0)
    if family == "pythia":
        return Pythia(PythiaConfig(50, 32, 2, 2, 64, max_positions=512)).eval()
    return Mamba(MambaConfig(50, 32, 2)).eval()


def prompted(lm: Any, length: int, capacity: int) -> Any:
    torch.manual_seed(1)
    state = lm.new_state(1, capacity)
    with torch.inference_mode():
        lm(lm.embed_tokens(torch.randint(0, 50, (1, length))), state)
    return state


def walk(runner: Any, count: int) -> list[Tensor]:
    logits = []
    with torch.inference_mode():
        for token in range(count):
            logits.append(runner(torch.tensor([token % 50])).clone())
    return logits


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_graphed_equals_eager_across_windows(family: str) -> None:
    lm = language_model(family)
    capturer = FakeCapturer()
    state = prompted(lm, 120, 160)
    capturer.state = state
    runner = step_runner(lm, state, capturer=lambda device: capturer)
    eager = prompted(lm, 120, 160)
    ours, truth = walk(runner, 20), walk(step_runner(lm, eager, graphs=False), 20)
    assert runner.graphed and not runner.reason
    assert max(float((a - b).abs().max()) for a, b in zip(ours, truth, strict=True)) < 1e-5
    assert state.length == eager.length == 140
    assert torch.equal(state.positions, eager.positions)
    # positions 120..127 see a window of 128, the others one of 256; a recurrence has one graph
    assert capturer.captured == capturer.warmed == (2 if family == "pythia" else 1)


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_failed_capture_goes_on_eagerly_and_says_why(family: str) -> None:
    lm = language_model(family)
    state, eager = prompted(lm, 7, 20), prompted(lm, 7, 20)
    runner = step_runner(lm, state, capturer=lambda device: FakeCapturer(fail=True))
    ours, truth = walk(runner, 5), walk(step_runner(lm, eager, graphs=False), 5)
    assert not runner.graphed
    assert runner.reason == "the capture failed: operation not permitted when stream is capturing"
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, truth, strict=True))
    assert state.length == 12


def test_a_home_is_used_again_once_its_state_is_gone() -> None:
    lm = language_model("pythia")
    made: list[FakeCapturer] = []

    def capturer(device: torch.device) -> FakeCapturer:
        made.append(FakeCapturer())
        return made[-1]

    first = prompted(lm, 7, 20)
    runner = step_runner(lm, first, capturer=capturer)
    made[0].state = first
    walk(runner, 2)
    second = prompted(lm, 9, 30)
    step_runner(lm, second, capturer=capturer)
    assert len(made) == 2  # the first state is still held: its buffers are not touched
    assert first.length == 9
    del first, runner
    made[0].state = None
    gc.collect()
    third = prompted(lm, 5, 40)
    eager = prompted(lm, 5, 40)
    again = step_runner(lm, third, capturer=capturer)
    made[0].state = third
    assert len(made) == 2
    assert len(graphs._homes[lm]) == 2
    assert third.length == 5
    assert torch.equal(third.positions, eager.positions)
    assert again.graphed


def test_a_full_state_is_refused_before_anything_is_captured() -> None:
    lm = language_model("mamba")
    state = prompted(lm, 4, 4)
    capturer = FakeCapturer()
    runner = step_runner(lm, state, capturer=lambda device: capturer)
    with pytest.raises(RequestError, match="full"):
        runner(torch.tensor([1]))
    assert runner.graphed and capturer.captured == 0


def test_a_tail_runs_behind_the_logits() -> None:
    lm = language_model("mamba")
    state, eager = prompted(lm, 4, 9), prompted(lm, 4, 9)
    capturer = FakeCapturer()
    capturer.state = state
    runner = step_runner(lm, state, capturer=lambda device: capturer, tail=lambda logits: logits.argmax(-1))
    plain = step_runner(lm, eager, graphs=False)
    with torch.inference_mode():
        ids = torch.tensor([3])
        for _ in range(4):
            assert torch.equal(runner(ids), plain(ids).argmax(-1))
            ids = ids + 1


def test_without_a_cuda_device_steps_are_eager() -> None:
    lm = language_model("mamba")
    runner = step_runner(lm, prompted(lm, 3, 9))
    assert not runner.graphed
    assert runner.reason == "CUDA graphs need a CUDA device"


def test_graphs_go_with_their_model() -> None:
    lm = language_model("mamba")
    step_runner(lm, prompted(lm, 3, 9), capturer=lambda device: FakeCapturer())
    before = len(graphs._homes)
    del lm
    gc.collect()
    assert len(graphs._homes) == before - 1
