"""How every model of the study is built and trained: one named value for all families.

The pilot that decided it stands beside the rows that it led to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training but the task, the shape, the rate and the seed."""

    name: str
    batch: int = 64
    warmup: int = 200  # steps
    muon: float = 5.0  # Muon's rate over the row's, which is AdamW's
    weight_decay: float = 0.01
    clip: float = 1.0
    head_size: int = 16
    rotary_share: float = 0.5
    embedding_std: float = 0.05
    evaluate_every: int = 10_240  # examples
    evaluation: int = 1024  # items of an evaluation while training
    final: int = 4096  # items of the last evaluation, by position

    def factor(self, step: int) -> float:
        """The rates' factor: linear warm-up, then constant, so that a curve does not depend on the budget."""
        return min(1.0, (step + 1) / self.warmup)


SETTLED = Recipe("v1")
WIDE = replace(SETTLED, name="v1-wide", head_size=64)
SMOKE = replace(SETTLED, name="smoke", batch=32, warmup=20, evaluate_every=1024, evaluation=256, final=512)
RECIPES = {recipe.name: recipe for recipe in (SETTLED, WIDE, SMOKE)}
