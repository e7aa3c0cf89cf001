"""Our GPT-NeoX against transformers' own on tiny random weights, and against itself: cached, continued, padded."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.errors import RequestError
from vlcompare.models.config import PythiaConfig
from vlcompare.models.kernels.attention import attend_one
from vlcompare.models.pythia import Pythia

TINY = PythiaConfig(vocab_size=97, hidden_size=48, layers=3, heads=4, intermediate_size=80, max_positions=64)
EVEN = dataclasses.replace(TINY, hidden_size=64)
CLOSE = dict(atol=1e-5, rtol=1e-5)


def random_model(config: PythiaConfig, seed: int = 0) -> Pythia:
    torch.manual_seed(seed)
    model = Pythia(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases and norms too, so that none of them goes unnoticed
    return model


@pytest.fixture(scope="module", params=[TINY, EVEN], ids=["tiny", "compiled"])
def model(request: pytest.FixtureRequest) -> Pythia:
    """A random model; the second has heads of 16 channels, which the compiled kernel for single positions takes."""
    return random_model(request.param)


def ids(*shape: int) -> Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def whole(model: Pythia, tokens: Tensor) -> Tensor:
    """Hidden states of a forward over everything at once."""
    with torch.no_grad():
        return model(model.embed_tokens(tokens), model.new_state(len(tokens), tokens.shape[1]))


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_fast", "relu"])
def test_same_as_transformers(parallel: bool, share: float, act: str) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from vlcompare.models.config import ACTIVATIONS

    ours = random_model(
        PythiaConfig(97, 48, 3, 4, 80, 64, rotary_share=share, parallel_residual=parallel, activation=ACTIVATIONS[act])
    )
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=97,
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=80,
            max_position_embeddings=64,
            hidden_act=act,
            use_parallel_residual=parallel,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share},
        )
    ).eval()
    weights = {f"gpt_neox.{key}": tensor for key, tensor in ours.state_dict().items()}
    # the head's name differs between versions of transformers
    head = next(key for key in theirs.state_dict() if not key.startswith("gpt_neox."))
    weights[head] = weights.pop("gpt_neox.embed_out.weight")
    theirs.load_state_dict(weights, strict=True)
    tokens = ids(2, 19)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(whole(ours, tokens)), theirs(tokens).logits, **CLOSE)


def test_no_buffers_and_no_attention_bias() -> None:
    plain = Pythia(PythiaConfig(97, 48, 1, 4, 80, attention_bias=False))
    assert not list(plain.buffers())
    assert plain.layers[0].attention.dense.bias is None


def test_tied_embeddings_are_one_parameter() -> None:
    tied = random_model(PythiaConfig(97, 48, 1, 4, 80, tie_embeddings=True))
    assert tied.embed_out.weight is tied.embed_in.weight


@pytest.mark.parametrize("window", [None, 24, 30])
def test_steps_equal_the_whole(model: Pythia, window: int | None) -> None:
    tokens = ids(2, 24)
    expected = whole(model, tokens)
    state = model.new_state(2, 30)
    with torch.no_grad():
        model(model.embed_tokens(tokens[:, :5]), state)
        for position in range(5, 24):
            hidden = model.step(model.embed_tokens(tokens[:, position]), state, window=window)
            torch.testing.assert_close(hidden, expected[:, position], **CLOSE)
    assert state.length == 24 and state.positions.tolist() == [24, 24]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_of_one_position(dtype: torch.dtype) -> None:
    """Rows of several lengths in one cache, against float64; what lies behind a row's end is not even read."""
    torch.manual_seed(0)
    q, keys, values = (torch.randn(3, 2, slots, 48).to(dtype) for slots in (1, 40, 40))
    counts = torch.tensor([40, 17, 1])
    for row, count in enumerate(counts):
        keys[row, :, count:] = values[row, :, count:] = torch.nan
    with torch.no_grad():
        ours = attend_one(q[:, :, 0], keys, values, counts)
    assert ours is not None and ours.dtype == dtype
    for row, count in enumerate(counts.tolist()):
        wide = (tensor[row, :, :count].double() for tensor in (q, keys, values))
        expected = F.scaled_dot_product_attention(*wide)[:, 0]
        rounding = 1e-6 if dtype == torch.float32 else 4e-3
        torch.testing.assert_close(ours[row].double(), expected, atol=1e-6, rtol=rounding)


def test_attention_of_one_position_leaves_the_rest_to_torch() -> None:
    q, odd, keys = torch.randn(1, 2, 20), torch.randn(1, 2, 8, 20), torch.randn(1, 2, 8, 32)
    counts = torch.tensor([8])
    with torch.no_grad():
        assert attend_one(q, odd, odd, counts) is None  # 20 channels
        assert attend_one(keys[:, :, 0].half(), keys.half(), keys.half(), counts) is None
        assert attend_one(keys[:, :, 0], keys.transpose(1, 2), keys, counts) is None
    assert attend_one(keys[:, :, 0].requires_grad_(), keys, keys, counts) is None


@pytest.mark.parametrize("splits", [[1], [2], [3], [4], [23], [1, 2, 3], [8, 16]])
def test_continued_equals_the_whole(model: Pythia, splits: list[int]) -> None:
    tokens = ids(2, 24)
    state = model.new_state(2, 24)
    with torch.no_grad():
        parts = [model(model.embed_tokens(part), state) for part in tokens.tensor_split(splits, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole(model, tokens), **CLOSE)


def test_left_padding_is_exact(model: Pythia) -> None:
    """Rows of 9, 4 and 1 tokens in one batch: prompt, then a continued part, then steps, as each alone."""
    lengths, more, steps = [9, 4, 1], ids(3, 3), ids(3, 4)
    tokens = ids(3, 9)
    mask = torch.arange(9) >= 9 - torch.tensor(lengths)[:, None]
    state = model.new_state(3, 20)
    with torch.no_grad():
        first = model(model.embed_tokens(tokens), state, mask)
        second = model(model.embed_tokens(more), state)
        third = [model.step(model.embed_tokens(steps[:, i]), state) for i in range(2)]
        third += [model.step(model.embed_tokens(steps[:, i]), state, window=20) for i in range(2, 4)]
    assert state.positions.tolist() == [length + 7 for length in lengths]
    for row, length in enumerate(lengths):
        alone = whole(model, torch.cat([tokens[row, 9 - length :], more[row], steps[row]])[None])[0]
        torch.testing.assert_close(first[row, 9 - length :], alone[:length], **CLOSE)
        torch.testing.assert_close(second[row], alone[length : length + 3], **CLOSE)
        torch.testing.assert_close(torch.stack(third, 1)[row], alone[length + 3 :], **CLOSE)


def test_snapshot_is_independent_and_restores_in_place(model: Pythia) -> None:
    tokens = ids(1, 12)
    state = model.new_state(1, 20)
    with torch.no_grad():
        model(model.embed_tokens(tokens[:, :6]), state)
        snapshot, address = state.snapshot(), state.keys_nbhsk.data_ptr()
        first = model(model.embed_tokens(tokens[:, 6:]), state)
        assert (snapshot.length, state.length) == (6, 12)
        assert snapshot.nbytes() == snapshot.allocated_nbytes() == model.state_bytes_formula(6)
        state.copy_(snapshot)
        assert (state.length, state.positions.tolist(), state.keys_nbhsk.data_ptr()) == (6, [6], address)
        torch.testing.assert_close(model(model.embed_tokens(tokens[:, 6:]), state), first, atol=0, rtol=0)
        fresh = model.new_state(1, 13).copy_(snapshot)
        torch.testing.assert_close(model(model.embed_tokens(tokens[:, 6:]), fresh), first, **CLOSE)


def test_bytes_grow_by_the_formula(model: Pythia) -> None:
    state = model.new_state(2, 16)
    assert (state.nbytes(), model.state_bytes_formula(0)) == (0, 0)
    with torch.no_grad():
        model(model.embed_tokens(ids(2, 5)), state)
        assert state.nbytes() == model.state_bytes_formula(5, 2) == 2 * 3 * 2 * 5 * model.config.hidden_size * 4
        model.step(model.embed_tokens(ids(2)), state)
    assert state.nbytes() == model.state_bytes_formula(6, 2)
    assert state.allocated_nbytes() == model.state_bytes_formula(16, 2)


def test_step_keeps_addresses_and_allocates_nothing_that_grows(model: Pythia) -> None:
    state = model.new_state(1, 16)
    tensors = (state.keys_nbhsk, state.values_nbhsk, state.positions)
    addresses = [tensor.data_ptr() for tensor in tensors]
    with torch.no_grad():
        for _ in range(4):
            model.step(model.embed_tokens(ids(1)), state, window=16)
    assert [tensor.data_ptr() for tensor in (state.keys_nbhsk, state.values_nbhsk, state.positions)] == addresses


def test_a_replayed_step_follows_the_device_position(model: Pythia) -> None:
    """What a graph replays: the same recorded Python values, another position on the device."""
    tokens = ids(1, 8)
    expected = whole(model, tokens)
    state = model.new_state(1, 16)
    with torch.no_grad():
        for position in range(8):
            recorded, state.length = state.length, 7  # the host's count is frozen at capture
            hidden = model.step(model.embed_tokens(tokens[:, position]), state, window=16)
            state.length = recorded
            state.note_step()
            torch.testing.assert_close(hidden, expected[:, position], **CLOSE)
    assert state.length == 8


def test_refusals(model: Pythia) -> None:
    with pytest.raises(RequestError, match="knows only 64"):
        model.new_state(1, 65)
    state = model.new_state(1, 4)
    with pytest.raises(RequestError, match="context is full"):
        model(model.embed_tokens(ids(1, 5)), state)
    with torch.no_grad():
        model(model.embed_tokens(ids(1, 3)), state)
        with pytest.raises(RequestError, match="beginning"):
            model(model.embed_tokens(ids(1, 1)), state, torch.ones(1, 1, dtype=torch.bool))
        model.step(model.embed_tokens(ids(1)), state)
        with pytest.raises(RequestError, match="context is full"):
            model.step(model.embed_tokens(ids(1)), state)


def test_gradients_reach_every_parameter() -> None:
    model = random_model(TINY).train()
    tokens = ids(2, 7)
    mask = torch.tensor([[True] * 7, [False] * 2 + [True] * 5])
    hidden = model(model.embed_tokens(tokens), None, mask)
    model.logits(hidden)[mask].logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
