"""The comparisons on pictures: layouts, matched pairs, equal batches, a killed grid's rows, gaps and reports."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vlcompare.cli import main
from vlcompare.errors import RequestError, SampleError
from vlcompare.study.grid import grid_of, open_grid
from vlcompare.study.pictures.data import distracting, prompting_of, training_set
from vlcompare.study.pictures.figures import picture_figures
from vlcompare.study.pictures.folder import PictureFolder, parse_picture_rows, read_picture_rows
from vlcompare.study.pictures.gaps import comparison_records
from vlcompare.study.pictures.grids import COMPARISONS, PICTURE_GRIDS, PictureGrid
from vlcompare.study.pictures.settings import RECIPES, SCALES, SMOKE, V1, PictureSetting, picture_setting_of
from vlcompare.study.pictures.training import train_picture_row
from vlcompare.study.pictures.work import picture_work
from vlcompare.study.run import run_grid, work_off
from vlcompare.synth.train import word_tokenizer
from vlcompare.synth.train.batches import Batch, make_batch
from vlcompare.synth.train.encoded_questions import encoder
from vlcompare.synth.train.learner import Learner, losses_of
from vlcompare.tasks.layouts import LAYOUTS, lay_out_turns
from vlcompare.tasks.prompts import build_turns
from vlcompare.tasks.sequence import IMAGE_MARK, IMAGE_SLOT, prompt_ids
from vlcompare.types import FAMILIES, Request

CPU = torch.device("cpu")
ASKED = Request("vqa", text="what color is the car?")
TINY = {"scale": "smoke", "recipe": SMOKE.name}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    """A folder whose pictures are drawn and encoded once."""
    return PictureFolder(tmp_path_factory.mktemp("pictures"))


# ---------------------------------------------------------------------------------------------- layouts


def test_layouts_of_a_question() -> None:
    instruction, question = lay_out_turns(ASKED, "image_first")[1:]
    image = IMAGE_MARK
    assert lay_out_turns(ASKED, "image_first") == build_turns(ASKED)
    assert lay_out_turns(ASKED, "template_first") == build_turns(replace(ASKED, prompt_order="instruction_first"))
    assert lay_out_turns(ASKED, "query_first") == (instruction, question, image)
    assert lay_out_turns(ASKED, "image_twice") == (image, image, instruction, question)
    assert lay_out_turns(ASKED, "query_around") == (instruction, question, image, instruction, question)
    assert lay_out_turns(ASKED, "image_first", " red") == (image, " red", instruction, question)
    with pytest.raises(RequestError, match="Unknown layout 'upside_down'"):
        lay_out_turns(ASKED, "upside_down")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_holds_its_images_and_distractors(layout: str) -> None:
    setting = PictureSetting("pythia", layout, distractors=3 if layout == "image_first" else 0)
    prompting = prompting_of(setting, "training")
    ids = prompt_ids(prompting.turns(ASKED, 5), encoder(), prompting.image)
    images = {"image_first": 0, "image_twice": 1}.get(layout, 1)
    assert sum(id == IMAGE_SLOT for id in ids) == 49 * images
    assert len(prompting.image) == 49 + 8
    plain = len(prompt_ids(lay_out_turns(ASKED, layout), encoder(), ()))
    assert len(ids) == plain + 57 * images + 57 * setting.distractors


def test_distractors_are_tokens_of_their_own_and_follow_from_the_seed() -> None:
    words = distracting(3, "training", 57)
    assert len(encoder()(words)) == 57 and words == distracting(3, "training", 57)
    assert words != distracting(3, "evaluation", 57) != distracting(4, "evaluation", 57)
    assert all(id >= len(word_tokenizer.byte_characters()) for id in encoder()(words))  # words, no single bytes


# ---------------------------------------------------------------------------------------------- fairness


@pytest.mark.parametrize("scale", [scale for scale in SCALES if scale != "smoke"])
def test_parameters_are_matched(scale: str) -> None:
    sizes = [Learner(family, V1.training(scale, 0), 192).shipped_parameters() for family in FAMILIES]
    assert abs(sizes[0] / sizes[1] - 1) < 0.03
    assert 0.9 < sizes[0] / {"small": 0.27e6, "medium": 0.95e6, "large": 3.5e6}[scale] < 1.1


def _taught(batch: Batch) -> list[int]:
    return sorted(token for block in batch.blocks for token in block.wanted.tolist())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_families_and_all_layouts_see_the_same_questions(shared: PictureFolder, layout: str) -> None:
    sets = [
        training_set(PictureSetting(family, each, **TINY), shared)
        for family in FAMILIES
        for each in (layout, "image_first")
    ]
    options = SMOKE.training("smoke", 0).language
    batches = [make_batch(data, 3, options, 0) for data in sets]
    for batch, data in zip(batches, sets, strict=True):
        assert np.array_equal(batch.pictures, batches[0].pictures)
        assert _taught(batch) == _taught(batches[0])  # blocks are of similar lengths, which layouts change
        assert np.array_equal(data.lessons.pictures, sets[0].lessons.pictures)  # no question is left out
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(batches[0].blocks, batches[2].blocks, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_the_picture_changes_no_sum(shared: PictureFolder, family: str) -> None:
    """Losses of image-first questions with a shared picture, and of the same prompts as whole sequences."""
    setting = PictureSetting(family, **TINY)
    data = training_set(setting, shared)
    learner = Learner(family, SMOKE.training("smoke", 0), data.width)
    batch = make_batch(data, 0, SMOKE.training("smoke", 0).language, 0)
    image = torch.tensor(prompting_of(setting, "training").image)
    blocks = [
        block._replace(
            ids=torch.cat([image.expand(len(block.ids), -1), block.ids], 1),
            asking=block.asking + torch.tensor([0, len(image)]),
            columns=block.columns + len(image),
        )
        for block in batch.blocks
    ]
    with torch.no_grad():
        shared_losses = losses_of(learner, batch, data, CPU)
        whole = losses_of(learner, batch._replace(blocks=blocks), replace(data, image_leads=False), CPU)
    for name, loss in shared_losses.items():
        assert torch.allclose(loss, whole[name], atol=1e-5), name


# ---------------------------------------------------------------------------------------------- rows


def but_seconds(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_tiny_grid_is_resumed_to_the_same_rows(shared: PictureFolder, tmp_path: Path) -> None:
    grid = PictureGrid("tiny", PICTURE_GRIDS["pictures-smoke"].entries[2:])  # the query around the image
    whole, killed = PictureFolder(tmp_path / "whole"), PictureFolder(tmp_path / "killed")
    training_set(grid.entries[0].provisional, shared)
    for folder in (whole, killed):
        shutil.copytree(shared.path / "data", folder.path / "data")
    for entry in grid.entries:
        setting = entry.provisional

        def keep(steps: int, seconds: float, loss: float, setting: PictureSetting = setting) -> None:
            if steps == 2:  # the folder as a kill at this moment leaves it
                shutil.copy(whole.state_path(setting), killed.state_path(setting))

        train_picture_row(setting, whole, CPU, keep)
    killed.rows_path.write_text('{"kind": "pict')  # a line whose writing was cut off
    said: list[str] = []
    work_off(grid, killed, CPU, said.append)
    assert but_seconds(killed.rows()) == but_seconds(whole.rows()) and len(whole.rows()) == 2
    assert "[2/2] query around, smoke, mamba, seed 0: region_description" in said[-1]
    for row in whole.rows():
        assert (
            row["steps"] == 4
            and row["questions"] == 24
            and list(row["tasks"]) == list(SMOKE.tasks[i] for i in (3, 1, 2, 0))
        )
        assert [step for step, _ in row["curve"]] == [1, 2, 3, 4] and len(json.dumps(row)) < 20_000
    assert not list((killed.path / "states").iterdir())
    assert run_grid(grid, killed.path, say=said.append) == 2 and "[2/2]" in said[-1]  # nothing is done twice


def row(family: str, seed: int = 0, right: str = "1010", layout: str = "image_first", **fields: object) -> dict:
    task = {
        "group": "summary",
        "metric": "accuracy",
        "right": right,
        "per_picture": "22",
        "types": "abab",
        "names": ["color", "kind"],
    }
    setting = {"family": family, "layout": layout, "distractors": 0, "scale": "medium", "recipe": V1.name, "seed": seed}
    results = {
        "parameters": 9,
        "steps": 1,
        "questions": 80,
        "tasks": {"vqa": task},
        "curve": [],
        "seconds": 1.0,
        "device": "cpu",
    }
    return {"kind": "pictures", **setting, **results, "version": 1, **fields}


def test_damaged_rows_are_named(tmp_path: Path) -> None:
    good = row("pythia")
    bad = [
        {**good, "version": 9},
        {**good, "steps": "many"},
        {**good, "layout": "upside_down"},
        {**good, "tasks": {"vqa": {**good["tasks"]["vqa"], "per_picture": "23"}}},
        {**good, "tasks": {"vqa": {**good["tasks"]["vqa"], "types": "abaz"}}},
        {**good, "tasks": {"vqa": {**good["tasks"]["vqa"], "right": "1x10"}}},
        {**good, "tasks": {"flying": {}}},
        [],
    ]
    data = "".join(json.dumps(each) + "\n" for each in (good, *bad)).encode() + b'{"cut'
    rows, problems = parse_picture_rows(data, "rows.jsonl")
    assert rows == [good] and len(problems) == len(bad)
    assert all(f"line {number}" in problem for number, problem in enumerate(problems, 2))
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(SampleError, match="line 2, is not a whole row"):
        read_picture_rows(tmp_path / "rows.jsonl")


# ---------------------------------------------------------------------------------------------- comparisons


def test_gaps_are_paired_over_the_seeds_that_both_families_have() -> None:
    rows = [row("pythia", 0, "1111"), row("pythia", 1, "1110"), row("mamba", 0, "1000"), row("pythia", 7, "0000")]
    found = {record["type"]: record for record in comparison_records(rows, COMPARISONS[0])}
    assert list(found) == ["all", "color", "kind"]
    assert (found["all"]["pythia"], found["all"]["mamba"], found["all"]["gap"], found["all"]["seeds"]) == (
        1,
        0.25,
        0.75,
        1,
    )
    assert found["color"]["gap"] == 0.5 and found["kind"]["gap"] == 1.0 and not found["all"]["complete"]
    rows += [row("mamba", 1, "0000"), row("pythia", 0, "0000", recipe="pictures-smoke")]
    both = comparison_records(rows, COMPARISONS[0])[0]
    assert (both["pythia"], both["mamba"], both["gap"], both["gap_by_seed"]) == (0.875, 0.125, 0.75, "+0.750 +0.750")
    assert both["complete"] and both["gap_low"] < 0.75 < both["gap_high"] and both["n"] == 4


def test_a_comparison_needs_two_values_and_says_where_it_is_unfinished(tmp_path: Path) -> None:
    rows = [row(family, 0) for family in FAMILIES]
    assert picture_figures(rows) == []
    rows += [row(family, 0, layout="query_first") for family in FAMILIES]
    (figure,) = picture_figures(rows)
    assert figure.name == "pictures-order" and "Unfinished" in figure.reads and len(figure.panels) == 1
    assert list(figure.panels[0].x_ticks.values()) == ["image first", "query first"]
    rows += [row(family, 1, layout=layout) for family in FAMILIES for layout in ("image_first", "query_first")]
    assert "Unfinished" not in picture_figures(rows)[0].reads
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (tmp_path / "grid.json").write_text(json.dumps({"rows": [{}] * 12}))
    assert main(["study", "report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "unfinished: 8 of 12 rows" in text and '"steps": 1500' in text and "| query first | summary |" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.md", "rows.csv", "pictures-order.csv", "pictures-order.svg"
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("name", PICTURE_GRIDS)
def test_named_grids_are_read_back_from_their_json(name: str) -> None:
    grid = open_grid(name)
    assert isinstance(grid, PictureGrid) and grid_of(json.loads(json.dumps(grid.as_json()))) == grid
    for one in COMPARISONS:
        if name in ("pictures", one.name):
            asked = {entry.provisional for entry in grid.entries}
            assert set(one.settings()) <= asked and len(set(one.settings())) == 2 * 2 * len(one.values)
    assert all(picture_work(entry.provisional) > 0 for entry in grid.entries)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "lacks family"),
        ({"family": "hybrid"}, "family is pythia, mamba"),
        ({"family": "mamba", "layout": "both"}, "layout is image_first"),
        ({"family": "mamba", "distractors": 2}, "distractors is 0, 1, 3; not 2"),
        ({"family": "mamba", "distractors": 1, "layout": "query_first"}, "has to be image_first"),
        ({"family": "mamba", "seed": -1}, "seed is a whole number"),
    ],
)
def test_settings_that_cannot_be_trained(values: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        picture_setting_of(values)


def test_values_that_are_no_grid() -> None:
    for value, message in (({"rows": []}, "A grid of pictures is"), ({"rows": [{"famly": 1}]}, "has no field famly")):
        with pytest.raises(RequestError, match=message):
            grid_of({"kind": "pictures", **value})


def test_recipes_are_named_after_themselves() -> None:
    assert all(name == recipe.name for name, recipe in RECIPES.items())
