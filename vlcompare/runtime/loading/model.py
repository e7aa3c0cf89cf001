"""A loaded model: its three parts, and all that an answer says about them."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlcompare.errors import RequestError
from vlcompare.machine.threads import worthwhile
from vlcompare.models.config import ModelConfig
from vlcompare.models.kernels import fallback
from vlcompare.models.kernels.cpu.openmp import at_most
from vlcompare.models.kernels.cuda.graph_capture import raise_pending
from vlcompare.models.vlm import VisionLanguageModel
from vlcompare.render.notebook import facts_html
from vlcompare.runtime.image import ImageTransform, open_image
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.loading.safetensors_files import NAMES, Stored, as_bytes, read_tensor
from vlcompare.runtime.tokenizer import Tokenizer
from vlcompare.types import Request
from vlcompare.units import format_bytes


@dataclass(eq=False, repr=False)
class Model:
    """A loaded checkpoint. Holds the three parts (`vlm`) and all that an answer has to say about them."""

    vlm: VisionLanguageModel
    config: ModelConfig
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype
    quantization: str = "none"
    checkpoint: str = ""
    revision: str | None = None
    notices: tuple[str, ...] = ()  # sentences that a user should see beside every answer
    stored: tuple[Stored, ...] = field(default=(), repr=False)
    weights_bytes: int = 0

    def __post_init__(self) -> None:
        self._transform = ImageTransform(self.config.image_size)
        self._sha256: str | None = None
        self._prepared = False
        self._preparing = threading.Lock()
        if not self.weights_bytes:
            self.weights_bytes = _bytes_held(self.vlm)

    def __repr__(self) -> str:
        runs = f"{self._precision} on {self.device}, {format_bytes(self.weights_bytes)}"
        return f"<Model {self.checkpoint!r}: {self.config.family}, {self.config.image_size} px, {runs}>"

    def _repr_html_(self) -> str:
        language = self.config.language
        rows = {
            "language model": f"{self.config.family}, {language.layers} layers, width {language.hidden_size}",
            "vision encoder": f"{self.config.vision.name} at {self.config.image_size} px",
            "weights": f"{format_bytes(self.weights_bytes)}, {self._precision} on {self.device}",
            "revision": self.revision or "",
            "notes": " ".join(self.notices),
        }
        return facts_html(self.checkpoint, {name: value for name, value in rows.items() if value})

    def prepare(self) -> None:
        """Decide, once, which kernels the model's answers take on a GPU; every use of the model begins with it.

        Raises an error that an earlier call has left on the device, before bitsandbytes' kernels end the process for
        it. Nothing happens where its weights only seem to be on a GPU, as in ZeroGPU's main process.
        """
        if self.device.type == "cpu" or not next(self.vlm.parameters()).is_cuda:
            return
        if self.quantization != "none":
            raise_pending(self.device)
        if self._prepared:
            return
        from vlcompare.runtime.loading.prove import prove_model

        with self._preparing:
            if not self._prepared:
                self.notices += tuple(prove_model(self.vlm, self.dtype, self.device))
                self.weights_bytes = _bytes_held(self.vlm)
                self._prepared = True

    @property
    def _precision(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return name if self.quantization == "none" else f"{self.quantization} with {name}"

    @property
    def vision_dtype(self) -> torch.dtype:
        """What pixels should come in."""
        return self.vlm.vision_encoder.dtype

    @property
    def threads(self) -> int:
        """How many threads compute its answers on the CPU; 0 on another device."""
        with at_most(self.most_threads):
            return self.threads_in_use

    @property
    def threads_in_use(self) -> int:
        """How many threads the calling thread computes with, where it does on the CPU; 0 on another device."""
        return torch.get_num_threads() if self.device.type == "cpu" else 0

    @property
    def most_threads(self) -> int:
        """How many threads are worth their synchronisation, at most."""
        return worthwhile(self.weights_bytes)

    def notices_for(self, request: Request) -> tuple[str, ...]:
        """Sentences that a user should see beside the answer to this request."""
        sentences = [*self.notices, *fallback.notices(self.device.type)]
        if request.prompt_order not in self.config.trained_prompt_orders:
            first = {"image_first": "the image", "instruction_first": "the instruction"}[request.prompt_order]
            sentences.append(f"{self.checkpoint} was not trained with {first} first, as it is asked here.")
        if request.task in self.config.tasks_at_chance:
            task = request.task.replace("_", " ")
            sentences.append(f"{self.checkpoint} guesses at {task}: it is right hardly more often than by chance.")
        return tuple(dict.fromkeys(sentences))

    def preprocess(self, image: Any) -> Tensor:
        """An upright picture (PIL) as the encoder takes it: float32 (3, H, W), on the CPU."""
        image = image if image.mode == "RGB" else open_image(image)
        return torch.from_numpy(self._transform.apply(image))

    @torch.inference_mode()
    def hidden(self, pixel_values: Any, input_ids: Any) -> Tensor:
        """Hidden states after the final norm, float32 (L, D), on the CPU; image positions in `input_ids` hold -200."""
        with at_most(self.most_threads):
            return self._hidden(pixel_values, input_ids).float().cpu()

    @torch.inference_mode()
    def logits(self, pixel_values: Any, input_ids: Any) -> Tensor:
        """Scores over the vocabulary at every position, float32 (L, V), on the CPU."""
        with at_most(self.most_threads):
            return self.vlm.language_model.logits(self._hidden(pixel_values, input_ids)).float().cpu()

    def weights_sha256(self) -> str:
        """SHA-256 over the weights as they are stored: keys in order, each with dtype, shape and bytes.

        The same for one file and for shards, whatever precision they were loaded in. Read from the files, once.
        """
        if self._sha256 is None:
            total = hashlib.sha256()
            for entry in sorted(self.stored, key=lambda entry: entry.key):
                total.update(f"{entry.key}|{NAMES[entry.dtype]}|{entry.shape}|".encode())
                total.update(as_bytes(read_tensor(entry)))
            if not self.stored:
                for name, value in sorted(self.vlm.state_dict().items()):
                    total.update(f"{name}|{NAMES[value.dtype]}|{tuple(value.shape)}|".encode())
                    total.update(as_bytes(value))
            self._sha256 = total.hexdigest()
        return self._sha256

    def _hidden(self, pixel_values: Any, input_ids: Any) -> Tensor:
        pixels = torch.as_tensor(pixel_values).to(self.device, self.vision_dtype)
        ids = torch.as_tensor(input_ids).to(self.device, torch.long)
        wanted = (3, self.config.image_size, self.config.image_size)
        if tuple(pixels.shape) != wanted or ids.dim() != 1:
            raise RequestError(
                f"Pixels must be {wanted} and ids (L,), not {tuple(pixels.shape)} and {tuple(ids.shape)}."
            )
        features = self.vlm.encode_image(pixels[None])
        embeddings = self.vlm.embed(ids[None], features if bool((ids < 0).any()) else None)
        language_model = self.vlm.language_model
        state = language_model.new_state(1, max(1, ids.numel()), device=self.device, dtype=self.dtype)
        return language_model(embeddings, state)[0]


def _bytes_held(vlm: VisionLanguageModel) -> int:
    """Bytes of everything that the model keeps, tied tensors once."""
    held: dict[int, int] = {}
    for value in [*vlm.parameters(), *vlm.buffers()]:
        held[id(value)] = value.nbytes
    return sum(held.values()) + sum(quantize.extra_bytes(module) for module in vlm.modules())
