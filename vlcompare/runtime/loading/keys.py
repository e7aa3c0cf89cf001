"""The map from names in published files to names in this project's modules, and a plan that accounts for every key.

Names and shapes only; no tensor is read. Every stored key must fill a tensor of the model, be replaced by the tensor it
is tied to, or be one of the few that are computed here anyway; everything that the model needs must be stored. Anything
else is an error that names the file and the key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vlcompare.errors import CheckpointError
from vlcompare.runtime.loading.safetensors_files import LARGEST_VALUE, Stored

# prefix in the file -> prefix in the model; the first row that fits counts. The names in files are those of the
# authors' classes: timm's or transformers' own below `vision_encoder.`, transformers' GPT-NeoX, mamba_ssm's Mamba.
_SHARED = (
    # transformers up to 4 wrapped CLIP's vision tower in one more module; version 5 does not
    ("vision_encoder.vision_model.", "vision_encoder.model."),
    ("vision_encoder.", "vision_encoder.model."),
    ("vision_embed_tokens.", "connector."),
)
KEY_MAP: dict[str, tuple[tuple[str, str], ...]] = {
    "pythia": (("gpt_neox.", "language_model."), ("embed_out.", "language_model.embed_out."), *_SHARED),
    "mamba": (("backbone.", "language_model."), ("lm_head.weight", "language_model.embedding.weight"), *_SHARED),
}
# where one tensor serves as embedding and as output head and both are stored, the authors' loader ends with the head's
_HEADS = ("lm_head.weight", "embed_out.weight")
# buffers that older versions of transformers stored, and that follow from the config
_COMPUTED = re.compile(
    r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"
    r"|vision_encoder\.(vision_model\.)?embeddings\.position_ids"
)
FLOAT32 = (".A_log", ".D", ".dt_proj.bias")  # of Mamba's recurrence: float32 in every precision
_LARGEST_A_LOG = 80.0  # the recurrence computes exp(A_log) in float32, which overflows from 88.7 on
_NORM_BIAS = re.compile(r"language_model\.(layers\.\d+\.norm|norm_f)\.bias")
_LANGUAGE = {"pythia": "gpt_neox.", "mamba": "backbone."}


@dataclass(frozen=True, slots=True)
class Plan:
    """What fills what. Names on the left are the model's, `Stored` says file and key."""

    fill: dict[str, Stored]
    replaced: dict[str, Stored]  # of two tied tensors the one that is not used, by the name that the other fills
    zero: tuple[str, ...]  # norm biases that are not stored and stay zero
    must_be_zero: tuple[Stored, ...]  # stored norm biases that the wanted norm has no use for
    computed: tuple[Stored, ...]  # stored, but computed here


def model_key(file_key: str, family: str) -> str | None:
    """The model's name for a stored key, or None for a key that the family does not have."""
    for prefix, replacement in KEY_MAP[family]:
        if file_key.startswith(prefix):
            return replacement + file_key[len(prefix) :]
    return None


def file_key(name: str, family: str) -> str:
    """The published name for one of the model's names: the inverse of `model_key` (the plain form for CLIP)."""
    for prefix, replacement in KEY_MAP[family]:
        if name.startswith(replacement) and prefix not in ("lm_head.weight", "vision_encoder.vision_model."):
            # language_model.embed_out. belongs to its own row, not to gpt_neox.
            if prefix == "gpt_neox." and name.startswith("language_model.embed_out."):
                continue
            return prefix + name[len(replacement) :]
    raise KeyError(name)


def highest_value(key: str) -> float:
    """The largest value that the tensor of this key may have."""
    return _LARGEST_A_LOG if key.endswith(".A_log") else LARGEST_VALUE


def stored_norm(stored: Mapping[str, Stored], family: str) -> str:
    """The norms that the files hold: "layernorm" where the first layer's norm has a bias, else "rmsnorm"."""
    if family == "pythia" or "backbone.layers.0.norm.bias" in stored:
        return "layernorm"
    return "rmsnorm"


def plan(
    stored: Mapping[str, Stored],
    wanted: Mapping[str, tuple[int, ...]],
    family: str,
    first_name: Mapping[str, str] | None = None,
    *,
    zero_norm_biases: bool = False,
) -> Plan:
    """Account for every key. Raises CheckpointError for the first that does not fit.

    wanted: name in the model -> shape. first_name: for every name of a tied tensor the one that is wanted.
    zero_norm_biases: LayerNorm asked for a file without norm biases.
    """
    _check_family(stored, family)
    first = first_name or {}
    by_plain_name = {_plain(name): name for name in wanted}
    fill: dict[str, Stored] = {}
    replaced: dict[str, Stored] = {}
    must_be_zero: list[Stored] = []
    computed: list[Stored] = []
    for key, entry in stored.items():
        mapped = model_key(key, family)
        name = by_plain_name.get(_plain(first.get(mapped, mapped))) if mapped else None
        if name is None and mapped and _NORM_BIAS.fullmatch(mapped):
            must_be_zero.append(entry)
        elif name is None and _COMPUTED.fullmatch(key):
            computed.append(entry)
        elif name is None:
            raise CheckpointError(
                f"{entry.where} is not part of this {family} model: config.json and weights disagree."
            )
        elif entry.shape != wanted[name]:
            raise CheckpointError(
                f"{entry.where} has the shape {list(entry.shape)} where config.json asks for {list(wanted[name])}."
            )
        elif name not in fill:
            fill[name] = entry
        else:
            head, other = (entry, fill[name]) if key in _HEADS else (fill[name], entry)
            fill[name], replaced[name] = head, other
    missing = [name for name in wanted if name not in fill]
    zero = [name for name in missing if zero_norm_biases and _NORM_BIAS.fullmatch(name)]
    _check_missing(stored, [name for name in missing if name not in zero], family)
    return Plan(fill, replaced, tuple(zero), tuple(must_be_zero), tuple(computed))


def _plain(name: str) -> str:
    """The model's own name without transformers 4's extra level, so that either version of it meets either file."""
    return name.replace("vision_encoder.model.vision_model.", "vision_encoder.model.", 1)


def _check_family(stored: Mapping[str, Stored], family: str) -> None:
    prefix = _LANGUAGE[family]
    if any(key.startswith(prefix) for key in stored):
        return
    for other, other_prefix in _LANGUAGE.items():
        entry = next((entry for key, entry in stored.items() if key.startswith(other_prefix)), None)
        if entry is not None:
            raise CheckpointError(
                f"{entry.where} belongs to a {other} model, but config.json describes a {family} one."
            )
    first = next(iter(stored.values()), None)
    found = f"{first.where} is its first key" if first else "it is empty"
    raise CheckpointError(
        f"The checkpoint holds no {prefix}* keys, so it is not a vision-language {family} model; {found}."
    )


def _check_missing(stored: Mapping[str, Stored], missing: list[str], family: str) -> None:
    if not missing:
        return
    files = sorted({entry.file.name for entry in stored.values()})
    place = files[0] if len(files) == 1 else f"{files[0]} to {files[-1]}"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise CheckpointError(
        f"{place}: {file_key(missing[0], family)!r}{more} missing; the checkpoint is incomplete, download it again."
    )
