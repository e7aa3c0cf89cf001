"""A small vision encoder for rendered scenes: a convolutional stem, then transformer blocks. Pixels in, patches out.

The embedded pair shares one such encoder, frozen.

    glossary:  S image side in pixels;  P = (S / 16)^2 patches;  C width

The stem is a stack of 3 x 3 convolutions of stride 2, each normalised over channels: early convolutions learn edges
far sooner than a linear patch embedding ("Early Convolutions Help Transformers See Better", arXiv 2106.14881). The
blocks are pre-norm with SwiGLU (arXiv 2002.05202). Learned positions are resampled where the image size is not the
trained one.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.errors import CheckpointError
from vlcompare.models.config import Fields

SCENE_ENCODER_NAME = "vlcompare/scene"


@dataclass(frozen=True)
class SceneEncoderConfig:
    """The shape of a scene encoder; `config.json` keeps it under "scene_encoder"."""

    stem: tuple[int, ...] = (24, 48, 96, 192)  # channels after each halving; the last one is the width
    stem_blocks: int = 1  # residual convolutions at stride 8, where small text is read
    depth: int = 4
    heads: int = 6
    hidden: int = 448  # of the SwiGLU
    grid: int = 7  # rows (= columns) of patches in training: the size of the position table

    @property
    def width(self) -> int:
        return self.stem[-1]

    @property
    def patch_size(self) -> int:
        return 2 ** len(self.stem)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> SceneEncoderConfig:
        """Read the object of `config.json`; fields that are absent keep their defaults. Raises CheckpointError."""
        data = dict(data or {})
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise CheckpointError(f"The scene encoder's configuration has unknown fields: {reprlib.repr(unknown)}.")
        given, default = Fields(data, "config.json, 'scene_encoder'"), cls()
        config = cls(
            stem=given.integers("stem", default.stem),
            stem_blocks=given.integer("stem_blocks", default=default.stem_blocks, kind="layers", low=0),
            depth=given.integer("depth", default=default.depth, kind="layers", low=0),
            heads=given.integer("heads", default=default.heads, kind="small"),
            hidden=given.integer("hidden", default=default.hidden),
            grid=given.integer("grid", default=default.grid, kind="small"),
        )
        if config.width % config.heads:
            raise CheckpointError(
                f"{given.where}: {config.heads} heads cannot share the {config.width} channels of the last stem."
            )
        return config


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W), one position at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StemBlock(nn.Module):
    """x + conv(gelu(norm(x))) at one resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.gelu(self.norm(x)))


class Block(nn.Module):
    """Pre-norm self-attention over all patches, then SwiGLU."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.gate_up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, patches, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, patches, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, P, C / heads)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, patches, width)
        x = x + self.proj(mixed)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class SceneEncoder(nn.Module):
    """(B, 3, S, S) normalised pixels -> (B, P, C) patches in raster order, after a final norm."""

    def __init__(self, config: SceneEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SceneEncoderConfig()
        layers: list[nn.Module] = []
        before = 3
        for index, channels in enumerate(config.stem):
            # the last convolution is followed by the blocks' own norms, so it has no activation
            last = index == len(config.stem) - 1
            if last:
                layers += [StemBlock(before) for _ in range(config.stem_blocks)]
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False), ChannelNorm(channels)]
            if not last:
                layers.append(nn.GELU())
            before = channels
        self.stem = nn.Sequential(*layers)
        self.positions = nn.Parameter(torch.zeros(config.grid * config.grid, config.width))
        nn.init.normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.hidden) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    @property
    def patch_size(self) -> int:
        return self.config.patch_size

    @property
    def width(self) -> int:
        return self.config.width

    def positions_for(self, rows: int, columns: int) -> Tensor:
        """The position table (rows * columns, C), resampled where the grid is not the trained one."""
        grid = self.config.grid
        if (rows, columns) == (grid, grid):
            return self.positions
        table = self.positions.float().view(1, grid, grid, -1).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False, antialias=True)
        return table.permute(0, 2, 3, 1).reshape(rows * columns, -1).to(self.positions.dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))  # (B, C, rows, columns)
        rows, columns = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2) + self.positions_for(rows, columns)  # (B, P, C)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
