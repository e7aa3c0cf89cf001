"""One decode step as a function from ids to logits, the same for both architectures: eager, or replayed CUDA graphs.

A runner is called once a token with the chosen ids (B,). It advances the state by one position and returns the next
logits (B, V) float32.

A graph records addresses, so what it reads and writes must not move: ids, logits and state lie in `GraphBuffers`, which
are kept with the language model so that the next answer finds its graphs captured. A state adopts buffers that no other
state uses; they are unused again once that state is freed. A recurrence has one graph for all lengths, and so has
attention whose kernel finds the filled slots itself. torch's own attention attends to the cache up to a window, and one
graph is captured for each window that is reached (multiples of WINDOW), in the call that needs it. A capture that fails
leaves the state as it was; the runner then continues eagerly and gives the reason. So does a replay that fails, or one
whose scores are not those of the step itself, which is compared once a graph; the process then uses no graphs at all.

bitsandbytes' library ends the process at any error, and another thread's work can spoil a capture: a model that uses it
is captured only where the caller says that nobody else is at work on the device.

The choice of a token is part of the step: `tail` (`sampling.greedy`) is captured after the logits, and the chosen ids
are written to where the next replay reads them. A token is then one replay and one copy to the host, and the next
replay can be launched before that copy is read: it runs while the host looks at the token (`ahead`).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from vlcompare.models.kernels import fallback, verdicts
from vlcompare.models.kernels.cuda.graph_capture import Capturer, CudaCapturer, difference_of_scores
from vlcompare.models.kernels.verdicts import Proof
from vlcompare.runtime.sampling import Chosen

WINDOW = 128  # slots by which the attended part of a cache grows from one graph to the next
GRAIN = 1024  # slots to a multiple of which a capacity is rounded up, so that answers of many lengths share buffers
ALLOWED = 2e-2  # by which a replay's scores may differ from the step's, relative to the largest
AHEAD = 3 * WINDOW  # steps for which `prepare` captures at most
MAX_UNUSED = 2  # buffers kept with a language model that no state uses

Tail = Callable[[Tensor], Chosen]


class StepRunner(Protocol):
    """What the decode loop calls. graphed: CUDA graphs are in use; reason: why not, where they are not."""

    graphed: bool
    reason: str

    def prepare(self, count: int) -> None:
        """Capture now what the next `count` steps replay."""

    def __call__(self, ids: Tensor) -> Any: ...

    def ahead(self, ids: Tensor) -> Any:
        """Launch the next step although it may turn out not to be wanted; None where that would take the host time.

        The state counts it from `keep` on; `drop` takes it back. One of them follows before anything else is called.
        """

    def keep(self) -> None: ...

    def drop(self) -> None: ...


class EagerRunner:
    """Embed, step, head: one kernel launch after the other."""

    graphed = False

    def __init__(self, language_model: Any, state: Any, reason: str = "", tail: Tail | None = None) -> None:
        self.language_model = language_model
        self.state = state
        self.reason = reason
        self.tail = tail

    def prepare(self, count: int) -> None:
        """Nothing to capture."""

    def ahead(self, ids: Tensor) -> Any:
        """None: launching a whole step takes the host as long as the device."""
        return None

    def keep(self) -> None:
        """Nothing runs ahead."""

    drop = keep

    def __call__(self, ids: Tensor) -> Any:
        lm = self.language_model
        logits = lm.logits(lm.step(lm.embed_tokens(ids), self.state))
        return logits if self.tail is None else self.tail(logits)


class GraphBuffers:
    """A state and ids at fixed addresses, and the graphs captured on them, by tail and window (0: no windows)."""

    def __init__(self, state: Any, capturer: Capturer) -> None:
        self.state = state
        self.capturer = capturer
        self.ids = torch.zeros_like(state.positions)
        self.graphs: dict[tuple[Tail | None, int], tuple[Callable[[], None], Any]] = {}
        self._user: weakref.ref[Any] | None = None

    @property
    def unused(self) -> bool:
        return self._user is None or self._user() is None

    def fits(self, state: Any) -> bool:
        """Whether `state` can use these: same batch size, dtypes and device, no larger capacity."""
        return (
            self.state.capacity >= state.capacity
            and _dtypes(self.state) == _dtypes(state)
            and self.ids.shape == state.positions.shape
        )

    def give_to(self, state: Any) -> None:
        """Copy the values of `state` into these buffers, which replace its own."""
        self._user = weakref.ref(state)
        state.adopt(self.state)


def _dtypes(state: Any) -> dict[str, tuple[torch.dtype, torch.device]]:
    return {name: (x.dtype, x.device) for name, x in vars(state).items() if isinstance(x, Tensor)}


_kept: weakref.WeakKeyDictionary[Any, list[GraphBuffers]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()  # both sides of a race may run one model: buffers go to one of them


class GraphRunner:
    """Replays one captured step a call; falls back to eager steps where a capture fails."""

    def __init__(
        self, language_model: Any, state: Any, buffers: GraphBuffers, tail: Tail | None, alone: bool, outlives: bool
    ) -> None:
        self.language_model = language_model
        self.state = state
        self.buffers = buffers
        self.tail = tail
        self.alone = alone
        self.outlives = outlives
        self.graphed = True
        self.reason = ""
        self._before: Any = None  # what the step that runs ahead overwrites
        buffers.give_to(state)

    @torch.inference_mode()
    def prepare(self, count: int) -> None:
        """Capture what the next `count` steps replay, so that none of them takes the time for it."""
        last = min(self.state.length + min(count, AHEAD), self.state.capacity)
        for window in sorted({self._window(length) for length in range(self.state.length + 1, last + 1)}):
            if self.graphed:
                self._captured(window)

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Any:
        """The result lies in a buffer that the next call overwrites."""
        if self.graphed:
            self.state.require(1)
        captured = self._captured(self._window(self.state.length + 1)) if self.graphed else None
        result = None if captured is None else self._replay(captured, ids)
        if result is None:
            return self._eager_step(ids)
        self.state.note_step()
        return result

    @torch.inference_mode()
    def ahead(self, ids: Tensor) -> Any:
        """One replay, where its graph is there already and the state has room."""
        if not self.graphed or self.state.full:
            return None
        captured = self.buffers.graphs.get((self.tail, self._window(self.state.length + 1)))
        if captured is None:
            return None
        self._before = None  # first, so that no two copies are held
        self._before = self.state.before_step() if self.outlives else None
        return self._replay(captured, ids)

    def keep(self) -> None:
        self.state.note_step()

    @torch.inference_mode()
    def drop(self) -> None:
        if self._before is not None:
            self.state.undo_step(self._before)
            self._before = None

    def _replay(self, captured: tuple[Callable[[], None], Any], ids: Tensor) -> Any:
        """The result of a captured step; None where the device refuses it."""
        if ids is not self.buffers.ids:
            self.buffers.ids.copy_(ids)
        replay, result = captured
        try:
            replay()
        except Exception as error:  # a launch is refused as a whole: neither the state nor the ids have changed
            self.buffers.graphs.clear()  # what they recorded is not trusted again
            self._go_on_eagerly("a replay", error)
            if not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                fallback.give_up("graphs", error)
            return None
        return result

    def _captured(self, window: int) -> tuple[Callable[[], None], Any] | None:
        """The graph for a window, captured now if need be; None where that fails, for this runner for good."""
        key = (self.tail, window)
        if key not in self.buffers.graphs:
            if not self.alone and any(getattr(one, "may_end_process", False) for one in self.language_model.modules()):
                self.graphed, self.reason = False, "not captured while another model is at work"
                return None
            try:
                self.buffers.graphs[key] = self._capture(window)
            except Exception as error:  # whatever a driver or a library raises: eager steps still work
                self._go_on_eagerly("the capture", error)
                return None
        return self.buffers.graphs[key]

    def _eager_step(self, ids: Tensor) -> Any:
        return EagerRunner(self.language_model, self.state, tail=self.tail)(ids)

    def _go_on_eagerly(self, what: str, error: Exception) -> None:
        """All further steps of this answer are eager; the user is told why."""
        self.graphed, self.reason = False, f"{what} failed: {_first_line(error)}"
        fallback.tell("graphs", "cuda", f"CUDA graphs are not used: {self.reason}. Tokens take longer.")

    def _window(self, needed: int) -> int:
        """Cache slots to attend to: `needed`, rounded up; 0 where there are no windows."""
        if not self.language_model.windowed(self.state):
            return 0
        return min(-(-needed // WINDOW) * WINDOW, self.state.capacity)

    def _capture(self, window: int) -> tuple[Callable[[], None], Any]:
        """Warm up, record one step and compare one replay of it, leaving the state as it was."""
        lm, buffers, tail = self.language_model, self.buffers, self.tail
        # the buffers' own state has the same tensors as the runner's, which the recording must not keep alive
        state = buffers.state
        state.length = self.state.length
        seen: list[Tensor] = []

        def step() -> Any:
            logits = lm.logits(lm.step(lm.embed_tokens(buffers.ids), state, window=window or None))
            seen[:] = [logits]
            if tail is None:
                return logits
            chosen = tail(logits)
            buffers.ids.copy_(chosen.ids)  # where the next replay reads
            return chosen._replace(ids=buffers.ids)

        before, ids = state.before_step(), buffers.ids.clone()

        def undo() -> None:
            state.undo_step(before)
            buffers.ids.copy_(ids)

        try:
            buffers.capturer.warm(step)
            truth = seen[0].clone()
            undo()
            replay, result = buffers.capturer.capture(step)
            ours = seen[0]
            undo()
            began = time.perf_counter()
            replay()
            difference = difference_of_scores(truth, ours, None if tail is None else result.ids)
        finally:
            seen.clear()
            undo()
        verdict = "agrees" if difference <= ALLOWED else "differs"
        case = f"graph of {type(lm).__name__} for {len(ids)} rows, window {window}"
        seconds = time.perf_counter() - began
        verdicts.note(Proof(case, str(ids.device), verdict, seconds, difference, ALLOWED))
        if verdict == "differs":
            error = RuntimeError(f"a replay gave other scores than the step itself (difference {difference:.2g})")
            fallback.give_up("graphs", error)
            raise error
        return replay, result


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def step_runner(
    language_model: Any,
    state: Any,
    *,
    graphs: bool = True,
    tail: Tail | None = None,
    alone: bool = True,
    outlives: bool = True,
    capturer: Callable[[torch.device], Capturer] | None = None,
) -> StepRunner:
    """The fastest runner for the state's device. On CUDA `state` adopts buffers that outlive it.

    tail: chooses the next ids from logits, on the device; the runner then returns its Chosen. alone: whether no other
    thread is at work on the device. outlives: whether the state is used after the last step; where it is not, a step
    that was dropped may leave numbers in it, which spares a copy a token. capturer: records in place of CUDA graphs,
    for tests.
    """
    device = state.positions.device
    if not graphs:
        return EagerRunner(language_model, state, "", tail)
    if capturer is None and device.type != "cuda":
        return EagerRunner(language_model, state, "CUDA graphs need a CUDA device", tail)
    if fallback.switched_off("graphs"):
        return EagerRunner(language_model, state, f"{fallback.GRAPHS_SWITCH}=0", tail)
    if fallback.failed("graphs"):
        return EagerRunner(language_model, state, "a replay failed before", tail)
    try:
        with _lock:
            buffers = _buffers_for(language_model, state, capturer or CudaCapturer)
            return GraphRunner(language_model, state, buffers, tail, alone, outlives)
    except torch.OutOfMemoryError:
        return EagerRunner(language_model, state, "too little memory for buffers that stay", tail)


def release_unused() -> None:
    """Free the buffers, and their graphs, that no state uses; the next answer makes new ones."""
    with _lock:
        for kept in _kept.values():
            kept[:] = [buffers for buffers in kept if not buffers.unused]


@torch.inference_mode(False)  # plain tensors may be written to in and out of inference mode
@torch.no_grad()
def _buffers_for(lm: Any, state: Any, capturer: Callable[[torch.device], Capturer]) -> GraphBuffers:
    kept = _kept.setdefault(lm, [])
    fitting = next((buffers for buffers in kept if buffers.unused and buffers.fits(state)), None)
    if fitting is not None:
        return fitting
    while sum(buffers.unused for buffers in kept) >= MAX_UNUSED:
        kept.remove(next(buffers for buffers in kept if buffers.unused))
    device, batch = state.positions.device, state.positions.shape[0]
    dtype = next((x.dtype for x in vars(state).values() if isinstance(x, Tensor) and x.is_floating_point()), None)
    capacity = max(state.capacity, min(-(-state.capacity // GRAIN) * GRAIN, lm.max_positions or 1 << 62))
    fresh: Any = None
    try:
        fresh = lm.new_state(batch, capacity, device=device, dtype=dtype)
    except torch.OutOfMemoryError:
        kept[:] = [buffers for buffers in kept if not buffers.unused]
    if fresh is None:  # outside of the handler, whose traceback would keep what was allocated
        fresh = lm.new_state(batch, state.capacity, device=device, dtype=dtype)
    kept.append(GraphBuffers(fresh, capturer(device)))
    return kept[-1]
