"""Capture logic with a fake in place of CUDA: windows, buffers, the fallback, and the same logits as eager steps."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vlcompare.errors import RequestError
from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.kernels import fallback, verdicts
from vlcompare.models.kernels.cuda.graph_capture import CudaCapturer, recording
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.runtime.clock import Clock
from vlcompare.runtime.decode_loop import decode
from vlcompare.runtime.sampling import Choice, Chosen, Sampler, Sampling, greedy
from vlcompare.runtime.step_graphs import step_runner

CLOCK = Clock(torch.device("cpu"))


class FakeCapturer:
    """Runs the recorded function again at each replay."""

    def __init__(self, fail_from: int | None = None) -> None:
        self.fail_from = fail_from  # captures that succeed before one fails
        self.state: Any = None
        self.warmed = self.captured = 0
        self.replay_error: Exception | None = None
        self.replays = 0

    def warm(self, function: Callable[[], Any]) -> Any:
        self.warmed += 1
        return function()

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        if self.captured == self.fail_from:
            raise RuntimeError("operation not permitted when stream is capturing\nand more lines")
        self.captured += 1
        before = self.state.snapshot()
        out = function()
        self.state.copy_(before)

        def replay() -> None:
            if self.replay_error is not None:
                raise self.replay_error
            self.replays += 1
            for buffer, value in zip(tensors(out), tensors(function()), strict=True):
                buffer.copy_(value)

        return replay, out


def tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


class CountingSampler(Sampler):
    """Counts what crosses to the host, and what was chosen outside of a captured step."""

    reads = chosen_outside = 0
    capturer: FakeCapturer | None = None

    def choose(self, logits: Tensor) -> Chosen:
        self.chosen_outside += 1
        return super().choose(logits)

    def received(self, packed: Tensor) -> list[Choice]:
        self.reads += 1
        if self.capturer is not None:
            self.seen.append(self.capturer.replays)
        return super().received(packed)

    def watch(self, capturer: FakeCapturer) -> None:
        """Note at each read how many replays were launched until then."""
        self.capturer, self.seen = capturer, []  # type: ignore[var-annotated]


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
    runner = step_runner(lm, state, capturer=lambda device: FakeCapturer(fail_from=0))
    ours, truth = walk(runner, 5), walk(step_runner(lm, eager, graphs=False), 5)
    assert not runner.graphed
    assert runner.reason == "the capture failed: operation not permitted when stream is capturing"
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, truth, strict=True))
    assert state.length == 12


@pytest.mark.parametrize("family", ["pythia", "mamba"])
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: unknown\nand more lines"), torch.OutOfMemoryError("no")])
def test_a_failed_replay_is_made_good_eagerly(family: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores in that call and from then on; later answers start eagerly, except after a lack of memory."""
    monkeypatch.setattr(fallback, "_failed", set())
    monkeypatch.setattr(fallback, "_sentences", {})
    lm = language_model(family)
    state, eager, capturer = prompted(lm, 120, 160), prompted(lm, 120, 160), FakeCapturer()
    runner = step_runner(lm, state, capturer=lambda device: capturer)
    capturer.state = state
    ours = walk(runner, 5)
    capturer.replay_error = error
    ours += walk(runner, 15)
    truth = walk(step_runner(lm, eager, graphs=False), 5)
    truth += walk(step_runner(lm, eager, graphs=False), 15)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, truth, strict=True)) < 1e-5
    assert state.length == 140 and torch.equal(state.positions, eager.positions)
    assert not runner.graphed and runner.reason == f"a replay failed: {str(error).splitlines()[0]}"
    assert fallback.notices("cuda") == (f"CUDA graphs are not used: {runner.reason}. Tokens take longer.",)
    again = step_runner(lm, prompted(lm, 7, 20), capturer=lambda device: FakeCapturer())
    assert again.graphed is isinstance(error, torch.OutOfMemoryError)
    assert again.graphed or again.reason == "a replay failed before"


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_a_replay_with_other_scores_is_not_used(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the comparison behind the capture, before any token comes from it."""
    monkeypatch.setattr(fallback, "_failed", set())
    monkeypatch.setattr(fallback, "_sentences", {})
    lm, capturer = language_model(family), FakeCapturer()
    state, eager = prompted(lm, 7, 20), prompted(lm, 7, 20)
    capturer.state = state
    capture = capturer.capture

    def wrong(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        replay, out = capture(function)
        return lambda: (replay(), tensors(out)[0].add_(torch.arange(50.0))), out  # type: ignore[return-value]

    monkeypatch.setattr(capturer, "capture", wrong)
    runner = step_runner(lm, state, capturer=lambda device: capturer)
    ours, truth = walk(runner, 5), walk(step_runner(lm, eager, graphs=False), 5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, truth, strict=True))
    assert not runner.graphed and "other scores" in runner.reason and fallback.failed("graphs")
    found = {proof.case: proof.verdict for proof in verdicts.proofs()}
    assert found[f"graph of {type(lm).__name__} for 1 rows, window {128 if family == 'pythia' else 0}"] == "differs"
    assert torch.equal(state.positions, eager.positions) and state.length == 12


def test_scores_that_are_no_numbers_are_the_same_in_a_replay() -> None:
    lm, capturer = language_model("mamba"), FakeCapturer()
    with torch.no_grad():
        lm.norm_f.weight.fill_(float("nan"))
    capturer.state = state = prompted(lm, 7, 20)
    runner = step_runner(lm, state, tail=greedy(3), capturer=lambda device: capturer)
    with torch.inference_mode():
        chosen = runner(torch.tensor([1]))
    assert runner.graphed and 0 <= int(chosen.ids) < 50 and chosen.packed[0, 1].isnan()


def test_a_library_that_may_end_the_process_is_captured_only_alone() -> None:
    lm, capturer = language_model("mamba"), FakeCapturer()
    capturer.state = state = prompted(lm, 7, 20)
    lm.layers[0].mixer.in_proj.may_end_process = True
    runner = step_runner(lm, state, alone=False, capturer=lambda device: capturer)
    walk(runner, 2)
    assert not runner.graphed and not capturer.warmed and "at work" in runner.reason
    del runner
    runner = step_runner(lm, state, capturer=lambda device: capturer)
    walk(runner, 2)
    assert runner.graphed and capturer.captured == 1


def test_a_capture_copies_no_cache() -> None:
    state = prompted(language_model("pythia"), 7, 20)
    assert state.before_step().keys_nbhsk is state.keys_nbhsk


def test_graphs_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLCOMPARE_GRAPHS", "0")
    lm = language_model("mamba")
    runner = step_runner(lm, prompted(lm, 7, 20), capturer=lambda device: FakeCapturer())
    assert not runner.graphed and runner.reason == "VLCOMPARE_GRAPHS=0"


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_buffers_are_used_again_once_their_state_is_gone(family: str) -> None:
    lm = language_model(family)
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
    assert third.length == 5
    assert torch.equal(third.positions, eager.positions)
    assert again.graphed


def test_a_full_state_is_refused_before_anything_is_captured() -> None:
    lm = language_model("pythia")
    state = prompted(lm, 512, 512)
    capturer = FakeCapturer()
    runner = step_runner(lm, state, capturer=lambda device: capturer)
    with pytest.raises(RequestError, match="full"):
        runner(torch.tensor([1]))
    assert runner.graphed and capturer.captured == 0


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_the_choice_is_part_of_the_captured_step(family: str) -> None:
    """Through the decode loop: the same ids, log-probabilities and alternatives; one copy to the host a token."""
    lm = language_model(family)
    found = []
    for replayed in (True, False):
        state = prompted(lm, 120, 160)
        capturer = FakeCapturer()
        sampler = CountingSampler([Sampling()], torch.device("cpu"))
        runner = step_runner(lm, state, graphs=replayed, tail=sampler.tail, capturer=lambda device, c=capturer: c)
        capturer.state = state
        runner.prepare(19)
        captured = capturer.captured
        with torch.inference_mode():
            logits = lm.logits(lm.embed_tokens(torch.tensor([7])))
            steps = decode(runner, logits, sampler, state_full=lambda: state.length >= 139, clock=CLOCK)  # noqa: B023
            found.append([choice for (choice,) in steps])
        assert runner.graphed is replayed
        assert capturer.captured == captured == (0 if not replayed else 2 if family == "pythia" else 1)
        assert sampler.reads == len(found[-1]) == 20
        assert sampler.chosen_outside == 1  # the prompt's own token
    for graphed, eager in zip(*found, strict=True):
        assert (graphed.id, graphed.top_ids) == (eager.id, eager.top_ids)
        assert graphed.top_logprobs == pytest.approx(eager.top_logprobs, abs=1e-5)


def filled(lm: Any, state: Any) -> list[Tensor]:
    """What the state says of the positions that it holds."""
    if isinstance(lm, Mamba):
        return [state.windows_nbdk, state.states_nbdn, state.positions]
    keys, values = (x[:, :, :, : state.length] for x in (state.keys_nbhsk, state.values_nbhsk))
    return [keys, values, state.positions]


@pytest.mark.parametrize("family", ["pythia", "mamba"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_next_replay_is_launched_before_a_token_is_read_and_dropped_behind_the_last(
    family: str, temperature: float
) -> None:
    """The same tokens as without, and the state of an answer that ends after any number of them."""
    lm = language_model(family)
    for count in (1, 2, 6):
        found, states = [], []
        for replayed in (True, False):
            state, capturer = prompted(lm, 120, 160), FakeCapturer()
            sampler = CountingSampler([Sampling(temperature, seed=5)], torch.device("cpu"))
            runner = step_runner(lm, state, graphs=replayed, tail=sampler.tail, capturer=lambda device, c=capturer: c)
            capturer.state = state
            runner.prepare(20)
            sampler.watch(capturer)
            before = capturer.replays
            with torch.inference_mode():
                logits = lm.logits(lm.embed_tokens(torch.tensor([7])))
                full = lambda: state.length >= 160  # noqa: B023, E731
                with contextlib.closing(decode(runner, logits, sampler, state_full=full, clock=CLOCK)) as tokens:
                    found.append([next(tokens)[0].id for _ in range(count)])
            assert state.length == 120 + count - 1
            # the first token is read before anything is launched; then each while the next one is on its way
            expected = [0, *range(2, count + 1)] if replayed else [0] * count
            assert [seen - before for seen in sampler.seen] == expected
            states.append(state)
        assert found[0] == found[1]
        for ours, truth in zip(*(filled(lm, state) for state in states), strict=True):
            assert torch.allclose(ours, truth, atol=1e-6)


def test_a_state_that_nobody_uses_again_is_not_copied_for_every_token() -> None:
    lm, capturer = language_model("mamba"), FakeCapturer()
    capturer.state = state = prompted(lm, 7, 40)
    runner = step_runner(lm, state, outlives=False, capturer=lambda device: capturer)
    walk(runner, 1)
    assert runner.ahead(torch.tensor([1])) is not None and runner._before is None
    runner.drop()
    assert state.length == 8


def test_a_full_state_runs_nothing_ahead() -> None:
    lm, capturer = language_model("pythia"), FakeCapturer()
    capturer.state = state = prompted(lm, 510, 512)
    runner = step_runner(lm, state, tail=greedy(3), capturer=lambda device: capturer)
    sampler = Sampler([Sampling()], torch.device("cpu"), 3)
    with torch.inference_mode():
        logits = lm.logits(lm.embed_tokens(torch.tensor([7])))
        tokens = list(decode(runner, logits, sampler, state_full=lambda: state.length >= 512, clock=CLOCK))
    assert len(tokens) == 3 and state.length == 512


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_a_replay_that_fails_ahead_is_made_good_in_its_turn(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "_failed", set())
    monkeypatch.setattr(fallback, "_sentences", {})
    lm, found = language_model(family), []
    for fails in (True, False):
        state, capturer = prompted(lm, 7, 40), FakeCapturer()
        sampler = Sampler([Sampling()], torch.device("cpu"), 3)
        runner = step_runner(lm, state, tail=sampler.tail, graphs=fails, capturer=lambda device, c=capturer: c)
        capturer.state = state
        with torch.inference_mode():
            logits = lm.logits(lm.embed_tokens(torch.tensor([7])))
            full = lambda: state.length >= 30  # noqa: B023, E731
            ids = []
            for choices in decode(runner, logits, sampler, state_full=full, clock=CLOCK):
                ids.append(choices[0].id)
                if len(ids) == 5:
                    capturer.replay_error = RuntimeError("CUDA error: unknown")
        found.append(ids)
        assert state.length == 30 and not runner.graphed
    assert found[0] == found[1] and len(found[0]) == 24


@pytest.mark.parametrize("fail_from", [None, 1])
def test_a_graph_captured_in_the_middle_of_an_answer_reads_the_token_at_hand(fail_from: int | None) -> None:
    """Nothing is prepared: the second window's graph is captured, or fails to be, when a replay's own ids come in."""
    lm = language_model("pythia")
    found = []
    for replayed in (True, False):
        state = prompted(lm, 120, 160)
        capturer = FakeCapturer(fail_from=fail_from)
        capturer.state = state
        runner = step_runner(lm, state, graphs=replayed, tail=greedy(3), capturer=lambda device, c=capturer: c)
        ids = torch.tensor([7])
        with torch.inference_mode():
            found.append([int(ids := runner(ids).ids) for _ in range(20)])
        assert capturer.captured == (0 if not replayed else 2 if fail_from is None else 1)
    assert len(set(found[0])) > 1
    assert found[0] == found[1]


def test_one_recording_at_a_time_and_none_leaves_its_stream_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sides of a race: torch waits for the whole device where a recording begins, so no other may be under way."""
    under_way: list[str] = []
    together: list[int] = []
    collects: list[bool] = []
    raised: list[Exception] = []
    abandoned: list[tuple[object, ...]] = []
    streams = {"current": "default"}

    @contextlib.contextmanager
    def graph(made: object, *, pool: object, stream: str, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local" and pool is not None
        under_way.append(stream)
        together.append(len(under_way))
        streams["current"] = stream
        time.sleep(0.02)
        try:
            yield
        except ValueError:
            raise RuntimeError("operation failed due to a previous error during capture") from None
        finally:  # like torch's own, which leaves the stream as it is where the end of a recording raises
            under_way.remove(stream)

    fakes = {
        "CUDAGraph": object,
        "graph": graph,
        "graph_pool_handle": lambda: "a new pool",
        "device": lambda device: contextlib.nullcontext(),
        "current_stream": lambda device: streams["current"],
        "set_stream": lambda stream: streams.update(current=stream),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *ended: abandoned.append(ended), raising=False)

    def record(stream: str) -> None:
        try:
            with recording(torch.device("cuda", 0), stream, None if stream == "side 0" else "a pool"):
                collects.append(gc.isenabled())
                raise ValueError("a copy from memory that is not pinned")
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=record, args=(f"side {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1, 1]
    assert collects == [False] * 3 and gc.isenabled()  # a collection may destroy other graphs
    assert streams["current"] == "default"
    # what went wrong first is what is told, and the allocator, which still takes a recording to be under way, is freed
    assert [str(error) for error in raised] == ["a copy from memory that is not pinned"] * 3
    assert sorted(abandoned) == [(0, "a new pool"), (0, "a pool"), (0, "a pool")]


def test_a_failed_recording_holds_on_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback that refers to itself would keep a whole state in memory until Python's next collection."""

    @contextlib.contextmanager
    def graph(made: object, **given: object) -> Iterator[None]:
        try:
            yield
        except ValueError:
            raise RuntimeError("operation failed due to a previous error during capture") from None

    nothing: Any = lambda *given: contextlib.nullcontext()  # noqa: E731
    for name in ("graph_pool_handle", "device", "current_stream", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", nothing, raising=False)

    def fail() -> weakref.ref[Tensor]:
        held = torch.zeros(3)
        with contextlib.suppress(ValueError), recording(torch.device("cuda", 0), "side"):
            raise ValueError(str(held.shape))
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


class FakeStream:
    """Notes who waits for whom."""

    def __init__(self, notes: list[str], name: str) -> None:
        self.notes, self.name = notes, name

    def wait_stream(self, other: FakeStream) -> None:
        self.notes.append(f"{self.name} waits for {other.name}")


def test_streams_wait_for_each_other_even_where_the_warm_up_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stream is used again once its buffers are freed: libraries keep a workspace for each."""
    notes: list[str] = []
    made: list[FakeStream] = []

    def stream(device: torch.device) -> FakeStream:
        made.append(FakeStream(notes, f"side {len(made)}"))
        return made[-1]

    current = FakeStream(notes, "current")
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(CudaCapturer, "_spare", {})
    device = torch.device("cuda", 0)
    first, second = CudaCapturer(device), CudaCapturer(device)

    def fails() -> None:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        second.warm(fails)
    assert notes == ["side 1 waits for current", "current waits for side 1"]
    del second
    third = CudaCapturer(device)
    assert (first.stream, third.stream) == (made[0], made[1])
    assert len(made) == 2


@pytest.mark.parametrize("family", ["pythia", "mamba"])
def test_unused_buffers_make_room_for_new_ones(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for one set of buffers: the second shape's need the first one's room, and no rounding up."""
    lm = language_model(family)
    make = type(lm).new_state
    asked: list[int] = []

    def scarce(self: Any, batch: int, capacity: int, **how: Any) -> Any:
        asked.append(capacity)
        if any(buffers() is not None for buffers in made) or capacity > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(self, batch, capacity, **how)

    made = [weakref.ref(step_runner(lm, prompted(lm, 7, 20), capturer=lambda device: FakeCapturer()).buffers)]
    wide = make(lm, 2, 150)
    monkeypatch.setattr(type(lm), "new_state", scarce)
    runner = step_runner(lm, wide, capturer=lambda device: FakeCapturer())
    assert runner.graphed
    assert asked == [512 if family == "pythia" else 1024, 150]
    assert made[0]() is None and runner.buffers.ids.shape == (2,)
    made.append(weakref.ref(runner.buffers))
    other = step_runner(lm, make(lm, 3, 10), capturer=lambda device: FakeCapturer())
    assert not other.graphed and "memory" in other.reason  # the buffers of `wide` are in use


def test_drawn_tokens_are_chosen_behind_the_replay() -> None:
    lm = language_model("mamba")
    found = []
    for replayed in (True, False):
        state = prompted(lm, 4, 40)
        capturer = FakeCapturer()
        capturer.state = state
        sampler = Sampler([Sampling(temperature=1.0, seed=3)], torch.device("cpu"))
        assert sampler.tail is None
        runner = step_runner(lm, state, graphs=replayed, tail=sampler.tail, capturer=lambda device, c=capturer: c)
        capturer.state = state
        with torch.inference_mode():
            logits = lm.logits(lm.embed_tokens(torch.tensor([7])))
            steps = decode(runner, logits, sampler, state_full=lambda: state.length >= 30, clock=CLOCK)  # noqa: B023
            found.append([choice.id for (choice,) in steps])
    assert found[0] == found[1] and len(found[0]) == 27


def test_buffers_hold_graphs_with_and_without_a_tail() -> None:
    lm = language_model("mamba")
    made: list[FakeCapturer] = []

    def capturer(device: torch.device) -> FakeCapturer:
        made.append(FakeCapturer())
        return made[-1]

    for tail in (None, greedy(5), None, greedy(5), greedy(3)):
        state = prompted(lm, 4, 40)
        runner = step_runner(lm, state, tail=tail, capturer=capturer)
        made[0].state = state
        with torch.inference_mode():
            runner(torch.tensor([1]))
        made[0].state = None
        del state, runner
        gc.collect()
    assert len(made) == 1 and made[0].captured == 3


def test_without_a_cuda_device_steps_are_eager() -> None:
    lm = language_model("mamba")
    runner = step_runner(lm, prompted(lm, 3, 9))
    assert not runner.graphed
    assert runner.reason == "CUDA graphs need a CUDA device"


def test_graphs_go_with_their_model() -> None:
    lm = language_model("mamba")
    buffers = weakref.ref(step_runner(lm, prompted(lm, 3, 9), capturer=lambda device: FakeCapturer()).buffers)
    assert buffers() is not None
    del lm
    gc.collect()
    assert buffers() is None
