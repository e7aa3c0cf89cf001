"""The shared values: boxes count as the benchmarks do, and an answer survives its JSON unchanged."""

from __future__ import annotations

import dataclasses
import json

import pytest

from vlcompare.errors import RequestError
from vlcompare.types import Alternative, Answer, Box, Decoding, Memory, ModelSpec, Prompt, Request, Side, Timings, Token

ANSWER = Answer(
    text="[0.10,0.20,0.30,0.40]",
    boxes=(Box(0.1, 0.2, 0.3, 0.4),),
    phrases=("a cup",),
    parse="ok",
    tokens=(Token(5, "[", -0.25, (Alternative(5, "[", -0.25), Alternative(7, "a", -2.5))),),
    prompt=Prompt(("<image>", "Where?\n"), (-200, 4), "image_first"),
    stop_reason="end",
    timings=Timings(1.0, 2.0, 3.0, 6.5, (0.5, 0.75), 8.0, 1600.0, "measure", False),
    memory=Memory(100, 20, 20, 400, (18, 20)),
    checkpoint="tiny-mamba-vl",
    dtype="float32",
    device="cpu",
    image_size=112,
    seed=3,
)


def test_answer_survives_json() -> None:
    assert Answer.from_json(json.loads(json.dumps(ANSWER.to_json()))) == ANSWER


def test_answer_json_has_the_agreed_keys() -> None:
    data = ANSWER.to_json()
    assert data["schema_version"] == 1
    assert data["boxes"] == [[0.1, 0.2, 0.3, 0.4]]
    assert data["tokens"][0]["top"][1] == {"id": 7, "text": "a", "logprob": -2.5}
    assert data["timings"]["token_ms"] == [0.5, 0.75]
    assert set(data["memory"]) >= {"weights_bytes", "state_bytes", "state_bytes_formula", "peak_bytes"}


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        [],
        {},
        {"schema_version": 99},
        {**ANSWER.to_json(), "boxes": [[1, 2]]},
        {**ANSWER.to_json(), "boxes": 5},
        {**ANSWER.to_json(), "tokens": [{}]},
        {**ANSWER.to_json(), "timings": {"unknown": 1}},
        {**ANSWER.to_json(), "prompt": "x"},
    ],
)
def test_damaged_answers_are_refused_in_a_sentence(damaged: object) -> None:
    with pytest.raises(RequestError, match=r"\.$"):
        Answer.from_json(damaged)


IOU = [
    # a, b, intersection over union
    ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
    ((0, 0, 0.5, 1), (0.5, 0, 1, 1), 0.0),
    ((0, 0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75), 0.0625 / 0.4375),
    ((0.5, 0.5, 0.4, 0.9), (0, 0, 1, 1), 0.0),  # inverted
    ((0.5, 0.5, 0.5, 0.9), (0, 0, 1, 1), 0.0),  # empty
]


@pytest.mark.parametrize(("a", "b", "expected"), IOU)
def test_iou(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert Box(*a).iou(Box(*b)) == pytest.approx(expected)
    assert Box(*b).iou(Box(*a)) == pytest.approx(expected)


def test_clip_and_center() -> None:
    assert Box(-1, 0.2, 1.5, 2).clip() == (0, 0.2, 1, 1)
    assert Box(0.2, 0.4, 0.4, 0.8).center == pytest.approx((0.3, 0.6))


def test_a_side_is_a_model_and_its_decoding() -> None:
    names = {field.name for value in (ModelSpec, Decoding) for field in dataclasses.fields(value)}
    assert {field.name for field in dataclasses.fields(Side)} == names
    side = Side("a", "nf4", "instruction_first", 224, "cpu", top_k=3, tokenizer="t.json", norm="rmsnorm")
    assert side.model == ModelSpec("a", "nf4", "cpu", image_size=224, tokenizer="t.json", norm="rmsnorm")
    assert side.decoding == Decoding("instruction_first", top_k=3)


def test_what_a_side_leaves_open_follows_the_request() -> None:
    request = Request("vqa", "Where?", temperature=0.5, seed=4, max_new_tokens=9)
    assert Side("a").request(request) == request
    own = Side("a", temperature=0.0, seed=1).request(request)
    assert (own.temperature, own.seed, own.max_new_tokens, own.text) == (0.0, 1, 9, "Where?")
