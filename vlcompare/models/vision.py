"""Vision encoders: a square picture in, its patches out. EVA-02 from timm, CLIP from transformers, and our own.

The only importer of timm. An encoder is built from its name and filled by the loader. Parameters are under
`.model` and keep the wrapped module's names. The patch size is the encoder's, never a constant.

EVA-02: arXiv 2303.11331 (section 2.1: SwiGLU, sub-norms, rotary positions in two dimensions on a grid rescaled to that
of pretraining). CLIP: arXiv 2103.00020, read at one of its hidden states as in LLaVA (arXiv 2304.08485, section 4.1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.config import VisionConfig
from vlcompare.models.interruption import check_before_layers
from vlcompare.models.lean_imports import without_compiler
from vlcompare.models.meta_init import real_buffers, structure_only

SCENE = "vlcompare/scene"


@dataclass(frozen=True, slots=True)
class ClipShape:
    """What CLIPVisionConfig needs; a row of the table below."""

    width: int
    layers: int
    heads: int
    mlp: int
    patch: int
    activation: str = "quick_gelu"


# published CLIP vision towers by their Hub names, so that none of them has to be downloaded to be built
CLIP_SHAPES: dict[str, ClipShape] = {
    "openai/clip-vit-base-patch32": ClipShape(768, 12, 12, 3072, 32),
    "openai/clip-vit-base-patch16": ClipShape(768, 12, 12, 3072, 16),
    "openai/clip-vit-large-patch14": ClipShape(1024, 24, 16, 4096, 14),
    "openai/clip-vit-large-patch14-336": ClipShape(1024, 24, 16, 4096, 14),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": ClipShape(768, 12, 12, 3072, 32, "gelu"),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": ClipShape(1024, 24, 16, 4096, 14, "gelu"),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ClipShape(1280, 32, 16, 5120, 14, "gelu"),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": ClipShape(1664, 48, 16, 8192, 14, "gelu"),
}


# buffers that take part in products with weights; all others (rotary tables) keep the precision they were computed in
BUFFERS_IN_WEIGHTS_DTYPE = ("k_bias",)


class VisionEncoder(nn.Module):
    """Wraps a timm, CLIP or scene encoder: forward(pixels (B, 3, H, W)) -> (B, P, C), patches in raster order."""

    def __init__(
        self,
        model: nn.Module,
        features: Callable[[nn.Module, Tensor], Tensor],
        *,
        image_size: int,
        patch_size: int,
        width: int,
        prefix_tokens: int = 0,
        position_key: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.image_size, self.patch_size, self.width = image_size, patch_size, width
        self.prefix_tokens = prefix_tokens  # tokens before the patches: the class token
        self.position_key = position_key  # the parameter that holds learned positions, by its name in `model`
        self._features = features
        self.checks = check_before_layers(model)  # how often a pass asks whether it is still wanted
        self.eval()

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns) at the image size in effect."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that pixels should come in: that of the weights."""
        return next(self.model.parameters()).dtype

    def forward(self, pixels: Tensor) -> Tensor:
        self.place_buffers(pixels.device)
        return self._features(self.model, pixels)

    def place_buffers(self, device: torch.device) -> None:
        """Bring buffers (rotary tables, position ids; in no file) to `device`, once; see BUFFERS_IN_WEIGHTS_DTYPE."""
        dtype = self.dtype
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is None:
                    continue
                wanted = dtype if name in BUFFERS_IN_WEIGHTS_DTYPE else buffer.dtype
                if buffer.device != device or buffer.dtype != wanted:
                    module._buffers[name] = buffer.to(device, wanted)


def build_vision_encoder(config: VisionConfig) -> VisionEncoder:
    """The encoder that `config.name` names, for pictures of `config.image_size`, without trained weights.

    Raises CheckpointError for a name that is not known and RequestError for a size that is not a multiple of the patch.
    """
    name = config.name.removeprefix("timm/")
    if name == SCENE:
        return _scene(config)
    if name in CLIP_SHAPES:
        return _clip(config, CLIP_SHAPES[name])
    if "/" not in name:
        return _timm(config, name)
    raise CheckpointError(
        f"The vision encoder {config.name!r} is not known; timm's EVA-02 models, {', '.join(CLIP_SHAPES)} are."
    )


def resample_position_embedding(embedding: Tensor, grid: tuple[int, int], prefix_tokens: int = 1) -> Tensor:
    """Learned positions of a square grid brought to `grid` (rows, columns) by timm's own bicubic resampling.

    `embedding` is (1, prefix + P, C), or (prefix + P, C) as CLIP stores it; the prefix tokens' rows stay as they are.
    """
    batched = embedding if embedding.dim() == 3 else embedding[None]
    side = round((batched.shape[1] - prefix_tokens) ** 0.5)
    if side * side + prefix_tokens != batched.shape[1]:
        raise CheckpointError(
            f"A position embedding of {batched.shape[1]} rows is not a square grid with {prefix_tokens} extra tokens."
        )
    resample = _timm_library().layers.resample_abs_pos_embed
    resampled = resample(batched, list(grid), [side, side], num_prefix_tokens=prefix_tokens)
    return resampled if embedding.dim() == 3 else resampled[0]


def require_multiple(config: VisionConfig, patch_size: int) -> None:
    """Raise RequestError unless the image is a whole number of patches."""
    if config.image_size % patch_size or config.image_size < patch_size:
        lower = max(patch_size, config.image_size // patch_size * patch_size)
        raise RequestError(
            f"An image size of {config.image_size} is not a multiple of {patch_size}, the patch size of {config.name}; "
            f"use {lower} or {lower + patch_size}."
        )


@functools.cache
def _timm_library() -> Any:
    with without_compiler():
        import timm
    return timm


def _timm(config: VisionConfig, name: str) -> VisionEncoder:
    timm = _timm_library()
    # timm names a model "architecture.weights"; the second part is optional
    tag_is_known = "." not in name or timm.models.is_model_pretrained(name)
    if not name.startswith("eva") or not timm.is_model(name) or not tag_is_known:
        raise CheckpointError(f"The vision encoder {config.name!r} is not an EVA-02 model that timm knows.")
    patch_size = _timm_patch_size(name)
    require_multiple(config, patch_size)
    with real_buffers():
        model = timm.create_model(name, pretrained=False, num_classes=0, img_size=config.image_size)
    return VisionEncoder(
        model,
        _timm_patches,
        image_size=config.image_size,
        patch_size=patch_size,
        width=int(model.num_features),
        prefix_tokens=int(model.num_prefix_tokens),
        position_key="pos_embed",
    )


def _timm_patch_size(name: str) -> int:
    """Read from a one-block model on the meta device, since the full model may not fit."""
    with structure_only(), real_buffers():  # on the meta device torch divides buffers by its compiler's functions
        model = _timm_library().create_model(name, pretrained=False, num_classes=0, depth=1)
    rows, columns = model.patch_embed.patch_size  # type: ignore[union-attr, misc]
    if rows != columns:
        raise CheckpointError(f"The vision encoder {name!r} has patches that are not square.")
    return rows


def _timm_patches(model: nn.Module, pixels: Tensor) -> Tensor:
    """All blocks and the model's own final norm where it has one; the class token is dropped."""
    return model.forward_features(pixels)[:, model.num_prefix_tokens :]  # type: ignore[operator, misc]


def _clip(config: VisionConfig, shape: ClipShape) -> VisionEncoder:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    require_multiple(config, shape.patch)
    if not -shape.layers - 1 <= config.select_layer <= shape.layers:
        raise CheckpointError(
            f"'select_layer' is {config.select_layer}, but {config.name} has {shape.layers} layers to choose from."
        )
    with real_buffers():
        model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=shape.width,
                intermediate_size=shape.mlp,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                image_size=config.image_size,
                patch_size=shape.patch,
                hidden_act=shape.activation,
            )
        )

    def patches(model: nn.Module, pixels: Tensor) -> Tensor:
        return model(pixels, output_hidden_states=True).hidden_states[config.select_layer][:, 1:]

    return VisionEncoder(
        model,
        patches,
        image_size=config.image_size,
        patch_size=shape.patch,
        width=shape.width,
        prefix_tokens=1,
        # some versions of transformers keep the tower one level deeper, under "vision_model."
        position_key=next(key for key, _ in model.named_parameters() if key.endswith("position_embedding.weight")),
    )


def _scene(config: VisionConfig) -> VisionEncoder:
    from vlcompare.models.scene_encoder import SceneEncoder, SceneEncoderConfig

    shape = SceneEncoderConfig.from_dict(config.scene)
    require_multiple(config, shape.patch_size)
    with real_buffers():
        model = SceneEncoder(shape)
    # it resamples its own positions in forward, so the loader has nothing to resample
    return VisionEncoder(
        model,
        lambda model, pixels: model(pixels),
        image_size=config.image_size,
        patch_size=shape.patch_size,
        width=shape.width,
    )
