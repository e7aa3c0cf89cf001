"""A trained pair -> checkpoint folders in the published layout: config.json, bf16 safetensors, tokenizer.json, curves.

The same names and the same untied head as the published Pythia files, LayerNorm with bias and one tied embedding as
the published Mamba files: both go through the ordinary loader.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlcompare.models.config import ModelConfig, PythiaConfig, VisionConfig
from vlcompare.models.config_json import pythia_fields
from vlcompare.models.scene_encoder import SCENE_ENCODER_NAME, SceneEncoder, SceneEncoderConfig
from vlcompare.models.vlm import VisionLanguageModel
from vlcompare.runtime.loading.keys import file_key
from vlcompare.synth.train import word_tokenizer
from vlcompare.synth.train.encoder import EncoderTraining
from vlcompare.synth.train.learner import Learner, language_config
from vlcompare.synth.train.recipe import Recipe, to_dict
from vlcompare.training.progress import load_state, read_log, whole_tensors

FOLDERS = {"pythia": "tiny-pythia-vl", "mamba": "tiny-mamba-vl"}


def config_json(
    family: str, recipe: Recipe, shape: SceneEncoderConfig, at_chance: Sequence[str] = ()
) -> dict[str, Any]:
    """config.json with the keys that the published files use, and which tasks the model guesses at."""
    language = language_config(family, recipe.shapes)
    shared: dict[str, Any] = {
        "torch_dtype": "bfloat16",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_size,
        "vision_encoder_name": SCENE_ENCODER_NAME,
        "scene_encoder": {
            "stem": list(shape.stem),
            "stem_blocks": shape.stem_blocks,
            "depth": shape.depth,
            "heads": shape.heads,
            "hidden": shape.hidden,
            "grid": shape.grid,
        },
        "image_size": recipe.pictures.image_size,
        "select_layer": -2,
        "select_feature": "patch",
        "trained_prompt_orders": ["image_first"],
        "trained_image_sizes": [recipe.pictures.image_size],
        "tasks_at_chance": list(at_chance),
    }
    if isinstance(language, PythiaConfig):
        return {
            "architectures": ["VLCLIPGPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            **shared,
            **pythia_fields(language),
            "tie_word_embeddings": False,
        }
    return {
        "architectures": ["VLMambaCLIPLMHeadModel"],
        **shared,
        "d_model": language.hidden_size,
        "n_layer": language.layers,
        "ssm_cfg": {"d_state": language.state_size},
        "rms_norm": False,
        "fused_add_norm": False,
        "residual_in_fp32": False,
        "pad_vocab_size_multiple": 1,
    }


def joined_model(family: str, recipe: Recipe, encoder: SceneEncoder, learner: Learner) -> VisionLanguageModel:
    """Encoder, connector and language model as the model that the engine runs; the output head is not tied."""
    language = language_config(family, recipe.shapes)
    if isinstance(language, PythiaConfig):
        language = replace(language, tie_embeddings=False)
    size = recipe.pictures.image_size
    shape = {**encoder.config.__dict__, "stem": list(encoder.config.stem)}
    config = ModelConfig(family, VisionConfig(SCENE_ENCODER_NAME, size, scene=shape), language, size)  # type: ignore[arg-type]
    model = VisionLanguageModel(config)
    model.vision_encoder.model.load_state_dict(encoder.state_dict())
    model.connector.load_state_dict(learner.connector.state_dict())
    model.language_model.load_state_dict(learner.language_model.state_dict())
    return model.eval()


def published_tensors(model: VisionLanguageModel, family: str) -> dict[str, Tensor]:
    """bf16 tensors under the published names; no two share memory."""
    tensors = {
        file_key(name, family): value.detach().to(torch.bfloat16).clone().contiguous()
        for name, value in model.state_dict().items()
    }
    if family == "mamba":
        # the published finetuned files hold one of the two tied tensors
        tensors.pop("lm_head.weight", None)
    return tensors


def read_notes(out: Path) -> dict[str, Any]:
    """The author's remarks on a training: `notes.json` in `out`, {} without such a file."""
    path = out / "notes.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def training_json(recipe: Recipe, out: Path, encoder: SceneEncoder) -> dict[str, Any]:
    """What was run: recipe, steps and minutes so far, parameters, the search for learning rates, and notes.

    The notes have the sentences "about", "limits" and "rests_on" for the card, and per family the tasks that are
    guessed at.
    """
    runs = {}
    for name in ("encoder", *FOLDERS):
        state = load_state(out / f"{name}.pt") if (out / f"{name}.pt").exists() else {}
        runs[name] = {"steps": state.get("step"), "minutes": round(state.get("seconds", 0.0) / 60, 1)}
    notes = read_notes(out)
    return {
        "recipe": to_dict(recipe),
        "runs": runs,
        "parameters": {
            "encoder": sum(p.numel() for p in encoder.parameters()),
            **{family: Learner(family, recipe, encoder.width).shipped_parameters() for family in FOLDERS},
        },
        "image_size": recipe.pictures.image_size,
        "learning_rate_search": read_log(out / "search.jsonl"),
        "about": notes.get("about") or _about(recipe, runs),
        "limits": notes.get("limits", "Not recorded."),
        "rests_on": notes.get("rests_on", "Not measured."),
    }


def _about(recipe: Recipe, runs: dict[str, dict[str, Any]]) -> str:
    options = recipe.language
    return (
        f"Recipe `{recipe.name}`. Encoder: {runs['encoder']['steps']} steps of {recipe.encoder.batch} pictures, "
        f"{runs['encoder']['minutes']} minutes. Language models, one after the other's steps and batches: "
        f"{runs['pythia']['steps']} (Pythia) and {runs['mamba']['steps']} (Mamba) steps of {options.pictures} pictures "
        f"with {options.questions} questions each, {runs['pythia']['minutes']} and {runs['mamba']['minutes']} minutes."
    )


def export(family: str, recipe: Recipe, out: Path, checkpoints: Path) -> Path:
    """Write one checkpoint folder from the states in `out`, with the training curves and training.json."""
    from safetensors.torch import save_file

    device = torch.device("cpu")
    encoding = EncoderTraining.fresh(recipe, device)
    encoding.encoder.load_state_dict(load_state(out / "encoder.pt")["encoder"])
    learner = Learner(family, recipe, encoding.encoder.width)
    learner.load_state_dict(load_state(out / f"{family}.pt")["learner"])
    model = joined_model(family, recipe, encoding.encoder, learner)
    folder = checkpoints / FOLDERS[family]
    folder.mkdir(parents=True, exist_ok=True)
    with whole_tensors(folder / "model.safetensors") as partial:  # whoever has mapped the old file keeps its contents
        save_file(published_tensors(model, family), partial, metadata={"format": "pt"})
        partial.chmod(0o644)
    guessed = read_notes(out).get("tasks_at_chance", {}).get(family, ())
    config = config_json(family, recipe, encoding.encoder.config, guessed)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    word_tokenizer.write(folder)
    for name in (f"{family}.jsonl", "encoder.jsonl"):
        if (out / name).exists():
            shutil.copyfile(out / name, folder / ("curves.jsonl" if name.startswith(family) else name))
    account = training_json(recipe, out, encoding.encoder)
    (folder / "training.json").write_text(json.dumps(account, indent=2) + "\n", encoding="utf-8")
    return folder
