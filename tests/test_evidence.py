"""What an answer rests on: given answers read again, blocks of the picture blanked, figures, files, commands."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import write_checkpoint

import vlcompare
from vlcompare.cli import main
from vlcompare.errors import RequestError, SampleError
from vlcompare.evaluate.evidence import chosen, counts_in_words
from vlcompare.evaluate.evidence_field import evidence_map
from vlcompare.evaluate.fields import FieldError
from vlcompare.evaluate.results.aspects import target_box
from vlcompare.evaluate.results.differences import largest_differences
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.table import Filter, RunTable
from vlcompare.evidence import Block, EvidenceMap, Layout
from vlcompare.paths import CHECKPOINTS, EXAMPLES
from vlcompare.render.evidence_picture import (
    evidence_overlay,
    evidence_picture,
    figures_in_words,
    place_in,
    place_of,
)
from vlcompare.runtime import blanking
from vlcompare.runtime.blanking import answer_logprobs, explain_request
from vlcompare.runtime.picture_cache import PictureCache, picture_key
from vlcompare.types import PROMPT_ORDERS, Answer, Box, Request, Sample, Token

PICTURE = Image.radial_gradient("L").resize((90, 60)).convert("RGB")
QUESTION = Request("grounding", "the red car", max_new_tokens=9)
LAST = Request("captioning", prompt_order="instruction_first", max_new_tokens=9)  # the picture stands before the answer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_checkpoint(tmp_path_factory.mktemp(name), name) for name in ("pythia", "mamba")}


@pytest.fixture(scope="module", params=["pythia", "mamba"])
def model(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    return vlcompare.load(str(folders[request.param]), device="cpu")


def ask(model: Any, request: Request = QUESTION) -> Answer:
    fields = {name: getattr(request, name) for name in ("task", "text", "prompt_order", "max_new_tokens")}
    return vlcompare.generate(model, PICTURE, **fields)


# ---- measuring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", PROMPT_ORDERS)
@pytest.mark.parametrize("task", ["grounding", "vqa", "captioning"])
def test_the_given_answer_has_the_log_probabilities_that_the_engine_recorded(model: Any, order: str, task: str) -> None:
    request = replace(QUESTION, task=task, text="" if task == "captioning" else QUESTION.text, prompt_order=order)
    answer = ask(model, request)
    with torch.inference_mode():
        features = model.vlm.encode_image(model.preprocess(PICTURE)[None])
        ids = [token.id for token in answer.tokens]
        found = answer_logprobs(model, answer.prompt.ids, ids, features.repeat(2, 1, 1))
    recorded = [token.logprob for token in answer.tokens]
    assert found.tolist() == [pytest.approx(recorded, abs=1e-4)] * 2
    map = explain_request(model, PICTURE, request, answer)
    assert map.logprob == pytest.approx(sum(recorded), abs=1e-4)
    assert (map.tokens, map.complete, map.layout) == (len(recorded), True, Layout(4, 4, 1))


def test_a_fall_is_that_of_the_picture_with_this_block_replaced(model: Any) -> None:
    answer = ask(model, LAST)
    map = explain_request(model, PICTURE, LAST, answer, block=3)
    ids = [token.id for token in answer.tokens]
    with torch.inference_mode():
        whole = model.vlm.encode_image(model.preprocess(PICTURE)[None])
        blanked = whole.clone().view(1, 4, 4, -1)
        blanked[:, 0:3, 3:4] = whole.mean(1)
        both = torch.cat([whole, blanked.view(1, 16, -1)])
        expected = answer_logprobs(model, answer.prompt.ids, ids, both).sum(1)
    assert list(map.layout)[1] == Block(0, 3, 3, 4)
    assert map.falls[1] == pytest.approx(float(expected[0] - expected[1]), abs=1e-5)
    assert any(abs(fall) > 1e-4 for fall in map.falls)


def test_blanking_what_is_blank_changes_nothing(model: Any) -> None:
    alike = PictureCache()
    alike.keep_encoded(picture_key(PICTURE), model, torch.ones(16, model.vlm.vision_encoder.width))
    mean = explain_request(model, PICTURE, LAST, "[0.1]", pictures=alike)
    plain = Image.new("RGB", (80, 80), (90, 20, 200))
    blur = explain_request(model, plain, LAST, "[0.1]", blank="blur")
    assert max(map(abs, mean.falls + blur.falls)) < 1e-5
    assert any(abs(fall) > 1e-4 for fall in explain_request(model, PICTURE, LAST, "[0.1]", blank="blur").falls)


def test_the_batch_decides_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask(model, LAST)
    for blank in ("mean", "blur"):
        one, some, all = (
            explain_request(model, PICTURE, LAST, answer, blank=blank, batch_size=size).falls for size in (1, 5, 16)
        )
        assert one == pytest.approx(some, abs=1e-5) and one == pytest.approx(all, abs=1e-5)
    sizes: list[int] = []
    measured = blanking.answer_logprobs
    monkeypatch.setattr(blanking, "answer_logprobs", lambda *given: sizes.append(len(given[-1])) or measured(*given))
    monkeypatch.setattr(blanking, "MAX_BYTES", 1)
    explain_request(model, PICTURE, LAST, answer)
    assert set(sizes) == {1}, "a row that no bound holds is read alone"


def test_it_ends_between_two_batches(model: Any) -> None:
    cancel, counts, answer = threading.Event(), list[tuple[int, int]](), ask(model)

    def progress(done: int, of: int) -> None:
        counts.append((done, of))
        if len(counts) == 2:
            cancel.set()

    map = explain_request(model, PICTURE, QUESTION, answer, cancel=cancel, progress=progress, batch_size=5)
    assert counts == [(5, 16), (10, 16)]
    assert None not in map.falls[:10] and set(map.falls[10:]) == {None}
    assert not map.complete and map.against([Box(0, 0, 0.5, 0.5)]) is None
    assert "Stopped" in " ".join(figures_in_words(map, place_of("grounding", [Box(0, 0, 0.5, 0.5)])))
    json.dumps(map.to_json([Box(0, 0, 0.5, 0.5)]))


def test_an_answer_is_generated_given_or_typed(model: Any) -> None:
    own = vlcompare.explain(model, PICTURE, task="grounding", text="the red car", max_new_tokens=9)
    assert own.falls == explain_request(model, PICTURE, QUESTION, ask(model)).falls
    typed = vlcompare.explain(model, PICTURE, task="grounding", text="the red car", answer="[0.1,0.2,0.3,0.4].")
    assert typed.boxes == (Box(0.1, 0.2, 0.3, 0.4),)
    assert typed.tokens == len(model.tokenizer.encode("[0.1,0.2,0.3,0.4].")) + 1, "and the end of text"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"blank": "black"}, "mean, blur"),
        ({"block": 0}, "1 to 4 patches"),
        ({"block": 5}, "1 to 4 patches"),
        ({"block": True}, "1 to 4 patches"),
        ({"answer": "  "}, "empty"),
        ({"answer": 7}, "not int"),
        ({"answer": Answer(error="It failed.")}, "It failed"),
        ({"answer": Answer()}, "before its first token"),
        ({"answer": Answer(tokens=(Token(10**6, "", 0.0),))}, "does not know"),
        ({"answer": "the " * 600}, "positions"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(
    folders: dict[str, Path], fields: dict[str, Any], sentence: str
) -> None:
    model = vlcompare.load(str(folders["pythia"]), device="cpu")
    with pytest.raises(RequestError, match=sentence):
        vlcompare.explain(model, PICTURE, task="grounding", text="the red car", **fields)


@pytest.mark.parametrize("checkpoint", ["tiny-pythia-vl", "tiny-mamba-vl"])
def test_boxes_of_the_embedded_pair_rest_on_the_thing(checkpoint: str) -> None:
    from vlcompare.synth.scenes.scene import draw_scene

    scene = draw_scene(1)
    model = vlcompare.load(checkpoint, device="cpu")
    thing = next(one for one in scene.objects if sum(one.kind == other.kind for other in scene.objects) == 1)
    map = vlcompare.explain(model, scene.image, task="grounding", text=f"the {thing.kind}")
    figures = map.against([Box(*thing.box)])
    assert figures is not None and figures.largest_inside and figures.chance < 0.5
    assert figures.difference > 0.2 and figures.inside > 3 * figures.outside


# ---- values ----------------------------------------------------------------------------------------------------------


def test_the_grain_follows_the_budget() -> None:
    assert [Layout.of(side, side).block for side in (4, 7, 8, 9, 16, 24, 27)] == [1, 1, 1, 2, 2, 3, 4]
    assert Layout.of(24, 24).shape == (8, 8)
    for layout in (Layout(7, 7, 2), Layout(24, 20, 5), Layout(3, 5, 5)):
        patches = [(r, c) for b in layout for r in range(b.row, b.row_end) for c in range(b.column, b.column_end)]
        assert sorted(patches) == [(r, c) for r in range(layout.rows) for c in range(layout.columns)]
        assert len(list(layout)) == len(layout)


def made(falls: list[float | None], columns: int, rows: int = 1, **fields: Any) -> EvidenceMap:
    return EvidenceMap(tuple(falls), Layout(rows, columns, 1), "mean", -1.0, "here", **fields)


def test_figures_weight_blocks_by_their_area_inside_and_outside() -> None:
    map = made([4.0, 2.0, -1.0, 0.0], 4)
    figures = map.against([Box(0, 0, 0.375, 1)])  # the first block and half of the second
    assert figures is not None
    assert figures.inside == pytest.approx((4 + 0.5 * 2) / 1.5)
    assert figures.outside == pytest.approx((0.5 * 2 - 1 + 0) / 2.5)
    assert figures.difference == pytest.approx(figures.inside - figures.outside)
    assert (figures.largest_inside, figures.chance) == (True, 0.5)
    elsewhere = map.against([Box(0.5, 0, 1, 1)])
    assert elsewhere is not None and not elsewhere.largest_inside
    twice = map.against([Box(0, 0, 0.25, 1), Box(0.125, 0, 0.375, 1)])
    assert twice == figures, "what two boxes share counts once"


@pytest.mark.parametrize("box", [Box(1.2, 0, 1.5, 1), Box(-1, -1, 0, 0), Box(0.4, 0.4, 0.2, 0.9), Box(0, 0, 1, 1)])
def test_nothing_is_said_of_a_place_outside_of_everything(box: Box) -> None:
    map = made([4.0, 2.0, -1.0, 0.0], 4)
    assert map.against([box]) is None and map.against([]) is None
    assert map.to_json([box])["true_place"] is None


def test_where_nothing_falls_no_block_is_the_largest() -> None:
    map = made([-1.0, 0.0], 2)
    figures = map.against([Box(0.5, 0, 1, 1)])
    assert map.largest is None and figures is not None and not figures.largest_inside
    assert made([1.0, 3.0, 3.0], 3).largest == Block(0, 1, 1, 2)


# ---- the picture -----------------------------------------------------------------------------------------------------


def test_both_sides_are_drawn_on_one_scale() -> None:
    picture = Image.new("RGB", (80, 80), "#c0c0c0")
    left, right = made([8.0, 0.0], 2, boxes=(Box(0.1, 0.1, 0.4, 0.6),)), made([1.0, -8.0], 2)
    pixels = [evidence_overlay(picture, map, 8.0).load() for map in (left, right)]
    strong, none, weak, rise = pixels[0][20, 40], pixels[0][60, 40], pixels[1][20, 40], pixels[1][60, 40]
    assert none[0] == none[1] == none[2]
    assert strong[0] - strong[1] > 3 * (weak[0] - weak[1]) > 0, "purple, by the size of the fall"
    assert rise[1] - rise[0] > 50, "green"
    both = evidence_picture(picture, QUESTION, {"left": left, "right": right}, [Box(0.2, 0.2, 0.5, 0.5)])
    one = evidence_picture(picture, QUESTION, {"right": right})
    assert both.width > 1.8 * one.width
    tall = evidence_picture(Image.new("RGB", (3, 3000)), QUESTION, {"left": made([None, 1.0], 2)})
    assert tall.height < 2000


def test_a_place_is_called_what_it_is() -> None:
    box, found = Box(0.1, 0.1, 0.4, 0.6), made([8.0, 0.0], 2)
    named = {task: place_of(task, [box]) for task in ("grounding", "region_description", "pointing")}
    assert [place.badge for place in named.values()] == ["truth", "region", "right"]
    told = [figures_in_words(found, place)[1].partition(":")[0] for place in named.values()]
    assert told == ["true box", "region asked about", "right choice"]
    region = Request("region_description", box=box)
    assert place_in(region, ()) == named["region_description"], "the region that is asked about needs no truth"
    assert place_in(QUESTION, [box]) == named["grounding"]


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> str:
    PICTURE.save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_the_command_prints_writes_and_draws(
    folders: dict[str, Path], picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["explain", picture, "--task", "grounding", "--text", "the red car", "--truth", "0.1,0.1,0.4,0.5"]
    sides = ["--left", str(folders["pythia"]), "--right", str(folders["mamba"]), "--max-new-tokens", "6"]
    drawn = tmp_path / "map.png"
    assert main([*asked, *sides, "--save", str(drawn), "--json", str(tmp_path / "map.json")]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("true box: a block's mean fall") == 2 and f"The maps are in {drawn}." in printed.err
    data = json.loads((tmp_path / "map.json").read_text())["sides"]
    assert {len(side["falls"]) for side in data.values()} == {16}
    for side in data.values():
        evidence_map(side)
    with Image.open(drawn) as image:
        assert image.width > 1400
    assert main([*asked, "--checkpoint", str(folders["mamba"]), "--answer", "[0.1]", "--json", "-"]) == 0
    assert list(json.loads(capsys.readouterr().out)["sides"]) == ["left"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--block", "0"], "--block is 1 or more"),
        (["--answer", " "], "--answer is empty"),
        (["--checkpoint", "tiny-mamba-vl", "--right", "tiny-pythia-vl"], "leave it out, or --right"),
        (["--checkpoint", "tiny-mamba-vl", "--left", "tiny-pythia-vl"], "leave it out, or --left"),
        (["--checkpoint", "tiny-mamba-vl", "--seed-right", "1"], "--seed-right is for the right side"),
        (["--truth", "1,2"], "box"),
        (["--save", "nowhere/map.png"], "--save"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    picture: str, more: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlcompare.runtime.loading.load.load", lambda *a, **k: pytest.fail("loaded"))
    assert main(["explain", picture, "--task", "grounding", "--text", "the car", *more]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_side_that_fails_leaves_the_other(
    folders: dict[str, Path], picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", "captioning", "--left", "/no/such/folder", "--right", str(folders["mamba"])]
    assert main(["explain", picture, *given, "--max-new-tokens", "3"]) == 1
    said = capsys.readouterr()
    assert "left: " in said.err and said.out.startswith("right  ")


# ---- over a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]) -> Path:
    """A run of rendered scenes, five of its grounding questions explained."""
    root = tmp_path_factory.mktemp("run")
    assert main(["scenes", str(root / "data"), "--count", "4", "--seed", "5", "--tasks", "grounding", "vqa"]) == 0
    assert main(line(root, folders, "run", "--evidence", "5")) == 0
    return root


def line(root: Path, folders: dict[str, Path], out: str, *more: str) -> list[str]:
    sides = ["--left", str(folders["pythia"]), "--right", str(folders["mamba"]), "--max-new-tokens", "5"]
    data = str(root / "data" / "samples.jsonl")
    return ["evaluate", data, *sides, "--no-progress", "--device", "cpu", "--out", str(root / out), *more]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "predictions.jsonl").read_text().splitlines()]


def test_a_run_explains_the_first_answers_with_a_true_box(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explained = {(row["side"], row["id"]) for row in rows_of(run / "run") if "evidence_map" in row}
    table = RunTable(RunFolder.open(run / "run"))
    located = [sample.id for sample in table.run.samples if sample.task == "grounding"][:5]
    assert explained == {(side, id) for side in ("left", "right") for id in located}
    for row in rows_of(run / "run"):
        if "evidence_map" in row:
            found = evidence_map(row["evidence_map"])
            assert found["logprob"] == pytest.approx(sum(token["logprob"] for token in row["tokens"]), abs=1e-3)
            assert found["true_place"]["chance"] > 0


def test_a_stored_map_has_the_figures_that_were_stored_with_it(run: Path) -> None:
    folder = RunFolder.open(run / "run")
    read = 0
    for side in ("left", "right"):
        rows = {row["id"]: row for row in rows_of(run / "run") if row["side"] == side}
        for index, sample in enumerate(folder.samples):
            found = folder.evidence(side, index)
            row = rows[sample.id]
            if "evidence_map" not in row:
                assert found is None
                continue
            assert isinstance(found, EvidenceMap) and found.answer == row["text"]
            again, stored = found.to_json((target_box(sample),)), row["evidence_map"]
            for place in ("true_place", "answered_place"):
                assert again.pop(place) == pytest.approx(stored.pop(place), abs=1e-4)
            assert again == stored
            read += 1
    assert read == 10


def test_slices_say_who_looked_at_the_target(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("run.json", "samples.jsonl"):
        (folder / name).write_bytes((run / "run" / name).read_bytes())
    rows = rows_of(run / "run")
    mine = [row for row in rows if row["side"] == "left" and "evidence_map" in row]
    for number, row in enumerate(mine):
        row["evidence_map"]["true_place"]["largest_inside"] = number < 2
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = RunTable(RunFolder.open(folder))
    name = "left looked at the target"
    chosen_rows = table.select(Filter(aspects={name: "yes"}))
    assert [table.run.samples[i].id for i in chosen_rows] == [row["id"] for row in mine[:2]]
    assert len(table.select(Filter(aspects={name: "no"}))) == 3
    assert not any(one.aspect == name for one in largest_differences(table, least=1)), "no cause, but a consequence"
    said = counts_in_words(table)
    assert said.startswith("The largest fall is in the true box: left 0 of 0 right answers, 2 of 5 wrong ones; right")


def test_a_run_that_was_stopped_goes_on_with_the_same_maps(run: Path, folders: dict[str, Path]) -> None:
    whole = rows_of(run / "run")
    assert main(line(run, folders, "again", "--evidence", "5", "--evidence-seed", "3")) == 0
    rows = rows_of(run / "again")
    ids = {row["id"] for row in rows if "evidence_map" in row}
    assert len(ids) == 5 and ids != {row["id"] for row in whole if "evidence_map" in row}
    path = run / "again" / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[: len(rows) // 3]))
    assert main(line(run, folders, "again", "--evidence", "5", "--evidence-seed", "3", "--resume")) == 0
    again = rows_of(run / "again")
    assert [row["id"] for row in again if "evidence_map" in row] == [row["id"] for row in rows if "evidence_map" in row]
    for before, after in zip(rows, again, strict=True):
        if "evidence_map" in before:
            assert after["evidence_map"]["falls"] == pytest.approx(before["evidence_map"]["falls"], abs=1e-4)
    assert main(line(run, folders, "again", "--resume")) == 2, "without maps it is another run"


def test_right_boxes_of_the_shipped_run_rest_on_the_thing() -> None:
    """Of both sides well over the .8 that is expected of the Transformer; the README's shares are the card's counts."""
    said = counts_in_words(RunTable(RunFolder.open(EXAMPLES / "tiny-pair-on-scenes")))
    counted = re.findall(r"(left|right) (\d+) of (\d+) right answers", said)
    assert [side for side, *_ in counted] == ["left", "right"]
    assert all(int(count) > 50 and int(rests) / int(count) > 0.8 for _, rests, count in counted), said
    for checkpoint in ("tiny-pythia-vl", "tiny-mamba-vl"):
        card = (CHECKPOINTS / checkpoint / "README.md").read_text(encoding="utf-8")
        counts = r"(\d+) of (\d+)"
        ours, theirs = (
            rf"in {counts} right answers of the Transformer \((\.\d+)\)",
            rf"{counts} of the state-space model",
        )
        found = re.search(rf"{ours} and {theirs} \((\.\d+)\)", card)
        assert found is not None
        for rests, count, share in (found.groups()[:3], found.groups()[3:]):
            assert int(count) > 100 and f"{int(rests) / int(count):.2f}" == f"0{share}" and float(share) > 0.8
        readme = " ".join((CHECKPOINTS.parent / "README.md").read_text(encoding="utf-8").split())
        assert f"right boxes rest on the thing in {found[3]} and {found[6]} of the cases" in readme


def test_samples_without_a_true_box_are_refused(run: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="none of these samples has one"):
        chosen([Sample("a", "a.png", "vqa", "What?")], 5, None)
    assert main(line(run, folders, "none", "--evidence", "-1")) == 2
    assert main(line(run, folders, "none", "--evidence-seed", "3")) == 2
    assert not (run / "none").exists()


GOOD = {"blank": "mean", "grid": [2, 3], "block": 2, "logprob": -1.5, "tokens": 2, "falls": [0.5, None]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"falls": [1.0]}, "falls"),
        ({"falls": [1.0, float("nan")]}, "falls"),
        ({"grid": [2, 0]}, "grid"),
        ({"grid": [2, 10**9]}, "grid"),
        ({"block": 4}, "block"),
        ({"blank": "<b>"}, "blank"),
        ({"logprob": None}, "logprob"),
        ({"true_place": {"inside": 1.0}}, "true_place"),
        ({"error": 5}, "error"),
    ],
)
def test_a_damaged_field_is_named(change: dict[str, Any], field: str) -> None:
    assert evidence_map(GOOD) == GOOD
    assert evidence_map({"error": "It failed."}) == {"error": "It failed."}
    with pytest.raises(FieldError, match=field):
        evidence_map({**GOOD, **change})
