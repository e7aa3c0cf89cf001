"""One decode step as a function from ids to logits, the same for both architectures: eager, or replayed CUDA graphs.

Knows a language model and its state; knows nothing of text, sampling or timing. A runner is called once a token with
the chosen ids (B,) and returns the next logits (B, V) float32, having moved the state on by one position.

A graph holds addresses, so whatever it reads and writes must stay where it is: ids and logits lie in the runner's own
buffers, and the state that is handed in moves into buffers that are kept with the language model ("a home"), so that
the next answer finds its graphs captured. A home is free again when the state that lives in it is gone.
The cache of the Transformer is attended to up to a window; one graph is captured for each window that is reached
(multiples of WINDOW), lazily, inside the call that needs it. A recurrence has one graph for all lengths. A capture that
fails leaves the state as it was, and the runner goes on eagerly and says why.

Sampling without a stop for each token: `tail` is captured behind the logits and may be any function of them that stays
on the device, e.g. log-softmax, top-k and argmax; the runner then returns what `tail` returns, and the ids it chose can
be given straight back to the runner, so that the host only waits where it wants to show a token.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

WINDOW = 128  # slots by which the attended part of a cache grows from one graph to the next
HOMES = 2  # free homes kept with a language model

Tail = Callable[[Tensor], Any]


class StepRunner(Protocol):
    """What the decode loop calls. `graphed`: CUDA graphs are in use; `reason`: why not, where they are not."""

    graphed: bool
    reason: str

    def __call__(self, ids: Tensor) -> Any: ...


class EagerRunner:
    """Embed, step, head: one kernel launch after the other."""

    graphed = False

    def __init__(self, language_model: Any, state: Any, reason: str = "", tail: Tail | None = None) -> None:
        self.language_model = language_model
        self.state = state
        self.reason = reason
        self.tail = tail

    def __call__(self, ids: Tensor) -> Any:
        lm = self.language_model
        logits = lm.logits(lm.step(lm.embed_tokens(ids), self.state))
        return logits if self.tail is None else self.tail(logits)


class Capturer(Protocol):
    """What records work and plays it again; CUDA in earnest, a fake in tests."""

    def warm(self, function: Callable[[], Any]) -> None:
        """Run once where a recording may follow: libraries set themselves up at their first call."""

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Record without running. Returns what replays it, and what `function` returned: filled by each replay."""


class CudaCapturer:
    """torch's CUDA graphs, one pool of memory for all graphs of a home: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: Any = None
        self.stream = torch.cuda.Stream(device)

    def warm(self, function: Callable[[], Any]) -> None:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            function()
        current.wait_stream(self.stream)

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: the other side of a comparison may be at work in another thread meanwhile
        with (
            torch.cuda.device(self.device),
            torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
        ):
            result = function()
        self.pool = graph.pool()
        return graph.replay, result


class Home:
    """Buffers that graphs were captured on, and the graphs, by window (0 where lengths make no difference)."""

    def __init__(self, state: Any, capturer: Capturer, tail: Tail | None) -> None:
        self.state = state
        self.capturer = capturer
        self.tail = tail
        self.ids = torch.zeros_like(state.positions)
        self.graphs: dict[int, tuple[Callable[[], None], Any]] = {}
        self._guest: weakref.ref[Any] | None = None

    @property
    def free(self) -> bool:
        return self._guest is None or self._guest() is None

    def fits(self, state: Any, tail: Tail | None) -> bool:
        """Whether `state` can live here: as many rows, of the same kind, no more positions."""
        return (
            self.tail is tail
            and self.state.capacity >= state.capacity
            and _kinds(self.state) == _kinds(state)
            and self.ids.shape == state.positions.shape
        )

    def take_in(self, state: Any) -> None:
        """Copy what `state` holds and make it a view of the buffers here."""
        self._guest = weakref.ref(state)
        self.state.copy_(state)
        vars(state).update(vars(self.state))


def _kinds(state: Any) -> dict[str, tuple[torch.dtype, torch.device]]:
    return {name: (x.dtype, x.device) for name, x in vars(state).items() if isinstance(x, Tensor)}


_homes: weakref.WeakKeyDictionary[Any, list[Home]] = weakref.WeakKeyDictionary()


class GraphRunner:
    """Replays one captured step a call; falls back to eager steps where a capture fails."""

    def __init__(self, language_model: Any, state: Any, home: Home) -> None:
        self.language_model = language_model
        self.state = state
        self.home = home
        self.graphed = True
        self.reason = ""
        home.take_in(state)

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Any:
        """The result lies in a buffer of its own that the next call writes to."""
        if not self.graphed:
            return EagerRunner(self.language_model, self.state, tail=self.home.tail)(ids)
        self.state.require(1)
        if ids is not self.home.ids:
            self.home.ids.copy_(ids)
        window = self._window()
        if window not in self.home.graphs:
            try:
                self.home.graphs[window] = self._capture(window)
            except Exception as error:  # whatever a driver or a library raises: eager steps still work
                self.graphed, self.reason = False, f"the capture failed: {_first_line(error)}"
                return self(ids)
        replay, result = self.home.graphs[window]
        replay()
        self.state.note_step()
        return result

    def _window(self) -> int:
        """Cache slots to attend to, this step's own among them, rounded up; 0 for a recurrence."""
        if self.language_model.max_positions is None:
            return 0
        needed = self.state.length + 1
        return min(-(-needed // WINDOW) * WINDOW, self.state.capacity)

    def _capture(self, window: int) -> tuple[Callable[[], None], Any]:
        """Warm up and record one step, leaving the state as it was."""
        lm, home = self.language_model, self.home
        # the home's own state has the same buffers as the one that lives in it, and may outlive it in the recording
        state = home.state
        state.length = self.state.length

        def step() -> Any:
            logits = lm.logits(lm.step(lm.embed_tokens(home.ids), state, window=window or None))
            return logits if home.tail is None else home.tail(logits)

        before = state.snapshot()
        try:
            home.capturer.warm(step)
            state.copy_(before)
            return home.capturer.capture(step)
        finally:
            state.copy_(before)  # the warm-up moved the device on by a position


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def step_runner(
    language_model: Any,
    state: Any,
    *,
    graphs: bool = True,
    tail: Tail | None = None,
    capturer: Callable[[torch.device], Capturer] | None = None,
) -> StepRunner:
    """The fastest runner for where the state is. `state` is moved into buffers that stay; hold on to it as before.

    tail: see above. capturer: what records (CUDA graphs unless a test brings its own).
    """
    device = state.positions.device
    if not graphs:
        return EagerRunner(language_model, state, "", tail)
    if capturer is None and device.type != "cuda":
        return EagerRunner(language_model, state, "CUDA graphs need a CUDA device", tail)
    try:
        home = _find_home(language_model, state, tail, capturer or CudaCapturer)
    except torch.OutOfMemoryError:
        return EagerRunner(language_model, state, "too little memory for buffers that stay", tail)
    return GraphRunner(language_model, state, home)


@torch.inference_mode(False)  # plain tensors may be written to in and out of inference mode
@torch.no_grad()
def _find_home(lm: Any, state: Any, tail: Tail | None, capturer: Callable[[torch.device], Capturer]) -> Home:
    homes = _homes.setdefault(lm, [])
    for home in homes:
        if home.free and home.fits(state, tail):
            return home
    spare = [home for home in homes if home.free]
    for home in spare[: max(0, len(spare) - HOMES + 1)]:
        homes.remove(home)
    capacity = state.capacity
    if lm.max_positions is not None:  # rounded up, so that prompts of similar lengths share a home
        capacity = max(capacity, min(-(-capacity // (2 * WINDOW)) * 2 * WINDOW, lm.max_positions))
    dtypes = [x.dtype for x in vars(state).values() if isinstance(x, Tensor) and x.is_floating_point()]
    device = state.positions.device
    fresh = lm.new_state(state.positions.shape[0], capacity, device=device, dtype=dtypes[0] if dtypes else None)
    homes.append(Home(fresh, capturer(device), tail))
    return homes[-1]
