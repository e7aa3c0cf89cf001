"""A language model with its connector as it is trained: its shape, a picture's prefix, the three losses of a batch.

Equal for both families but for the language model itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.mamba import Mamba
from vlcompare.models.pythia import Pythia
from vlcompare.models.vlm import build_connector
from vlcompare.synth.train import word_tokenizer
from vlcompare.synth.train.batches import Batch
from vlcompare.synth.train.corpus import TrainingSet
from vlcompare.synth.train.losses import Alignment, AnswerLoss, Pointer, smooth_embedding
from vlcompare.synth.train.recipe import ModelShapes, Recipe
from vlcompare.synth.train.shared_prefix import EmbeddedBlock, run, run_whole
from vlcompare.tasks.sequence import IMAGE_SLOT, image_ids
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


def prefix_ids(grid: int) -> Tensor:
    """The image's positions, as the engine lays them out."""
    mark, separator = word_tokenizer.token_id(word_tokenizer.MARK), word_tokenizer.token_id(word_tokenizer.SEPARATOR)
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


def embed_with_images(learner: Learner, ids: Tensor, connected: Tensor) -> Tensor:
    """ids (n, L) with as many whole images in every row, connected (n, P, D) -> embeddings (n, L, D)."""
    slots = ids == IMAGE_SLOT
    embedded = learner.language_model.embed_tokens(ids.masked_fill(slots, 0))
    images = int(slots[0].sum()) // connected.shape[1]
    if images:
        embedded = embedded.clone()
        embedded[slots] = connected.repeat(1, images, 1).flatten(0, 1).to(embedded.dtype)
    return embedded


def losses_of(learner: Learner, batch: Batch, corpus: TrainingSet, device: torch.device) -> dict[str, Tensor]:
    """The three losses of a batch, unweighted."""
    features = corpus.features(batch.pictures).to(device)
    prefix, connected = embed_prefix(learner, features)
    model = learner.language_model
    ids, pictures = ([getattr(block, name).to(device) for block in batch.blocks] for name in ("ids", "picture"))
    inside = bool((ids[0] == IMAGE_SLOT).any())  # the rows hold images themselves
    blocks = [
        EmbeddedBlock(embed_with_images(learner, rows, connected[owner]) if inside else model.embed_tokens(rows), owner)
        for rows, owner in zip(ids, pictures, strict=True)
    ]
    if corpus.image_leads:
        passed = run(model, prefix, blocks)
        final, middle = passed.final, passed.middle
    else:
        whole = [run_whole(model, block.embeddings) for block in blocks]
        middle, final = [states for states, _ in whole], [states for _, states in whole]
    hidden = torch.cat([x[block.rows, block.columns] for x, block in zip(final, batch.blocks, strict=True)])
    asked = [(x, block.asking) for x, block in zip(middle, batch.blocks, strict=True)]
    asking = torch.cat([states[places[:, 0], places[:, 1]] for states, places in asked])
    if inside:
        keys = torch.cat([_last_image(x, rows, connected.shape[1]) for x, rows in zip(middle, ids, strict=True)])
        starts = np.cumsum([0, *(len(rows) for rows in ids)])
        owner = torch.cat([block.asking[:, 0] + int(start) for block, start in zip(batch.blocks, starts, strict=False)])
        owner = owner.to(device)
    else:
        slots = (prefix_ids(round(features.shape[1] ** 0.5)) == IMAGE_SLOT).to(device)
        keys = passed.prefix_middle[:, slots]
        owner = torch.cat([block.picture[block.asking[:, 0]] for block in batch.blocks]).to(device)
    wanted, weights, targets = (
        torch.cat([getattr(block, name) for block in batch.blocks]).to(device)
        for name in ("wanted", "weights", "target")
    )
    centre, own, attributes, boxes = corpus.truth(batch.pictures, device)
    return {
        "answer": learner.answers(model.logits(hidden), wanted, weights),
        "pointer": learner.pointer(asking, keys, owner, targets),
        "alignment": learner.alignment(connected, learner.embedding, centre, own, attributes, boxes),
    }


def _last_image(states: Tensor, ids: Tensor, patches: int) -> Tensor:
    """States (n, L, D) at the patches of each row's last image: (n, P, D)."""
    columns = (ids == IMAGE_SLOT).nonzero()[:, 1].view(len(ids), -1)[:, -patches:]
    return states.gather(1, columns[:, :, None].expand(-1, -1, states.shape[2]))
