"""Our Mamba against transformers' own on tiny random weights, a naive float64 recurrence, and itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.errors import RequestError
from vlcompare.models.config import MambaConfig
from vlcompare.models.mamba import Mamba

TINY = MambaConfig(vocab_size=97, hidden_size=40, layers=3, state_size=6, conv_size=4, time_step_rank=3)
RMS = dataclasses.replace(TINY, norm="rmsnorm")
CLOSE = dict(atol=1e-5, rtol=1e-5)


def random_model(config: MambaConfig, seed: int = 0) -> Mamba:
    torch.manual_seed(seed)
    model = Mamba(config).eval()
    for name, parameter in model.named_parameters():
        # biases, norms and D too; A_log keeps its own spread, and everything of order one keeps the state alive
        if not name.endswith("A_log"):
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    return model


@pytest.fixture(scope="module", params=[TINY, RMS], ids=["layernorm", "rmsnorm"])
def model(request: pytest.FixtureRequest) -> Mamba:
    return random_model(request.param)


def ids(*shape: int) -> Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def whole(model: Mamba, tokens: Tensor) -> Tensor:
    """Hidden states of a forward over everything at once."""
    with torch.no_grad():
        return model(model.embed_tokens(tokens), model.new_state(len(tokens), tokens.shape[1]))


@pytest.mark.parametrize("options", [{}, {"expand": 3, "conv_size": 3}, {"projection_bias": True, "conv_bias": False}])
def test_same_as_transformers_where_norms_are_rms(options: dict) -> None:
    from transformers import MambaConfig as TheirConfig
    from transformers import MambaForCausalLM

    config = dataclasses.replace(RMS, **options)
    ours = random_model(config)
    theirs = MambaForCausalLM(
        TheirConfig(
            vocab_size=97,
            hidden_size=40,
            num_hidden_layers=3,
            state_size=6,
            conv_kernel=config.conv_size,
            expand=config.expand,
            time_step_rank=3,
            use_bias=config.projection_bias,
            use_conv_bias=config.conv_bias,
            tie_word_embeddings=True,
            layer_norm_epsilon=1e-5,
        )
    ).eval()
    weights = {f"backbone.{key}": tensor for key, tensor in ours.state_dict().items()}
    weights["backbone.embeddings.weight"] = weights.pop("backbone.embedding.weight")
    weights["lm_head.weight"] = weights["backbone.embeddings.weight"]
    theirs.load_state_dict(weights, strict=True)
    tokens = ids(2, 19)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(whole(ours, tokens)), theirs(tokens).logits, **CLOSE)


def naive(model: Mamba, tokens: Tensor) -> Tensor:
    """The paper's equations one token, one layer at a time, in float64; written without any of the model's code."""
    weights = {key: tensor.double() for key, tensor in model.state_dict().items()}
    config, rows = model.config, []
    windows = [torch.zeros(config.inner_size, config.conv_size).double() for _ in range(config.layers)]
    states = [torch.zeros(config.inner_size, config.state_size).double() for _ in range(config.layers)]

    def norm(x: Tensor, prefix: str) -> Tensor:
        weight = weights[prefix + ".weight"]
        if config.norm == "rmsnorm":
            return x / (x.pow(2).mean() + config.norm_eps).sqrt() * weight
        centred = x - x.mean()
        return centred / (centred.pow(2).mean() + config.norm_eps).sqrt() * weight + weights[prefix + ".bias"]

    for token in tokens.tolist():
        x = weights["embedding.weight"][token]
        for layer in range(config.layers):
            own = {key.split("mixer.")[1]: w for key, w in weights.items() if key.startswith(f"layers.{layer}.mixer.")}
            u, z = (own["in_proj.weight"] @ norm(x, f"layers.{layer}.norm")).split(config.inner_size)
            windows[layer] = torch.cat([windows[layer][:, 1:], u[:, None]], dim=1)
            u = F.silu((windows[layer] * own["conv1d.weight"][:, 0]).sum(1) + own["conv1d.bias"])
            low, b, c = (own["x_proj.weight"] @ u).split([config.rank, config.state_size, config.state_size])
            delta = torch.log1p(torch.exp(own["dt_proj.weight"] @ low + own["dt_proj.bias"]))
            decay = torch.exp(-delta[:, None] * torch.exp(own["A_log"]))
            states[layer] = decay * states[layer] + (delta * u)[:, None] * b
            y = states[layer] @ c + own["D"] * u
            x = x + own["out_proj.weight"] @ (y * z * torch.sigmoid(z))
        rows.append(norm(x, "norm_f"))
    return torch.stack(rows)


def test_same_as_a_naive_recurrence_in_float64(model: Mamba) -> None:
    tokens = ids(1, 29)
    torch.testing.assert_close(whole(model, tokens)[0].double(), naive(model, tokens[0]), atol=2e-5, rtol=2e-5)


def test_scan_equals_steps(model: Mamba) -> None:
    tokens = ids(2, 24)
    expected = whole(model, tokens)
    for begin in (0, 1, 5):  # steps after nothing, after one token, after a prompt
        state = model.new_state(2, 24)
        with torch.no_grad():
            if begin:
                model(model.embed_tokens(tokens[:, :begin]), state)
            for position in range(begin, 24):
                hidden = model.step(model.embed_tokens(tokens[:, position]), state, window=32)
                torch.testing.assert_close(hidden, expected[:, position], **CLOSE)
        assert state.length == 24 and state.positions.tolist() == [24, 24]


@pytest.mark.parametrize("splits", [[1], [2], [3], [4], [5], [23], [1, 2, 3], [1, 3, 7, 8], [8, 16]])
def test_continued_equals_the_whole(model: Mamba, splits: list[int]) -> None:
    """Parts shorter than the convolution's window, as long, and longer."""
    tokens = ids(2, 24)
    state = model.new_state(2, 24)
    with torch.no_grad():
        parts = [model(model.embed_tokens(part), state) for part in tokens.tensor_split(splits, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole(model, tokens), **CLOSE)


def test_left_padding_is_exact(model: Mamba) -> None:
    """Rows of 9, 4 and 1 tokens in one batch: prompt, then a continued part, then steps, as each alone."""
    lengths, more, steps = [9, 4, 1], ids(3, 3), ids(3, 3)
    tokens = ids(3, 9)
    mask = torch.arange(9) >= 9 - torch.tensor(lengths)[:, None]
    state = model.new_state(3, 20)
    with torch.no_grad():
        first = model(model.embed_tokens(tokens), state, mask)
        second = model(model.embed_tokens(more), state)
        third = [model.step(model.embed_tokens(steps[:, i]), state) for i in range(3)]
    assert state.positions.tolist() == [length + 6 for length in lengths]
    for row, length in enumerate(lengths):
        alone = whole(model, torch.cat([tokens[row, 9 - length :], more[row], steps[row]])[None])[0]
        torch.testing.assert_close(first[row, 9 - length :], alone[:length], **CLOSE)
        torch.testing.assert_close(second[row], alone[length : length + 3], **CLOSE)
        torch.testing.assert_close(torch.stack(third, 1)[row], alone[length + 3 :], **CLOSE)


def test_snapshot_is_independent_and_restores_in_place(model: Mamba) -> None:
    tokens = ids(1, 12)
    state = model.new_state(1, 20)
    with torch.no_grad():
        model(model.embed_tokens(tokens[:, :6]), state)
        snapshot, address = state.snapshot(), state.states_nbdn.data_ptr()
        first = model(model.embed_tokens(tokens[:, 6:]), state)
        assert (snapshot.length, state.length) == (6, 12)
        state.copy_(snapshot)
        assert (state.length, state.positions.tolist(), state.states_nbdn.data_ptr()) == (6, [6], address)
        torch.testing.assert_close(model(model.embed_tokens(tokens[:, 6:]), state), first, atol=0, rtol=0)


def test_bytes_do_not_grow_and_follow_the_formula(model: Mamba) -> None:
    state = model.new_state(2, 16)
    assert (state.nbytes(), model.state_bytes_formula(0)) == (0, 0)
    with torch.no_grad():
        model(model.embed_tokens(ids(2, 5)), state)
        assert state.nbytes() == model.state_bytes_formula(5, 2) == 3 * 2 * 80 * (3 + 6) * 4
        model.step(model.embed_tokens(ids(2)), state)
    assert state.nbytes() == model.state_bytes_formula(6, 2) == model.state_bytes_formula(5, 2)


def test_step_keeps_addresses(model: Mamba) -> None:
    state = model.new_state(1, 16)
    addresses = [tensor.data_ptr() for tensor in (state.windows_nbdk, state.states_nbdn, state.positions)]
    with torch.no_grad():
        for _ in range(4):
            model.step(model.embed_tokens(ids(1)), state)
    state.note_step()
    assert state.length == 5
    assert [tensor.data_ptr() for tensor in (state.windows_nbdk, state.states_nbdn, state.positions)] == addresses


def test_bfloat16_keeps_the_recurrence_in_float32() -> None:
    model = random_model(TINY).bfloat16()
    state = model.new_state(1, 8)
    with torch.no_grad():
        hidden = model(model.embed_tokens(ids(1, 5)), state)
        stepped = model.step(model.embed_tokens(ids(1)), state)
    assert (hidden.dtype, stepped.dtype, model.logits(stepped).dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert {state.windows_nbdk.dtype, state.states_nbdn.dtype} == {torch.float32}
    with torch.no_grad():
        assert {tensor.dtype for tensor in model.layers[0].mixer.recurrence()} == {torch.float32}


def test_changed_weights_are_noticed() -> None:
    """A is kept between calls; new values, new tensors and another dtype must all replace it."""
    mixer = random_model(TINY).layers[0].mixer
    with torch.no_grad():
        before = mixer.recurrence().A_dn
        assert mixer.recurrence().A_dn is before
        mixer.A_log.add_(1.0)
        torch.testing.assert_close(mixer.recurrence().A_dn, before * torch.e)
        mixer.A_log = torch.nn.Parameter(torch.zeros_like(mixer.A_log))
        assert (mixer.recurrence().A_dn == -1).all()
        mixer.D.data = torch.full_like(mixer.D, 3.0)
        assert (mixer.recurrence().D_d == 3).all()


def test_the_embedding_is_the_head_and_there_are_no_buffers(model: Mamba) -> None:
    assert not list(model.buffers())
    hidden = torch.randn(2, 40)
    torch.testing.assert_close(model.logits(hidden), hidden @ model.embedding.weight.T, **CLOSE)
    assert "lm_head.weight" not in model.state_dict()


def test_refusals(model: Mamba) -> None:
    state = model.new_state(1, 4)
    assert model.max_positions is None
    with torch.no_grad():
        with pytest.raises(RequestError, match="context is full"):
            model(model.embed_tokens(ids(1, 5)), state)
        model(model.embed_tokens(ids(1, 4)), state)
        with pytest.raises(RequestError, match="context is full"):
            model.step(model.embed_tokens(ids(1)), state)
        with pytest.raises(RequestError, match="beginning"):
            state = model.new_state(1, 8).copy_(state)
            state.capacity = 8
            model(model.embed_tokens(ids(1, 1)), state, torch.ones(1, 1, dtype=torch.bool))


def test_gradients_reach_every_parameter(model: Mamba) -> None:
    model = random_model(model.config).train()
    tokens = ids(2, 7)
    mask = torch.tensor([[True] * 7, [False] * 2 + [True] * 5])
    hidden = model(model.embed_tokens(tokens), None, mask)
    model.logits(hidden)[mask].logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
