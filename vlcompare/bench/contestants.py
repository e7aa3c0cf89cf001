"""What is timed: our models, transformers' own, and mamba-ssm's, all with the same random weights at the true shapes.

A contestant can read a prompt and then write tokens greedily. Random weights take as long
as trained ones. transformers' models share the tensors of ours, so that two of a size fit where one does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlcompare.models.config import MambaConfig, ModelConfig, PythiaConfig
from vlcompare.models.meta_init import empty_parameters
from vlcompare.models.pythia import Pythia
from vlcompare.models.vlm import VisionLanguageModel, meta_model
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.loading.keys import FLOAT32
from vlcompare.runtime.loading.prove import prove_model
from vlcompare.runtime.sampling import greedy
from vlcompare.runtime.step_graphs import step_runner
from vlcompare.tasks.sequence import IMAGE_SLOT

_ALTERNATIVES = 5  # likeliest tokens that every step reports with their log-probabilities, as the engine does
_NOISE = 1 << 22  # random numbers that all weights are cut from: drawing billions would take minutes on a CPU


class Contestant(Protocol):
    """`prefill` returns when the first token is known; `step` writes one more token. Neither waits for the device.

    `ready` comes before each prefill and is not timed: it frees what the round before made.
    """

    name: str

    def ready(self) -> None: ...

    def prefill(self) -> None: ...

    def step(self) -> None: ...


def build(config: ModelConfig, precision: str, device: torch.device) -> VisionLanguageModel:
    """The whole model with random weights, language model quantized where `precision` says so."""
    dtype = dtype_of(precision)
    vlm = meta_model(config).eval()
    method = precision if precision in quantize.METHODS else "none"
    linears = quantize.targets(vlm, config.family) if method != "none" else {}
    noise = torch.randn(_NOISE, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    made: dict[int, nn.Parameter] = {}
    for name, module in list(vlm.named_modules()):
        for key, empty in list(module._parameters.items()):
            if empty is None:
                continue
            if id(empty) not in made:  # a tied parameter stays one
                values = _values(key, empty, noise)
                if f".{name}.{key}".endswith(FLOAT32):  # as the loader keeps them
                    values = values.float()
                made[id(empty)] = nn.Parameter(values, requires_grad=False)
            module._parameters[key] = made[id(empty)]
        if name in linears:
            _quantize(vlm, name, method)
    vlm.vision_encoder.place_buffers(device)
    return vlm


def dtype_of(precision: str) -> torch.dtype:
    """What is not quantized runs in this dtype."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


def decide_kernels(vlm: VisionLanguageModel, precision: str, device: torch.device) -> list[str]:
    """Try a GPU's kernels as the loader does, so that what is timed is what answers take. Returns notices."""
    return prove_model(vlm, dtype_of(precision), device) if device.type == "cuda" else []


def _values(key: str, empty: Tensor, noise: Tensor) -> Tensor:
    """Numbers as a trained model's are in size: matrices keep the activations' scale, norms are one."""
    if key == "A_log":
        return torch.arange(1, empty.shape[1] + 1, device=noise.device).log().repeat(empty.shape[0], 1).to(noise.dtype)
    if empty.dim() < 2:
        return torch.full(empty.shape, 0.0 if key == "bias" else 1.0, dtype=noise.dtype, device=noise.device)
    count = empty.numel()
    flat = torch.empty(count, dtype=noise.dtype, device=noise.device)
    for start in range(0, count, _NOISE):
        flat[start : start + _NOISE] = noise[: min(_NOISE, count - start)]
    return flat.mul_(empty.shape[-1] ** -0.5).view(empty.shape)


def _quantize(vlm: VisionLanguageModel, name: str, method: str) -> None:
    linear = vlm.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    parts = quantize.quantize(linear.weight.detach(), method)
    shape = (linear.out_features, linear.in_features)
    bias = None if linear.bias is None else linear.bias.detach()
    parent, _, last = name.rpartition(".")
    setattr(
        vlm.get_submodule(parent), last, quantize.quantized_linear(parts, method, shape, bias, linear.weight.device)
    )


def prompt_ids(config: ModelConfig, vlm: VisionLanguageModel, length: int, device: torch.device) -> tuple[Tensor, bool]:
    """ids (1, L) of a prompt: the image's positions where they fit, then text. And whether the image is in it."""
    rows, columns = vlm.vision_encoder.grid
    ids = torch.arange(length, device=device) % (config.language.vocab_size - 1) + 1
    has_image = length > rows * columns
    if has_image:
        ids[: rows * columns] = IMAGE_SLOT
    return ids[None], has_image


class Ours:
    """This project's engine as the decode loop uses it: static state, one runner, greedy, with log-probabilities."""

    def __init__(
        self, vlm: VisionLanguageModel, embeddings: Tensor, tokens: int, *, graphs: bool, bitsandbytes: bool = False
    ) -> None:
        self.lm, self.embeddings, self.graphs = vlm.language_model, embeddings, graphs
        self.own_nf4 = False if bitsandbytes else None  # as `quantize.use_own_kernel` takes it
        self.capacity = embeddings.shape[1] + tokens + 1
        self.name = "vlcompare" + (", graphed" if graphs else "") + (", bitsandbytes" if bitsandbytes else "")
        # a separate function, so that no contestant finds another one's graphs
        self.tail = lambda logits: greedy(_ALTERNATIVES)(logits)
        self.state: Any = None
        self.runner: Any = None
        self.ids: Tensor | None = None

    def ready(self) -> None:
        self.runner = self.state = None
        quantize.use_own_kernel(self.lm, self.own_nf4)

    def prefill(self) -> None:
        self.state = self.lm.new_state(1, self.capacity)
        hidden_bld = self.lm(self.embeddings, self.state)
        self.ids = self.tail(self.lm.logits(hidden_bld[:, -1])).ids
        self.runner = step_runner(self.lm, self.state, graphs=self.graphs, tail=self.tail)

    def step(self) -> None:
        assert self.ids is not None
        self.ids = self.runner(self.ids).ids

    @property
    def reason(self) -> str:
        """Why there are no graphs although they were asked for."""
        return self.runner.reason if self.runner is not None else ""


class Transformers:
    """transformers' own GPTNeoXForCausalLM or MambaForCausalLM on our tensors, with its own cache."""

    name = "transformers"

    def __init__(self, vlm: VisionLanguageModel, embeddings: Tensor) -> None:
        self.embeddings = embeddings
        config = vlm.config.language
        if isinstance(config, PythiaConfig):
            self.model, self.cache_name = _gpt_neox(config, vlm.language_model), "past_key_values"
        else:
            self.model, self.cache_name = _mamba(config, vlm.language_model), "cache_params"
        takes = inspect.signature(self.model.forward).parameters
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self.counts = "cache_position" in takes
        self.cache: Any = None
        self.ids: Tensor | None = None
        self.length = 0

    def ready(self) -> None:
        self.cache = None

    def prefill(self) -> None:
        self._run(inputs_embeds=self.embeddings)
        self.length = self.embeddings.shape[1]

    def step(self) -> None:
        assert self.ids is not None
        extra = {}
        if self.counts:
            extra["cache_position"] = torch.tensor([self.length], device=self.ids.device)
        self._run(input_ids=self.ids[:, None], **{self.cache_name: self.cache}, **extra)
        self.length += 1

    def _run(self, **given: Any) -> None:
        out = self.model(**given, use_cache=True, **self.last_only)
        self.cache = getattr(out, self.cache_name)
        self.ids = out.logits[:, -1].argmax(-1)


def _gpt_neox(config: PythiaConfig, ours: nn.Module) -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    theirs = GPTNeoXConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_positions,
        rotary_pct=config.rotary_share,  # type: ignore[call-arg]
        use_parallel_residual=config.parallel_residual,
    )
    return _shared(
        lambda: GPTNeoXForCausalLM(theirs), ours, lambda key: key if key.startswith("embed_out") else f"gpt_neox.{key}"
    )


def _mamba(config: MambaConfig, ours: nn.Module) -> nn.Module:
    from transformers import MambaConfig as TheirConfig
    from transformers import MambaForCausalLM

    theirs = TheirConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        state_size=config.state_size,
        num_hidden_layers=config.layers,
        conv_kernel=config.conv_size,
        expand=config.expand,  # type: ignore[arg-type]
        time_step_rank=config.rank,
        residual_in_fp32=False,
    )
    return _shared(
        lambda: MambaForCausalLM(theirs), ours, lambda key: "backbone." + key.replace("embedding.", "embeddings.")
    )


def _shared(make: Callable[[], nn.Module], ours: nn.Module, rename: Callable[[str], str]) -> nn.Module:
    """A foreign model that is empty except for our tensors; refuses to run with one that stayed empty."""
    with empty_parameters():
        model = make()
    tensors = {rename(key): value for key, value in ours.state_dict().items()}
    dtype = max(tensors.values(), key=Tensor.numel).dtype  # one for all, as their `dtype=` gives: ours keeps some wider
    tensors = {key: value.to(dtype) for key, value in tensors.items()}
    if "embed_out.weight" in tensors:  # the head's name has changed between versions
        tensors["lm_head.weight"] = tensors["embed_out.weight"]
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()  # type: ignore[operator]
    empty = [key for key, value in model.named_parameters() if value.device.type == "meta"]
    if empty:
        raise RuntimeError(f"transformers' model has weights that ours has not: {', '.join(empty[:3])}")
    device = next(iter(tensors.values())).device
    for module in model.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)
    return model.eval()


class MambaSsm:
    """mamba-ssm's own model and step, where that package works; its weights are its own random ones."""

    name = "mamba-ssm"

    def __init__(self, config: MambaConfig, length: int, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        from mamba_ssm.models.config_mamba import MambaConfig as TheirConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
        from mamba_ssm.utils.generation import InferenceParams

        theirs = TheirConfig(
            d_model=config.hidden_size, n_layer=config.layers, vocab_size=config.vocab_size, fused_add_norm=False
        )
        self.model = MambaLMHeadModel(theirs, device=device, dtype=dtype).eval()
        self.prompt = torch.arange(length, device=device)[None] % config.vocab_size
        self.fresh: Callable[[], Any] = lambda: InferenceParams(max_seqlen=length + tokens + 1, max_batch_size=1)
        self.params: Any = None
        self.ids: Tensor | None = None

    def ready(self) -> None:
        self.params = None

    def prefill(self) -> None:
        self.params = self.fresh()
        logits = self.model(self.prompt, inference_params=self.params, num_last_tokens=1).logits
        self.params.seqlen_offset += self.prompt.shape[1]
        self.ids = logits[:, -1].argmax(-1)

    def step(self) -> None:
        assert self.ids is not None
        logits = self.model(self.ids[:, None], inference_params=self.params, num_last_tokens=1).logits
        self.params.seqlen_offset += 1
        self.ids = logits[:, -1].argmax(-1)


def token_bytes(vlm: VisionLanguageModel) -> int:
    """Bytes of weights that one token must read: all of the language model, of an untied embedding one row."""
    lm = vlm.language_model
    tensors = {id(x): x for x in (*lm.parameters(), *lm.buffers())}
    total = sum(x.nbytes for x in tensors.values()) + sum(quantize.extra_bytes(module) for module in lm.modules())
    if isinstance(lm, Pythia) and lm.embed_in.weight is not lm.embed_out.weight:
        total -= lm.embed_in.weight.nbytes - lm.embed_in.weight[0].nbytes
    return total
