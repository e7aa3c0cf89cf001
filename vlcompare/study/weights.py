"""A finished row's model as one safetensors file: written after a training, and read back to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.meta_init import structure_only
from vlcompare.study.models import StudyModel, build
from vlcompare.study.recipe import RECIPES
from vlcompare.study.rows import Setting
from vlcompare.study.tasks import ItemSource
from vlcompare.training.progress import whole_tensors

_TEXTS = ("task", "order", "family", "recipe")
_NUMBERS = ("length", "vocabulary", "width", "layers", "state_size")
_TIED = "embed_out.weight"  # the embedding, under a second name


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode on the CPU, its family, and the task that it was trained on."""

    family: str
    source: ItemSource
    model: StudyModel


def save_weights(model: StudyModel, path: Path, row: Mapping[str, Any]) -> None:
    """Write a finished model, with what is needed to build it and to ask it as metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors.pop(_TIED, None)
    with whole_tensors(path) as partial:
        save_file(tensors, partial, {name: str(row[name]) for name in (*_TEXTS, *_NUMBERS)})


def load_weights(path: Path) -> Trained:
    """The model that `save_weights` wrote. Raises CheckpointError where the file is none of these, or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            setting = _setting(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        with structure_only():
            model = build(
                setting.family,
                setting.source.tokens,
                setting.width,
                setting.layers,
                setting.state_size or 1,
                RECIPES[setting.recipe],
            )
        if _TIED in model.state_dict():
            tensors[_TIED] = tensors["embed_in.weight"]
        model.load_state_dict(tensors, assign=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not there.") from error
    except (SafetensorError, RequestError, RuntimeError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} holds no model of the study; make it again by `study run`.") from error
    return Trained(setting.family, setting.source, model.eval().requires_grad_(False))


def _setting(metadata: Mapping[str, str]) -> Setting:
    """The row that a file's model was trained as; its rate, seed and budget do not matter here."""
    texts = {name: None if metadata[name] == "None" else metadata[name] for name in _TEXTS}
    numbers = {name: None if metadata[name] == "None" else int(metadata[name]) for name in _NUMBERS}
    return Setting(**texts, **numbers, learning_rate=1.0, seed=0, budget=1)  # type: ignore[arg-type]
