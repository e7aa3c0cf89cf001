"""Train the scene encoder on dense truth, from pictures drawn on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlcompare.models.scene_encoder import SceneEncoder, SceneEncoderConfig
from vlcompare.synth.scenes.scene import Sampling
from vlcompare.synth.train.dense_targets import BatchTruth, DenseHeads, dense_loss, dense_scores
from vlcompare.synth.train.pictures import PictureStore, Shard, glyphs_of, normalised
from vlcompare.synth.train.recipe import Recipe
from vlcompare.training.optim import Muon, adamw, set_rates, trapezoid
from vlcompare.training.progress import Log, TimeBudget, begin_or_resume, save_state, unbroken

SAVE_EVERY = 200  # steps
SCORE_EVERY = 400  # steps between scores on held-out pictures


@dataclass
class EncoderTraining:
    """All that is needed to go on: modules, optimisers, step."""

    encoder: SceneEncoder
    heads: DenseHeads
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def fresh(cls, recipe: Recipe, device: torch.device, begin: SceneEncoder | None = None) -> EncoderTraining:
        """Nothing trained yet, or the values of `begin`, an encoder of any resolution, and heads of their own."""
        torch.manual_seed(recipe.seed)
        grid = recipe.pictures.image_size // SceneEncoderConfig().patch_size
        encoder = SceneEncoder(SceneEncoderConfig(grid=grid))
        if begin is not None:
            with torch.no_grad():
                positions = begin.positions_for(grid, grid)
            encoder.load_state_dict({**begin.state_dict(), "positions": positions})
        encoder = encoder.to(device).to(memory_format=torch.channels_last)
        heads = DenseHeads(encoder.width).to(device)
        matrices = [(name, p) for name, p in encoder.blocks.named_parameters() if p.ndim == 2]
        chosen = {id(p) for _, p in matrices}
        rest = [p for p in (*encoder.parameters(), *heads.parameters()) if id(p) not in chosen]
        groups = [
            {"params": [p for name, p in matrices if ("qkv" in name) == fused], "split": 3 if fused else 1}
            for fused in (True, False)
        ]
        muon = Muon(groups, lr=recipe.encoder.muon)
        return cls(encoder, heads, [muon, adamw(rest, lr=recipe.encoder.adamw, weight_decay=0.01)])

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]


def _tensors(shard: Shard, sampling: Sampling, device: torch.device) -> tuple[Tensor, BatchTruth]:
    pixels = torch.from_numpy(normalised(shard.pixels)).to(device)
    grid = round(shard.owner.shape[1] ** 0.5)
    truth = (shard.owner, shard.centre, shard.attributes, shard.boxes, glyphs_of(shard.seeds, grid, sampling))
    return pixels, BatchTruth(*(torch.from_numpy(array).to(device) for array in truth))


def train_encoder(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    budget_seconds: float | None = None,
    begin: SceneEncoder | None = None,
) -> bool:
    """Run (or go on with) the encoder's schedule. Returns whether it is finished; the state is in `out` either way.

    begin: an encoder that is finetuned, instead of one that has learnt nothing.
    """
    training = EncoderTraining.fresh(recipe, torch.device(device), begin)
    state_path, log = out / "encoder.pt", Log(out / "encoder.jsonl")
    begin_or_resume(training, state_path, log, resume)
    store = PictureStore(out / "pictures", recipe.pictures)
    store.start()
    budget = TimeBudget(training.seconds, budget_seconds)
    try:
        _run(training, recipe, store, budget, log, torch.device(device), state_path)
    finally:
        training.seconds = budget.seconds
        with unbroken():
            save_state(state_path, training.state())
        store.stop()
    return training.step >= recipe.encoder.steps


def _run(
    training: EncoderTraining,
    recipe: Recipe,
    store: PictureStore,
    budget: TimeBudget,
    log: Log,
    device: torch.device,
    state_path: Path,
) -> None:
    options = recipe.encoder
    held_out = store.held_out(min(512, recipe.pictures.shard))
    parameters = [p for module in (training.encoder, training.heads) for p in module.parameters()]
    for shard in store.batches(training.step * options.batch, options.batch):
        if training.step >= options.steps or budget.spent:
            break
        factor = trapezoid(training.step, options.steps, warmup=options.warmup, decay_from=options.decay_from)
        set_rates(training.optimizers, factor)
        pixels, truth = _tensors(shard, recipe.pictures.sampling, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            patches = training.encoder(pixels)
        loss, parts = dense_loss(training.heads, patches.float(), truth)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        with unbroken():  # training cannot resume from the state of half a step
            for optimizer in training.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            training.step += 1
        if training.step % 50 == 0:
            log.write_passing(step=training.step, seconds=budget.seconds, loss=loss.item(), **parts)
        if training.step % SCORE_EVERY == 0 or training.step == options.steps:
            log.write(step=training.step, seconds=budget.seconds, **held_out_scores(training, held_out, recipe, device))
        if training.step % SAVE_EVERY == 0:
            training.seconds = budget.seconds
            save_state(state_path, training.state())


@torch.no_grad()
def held_out_scores(training: EncoderTraining, shard: Shard, recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Scores on held-out pictures, as `held_<name>`."""
    pixels, truth = _tensors(shard, recipe.pictures.sampling, device)
    patches = torch.cat([training.encoder(part) for part in pixels.split(64)])
    return {f"held_{name}": score for name, score in dense_scores(training.heads, patches, truth).items()}
