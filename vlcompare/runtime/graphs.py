"""One decode step as a function from ids to logits, the same for both architectures.

Knows a language model and its state; knows nothing of text, sampling or timing. A runner is called once a token with the
chosen ids (B,) and returns the next logits (B, V) float32, having moved the state on by one position.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class StepRunner(Protocol):
    """What the decode loop calls. `graphed`: CUDA graphs are in use; `reason`: why not, where they are not."""

    graphed: bool
    reason: str

    def __call__(self, ids: Tensor) -> Tensor: ...


class EagerRunner:
    """Embed, step, head: one kernel launch after the other."""

    graphed = False

    def __init__(self, language_model: Any, state: Any, reason: str = "") -> None:
        self.language_model = language_model
        self.state = state
        self.reason = reason

    def __call__(self, ids: Tensor) -> Tensor:
        lm = self.language_model
        return lm.logits(lm.step(lm.embed_tokens(ids), self.state))


def step_runner(language_model: Any, state: Any, *, graphs: bool = True) -> StepRunner:
    """The fastest runner for where the state is."""
    return EagerRunner(language_model, state, "" if not graphs else "CUDA graphs need a CUDA device")
