"""Train one of the two language models with its connector on frozen features. The same batches for both families.

One step: some pictures, several questions each, which share the picture's prefix. The schedule is one trapezoid; the
state that is saved is whole, so a run can stop at any moment and go on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlcompare.errors import CheckpointError
from vlcompare.synth.train.batches import make_batch
from vlcompare.synth.train.corpus import Corpus, TrainingSet
from vlcompare.synth.train.held_out_probe import probe
from vlcompare.synth.train.learner import Learner, losses_of
from vlcompare.synth.train.recipe import LanguageRecipe, Recipe
from vlcompare.training.kernels import try_in_other_processes
from vlcompare.training.optim import Muon, adamw, muon_matrices, set_rates, trapezoid
from vlcompare.training.progress import Log, TimeBudget, begin_or_resume, load_state, save_state, unbroken


def optimizers(learner: Learner, options: LanguageRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' and the connector's matrices (Mamba: in_proj, out_proj), AdamW for everything else."""
    halves, whole = muon_matrices(learner.language_model.layers)
    connector: list[Any] = [learner.connector[0].weight, learner.connector[2].weight]
    whole = [*connector, *whole]
    chosen = {id(p) for p in (*halves, *whole)}
    rest = [p for p in learner.parameters() if id(p) not in chosen]
    plain = [p for p in rest if p.ndim < 2 or p is learner.embedding]
    decayed = [p for p in rest if p.ndim >= 2 and p is not learner.embedding]
    groups = [{"params": whole, "split": 1}] + ([{"params": halves, "split": 2}] if halves else [])
    muon = Muon(groups, lr=options.muon, weight_decay=options.weight_decay)
    others: list[dict[str, Any]] = [{"params": plain}, {"params": decayed, "weight_decay": options.weight_decay}]
    return [muon, adamw(others, lr=options.adamw)]


@dataclass
class LanguageTraining:
    """All that is needed to go on with one family."""

    family: str
    learner: Learner
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    planned: int = 0  # steps of the schedule under which the last ones were taken

    @classmethod
    def fresh(cls, family: str, recipe: Recipe, feature_width: int, device: torch.device) -> LanguageTraining:
        learner = Learner(family, recipe, feature_width).to(device)
        try_in_other_processes(device)
        return cls(family, learner, optimizers(learner, recipe.language))

    def state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "planned": self.planned,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self.planned = state.get("planned", 0)


def train_step(
    training: LanguageTraining, corpus: TrainingSet, recipe: Recipe, total: int, device: torch.device
) -> dict:
    """One optimiser step; returns the losses as tensors."""
    options, step = recipe.language, training.step
    factor = trapezoid(step, total, warmup=options.warmup, decay_from=options.decay_from)
    set_rates(training.optimizers, factor)
    batch = make_batch(corpus, step, options, recipe.seed)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        losses = losses_of(training.learner, batch, corpus, device)
    fading = max(0.0, 1 - step / (options.auxiliary_until * options.steps))
    loss = losses["answer"] + options.pointer * losses["pointer"] + options.auxiliary * fading * losses["alignment"]
    loss.backward()
    torch.nn.utils.clip_grad_norm_(training.learner.parameters(), 1.0)
    for optimizer in training.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    training.step, training.planned = step + 1, total
    return losses


def begins_to_decay(step: int, total: int, recipe: Recipe) -> bool:
    """Whether the rates of a schedule of `total` steps have begun to fall at this step."""
    return step > recipe.language.decay_from * total


def planned_steps(out: Path, recipe: Recipe) -> int:
    """Steps of the whole schedule: the recipe's, unless `plan.json` in the folder says otherwise while it runs.

    Raises CheckpointError where the plan says nothing of the kind.
    """
    path = out / "plan.json"
    if not path.exists():
        return recipe.language.steps
    try:
        return int(json.loads(path.read_text(encoding="utf-8")).get("steps", recipe.language.steps))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f'{path} is not a plan: it holds {{"steps": N}}; mend it, then --resume.') from error


def train_language(
    family: str,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    budget_seconds: float | None = None,
    save_every: int = 200,
    score_every: int = 400,
) -> bool:
    """Run (or go on with) a family's schedule. Returns whether it is finished; the state is in `out` either way."""
    target = torch.device(device)
    corpus = Corpus.open(out, recipe)
    training = LanguageTraining.fresh(family, recipe, corpus.width, target)
    state_path, log = out / f"{family}.pt", Log(out / f"{family}.jsonl")
    total, stable = planned_steps(out, recipe), out / f"{family}-before-decay.pt"
    begin_or_resume(training, state_path, log, resume)
    if training.planned and begins_to_decay(training.step, training.planned, recipe) and total > training.planned:
        # a longer schedule goes on from before the decay: rates that fall and rise again lose what was learnt
        training.restore(load_state(stable))
        log.forget_after(training.step)
    budget = TimeBudget(training.seconds, budget_seconds)
    try:
        while training.step < total and not budget.spent:
            with unbroken():  # training cannot resume from the state of half a step
                losses = train_step(training, corpus, recipe, total, target)
            if training.step % 50 == 0:
                plain = {name: loss.item() for name, loss in losses.items()}
                log.write_passing(step=training.step, seconds=budget.seconds, **plain)
            if training.step % score_every == 0 or training.step == total:
                scores = probe(training.learner, corpus, target)
                log.write(step=training.step, seconds=budget.seconds, **scores)
            if training.step % save_every == 0:
                training.seconds = budget.seconds
                save_state(state_path, training.state())
                total = planned_steps(out, recipe)
                if not begins_to_decay(training.step, total, recipe):
                    save_state(stable, training.state())
    finally:
        training.seconds = budget.seconds
        with unbroken():
            save_state(state_path, training.state())
    return training.step >= total
