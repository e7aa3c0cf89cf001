"""Train one of the two language models with its connector on frozen features. The same batches for both families.

One step: some pictures, several questions each, which share the picture's prefix. The schedule is one trapezoid; the
state that is saved is whole, so a run can stop at any moment and go on. Knows nothing of how features were made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.models.vlm import build_connector
from vlcompare.synth import lessons as lesson_store
from vlcompare.synth import tokenizer as pieces
from vlcompare.synth.corpus import Corpus
from vlcompare.synth.losses import Alignment, AnswerLoss, Pointer, smooth_embedding
from vlcompare.synth.optim import Muon, set_rates, trapezoid
from vlcompare.synth.probe import probe
from vlcompare.synth.progress import Clock, Log, load_state, save_state
from vlcompare.synth.recipe import LanguageRecipe, ModelShapes, Recipe
from vlcompare.synth.shared_prefix import Block, run
from vlcompare.tasks.sequence import IMAGE_SLOT, image_ids
from vlcompare.types import TASKS, Box

FAMILIES = ("pythia", "mamba")
LIMITS = (10, 12, 14, 17, 22, 30)  # lengths at which questions are grouped: little padding, few calls
# weight of an answer's token: the one word that decides a yes or no would drown among the many of a caption
TOKEN_WEIGHT: dict[str, float] = {
    "captioning": 1.0,
    "grounded_captioning": 0.3,
    "vqa": 2.0,
    "image_text_match": 2.5,
    "multiple_choice": 2.5,
    "pointing": 2.0,
}


def language_config(family: str, shapes: ModelShapes) -> PythiaConfig | MambaConfig:
    """The shape of a family's language model."""
    vocabulary = len(pieces.vocabulary())
    if family == "pythia":
        width = shapes.width
        return PythiaConfig(
            vocabulary, width, shapes.pythia_layers, shapes.pythia_heads, 4 * width, tie_embeddings=True
        )
    return MambaConfig(vocabulary, shapes.width, shapes.mamba_layers, state_size=shapes.mamba_state)


class Learner(nn.Module):
    """Connector and language model, and the helpers that only training needs."""

    def __init__(self, family: str, recipe: Recipe, feature_width: int) -> None:
        super().__init__()
        config = language_config(family, recipe.shapes)
        torch.manual_seed(recipe.seed)
        self.connector = build_connector(feature_width, config.hidden_size)
        self.language_model: Pythia | Mamba = Pythia(config) if isinstance(config, PythiaConfig) else Mamba(config)
        self.alignment = Alignment(config.hidden_size)
        self.pointer = Pointer(config.hidden_size)
        self.answers = AnswerLoss(recipe.language.coordinate_sigma)
        self._begin(torch.Generator().manual_seed(recipe.seed))

    @property
    def embedding(self) -> nn.Parameter:
        model = self.language_model
        return model.embed_in.weight if isinstance(model, Pythia) else model.embedding.weight

    @torch.no_grad()
    def _begin(self, generator: torch.Generator) -> None:
        """Starting values: the same embedding for both; products that write to the residual start small."""
        model = self.language_model
        self.embedding.copy_(smooth_embedding(self.embedding.shape[1], generator))
        outputs = []
        for layer in model.layers:
            if isinstance(model, Pythia):
                outputs += [layer.attention.dense, layer.mlp.dense_4h_to_h]
                nn.init.normal_(layer.attention.query_key_value.weight, std=0.06)
                nn.init.zeros_(layer.attention.query_key_value.bias)
            else:
                outputs.append(layer.mixer.out_proj)
                _begin_time_steps(layer.mixer.dt_proj)
        for linear in outputs:
            nn.init.normal_(linear.weight, std=0.02 / len(model.layers) ** 0.5)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def shipped_parameters(self) -> int:
        """Numbers in connector and language model, shared ones once."""
        modules = (self.connector, self.language_model)
        return sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())


def _begin_time_steps(linear: nn.Linear, low: float = 1e-3, high: float = 1e-1) -> None:
    """A bias such that softplus gives time steps spread from `low` to `high` (Mamba, section 3.6)."""
    share = torch.rand(linear.out_features)
    step = torch.exp(np.log(low) + share * (np.log(high) - np.log(low)))
    linear.bias.copy_(step + torch.log(-torch.expm1(-step)))
    nn.init.uniform_(linear.weight, -(linear.in_features**-0.5), linear.in_features**-0.5)


def optimizers(learner: Learner, options: LanguageRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' and the connector's matrices (Mamba: in_proj, out_proj), AdamW for everything else."""
    halves, whole = [], [learner.connector[0].weight, learner.connector[2].weight]
    for name, parameter in learner.language_model.layers.named_parameters():
        if parameter.ndim != 2 or "A_log" in name or "x_proj" in name or "dt_proj" in name:
            continue
        (halves if "in_proj" in name else whole).append(parameter)
    chosen = {id(p) for p in (*halves, *whole)}
    rest = [p for p in learner.parameters() if id(p) not in chosen]
    plain = [p for p in rest if p.ndim < 2 or p is learner.embedding]
    decayed = [p for p in rest if p.ndim >= 2 and p is not learner.embedding]
    groups = [{"params": whole, "split": 1}] + ([{"params": halves, "split": 2}] if halves else [])
    muon = Muon(groups, lr=options.muon, weight_decay=options.weight_decay)
    adamw = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": options.weight_decay}],
        lr=options.adamw,
        betas=(0.9, 0.98),
    )
    return [muon, adamw]


@dataclass
class Batch:
    """Pictures (indices) and the questions about them, in blocks of similar length."""

    pictures: np.ndarray
    ids: list[Tensor] = field(default_factory=list)  # (n, L) each
    picture: list[Tensor] = field(default_factory=list)  # (n,)
    asking: list[Tensor] = field(default_factory=list)  # (m, 2) row and column of positions that should point ..
    target: list[Tensor] = field(default_factory=list)  # (m,) .. at this patch
    rows: list[Tensor] = field(default_factory=list)  # answer positions as (N,) row, (N,) column that predicts
    columns: list[Tensor] = field(default_factory=list)
    wanted: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


def make_batch(corpus: Corpus, step: int, options: LanguageRecipe, seed: int) -> Batch:
    """The batch of a step: a function of the step and the seed alone, so both families see the same."""
    dice = np.random.default_rng([seed, step])
    pictures = corpus.order(step, options.pictures)
    lessons = corpus.lessons
    chosen, owner = [], []
    for place, picture in enumerate(pictures):
        samples = lesson_store.choose(lessons, int(picture), options.questions, dice)
        chosen += samples.tolist()
        owner += [place] * len(samples)
    samples, places = np.array(chosen), np.array(owner)
    lengths = lessons.starts[samples + 1] - lessons.starts[samples]
    batch = Batch(pictures)
    for group in lesson_store.blocks_of(lengths, LIMITS):
        _add_block(batch, lessons, samples[group], places[group], corpus.grid, step >= options.box_pointer_from)
    return batch


def _add_block(
    batch: Batch, lessons: lesson_store.Lessons, samples: np.ndarray, places: np.ndarray, grid: int, boxes: bool
) -> None:
    rows = [lessons.ids[lessons.starts[s] : lessons.starts[s + 1]] for s in samples]
    row_index, columns, wanted, weights = [], [], [], []
    pointing: list[tuple[int, int, int]] = []
    for index, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        begin, weight = int(lessons.answers[sample]), TOKEN_WEIGHT.get(TASKS[lessons.tasks[sample]], 1.0)
        count = len(row) - begin
        row_index += [index] * count
        columns += range(begin - 1, len(row) - 1)
        wanted += row[begin:].tolist()
        weights += [weight] * count
        written = [(index, *place) for place in pointing_positions(row, begin, grid)] if boxes else []
        pointing += written
        if lessons.targets[sample] >= 0 and not any(column == begin - 1 for _, column, _ in written):
            pointing.append((index, begin - 1, int(lessons.targets[sample])))
    batch.ids.append(torch.from_numpy(lesson_store.pad(rows)))
    batch.picture.append(torch.from_numpy(places))
    table = torch.tensor(pointing, dtype=torch.long).view(-1, 3)
    batch.asking.append(table[:, :2])
    batch.target.append(table[:, 2])
    batch.rows.append(torch.tensor(row_index))
    batch.columns.append(torch.tensor(columns))
    batch.wanted.append(torch.tensor(wanted))
    batch.weights.append(torch.tensor(weights))


@cache
def _first_coordinates() -> dict[int, int]:
    return {token: bin for bin, token in enumerate(pieces.coordinate_ids()[0])}


@cache
def _bins() -> dict[int, int]:
    return {token: bin for ids in pieces.coordinate_ids() for bin, token in enumerate(ids)}


def pointing_positions(row: np.ndarray, begin: int, grid: int) -> list[tuple[int, int]]:
    """(column, patch) for each position of an answer that writes a coordinate: the patch of the box's centre."""
    found: list[tuple[int, int]] = []
    for first in range(begin, len(row) - 3):
        if int(row[first]) in _first_coordinates():
            box = Box(*(_bins()[int(token)] / 100 for token in row[first : first + 4]))
            patch = lesson_store.patch_of(box, grid)
            found += [(first - 1 + corner, patch) for corner in range(4)]
    return found


def prefix_ids(grid: int) -> Tensor:
    """The image's positions, as the engine lays them out."""
    mark, separator = pieces.token_id(pieces.MARK), pieces.token_id(pieces.SEPARATOR)
    return torch.tensor(image_ids(grid, grid, mark=mark, separator=separator))


def embed_prefix(learner: Learner, features: Tensor) -> tuple[Tensor, Tensor]:
    """(B, P, C) features -> the prefix (B, P + separators, D) and the connector's output (B, P, D)."""
    connected = learner.connector(features)
    ids = prefix_ids(round(features.shape[1] ** 0.5)).to(features.device)
    slots = ids == IMAGE_SLOT
    table = learner.language_model.embed_tokens(ids.masked_fill(slots, 0))
    prefix = table[None].expand(len(features), -1, -1).clone()
    prefix[:, slots] = connected.to(prefix.dtype)
    return prefix, connected


def losses_of(learner: Learner, batch: Batch, corpus: Corpus, device: torch.device) -> dict[str, Tensor]:
    """The three losses of a batch, unweighted."""
    features = corpus.features(batch.pictures).to(device)
    prefix, connected = embed_prefix(learner, features)
    model = learner.language_model
    blocks = [
        Block(model.embed_tokens(ids.to(device)), picture.to(device))
        for ids, picture in zip(batch.ids, batch.picture, strict=True)
    ]
    passed = run(model, prefix, blocks)
    hidden = torch.cat(
        [final[rows, columns] for final, rows, columns in zip(passed.final, batch.rows, batch.columns, strict=True)]
    )
    wanted, weights = torch.cat(batch.wanted).to(device), torch.cat(batch.weights).to(device)
    slots = (prefix_ids(round(features.shape[1] ** 0.5)) == IMAGE_SLOT).to(device)
    asking, pictures, targets = [], [], []
    for middle, at, picture, target in zip(passed.middle, batch.asking, batch.picture, batch.target, strict=True):
        asking.append(middle[at[:, 0], at[:, 1]])
        pictures.append(picture[at[:, 0]])
        targets.append(target)
    pointing = learner.pointer(
        torch.cat(asking), passed.prefix_middle[:, slots], torch.cat(pictures).to(device), torch.cat(targets).to(device)
    )
    centre, owner, attributes, boxes = corpus.truth(batch.pictures, device)
    return {
        "answer": learner.answers(model.logits(hidden), wanted, weights),
        "pointer": pointing,
        "alignment": learner.alignment(connected, learner.embedding, centre, owner, attributes, boxes),
    }


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


def train_step(training: LanguageTraining, corpus: Corpus, recipe: Recipe, total: int, device: torch.device) -> dict:
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
    """Steps of the whole schedule: the recipe's, unless `plan.json` in the folder says otherwise while it runs."""
    path = out / "plan.json"
    if not path.exists():
        return recipe.language.steps
    return int(json.loads(path.read_text(encoding="utf-8")).get("steps", recipe.language.steps))


def train_language(
    family: str,
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    budget_seconds: float | None = None,
    save_every: int = 200,
    look_every: int = 400,
) -> bool:
    """Run (or go on with) a family's schedule. Returns whether it is finished; the state is in `out` either way."""
    place = torch.device(device)
    corpus = Corpus.open(out, recipe)
    training = LanguageTraining.fresh(family, recipe, corpus.width, place)
    state_path, log = out / f"{family}.pt", Log(out / f"{family}.jsonl")
    total, stable = planned_steps(out, recipe), out / f"{family}-before-decay.pt"
    if resume and state_path.exists():
        training.restore(load_state(state_path))
        if training.planned and begins_to_decay(training.step, training.planned, recipe) and total > training.planned:
            # a longer schedule goes on from before the decay: rates that fall and rise again lose what was learnt
            training.restore(load_state(stable))
        log.forget_after(training.step)  # what was done after the state was saved is done again
    elif log.path.exists():
        log.path.unlink()
    clock = Clock(training.seconds, budget_seconds)
    try:
        while training.step < total and not clock.spent:
            losses = train_step(training, corpus, recipe, total, place)
            if training.step % 50 == 0:
                plain = {name: loss.item() for name, loss in losses.items()}
                log.write(step=training.step, seconds=clock.seconds, **plain)
            if training.step % look_every == 0 or training.step == total:
                scores = probe(training.learner, corpus, place)
                log.write(step=training.step, seconds=clock.seconds, **scores)
            if training.step % save_every == 0:
                training.seconds = clock.seconds
                save_state(state_path, training.state())
                total = planned_steps(out, recipe)
                if not begins_to_decay(training.step, total, recipe):
                    save_state(stable, training.state())
    finally:
        training.seconds = clock.seconds
        save_state(state_path, training.state())
    return training.step >= total
