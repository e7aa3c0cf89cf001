"""Boxes as other models spell them, and what is said where they cannot have been meant as they are read."""

from __future__ import annotations

import json

import pytest

from vlcompare.cli import main
from vlcompare.evaluate.exchange.box_texts import rewritten
from vlcompare.evaluate.score_files import score_files

TRUTH = (0.1, 0.1, 0.5, 0.5)


def _scored(tmp_path, answers, task="grounding", **options):
    row = {"image": "a.jpg", "task": task, "text": "it", "boxes": [TRUTH]}
    if task != "grounding":
        row = {**row, "boxes": [], "references": ["||the dog [0.10,0.10,0.50,0.50]||"]}
    for name, rows in (("s", [row] * len(answers)), ("p", answers)):
        lines = (json.dumps({"id": str(n), **each}) for n, each in enumerate(rows))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    if options.get("answer_box_scale") == "pixel":
        options["answer_box_size"] = "640x480"
    return score_files(tmp_path / "s.jsonl", tmp_path / "p.jsonl", **options)


# name -> (answer, declared scale, IoU with the true box). Where tokens count in steps, the IoU is that of the steps.
SPELLED = {
    "qwen": ({"response": "<ref>the dog</ref><box>(100,100),(500,500)</box>"}, "thousand", 1),
    "qwen2": ({"text": "<|object_ref_start|>it<|object_ref_end|><|box_start|>(100, 100),(500, 500)<|box_end|>"},
              "thousand", 1),
    "qwen cut off": ({"text": "<box>(100,100),(500,500)"}, "thousand", 1),
    "qwen2.5": ({"text": '```json\n[{"bbox_2d": [64, 48, 320, 240], "label": "dog"}]\n```'}, "pixel", 1),
    "qwen2.5 as JSON": ({"response": [{"bbox_2d": [64, 48, 320, 240], "label": "dog"}]}, "pixel", 1),
    "qwen2.5 as one object": ({"prediction": {"bbox_2d": [64, 48, 320, 240]}}, "pixel", 1),
    "internvl": ({"text": "<ref>dog</ref><box>[[100, 100, 500, 500]]</box>"}, "thousand", 1),
    "deepseek": ({"text": "<|ref|>dog<|/ref|><|det|>[[100, 100, 500, 500]]<|/det|>"}, "thousand", 1),
    # y0, x0, y1, x1 of 1024: 0.1 is 102.4, 0.5 is 512; the sides are .1 - .4/1024 longer at the start
    "paligemma": ({"text": "<loc0102><loc0102><loc0512><loc0512> dog"}, "auto", (0.4 / (0.5 - 102 / 1024)) ** 2),
    # bin 100 is .1005 and bin 499 is .4995: inside of the truth, (.399 / .4)^2
    "florence": ({"text": "dog<loc_100><loc_100><loc_499><loc_499>"}, "auto", (0.399 / 0.4) ** 2),
    # cells 99 = (3, 3) and 495 = (15, 15) of 32: from 3.5/32 to 15.5/32
    "kosmos": ({"text": "<phrase>the dog</phrase><object><patch_index_0099><patch_index_0495></object>"}, "auto",
               (0.375 / 0.4) ** 2),
    "minigpt": ({"text": "{<10><10><50><50>}"}, "auto", 1),
    "object": ({"text": '{"x": 64, "y": 48, "width": 256, "height": 192}'}, "pixel", 1),
    "object by its sides": ({"text": "{'left': 0.1, 'top': 0.1, 'right': 0.5, 'bottom': 0.5}"}, "unit", 1),
    "boxes of objects": ({"boxes": [{"x1": 10, "y1": 10, "x2": 50, "y2": 50}]}, "percent", 1),
    "a box as text": ({"bbox": "[0.1, 0.1, 0.5, 0.5]"}, "auto", 1),
    "a box as the answer": ({"answer": [0.1, 0.1, 0.5, 0.5]}, "auto", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLED)
def test_boxes_are_read_as_their_models_spell_them(tmp_path, name):
    answer, scale, iou = SPELLED[name]
    result = _scored(tmp_path, [answer] * 2, answer_box_scale=scale)
    assert result["tasks"]["grounding"]["mean_iou"] == pytest.approx(iou, abs=1e-4)
    assert not result["alerts"]


def test_cells_of_one_row_count_whole():
    """Kosmos-2's own decoding: corners in one row or column are the outer edges of their cells."""
    assert rewritten("<patch_index_0033><patch_index_0035>", tuple, "xyxy") == "[0.031250,0.031250,0.125000,0.062500]"


@pytest.mark.parametrize(
    "spelling", ["<box>(100,100),(500,500)</box>", "[100,100,500,500]", {"boxes": [[100, 99, 500, 500]]}]
)
def test_thousandths_are_warned_about_in_every_spelling(tmp_path, spelling):
    answer = spelling if isinstance(spelling, dict) else {"text": f"The dog is at {spelling}"}
    result = _scored(tmp_path, [answer] * 3)
    assert result["tasks"]["grounding"]["mean_iou"] == 0
    assert len(result["alerts"]) == 1 and "above 1 (up to 500)" in result["alerts"][0]


def test_coordinates_that_are_not_read_are_an_alert(tmp_path, capsys):
    answers = [{"text": "from (100, 100) to (500, 500)"}] * 2 + [{"text": "[0.1,0.1,0.5,0.5]"}]
    result = _scored(tmp_path, answers)
    assert len(result["alerts"]) == 1 and "2 of 3 answers hold four numbers or more but no box" in result["alerts"][0]
    assert "from (100, 100) to (500, 500)" in result["alerts"][0]
    assert main(["score", str(tmp_path / "s.jsonl"), str(tmp_path / "p.jsonl")]) == 0
    assert capsys.readouterr().out.startswith("warning: 2 of 3 answers")
    assert not _scored(tmp_path, answers[1:])["alerts"]  # one of two is not most
    assert not _scored(tmp_path, [{"text": "I see no dog."}] * 3)["alerts"]


def test_corners_in_another_order_are_declared_and_never_guessed(tmp_path):
    """x, y, width, height of a box that is wide and low ends, read as corners, before it begins."""
    answers = [{"text": "[0.6, 0.1, 0.3, 0.4]"}] * 3
    result = _scored(tmp_path, answers)
    assert len(result["alerts"]) == 1 and "3 of 3 answers have a box that ends before it begins" in result["alerts"][0]
    assert not _scored(tmp_path, answers, answer_box_format="xyxy")["alerts"]
    wide = [{"text": "[0.1, 0.1, 0.4, 0.4]"}, {"boxes": [[0.1, 0.1, 0.4, 0.4]]}]
    found = _scored(tmp_path, wide, answer_box_format="xywh")
    assert found["tasks"]["grounding"]["mean_iou"] == pytest.approx(1, abs=1e-4)
    gemini = [{"text": '[{"box_2d": [48, 64, 240, 320]}]'}] * 2
    assert "answers write `box_2d`" in _scored(tmp_path, gemini, answer_box_scale="pixel")["alerts"][0]
    found = _scored(tmp_path, gemini, answer_box_scale="pixel", answer_box_format="yxyx")
    assert found["tasks"]["grounding"]["mean_iou"] == pytest.approx(1, abs=1e-4) and not found["alerts"]


@pytest.mark.parametrize(
    "text",
    ["<ref>the dog</ref><box>(100,100),(500,500)</box> runs", "||the dog [100,100,500,500]||"],
)
def test_phrases_of_grounded_captions_keep_their_boxes(tmp_path, text):
    found = _scored(tmp_path, [{"text": text}], task="grounded_captioning", answer_box_scale="thousand")
    assert found["tasks"]["grounded_captioning"]["box_f1"] == 1


def test_a_long_answer_is_rewritten_in_time_that_grows_with_its_length(tmp_path):
    for piece in ("<box>(", "{<1", '{"x": 1,', "<ref>", "<loc0001>", "[1,", "(1,1),"):
        text = piece * (400_000 // len(piece))
        assert 0 < len(rewritten(text, tuple, "xyxy")) <= 2 * len(text)
