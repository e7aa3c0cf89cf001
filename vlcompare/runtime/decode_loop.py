"""The decode loop: the only one of the project, for both architectures, for one row and for a batch.

The caller decides when to stop by leaving the loop. The chosen ids stay on the device and are the next step's input;
the host waits once a token, for what it is going to show. Where a step is one captured graph, the next one is launched
before the host waits, so that the device computes while the host turns a token into text; the step that was launched
in vain behind the last token is dropped, and the state is as if it had not run. A first token is read before anything
else is launched: what follows it may still have to be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from torch import Tensor

from vlcompare.runtime.clock import Clock
from vlcompare.runtime.sampling import Choice, Chosen, Sampler
from vlcompare.runtime.step_graphs import StepRunner


class _Launched(NamedTuple):
    """A token that the device is at work on: the next step's input, the copy for the host, what it is timed by."""

    ids: Tensor
    copy: Tensor
    began: Any
    ended: Any


def decode(
    step: StepRunner, logits: Tensor, sampler: Sampler, *, state_full: Callable[[], bool], clock: Clock
) -> Generator[list[Choice], None, None]:
    """Yield the next token's choices, one Choice a row, until the caller stops or the state is full.

    step: ids (B,) -> logits (B, V) float32, or what `sampler.tail` makes of them; advances the state by one position.
    logits: (B, V) of the last prompt position. state_full: whether the state has no room for another position. clock:
    has one lap for every token. A caller that leaves the loop closes this generator before it uses the state.
    """

    def launched(result: Any, began: Any) -> _Launched:
        chosen = result if isinstance(result, Chosen) else sampler.choose(result)
        return _Launched(chosen.ids, sampler.send(chosen), began, clock.mark())

    token, first = launched(logits, None), True
    while True:
        mark = clock.mark()
        result = None if first or state_full() else step.ahead(token.ids)
        following = None if result is None else launched(result, mark)
        clock.lap(token.began, token.ended)
        try:
            yield sampler.received(token.copy)
        except GeneratorExit:
            if following is not None:
                step.drop()
            raise
        if following is not None:
            step.keep()
        elif state_full():
            return
        else:
            mark = clock.mark()
            following = launched(step(token.ids), mark)
        token, first = following, False
