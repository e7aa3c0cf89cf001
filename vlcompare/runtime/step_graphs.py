"""One decode step as a function from ids to logits, the same for both architectures: eager, or replayed CUDA graphs.

Knows a language model and its state; knows nothing of text, sampling or timing. A runner is called once a token with
the chosen ids (B,) and returns the next logits (B, V) float32, having moved the state on by one position.

A graph holds addresses, so whatever it reads and writes must stay where it is: ids and logits lie in the runner's own
buffers, and the state that is handed in moves into buffers that are kept with the language model ("a home"), so that
the next answer finds its graphs captured. A home is free again when the state that lives in it is gone.
A recurrence has one graph for all lengths, and so has attention whose kernel finds the filled slots itself. Where
torch's own attention is taken, the cache is attended to up to a window, and one graph is captured for each window that
is reached (multiples of WINDOW), lazily, inside the call that needs it. A capture that
fails leaves the state as it was, and the runner goes on eagerly and says why.

The choice of a token is part of the step: `tail` (`sampling.greedy`) is captured behind the logits, and the ids that it
chose are written to where the next replay reads them. A token is then one replay and one copy to the host.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from vlcompare.models.kernels import fallback
from vlcompare.models.kernels.cuda.graph_capture import recording
from vlcompare.runtime.sampling import Chosen

WINDOW = 128  # slots by which the attended part of a cache grows from one graph to the next
GRAIN = 1024  # slots by which the capacity of a home is rounded up, so that answers of many lengths share one
AHEAD = 3 * WINDOW  # steps for which `prepare` captures at most
HOMES = 2  # free homes kept with a language model

Tail = Callable[[Tensor], Chosen]


class StepRunner(Protocol):
    """What the decode loop calls. `graphed`: CUDA graphs are in use; `reason`: why not, where they are not."""

    graphed: bool
    reason: str

    def prepare(self, count: int) -> None:
        """Do now what the next `count` steps would otherwise do when they come to it."""

    def __call__(self, ids: Tensor) -> Any: ...


class EagerRunner:
    """Embed, step, head: one kernel launch after the other."""

    graphed = False

    def __init__(self, language_model: Any, state: Any, reason: str = "", tail: Tail | None = None) -> None:
        self.language_model = language_model
        self.state = state
        self.reason = reason
        self.tail = tail

    def prepare(self, count: int) -> None:
        """Nothing is kept from step to step."""

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
    """torch's CUDA graphs, one pool of memory for all graphs of a home: they never run at the same time.

    A product leaves a workspace on its stream for good (32 MB on Hopper), so the streams of homes that are gone are
    used again.
    """

    _spare: ClassVar[dict[torch.device, list[Any]]] = {}

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: Any = None
        spare = self._spare.setdefault(device, [])
        self.stream = spare.pop() if spare else torch.cuda.Stream(device)
        weakref.finalize(self, spare.append, self.stream)

    def warm(self, function: Callable[[], Any]) -> None:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                function()
        finally:  # what was launched before an error is still to run, and must not write over what is restored then
            current.wait_stream(self.stream)

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        with recording(self.device, self.stream, self.pool) as graph:
            result = function()
        self.pool = graph.pool()
        return graph.replay, result


class Home:
    """Buffers that graphs were captured on, and the graphs, by tail and window (0 where lengths make no difference)."""

    def __init__(self, state: Any, capturer: Capturer) -> None:
        self.state = state
        self.capturer = capturer
        self.ids = torch.zeros_like(state.positions)
        self.graphs: dict[tuple[Tail | None, int], tuple[Callable[[], None], Any]] = {}
        self._guest: weakref.ref[Any] | None = None

    @property
    def free(self) -> bool:
        return self._guest is None or self._guest() is None

    def fits(self, state: Any) -> bool:
        """Whether `state` can live here: as many rows, of the same kind, no more positions."""
        return (
            self.state.capacity >= state.capacity
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
_moving_in = threading.Lock()  # both sides of a race may run one model: a home is given to one of them


class GraphRunner:
    """Replays one captured step a call; falls back to eager steps where a capture fails."""

    def __init__(self, language_model: Any, state: Any, home: Home, tail: Tail | None) -> None:
        self.language_model = language_model
        self.state = state
        self.home = home
        self.tail = tail
        self.graphed = True
        self.reason = ""
        home.take_in(state)

    @torch.inference_mode()
    def prepare(self, count: int) -> None:
        """Capture what the next `count` steps will replay, so that none of them takes the time for it."""
        last = min(self.state.length + min(count, AHEAD), self.state.capacity)
        for window in sorted({self._window(length) for length in range(self.state.length + 1, last + 1)}):
            if self.graphed:
                self._captured(window)

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Any:
        """The result lies in a buffer of its own that the next call writes to."""
        if self.graphed:
            self.state.require(1)
        found = self._captured(self._window(self.state.length + 1)) if self.graphed else None
        if found is None:
            return EagerRunner(self.language_model, self.state, tail=self.tail)(ids)
        if ids is not self.home.ids:
            self.home.ids.copy_(ids)
        replay, result = found
        replay()
        self.state.note_step()
        return result

    def _captured(self, window: int) -> tuple[Callable[[], None], Any] | None:
        """The graph for a window, captured now if need be; None where that fails, and then there are no graphs."""
        key = (self.tail, window)
        if key not in self.home.graphs:
            try:
                self.home.graphs[key] = self._capture(window)
            except Exception as error:  # whatever a driver or a library raises: eager steps still work
                self.graphed, self.reason = False, f"the capture failed: {_first_line(error)}"
                fallback.tell("graphs", "cuda", f"CUDA graphs are not used: {self.reason}. Tokens take longer.")
                return None
        return self.home.graphs[key]

    def _window(self, needed: int) -> int:
        """Cache slots to attend to, so that `needed` are among them, rounded up; 0 where there are no windows."""
        if not self.language_model.windowed(self.state):
            return 0
        return min(-(-needed // WINDOW) * WINDOW, self.state.capacity)

    def _capture(self, window: int) -> tuple[Callable[[], None], Any]:
        """Warm up and record one step, leaving the state as it was."""
        lm, home, tail = self.language_model, self.home, self.tail
        # the home's own state has the same buffers as the one that lives in it, and may outlive it in the recording
        state = home.state
        state.length = self.state.length

        def step() -> Any:
            logits = lm.logits(lm.step(lm.embed_tokens(home.ids), state, window=window or None))
            if tail is None:
                return logits
            chosen = tail(logits)
            home.ids.copy_(chosen.ids)  # where the next replay reads
            return chosen._replace(ids=home.ids)

        before, ids = state.snapshot(), home.ids.clone()
        try:
            home.capturer.warm(step)
            state.copy_(before)
            return home.capturer.capture(step)
        finally:
            # the warm-up moved the device on by a position, and chose the token after the one that is to be read next
            state.copy_(before)
            home.ids.copy_(ids)


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

    tail: chooses the next ids from logits, on the device; the runner then returns its Chosen. capturer: what records
    (CUDA graphs unless a test brings its own).
    """
    device = state.positions.device
    if not graphs:
        return EagerRunner(language_model, state, "", tail)
    if capturer is None and device.type != "cuda":
        return EagerRunner(language_model, state, "CUDA graphs need a CUDA device", tail)
    try:
        with _moving_in:
            home = _find_home(language_model, state, capturer or CudaCapturer)
            return GraphRunner(language_model, state, home, tail)
    except torch.OutOfMemoryError:
        return EagerRunner(language_model, state, "too little memory for buffers that stay", tail)


@torch.inference_mode(False)  # plain tensors may be written to in and out of inference mode
@torch.no_grad()
def _find_home(lm: Any, state: Any, capturer: Callable[[torch.device], Capturer]) -> Home:
    homes = _homes.setdefault(lm, [])
    for home in homes:
        if home.free and home.fits(state):
            return home
    spare = [home for home in homes if home.free]
    for home in spare[: max(0, len(spare) - HOMES + 1)]:
        homes.remove(home)
    # rounded up, so that prompts of similar lengths share a home
    capacity = max(state.capacity, min(-(-state.capacity // GRAIN) * GRAIN, lm.max_positions or 1 << 62))
    dtypes = [x.dtype for x in vars(state).values() if isinstance(x, Tensor) and x.is_floating_point()]
    device = state.positions.device

    def fresh(capacity: int) -> Any:
        return lm.new_state(state.positions.shape[0], capacity, device=device, dtype=dtypes[0] if dtypes else None)

    homes.append(Home(_with_room(fresh, capacity, state.capacity, homes), capturer(device)))
    return homes[-1]


def let_go_of_free_homes() -> None:
    """Buffers and graphs that no answer uses any more leave memory; the next answer makes new ones."""
    with _moving_in:
        for homes in _homes.values():
            homes[:] = [home for home in homes if not home.free]


def _with_room(fresh: Callable[[int], Any], wanted: int, needed: int, homes: list[Home]) -> Any:
    """Buffers for `wanted` positions; where memory does not suffice, no more than needed, and free homes make room."""
    try:
        return fresh(wanted)
    except torch.OutOfMemoryError:
        homes[:] = [home for home in homes if not home.free]
    return fresh(needed)  # outside of the handler, where no traceback holds on to what was half made
