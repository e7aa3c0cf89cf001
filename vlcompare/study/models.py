"""Models for a row of the study, with matched parameter counts, built of the blocks that run the published checkpoints.

A Transformer block has about 12 D^2 parameters. A Mamba block has 6 D^2 and the parameters of its scan, which are not
negligible at small D, so `matched_layers` counts them. A hybrid is a Mamba stack in which one block, or two from six
blocks on, is an attention block; its MLP has half the usual width, so that it is about as large as the Mamba block that
it replaces.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.hybrid import Hybrid, HybridConfig
from vlcompare.models.mamba import Mamba
from vlcompare.models.meta_init import structure_only
from vlcompare.models.pythia import Pythia
from vlcompare.study.recipe import StudyRecipe
from vlcompare.study.tasks import MAX_POSITIONS, Items
from vlcompare.training.begin import begin_blocks, embedding_of
from vlcompare.training.optim import Muon, adamw, muon_matrices

StudyModel = Pythia | Mamba | Hybrid


def build(family: str, tokens: int, width: int, layers: int, state_size: int, recipe: StudyRecipe) -> StudyModel:
    """An untrained model, initialised from torch's global generator."""
    heads = max(1, width // recipe.head_size)
    transformer = PythiaConfig(
        tokens, width, layers, heads, 4 * width, MAX_POSITIONS, recipe.rotary_share, tie_embeddings=True
    )
    recurrent = MambaConfig(tokens, width, layers, state_size=state_size)
    if family == "pythia":
        return Pythia(transformer)
    if family == "mamba":
        return Mamba(recurrent)
    attention_blocks = 1 if layers < 6 else 2
    positions = tuple(layers * (2 * i + 1) // (2 * attention_blocks) for i in range(attention_blocks))
    attention = replace(transformer, layers=attention_blocks, intermediate_size=2 * width)
    parts = replace(recurrent, layers=layers - attention_blocks), attention
    return Hybrid(HybridConfig(*parts, attention_at=positions))


def matched_layers(family: str, width: int, transformer_layers: int, recipe: StudyRecipe) -> int:
    """The number of blocks of `family` that is nearest in parameters to a Transformer of the same width.

    Mamba blocks are counted with 16 states per channel. Other state sizes use the same number of blocks, and each row
    reports its parameter count.
    """

    def size(name: str, layers: int) -> int:
        with structure_only():
            return parameters(build(name, 64, width, layers, 16, recipe).layers)

    wanted = size("pythia", transformer_layers)
    return min(range(1, 3 * transformer_layers + 1), key=lambda layers: abs(size(family, layers) - wanted))


def begin(model: StudyModel, seed: int, recipe: StudyRecipe) -> None:
    """Initialise `model`: the same embedding for all families, and the blocks by `begin_blocks`."""
    embedding = embedding_of(model)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        embedding.copy_(torch.randn(embedding.shape, generator=generator) * recipe.embedding_std)
    begin_blocks(model.layers)


def optimizers(model: StudyModel, rate: float, recipe: StudyRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (Mamba: in_proj, out_proj), AdamW for everything else."""
    halves, whole = muon_matrices(model.layers)
    chosen = {id(parameter) for parameter in (*halves, *whole)}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    groups = [{"params": part, "split": split} for part, split in ((whole, 1), (halves, 2)) if part]
    return [
        Muon(groups, lr=recipe.muon * rate, weight_decay=recipe.weight_decay),
        adamw(rest, lr=rate),
    ]


def scores(model: StudyModel, items: Items, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits (B, A, V) at the answers' columns, and the answers (B, A)."""
    ids, columns, answers = (torch.from_numpy(x).to(device) for x in (items.ids, items.columns, items.answers))
    hidden = model(model.embed_tokens(ids))
    return model.logits(hidden[:, columns]), answers


def loss(model: StudyModel, items: Items, device: torch.device) -> Tensor:
    """Mean cross-entropy over the answers."""
    logits, answers = scores(model, items, device)
    return F.cross_entropy(logits.flatten(0, 1), answers.flatten())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
