"""Losses that train the language models: answers with soft coordinates, and two auxiliary heads used in training only.

`AnswerLoss` is cross-entropy on answer tokens; a coordinate's target is a Gaussian over the neighbouring bins. The
auxiliary heads are `Alignment` (the connector's output must predict the attributes and the box of the thing at its
patch, scored against the token embeddings) and `Pointer` (in the middle layer, the last prompt position must select the
patch asked about). Both are the same for both families.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.synth.scenes.phrases import VOCABULARY
from vlcompare.synth.train import dense_targets
from vlcompare.synth.train.word_tokenizer import BINS, coordinate_ids, token_id, vocabulary, word_ids


class AnswerLoss(nn.Module):
    """Weighted mean cross-entropy; coordinate targets are spread over their bins with `sigma` (in bins)."""

    families: Tensor
    family_and_bin: Tensor
    spread: Tensor

    def __init__(self, sigma: float) -> None:
        super().__init__()
        families = torch.tensor(coordinate_ids())  # (3, 101)
        self.register_buffer("families", families, persistent=False)
        family_and_bin = torch.full((len(vocabulary()), 2), -1)
        for family, ids in enumerate(families):
            family_and_bin[ids] = torch.stack([torch.full((BINS,), family), torch.arange(BINS)], dim=1)
        self.register_buffer("family_and_bin", family_and_bin, persistent=False)
        bins = torch.arange(BINS).float()
        spread = torch.softmax(-((bins[:, None] - bins) ** 2) / (2 * sigma**2), dim=1)
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """logits (N, V), targets (N,), weights (N,)."""
        scores = F.log_softmax(logits, dim=-1)
        losses = -scores.gather(1, targets[:, None])[:, 0]
        family, bin = self.family_and_bin[targets].unbind(1)
        rows = (family >= 0).nonzero()[:, 0]
        if len(rows):
            near = scores[rows[:, None], self.families[family[rows]]]  # (coordinates, 101)
            soft = -(near * self.spread[bin[rows]]).sum(1)
            losses = losses.index_copy(0, rows, soft)
        return (losses * weights).sum() / weights.sum()


class Alignment(nn.Module):
    """Connector output at centre patches -> the embeddings of the words and coordinates of the thing there."""

    bins: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        digits = [str(digit) for digit in range(10)]
        words = {
            "kind": [f" {kind}" for kind in dense_targets.KINDS],
            "color": [f" {color}" for color in dense_targets.COLORS],
            "size": [f" {size}" for size in dense_targets.SIZES],
            "word": [f" {word.lower()}" for word in dense_targets.WORDS[:-1]] + ["#"],
            "key": [f" {key}" for key in dense_targets.KEYS],
            **{name: [*digits, " "] for name in ("hundreds", "tens", "ones")},
        }
        for name, texts in words.items():
            self.register_buffer(name, torch.tensor([token_id(text) for text in texts]), persistent=False)
        first, middle, last = coordinate_ids()
        self.register_buffer("bins", torch.tensor([first, middle, middle, last]), persistent=False)
        self.maps = nn.ModuleDict({name: nn.Linear(width, width) for name in (*dense_targets.COLUMNS, "box")})
        self.corners = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(
        self, features: Tensor, embedding: Tensor, centre: Tensor, owner: Tensor, attributes: Tensor, boxes: Tensor
    ) -> Tensor:
        """features (B, P, D), embedding (V, D); the rest as stored with the pictures."""
        at = features[centre]  # (things, D)
        picture = torch.arange(len(centre), device=centre.device)[:, None].expand_as(centre)[centre]
        index = owner[centre].long()
        truth = attributes[picture, index].long()
        losses = []
        for column, name in enumerate(dense_targets.COLUMNS):
            applies = truth[:, column] != dense_targets.IGNORE
            if applies.any():
                logits = self.maps[name](at[applies]) @ embedding[getattr(self, name)].T
                losses.append(F.cross_entropy(logits, truth[applies, column]))
        target = (boxes[picture, index] * 100).round().long().clamp(0, BINS - 1)  # (things, 4)
        bins = torch.arange(BINS, device=at.device)
        for corner, layer in enumerate(self.corners):
            scores = F.log_softmax(layer(at) @ embedding[self.bins[corner]].T, dim=-1)
            soft = torch.softmax(-((target[:, corner : corner + 1] - bins) ** 2) / 4.5, dim=1)
            losses.append(-(scores * soft).sum(1).mean())
        return torch.stack(losses).mean()


class Pointer(nn.Module):
    """Cross-entropy of a dot-product search over the picture's positions for the patch asked about."""

    def __init__(self, width: int, size: int = 64) -> None:
        super().__init__()
        self.scale = math.sqrt(size)
        self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        self.key = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))

    def forward(self, asking: Tensor, prefix: Tensor, picture: Tensor, target: Tensor) -> Tensor:
        """asking (n, D), prefix (B, P, D) image positions only, picture (n,), target (n,). Zero where n is 0."""
        if not len(target):
            return asking.sum() * 0.0
        scores = torch.einsum("nd,npd->np", self.query(asking), self.key(prefix)[picture])
        return F.cross_entropy(scores / self.scale, target)


def smooth_embedding(width: int, generator: torch.Generator, std: float = 0.05) -> Tensor:
    """Initial token embeddings (V, D): similar for the forms of a word and for neighbouring coordinates."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    table = normal(len(vocabulary()), width)
    for word in VOCABULARY:
        forms = list(word_ids(word))
        table[forms] = 0.9 * normal(width) + 0.45 * normal(len(forms), width)
    position = torch.arange(BINS) / (BINS - 1)
    waves = [torch.stack([(math.pi * k * position).cos(), (math.pi * k * position).sin()], 1) / k for k in range(1, 13)]
    basis = torch.cat([*waves, position[:, None] * 2 - 1], dim=1)  # (101, 25)
    curve = basis @ normal(basis.shape[1], width)
    curve = curve / curve.std()
    for ids in coordinate_ids():
        table[list(ids)] = 0.9 * curve + 0.45 * normal(width)
    return table * std
