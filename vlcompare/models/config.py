"""Frozen configurations of the two families, read from a checkpoint's config.json and from a table of presets.

Knows the keys of the published files and raises CheckpointError, with one sentence, for what it does not understand.
Standard library only. A config alone does not decide Mamba's norms: the published ones all have `rms_norm: true` while
LayerNorm is what was trained, so the loader sets `norm` from the tensors.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vlcompare.errors import CheckpointError
from vlcompare.types import Family

NormName = Literal["layernorm", "rmsnorm"]

# hidden_act in a GPT-NeoX config -> activation; "gelu" is the exact one, the others that begin so approximate it
ACTIVATIONS: dict[str, str] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Which encoder looks at the picture, and at which size."""

    name: str  # timm's name (with or without "timm/"), "openai/clip-vit-...", or "vlcompare/scene"
    image_size: int  # the size in effect, in pixels; pictures are squares
    select_layer: int = -2  # CLIP only: which of its hidden states is taken
    select_feature: str = "patch"  # the class token is dropped
    scene: Mapping[str, Any] | None = field(default=None, hash=False)  # "vlcompare/scene" only: its own shape, unread


@dataclass(frozen=True, slots=True)
class PythiaConfig:
    """A GPT-NeoX decoder (arXiv 2204.06745), as Pythia uses it."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int = 2048
    rotary_share: float = 0.25  # share of each head's channels that is rotated
    rotary_base: float = 10000.0
    parallel_residual: bool = True
    norm_eps: float = 1e-5
    activation: str = "gelu"  # a value of ACTIVATIONS
    attention_bias: bool = True
    tie_embeddings: bool = False

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.heads

    @property
    def rotary_size(self) -> int:
        """Channels of a head that are rotated; the rest carry no position."""
        return int(self.head_size * self.rotary_share)


@dataclass(frozen=True, slots=True)
class MambaConfig:
    """A Mamba-1 decoder (arXiv 2312.00752). The embedding is also the output head."""

    vocab_size: int  # padded: rows of the embedding
    hidden_size: int
    layers: int
    state_size: int = 16  # N in the paper
    conv_size: int = 4  # taps of the causal convolution
    expand: float = 2  # E in the paper: inner width over hidden size
    time_step_rank: int = 0  # rank of the projection to Δ; 0: a sixteenth of the hidden size
    projection_bias: bool = False
    conv_bias: bool = True
    norm: NormName = "layernorm"  # LayerNorm with bias is what the published weights were trained with
    norm_eps: float = 1e-5

    @property
    def inner_size(self) -> int:
        return int(self.expand * self.hidden_size)

    @property
    def rank(self) -> int:
        return self.time_step_rank or -(-self.hidden_size // 16)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole vision-language model."""

    family: Family
    vision: VisionConfig
    language: PythiaConfig | MambaConfig
    trained_image_size: int
    trained_prompt_orders: tuple[str, ...] = ("image_first",)  # as published; `trained_prompt_orders` may say otherwise
    tasks_at_chance: tuple[str, ...] = ()  # guessed at, as its makers measured; its card has the figures

    @property
    def image_size(self) -> int:
        """The size in effect; `trained_image_size` is what the weights were trained at."""
        return self.vision.image_size

    def with_image_size(self, image_size: int) -> ModelConfig:
        """The same model looking at pictures of another size."""
        return dataclasses.replace(self, vision=dataclasses.replace(self.vision, image_size=image_size))

    def with_norm(self, norm: NormName) -> ModelConfig:
        """The same Mamba with the norms that its tensors show; no change for Pythia."""
        if not isinstance(self.language, MambaConfig):
            return self
        return dataclasses.replace(self, language=dataclasses.replace(self.language, norm=norm))


# ---------------------------------------------------------------------------------------------- presets

_EVA02_L_336 = VisionConfig("eva02_large_patch14_clip_336", 336)


def _pythia(hidden: int, layers: int, heads: int) -> ModelConfig:
    return ModelConfig("pythia", _EVA02_L_336, PythiaConfig(50304, hidden, layers, heads, 4 * hidden), 336)


def _mamba(hidden: int, layers: int) -> ModelConfig:
    return ModelConfig("mamba", _EVA02_L_336, MambaConfig(50280, hidden, layers), 336)


# the six published shapes, matched pairs side by side: (hidden, layers, heads) and (hidden, layers)
PRESETS: dict[str, ModelConfig] = {
    "pythiavl_1b": _pythia(2048, 16, 8),
    "mambavl_790m": _mamba(1536, 48),
    "pythiavl_1.4b": _pythia(2048, 24, 16),
    "mambavl_1.4b": _mamba(2048, 48),
    "pythiavl_2.8b": _pythia(2560, 32, 32),
    "mambavl_2.8b": _mamba(2560, 64),
}


# ---------------------------------------------------------------------------------------------- reading

# no model is larger; without a limit a damaged number would ask for terabytes before anything is noticed
_LARGEST = {
    "layers": 1024,
    "width": 1 << 17,
    "vocabulary": 1 << 22,
    "pixels": 2048,
    "positions": 1 << 22,
    "small": 4096,
}
_LONGEST_NAME = 200  # characters


def _short(value: Any) -> str:
    """A value from a file, for a message: quoted, and shortened if it is long."""
    return reprlib.repr(value)


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed look-ups in a dictionary that somebody else wrote; whatever is odd becomes one sentence."""

    data: Mapping[str, Any]
    where: str = "config.json"

    def _find(self, keys: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for key in keys:
            if self.data.get(key) is not None:
                return key, self.data[key]
        if default is None:
            wanted = " or ".join(map(repr, keys))
            raise CheckpointError(f"{self.where} has no {wanted}; this is not a complete checkpoint.")
        return keys[0], default

    def integer(self, *keys: str, default: int | None = None, kind: str = "width", low: int = 1) -> int:
        key, value = self._find(keys, default)
        return self._whole(key, value, low, _LARGEST[kind])

    def integers(self, key: str, default: tuple[int, ...], kind: str = "width", most: int = 8) -> tuple[int, ...]:
        _, values = self._find((key,), default)
        if not isinstance(values, (list, tuple)) or not 0 < len(values) <= most:
            raise CheckpointError(
                f"{self.where}: {key!r} is {_short(values)}, but must be a list of 1 to {most} numbers."
            )
        return tuple(self._whole(key, value, 1, _LARGEST[kind]) for value in values)

    def _whole(self, key: str, value: Any, low: int, high: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise CheckpointError(
                f"{self.where}: {key!r} is {_short(value)}, but must be a whole number from {low} to {high}."
            )
        return value

    def number(self, *keys: str, default: float | None = None, high: float = 1e12) -> float:
        key, value = self._find(keys, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= high:
            raise CheckpointError(
                f"{self.where}: {key!r} is {_short(value)}, but must be above 0 and at most {high:g}."
            )
        return float(value)

    def flag(self, *keys: str, default: bool) -> bool:
        key, value = self._find(keys, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.where}: {key!r} is {_short(value)}, but must be true or false.")
        return value

    def text(self, *keys: str, default: str | None = None) -> str:
        key, value = self._find(keys, default)
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
            raise CheckpointError(f"{self.where}: {key!r} is {_short(value)}, but must be a name.")
        return value

    def names(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        _, value = self._find((key,), default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
            raise CheckpointError(f"{self.where}: {key!r} is {_short(value)}, but must be a list of names.")
        return tuple(value)

    def table(self, key: str) -> Fields:
        value = self.data.get(key) or {}
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.where}: {key!r} is {_short(value)}, but must be a table of values.")
        return Fields(value, f"{self.where}, {key!r}")


def from_dict(data: Any) -> ModelConfig:
    """Read a checkpoint's config.json, given as what json.load returns.

    Raises CheckpointError with one sentence when a field is missing, odd, or of an architecture other than the two.
    """
    if not isinstance(data, Mapping):
        raise CheckpointError(f"config.json holds {type(data).__name__} where a table of values was expected.")
    fields = Fields(data)
    family = _family(data)
    vision = _vision(fields)
    language = _pythia_config(fields) if family == "pythia" else _mamba_config(fields)
    orders = fields.names("trained_prompt_orders", default=("image_first",))
    at_chance = fields.names("tasks_at_chance", default=())
    return ModelConfig(family, vision, language, vision.image_size, orders, at_chance)


def _family(data: Mapping[str, Any]) -> Family:
    """By `architectures` where it is there, else by the keys that only one family has."""
    named = data.get("architectures") or ()
    names = " ".join(map(str, named)) if isinstance(named, (list, tuple)) else str(named)
    is_pythia, is_mamba = "neox" in names.lower(), "mamba" in names.lower()
    if not names.strip():
        is_pythia = data.get("model_type") == "gpt_neox" or "num_attention_heads" in data
        is_mamba = "ssm_cfg" in data or "n_layer" in data
    if is_pythia == is_mamba:
        found = f"architectures {_short(names)}" if names.strip() else "neither architectures nor the keys of either"
        raise CheckpointError(
            f"config.json names {found}; this loads vision-language models on GPT-NeoX (Pythia) or Mamba only."
        )
    return "pythia" if is_pythia else "mamba"


def _vision(fields: Fields) -> VisionConfig:
    feature = fields.text("select_feature", default="patch")
    if feature != "patch":
        raise CheckpointError(f"config.json: 'select_feature' is {_short(feature)}; only 'patch' is supported.")
    layer = fields.data.get("select_layer", -2)
    if isinstance(layer, bool) or not isinstance(layer, int) or abs(layer) > _LARGEST["layers"]:
        raise CheckpointError(f"config.json: 'select_layer' is {_short(layer)}, but must be a whole number such as -2.")
    size = fields.integer("image_size", kind="pixels")
    scene = fields.table("scene_encoder").data or None
    return VisionConfig(fields.text("vision_encoder_name"), size, layer, feature, scene)


def _pythia_config(fields: Fields) -> PythiaConfig:
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads", kind="small")
    if hidden % heads:
        raise CheckpointError(f"config.json: 'hidden_size' {hidden} is not divisible by 'num_attention_heads' {heads}.")
    act = fields.text("hidden_act", default="gelu")
    if act not in ACTIVATIONS:
        raise CheckpointError(f"config.json: 'hidden_act' {_short(act)} is not one of {', '.join(ACTIVATIONS)}.")
    # transformers 5 writes rope_parameters where version 4 wrote rotary_pct, rotary_emb_base and rope_scaling
    rope = fields.table("rope_parameters")
    scaling = fields.data.get("rope_scaling") or rope.data
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, Mapping) else scaling
    if kind != "default":
        raise CheckpointError(f"config.json: scaled rotary positions ({_short(kind)}) are not supported.")
    share = rope.number("partial_rotary_factor", default=fields.number("rotary_pct", default=0.25, high=1.0), high=1.0)
    config = PythiaConfig(
        vocab_size=fields.integer("vocab_size", kind="vocabulary"),
        hidden_size=hidden,
        layers=fields.integer("num_hidden_layers", kind="layers"),
        heads=heads,
        intermediate_size=fields.integer("intermediate_size", default=4 * hidden, kind="vocabulary"),
        max_positions=fields.integer("max_position_embeddings", default=2048, kind="positions"),
        rotary_share=share,
        rotary_base=rope.number("rope_theta", default=fields.number("rotary_emb_base", default=10000.0)),
        parallel_residual=fields.flag("use_parallel_residual", default=True),
        norm_eps=fields.number("layer_norm_eps", default=1e-5, high=1.0),
        activation=ACTIVATIONS[act],
        attention_bias=fields.flag("attention_bias", default=True),
        tie_embeddings=fields.flag("tie_word_embeddings", default=False),
    )
    if config.rotary_size % 2:
        raise CheckpointError(
            f"config.json: 'rotary_pct' {share:g} rotates {config.rotary_size} channels of each head, an odd number."
        )
    return config


def _mamba_config(fields: Fields) -> MambaConfig:
    """`rms_norm`, `fused_add_norm` and `residual_in_fp32` are not read: they are not what the authors ran."""
    ssm = fields.table("ssm_cfg")
    kind = ssm.text("layer", default="Mamba1")
    if kind != "Mamba1":
        raise CheckpointError(f"config.json: 'ssm_cfg' asks for {_short(kind)} layers; only Mamba-1 is supported.")
    rank = 0 if ssm.data.get("dt_rank", "auto") == "auto" else ssm.integer("dt_rank")
    # mamba_ssm's own default: a file that leaves it out was made with 8
    multiple = fields.integer("pad_vocab_size_multiple", default=8, kind="small")
    config = MambaConfig(
        vocab_size=-(-fields.integer("vocab_size", kind="vocabulary") // multiple) * multiple,
        hidden_size=fields.integer("d_model", "hidden_size"),
        layers=fields.integer("n_layer", "num_hidden_layers", kind="layers"),
        state_size=ssm.integer("d_state", default=16, kind="small"),
        conv_size=ssm.integer("d_conv", default=4, kind="small"),
        expand=ssm.number("expand", default=2, high=_LARGEST["small"]),
        time_step_rank=rank,
        projection_bias=ssm.flag("bias", default=False),
        conv_bias=ssm.flag("conv_bias", default=True),
        norm_eps=fields.number("norm_epsilon", default=1e-5, high=1.0),
    )
    if not config.inner_size:
        raise CheckpointError(f"config.json, 'ssm_cfg': 'expand' {config.expand:g} leaves no inner channels.")
    return config
