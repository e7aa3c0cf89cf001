"""How every model of the study is built and trained: one named value for all families, settled before the grid.

`v1` comes from a pilot (its rows are published beside the grid's; one seed, rate 2e-3, lengths 10 and 20). With plain
AdamW and torch's own starting values a Transformer waited 330,000 examples at length 20 before it learnt anything. With
Muon on the blocks' matrices, small products into the residual, 16 channels a head and half of them rotated it reached
.95 at length 10 (40 symbols) after 82,000 and at length 20 (200 symbols) after 174,000. Muon's rate decides for Mamba:
at five times AdamW's it stood at .39 after 113,000 examples, query last, and at .31 after 154,000, query first; at
twice AdamW's at .53 after 113,000, and at .95 after 61,000. The Transformer learns alike at either (.94 after 82,000).
So: twice, for all. Rates other than 2e-3 were tried only with Muon at five times, length 10, 40 symbols: a Transformer
at 4e-3, query first, stood between .85 and .89 from 72,000 to 205,000 examples (at 2e-3: .97 after 51,000); Mamba,
query last, stood after 102,000 at .40 with 4e-3, .49 with 1e-3 and .52 with 2e-3. So a grid tries four rates, from 5e-4
to 4e-3. Both families were past .5 within 113,000 examples; the pilot would have failed at 300,000. The rate is
constant after the warm-up, so that a curve does not depend on its budget. No curriculum: it would favour a family that
learns short lengths early.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

STUDY_FAMILIES = ("pythia", "mamba", "hybrid")


@dataclass(frozen=True, slots=True)
class StudyRecipe:
    """Everything that decides a training but the task, the shape, the rate and the seed."""

    name: str
    batch: int = 64
    warmup: int = 200  # steps
    muon: float = 2.0  # Muon's rate over the row's, which is AdamW's
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


SETTLED = StudyRecipe("v1")
WIDE = replace(SETTLED, name="v1-wide", head_size=64)
SMOKE = replace(SETTLED, name="smoke", muon=5.0, batch=32, warmup=20, evaluate_every=1024, evaluation=256, final=512)
RECIPES = {recipe.name: recipe for recipe in (SETTLED, WIDE, SMOKE)}
