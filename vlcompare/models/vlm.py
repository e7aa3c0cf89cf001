"""A vision-language model: encoder, connector and language model joined, for both families alike.

Pixels and token ids in, embeddings and features out. Where the image's
positions are is written in the ids (-200), after the sequence that the authors use (arXiv 2409.05395, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.config import ModelConfig, PythiaConfig
from vlcompare.models.mamba import Mamba
from vlcompare.models.meta_init import structure_only
from vlcompare.models.pythia import Pythia
from vlcompare.models.vision import build_vision_encoder
from vlcompare.tasks.sequence import IMAGE_SLOT

_MAX_PATCHES = 4096  # published models have 576; attention takes the square of it, so a damaged size would take hours


def build_connector(vision_width: int, width: int) -> nn.Sequential:
    """From the encoder's width to the language model's: Linear, exact GELU, Linear; (B, P, C) -> (B, P, D)."""
    return nn.Sequential(nn.Linear(vision_width, width), nn.GELU(), nn.Linear(width, width))


class VisionLanguageModel(nn.Module):
    """The three parts by name; built without reading or downloading anything."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        try:
            self.vision_encoder = build_vision_encoder(config.vision)
        except RequestError as error:
            # an impossible size is the request's fault only if it is not the one the file itself names
            if config.image_size == config.trained_image_size:
                raise CheckpointError(str(error)) from error
            raise
        rows, columns = self.vision_encoder.grid
        if config.image_size == config.trained_image_size and rows * columns > _MAX_PATCHES:
            raise CheckpointError(
                f"config.json: 'image_size' {config.image_size} gives {rows * columns} patches, more than the "
                f"{_MAX_PATCHES} that a trained model can have here."
            )
        language = config.language
        self.connector = build_connector(self.vision_encoder.width, language.hidden_size)
        self.language_model: Pythia | Mamba = (
            Pythia(language) if isinstance(language, PythiaConfig) else Mamba(language)
        )

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> embeddings at the image's positions, (B, P, D), in raster order."""
        return self.connect(self.vision_features(pixels))

    def vision_features(self, pixels: Tensor) -> Tensor:
        """The vision encoder alone: normalised pixels (B, 3, H, W) -> (B, P, C)."""
        return self.vision_encoder(pixels.to(self.vision_encoder.dtype))

    def connect(self, features: Tensor) -> Tensor:
        """The connector: the encoder's features (B, P, C) -> (B, P, D)."""
        return self.connector(features.to(next(self.connector.parameters()).dtype))

    def embed(self, ids: Tensor, image_features: Tensor | None = None) -> Tensor:
        """Embeddings (B, L, D): positions holding -200 take the image's features in raster order.

        Raises RequestError when the number of such positions differs from the number of features in any row, or an id
        is not in the vocabulary.
        """
        vocabulary = self.config.language.vocab_size
        slots_bl = ids == IMAGE_SLOT
        text_bl = ids.masked_fill(slots_bl, 0)
        if text_bl.numel() and (int(text_bl.min()) < 0 or int(text_bl.max()) >= vocabulary):
            raise RequestError(f"A token id is outside of the vocabulary; ids go from 0 to {vocabulary - 1}.")
        embeddings_bld = self.language_model.embed_tokens(text_bl)
        counts = slots_bl.sum(1)
        if image_features is None:
            if bool(counts.any()):
                raise RequestError("The sequence has image positions, but no image was given.")
            return embeddings_bld
        patches = image_features.shape[1]
        if bool((counts != patches).any()):
            found = ", ".join(str(count) for count in sorted(set(counts.tolist())))
            raise RequestError(f"The image has {patches} patches, but the sequence has {found} image positions.")
        return embeddings_bld.masked_scatter(slots_bl[:, :, None], image_features.to(embeddings_bld.dtype))


def meta_model(config: ModelConfig) -> VisionLanguageModel:
    """The model without any weights in memory, to be filled by a loader or to be counted."""
    # On Hopper and Blackwell newer versions of torch prefer cuDNN's attention, which builds a plan for every new shape,
    # 100 ms and more: here every prompt's length and every batch's pictures would be one. The next choice needs none.
    torch.backends.cuda.enable_cudnn_sdp(False)
    with structure_only():
        return VisionLanguageModel(config)
