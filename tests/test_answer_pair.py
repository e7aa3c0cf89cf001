"""Answers and models as a notebook shows them, and two models asked by one blocking call."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
from tiny import write_pair

import vlcompare
from vlcompare.errors import ImageError, RequestError
from vlcompare.types import Answer, Box, Request, Side, Timings

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def model(folder: Path) -> vlcompare.Model:
    return vlcompare.load(folder / "mamba", device="cpu")


@pytest.mark.parametrize("function", [vlcompare.generate, vlcompare.stream, vlcompare.compare_models])
def test_signatures_name_what_can_be_asked(function) -> None:
    parameters = inspect.signature(function).parameters
    assert {"task", "text", "choices", "box", "ocr_text", "history", "source", "prompt_order", "max_new_tokens",
            "stop_at_end", "temperature", "top_p", "top_k", "seed"} <= parameters.keys()  # fmt: skip
    assert not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    assert parameters["task"].default is inspect.Parameter.empty
    assert parameters["text"].default == "" and parameters["temperature"].default == 0
    assert all(parameters[name].kind == inspect.Parameter.KEYWORD_ONLY for name in ("task", "seed"))


def test_a_named_and_a_loaded_model_are_compared(folder: Path, model: vlcompare.Model) -> None:
    question = {"task": "grounding", "text": HOSTILE, "max_new_tokens": 4}
    pair = vlcompare.compare_models(
        folder / "pythia", model, folder / "picture.png", truth=(0.1, 0.1, 0.5, 0.5), **question
    )
    alone = vlcompare.generate(model, folder / "picture.png", **question)
    assert (pair.right.tokens, pair.right.prompt) == (alone.tokens, alone.prompt)
    assert pair.left.checkpoint.endswith("pythia") and pair.right.timings.mode == "measure"
    assert list(pair.to_json()["sides"]) == ["left", "right"] and pair.right.revision == model.revision
    assert pair.truth == (Box(0.1, 0.1, 0.5, 0.5),) and pair.verdict("left") is not None
    assert pair.image().width >= 1200 and pair.left.image().width >= 1200
    html = pair._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and html.count("data:image/webp") == 1
    assert "\n" not in repr(pair) and len(repr(pair.left)) < 250


def test_two_loaded_models_with_one_name_are_not_mixed_up(folder: Path, model: vlcompare.Model) -> None:
    other = vlcompare.load(folder / "mamba", device="cpu")
    for parameter in other.vlm.language_model.parameters():
        parameter.data.mul_(-1)
    pair = vlcompare.compare_models(other, model, folder / "picture.png", task="captioning", max_new_tokens=5)
    again = vlcompare.generate(model, folder / "picture.png", task="captioning", max_new_tokens=5)
    assert pair.right.tokens == again.tokens and pair.left.tokens != again.tokens


def test_a_side_that_fails_leaves_the_other(folder: Path, model: vlcompare.Model) -> None:
    pair = vlcompare.compare_models(Side("nothing-here"), model, folder / "picture.png", task="captioning")
    assert "nothing-here" in pair.left.error and pair.right.error is None
    assert "failed: " in repr(pair.left) and pair.image().width >= 1200


def test_what_is_refused_is_refused_before_anything_is_loaded(folder: Path) -> None:
    with pytest.raises(RequestError, match="question"):
        vlcompare.compare_models("a", "b", folder / "picture.png", task="vqa")
    with pytest.raises(RequestError, match="right side is a checkpoint, a Side or a loaded model, not 5"):
        vlcompare.compare_models("a", 5, folder / "picture.png", task="captioning")  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="does not exist"):
        vlcompare.compare_models("a", "b", folder / "no.png", task="captioning")
    with pytest.raises(RequestError, match="truth"):
        vlcompare.compare_models("a", "b", folder / "picture.png", task="captioning", truth=3)
    with pytest.raises(RequestError, match="box"):
        vlcompare.compare_models("a", "b", folder / "picture.png", task="grounding", text="x", truth="red")


def test_an_answer_shows_itself_with_its_picture(
    folder: Path, model: vlcompare.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moved.png").write_bytes((folder / "picture.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    answer = vlcompare.generate(model, "moved.png", task="vqa", text="What?", max_new_tokens=3)
    monkeypatch.chdir("/")
    assert answer.image().width >= 1200 and "data:image/webp" in answer._repr_html_()
    assert "view" not in answer.to_json() and Answer.from_json(answer.to_json()) == answer
    assert pickle.loads(pickle.dumps(answer)) == answer
    (tmp_path / "moved.png").unlink()
    assert answer._repr_html_() is None  # the line remains
    with pytest.raises(ImageError, match="does not exist"):
        answer.image()


def test_an_answer_without_a_picture_says_so() -> None:
    answer = Answer("x" * 500, checkpoint="c", timings=Timings(ttft_ms=3.0))
    assert answer._repr_html_() is None and "\n" not in repr(answer) and len(repr(answer)) < 200
    with pytest.raises(RequestError, match="picture"):
        answer.image()
    assert Answer.from_json({**answer.to_json(), "view": "x"}).view is None


def test_a_model_shows_itself_in_a_line_and_a_table(model: vlcompare.Model) -> None:
    assert repr(model).startswith("<Model '") and "mamba" in repr(model) and "\n" not in repr(model)
    assert "<table>" in model._repr_html_() and "language model" in model._repr_html_()


@pytest.mark.parametrize(
    ("request_", "given", "truth", "references"),
    [
        (Request("grounding", "x"), "0.1,0.2,0.3,0.4", 1, 0),
        (Request("grounding", "x"), ["0.1,0.2,0.3,0.4"], 1, 0),
        (Request("grounding", "x"), (0.1, 0.2, 0.3, 0.4), 1, 0),
        (Request("grounded_captioning"), [(0.1, 0.2, 0.3, 0.4)] * 4, 4, 0),
        (Request("grounded_captioning"), ["0.1,0.2,0.3,0.4"] * 4, 4, 0),
        (Request("vqa", "x"), "red", 0, 1),
        (Request("vqa", "x"), ["red", "dark red"], 0, 2),
        (Request("pointing", "x", (Box(0, 0, 1, 1), Box(0, 0, 0.5, 0.5))), "B", 1, 1),
        (Request("captioning"), None, 0, 0),
    ],
)
def test_truths_as_they_are_given(request_: Request, given: object, truth: int, references: int) -> None:
    from vlcompare.evaluate.verdicts import read_truth

    boxes, texts = read_truth(request_, given)
    assert (len(boxes), len(texts)) == (truth, references)
