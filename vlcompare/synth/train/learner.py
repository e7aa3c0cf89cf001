"""A language model with its connector as it is trained: its shape, a picture's prefix, the three losses of a batch.

Equal for both families but for the language model itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.models.vlm import build_connector
from vlcompare.synth.train import word_tokenizer
from vlcompare.synth.train.batches import Batch, Group
from vlcompare.synth.train.corpus import TrainingSet, prefix_ids
from vlcompare.synth.train.losses import Alignment, AnswerLoss, Pointer, smooth_embedding
from vlcompare.synth.train.recipe import ModelShapes, Recipe
from vlcompare.synth.train.shared_prefix import EmbeddedBlock, run, run_whole
from vlcompare.tasks.sequence import IMAGE_SLOT
from vlcompare.training.begin import begin_blocks, embedding_of


def language_config(family: str, shapes: ModelShapes) -> PythiaConfig | MambaConfig:
    """The shape of a family's language model."""
    vocabulary = len(word_tokenizer.vocabulary())
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
    def embedding(self) -> Tensor:
        return embedding_of(self.language_model)

    @torch.no_grad()
    def _begin(self, generator: torch.Generator) -> None:
        """Starting values: the same embedding for both; products that write to the residual start small."""
        self.embedding.copy_(smooth_embedding(self.embedding.shape[1], generator))
        begin_blocks(self.language_model.layers)

    def shipped_parameters(self) -> int:
        """Numbers in connector and language model, shared ones once."""
        modules = (self.connector, self.language_model)
        return sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())


def embed_prefix(learner: Learner, features: Tensor) -> tuple[Tensor, Tensor]:
    """(B, P, C) features -> the prefix (B, P + separators, D) and the connector's output (B, P, D)."""
    connected = learner.connector(features)
    ids = prefix_ids(round(features.shape[1] ** 0.5)).to(features.device)
    slots = ids == IMAGE_SLOT
    table = learner.language_model.embed_tokens(ids.masked_fill(slots, 0))
    prefix = table[None].expand(len(features), -1, -1).clone()
    prefix[:, slots] = connected.to(prefix.dtype)
    return prefix, connected


def embed_with_images(learner: Learner, ids: Tensor, connected: Tensor) -> Tensor:
    """ids (n, L) with as many whole images in every row, connected (n, P, D) -> embeddings (n, L, D)."""
    slots = ids == IMAGE_SLOT
    embedded = learner.language_model.embed_tokens(ids.masked_fill(slots, 0))
    images = int(slots[0].sum()) // connected.shape[1]
    if images:
        embedded = embedded.clone()
        embedded[slots] = connected.repeat(1, images, 1).flatten(0, 1).to(embedded.dtype)
    return embedded


class _States(NamedTuple):
    """What a group's pass leaves: of its blocks' positions half-way, at their ends, and of the picture half-way."""

    middle: list[Tensor]  # (n, L, D)
    final: Tensor  # (N, D) at the taught positions
    keys: Tensor  # (k, P, D) patches of the last image of each prefix, or of each question
    owner: list[Tensor]  # (n,) which of these each question's own picture is


def losses_of(learner: Learner, batch: Batch, corpus: TrainingSet, device: torch.device) -> dict[str, Tensor]:
    """The three losses of a batch, unweighted."""
    connected = learner.connector(corpus.features(batch.pictures).to(device))
    passed = [_pass(learner, group, connected) for group in batch.groups]
    middle, owner, before = [], [], 0
    for states in passed:
        middle += states.middle
        owner += [place + before for place in states.owner]
        before += len(states.keys)
    asked = [(x, whose, block.asking) for x, whose, block in zip(middle, owner, batch.blocks, strict=True)]
    asking = torch.cat([states[places[:, 0], places[:, 1]] for states, _, places in asked])
    pictures = torch.cat([whose[places[:, 0]] for _, whose, places in asked])
    wanted, weights, targets = (
        torch.cat([getattr(block, name) for block in batch.blocks]).to(device)
        for name in ("wanted", "weights", "target")
    )
    final, keys = (torch.cat([getattr(states, name) for states in passed]) for name in ("final", "keys"))
    centre, own, attributes, boxes = corpus.truth(batch.pictures, device)
    return {
        "answer": learner.answers(learner.language_model.logits(final), wanted, weights),
        "pointer": learner.pointer(asking, keys, pictures, targets),
        "alignment": learner.alignment(connected, learner.embedding, centre, own, attributes, boxes),
    }


def _pass(learner: Learner, group: Group, connected: Tensor) -> _States:
    """A group's positions through the language model; connected: (B, P, D)."""
    model, device, patches = learner.language_model, connected.device, connected.shape[1]
    ids = [block.ids.to(device) for block in group.blocks]
    owner = [block.prefix.to(device) for block in group.blocks]
    at = [(block.rows.to(device), block.columns.to(device)) for block in group.blocks]
    prefixes, picture = group.prefixes.to(device), group.picture.to(device)
    if prefixes.shape[1]:
        blocks = [
            EmbeddedBlock(model.embed_tokens(rows), whose, *places)
            for rows, whose, places in zip(ids, owner, at, strict=True)
        ]
        passed = run(model, embed_with_images(learner, prefixes, connected[picture]), blocks)
        return _States(passed.middle, passed.final, _last_image(passed.prefix_middle, prefixes, patches), owner)
    whole = [
        run_whole(model, embed_with_images(learner, rows, connected[picture[whose]]), *places)
        for rows, whose, places in zip(ids, owner, at, strict=True)
    ]
    middle, final = [states for states, _ in whole], torch.cat([states for _, states in whole])
    keys = torch.cat([_last_image(states, rows, patches) for states, rows in zip(middle, ids, strict=True)])
    each = torch.arange(len(keys), device=device).split([len(rows) for rows in ids])
    return _States(middle, final, keys, list(each))


def _last_image(states: Tensor, ids: Tensor, patches: int) -> Tensor:
    """States (n, L, D) at the patches of each row's last image: (n, P, D)."""
    columns = (ids == IMAGE_SLOT).nonzero()[:, 1].view(len(ids), -1)[:, -patches:]
    return states.gather(1, columns[:, :, None].expand(-1, -1, states.shape[2]))
