"""The comparisons on pictures: layouts, matched pairs, equal batches, a killed grid's rows, gaps and reports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from vlcompare.cli import main
from vlcompare.errors import CheckpointError, RequestError, SampleError
from vlcompare.paths import EXAMPLES
from vlcompare.study.grid import grid_of, open_grid
from vlcompare.study.opened import PictureStudy, any_study_of
from vlcompare.study.pictures.data import distracting, embedded_encoder, prompting_of, training_set
from vlcompare.study.pictures.figures import beside_claims, picture_figures, who_is_ahead
from vlcompare.study.pictures.floors import with_floors
from vlcompare.study.pictures.folder import (
    PictureFolder,
    holds_pictures,
    parse_picture_rows,
    planned_settings,
    read_picture_rows,
)
from vlcompare.study.pictures.gaps import comparison_records, progress
from vlcompare.study.pictures.grids import COMPARISONS, PICTURE_GRIDS, PictureGrid
from vlcompare.study.pictures.pilot import RULE, reported
from vlcompare.study.pictures.settings import ALL_TASKS, RECIPES, SCALES, SMOKE, V1, PictureSetting, picture_setting_of
from vlcompare.study.pictures.training import train_picture_row
from vlcompare.study.pictures.work import picture_work
from vlcompare.study.run import run_grid, work_off
from vlcompare.synth.train import word_tokenizer
from vlcompare.synth.train.batches import Batch, make_batch
from vlcompare.synth.train.encoded_questions import encoder
from vlcompare.synth.train.encoder import EncoderTraining
from vlcompare.synth.train.learner import Learner, losses_of
from vlcompare.tasks.layouts import LAYOUTS, lay_out_turns
from vlcompare.tasks.prompts import build_turns, task_title
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
@pytest.mark.parametrize(("layout", "distractors"), [("image_first", 0), ("image_first", 1), ("image_twice", 0),
                                                     ("template_first", 0)])  # fmt: skip
def test_sharing_what_stands_before_the_questions_changes_no_sum(
    shared: PictureFolder, layout: str, distractors: int, family: str
) -> None:
    """Losses and gradients with shared prefixes, and of the same prompts as whole sequences."""
    setting = PictureSetting(family, layout, distractors, **TINY)
    data = training_set(setting, shared)
    learner = Learner(family, SMOKE.training("smoke", 0), data.width)
    options = SMOKE.training("smoke", 0).language
    batch, alone = (make_batch(each, 0, options, 0) for each in (data, replace(data, shares=False)))
    assert all(group.prefixes.shape[1] > 57 * distractors for group in batch.groups)
    assert max(len(group.prefixes) for group in batch.groups) < len(alone.groups[0].prefixes) * options.questions
    assert [group.prefixes.shape[1] for group in alone.groups] == [0]
    found, whole = (losses_of(learner, each, data, CPU) for each in (batch, alone))
    for name, loss in found.items():
        assert torch.allclose(loss, whole[name], atol=1e-5), name
    parameters = dict(learner.named_parameters())
    ours, theirs = (
        torch.autograd.grad(sum(losses.values()), [*parameters.values()], materialize_grads=True)
        for losses in (found, whole)
    )
    assert any(one.any() for one in ours)
    for name, one, other in zip(parameters, ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5), name


def test_a_prompt_that_ends_with_the_image_keeps_its_end_to_itself(shared: PictureFolder) -> None:
    """A caption is asked for by the instruction alone: behind the image nothing stands that could predict it."""
    data = training_set(PictureSetting("pythia", "template_first", **TINY), shared)
    row, begin, cut = data.lesson(0)
    assert row[cut - 1] == data.image[-1] and cut < begin
    data.lessons.answers[0] = cut
    assert data.lesson(0)[1:] == (cut, cut - 1)


# ---------------------------------------------------------------------------------------------- rows


def but_seconds(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def tiny_grid() -> PictureGrid:
    """One row of each sort: an encoder of another size, and one that asks the first row's model, among them."""
    asked = [("image_first", "pythia"), ("query_around", "mamba"), ("at 160", "mamba"), ("tested at 160", "pythia")]
    entries = {(entry.provisional, str(entry.provisional)): entry for entry in PICTURE_GRIDS["pictures-smoke"].entries}
    return PictureGrid(
        "tiny",
        tuple(
            next(entry for (setting, text), entry in entries.items()
                 if setting.family == family and (setting.layout == sort or f", {sort}," in text))
            for sort, family in asked
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(shared: PictureFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureFolder]:
    """The tiny grid, trained without interruption, with copies of its states as a kill after two steps leaves them."""
    folder = PictureFolder(tmp_path_factory.mktemp("whole"))
    training_set(tiny_grid().entries[0].provisional, shared)
    shutil.copytree(shared.path / "data", folder.path / "data")
    for entry in tiny_grid().entries:
        state = folder.state_path(entry.provisional)

        def keep(steps: int, seconds: float, loss: float, state: Path = state) -> None:
            if steps == 2:
                shutil.copy(state, state.with_suffix(".kept"))

        train_picture_row(entry.provisional, folder, CPU, keep)
    yield folder


def test_a_tiny_grid_is_resumed_to_the_same_rows(whole: PictureFolder, tmp_path: Path) -> None:
    grid, killed = tiny_grid(), PictureFolder(tmp_path / "killed")
    shutil.copytree(whole.path / "data", killed.path / "data")
    kept = list((whole.path / "states").iterdir())
    assert len(kept) == 3  # one row trains nothing
    for state in kept:
        shutil.copy(state, killed.path / "states" / f"{state.stem}.pt")
    killed.rows_path.write_text('{"kind": "pict')  # a line whose writing was cut off
    said: list[str] = []
    work_off(grid, killed, CPU, said.append)
    assert but_seconds(killed.rows()) == but_seconds(whole.rows()) and len(whole.rows()) == 4
    assert "[4/4] image first, tested at 160, tested on natural scenes, smoke, pythia, seed 0: region" in said[-1]
    for row in whole.rows():
        assert (row["steps"], row["questions"]) == (4, 24)
        assert list(row["tasks"]) == [SMOKE.tasks[i] for i in (3, 1, 2, 0)]
        assert [step for step, _ in row["curve"]] == [1, 2, 3, 4] and len(json.dumps(row)) < 20_000
    assert not list((killed.path / "states").iterdir())
    assert run_grid(grid, killed.path, say=said.append) == 4 and "[4/4]" in said[-1]  # nothing is done twice


def test_a_row_asks_the_model_of_another_or_trains_the_same(whole: PictureFolder) -> None:
    first, *_, tested = tiny_grid().entries
    assert tested.model == first.provisional and tested.setting({}) is None
    assert tested.setting(whole.finished()) == tested.provisional
    whole.weights_path(first.provisional).unlink()
    row = train_picture_row(tested.provisional, whole, CPU)
    assert but_seconds([row]) == but_seconds(whole.rows()[3:4])
    whole.weights_path(first.provisional).write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="is not the model of this row; delete it"):
        train_picture_row(tested.provisional, whole, CPU)


def test_rows_of_earlier_programs_get_their_floors(whole: PictureFolder) -> None:
    rows = whole.rows()
    bare = [{**row, "tasks": {task: {name: value for name, value in found.items() if name != "floor"}
                              for task, found in row["tasks"].items()}} for row in rows]  # fmt: skip
    assert with_floors(bare) == rows != bare
    assert rows[0]["tasks"]["vqa"]["floor"] != rows[3]["tasks"]["vqa"]["floor"]  # other scenes, other guesses


def test_an_encoder_is_finetuned_from_another_size() -> None:
    begin = embedded_encoder()
    fresh = EncoderTraining.fresh(SMOKE.training("smoke", 0, 160), CPU, begin).encoder
    pixels = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert fresh.config.grid == 10 and torch.allclose(fresh(pixels), begin(pixels), atol=1e-5)


def row(family: str, seed: int = 0, right: str = "1010", layout: str = "image_first", **fields: object) -> dict:
    task = {
        "group": "summary",
        "metric": "accuracy",
        "right": right,
        "floor": "1000",
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
        {**good, "steps": "many"},
        {**good, "version": 9},
        {**good, "layout": "upside_down"},
        {**good, "tasks": {"vqa": {**good["tasks"]["vqa"], "per_picture": "23"}}},
        {**good, "tasks": {"vqa": {**good["tasks"]["vqa"], "types": "abaz"}}},
        {**good, "tasks": {"vqa": {**good["tasks"]["vqa"], "right": "1x10"}}},
        {**good, "tasks": {"vqa": {**good["tasks"]["vqa"], "floor": "10"}}},
        {**good, "tested_size": 224},
        {**good, "tasks": {"flying": {}}},
        [],
    ]
    data = "".join(json.dumps(each) + "\n" for each in (good, *bad)).encode() + b'{"cut'
    rows, problems = parse_picture_rows(data, "rows.jsonl")
    assert rows == [asdict(picture_setting_of(good)) | good] and len(problems) == len(bad)
    assert all(f"line {number}" in problem for number, problem in enumerate(problems, 2))
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(SampleError, match="line 2, is not a whole row"):
        read_picture_rows(tmp_path / "rows.jsonl")


def test_a_report_leaves_out_damaged_lines_and_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first line says nothing of the rows' kind where it is damaged."""
    rows = [row(family, layout=layout) for layout in ("image_first", "query_first") for family in FAMILIES]
    lines = ["{", *map(json.dumps, rows), json.dumps({**rows[0], "steps": "many"}), ""]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    assert holds_pictures(path) and isinstance(any_study_of(path.read_bytes(), "mine"), PictureStudy)
    assert main(["study", "report", str(path), "--out", str(tmp_path)]) == 0
    said, text = capsys.readouterr().out, (tmp_path / "report.md").read_text()
    for told in (said, text):
        assert "rows.jsonl, line 1, is not a whole row" in told and "line 6, is not a whole row" in told
    assert said.startswith("4 rows, 1 comparison:") and "**Left out: 2 lines are" in text
    assert "| query first | summary | Question | all | 4 |" in text
    path.write_text("\n".join([lines[5], ""]))
    assert main(["study", "report", str(path), "--out", str(tmp_path)]) == 2
    assert "steps is missing" in capsys.readouterr().err


def test_the_sizes_that_are_compared_are_said() -> None:
    rows = [row(family, scale=scale, parameters=count + (family == "mamba"))
            for scale, count in (("small", 270_000), ("medium", 950_000)) for family in FAMILIES]  # fmt: skip
    (figure,) = picture_figures(rows)
    assert "Parameters, Transformer and Mamba: small 270,000 and 270,001, medium 950,000 and 950,001." in figure.reads
    assert "Parameters" not in picture_figures([row(f, layout=x) for x in LAYOUTS[:3] for f in FAMILIES])[0].reads


def test_nobody_is_ahead_where_the_seeds_disagree() -> None:
    """The interval is over pictures: it may leave 0 out although another training goes the other way."""
    for each, ahead in (("+0.003 +0.120", 1), ("-0.003 +0.120", 0), ("+0.000 +0.120", 1)):
        assert who_is_ahead({"gap_low": 0.002, "gap_high": 0.113, "gap_by_seed": each}) == ahead
    assert who_is_ahead({"gap_low": -0.2, "gap_high": -0.1, "gap_by_seed": "-0.1 -0.2"}) == -1


def test_a_gap_widens_in_every_seed_or_not_at_all() -> None:
    def record(value: str, gap: float, each: str) -> dict:
        shared = {"task": "grounding", "type": "all", "complete": True, "pythia": gap, "mamba": 0.0}
        return {
            **shared,
            "value": value,
            "gap": gap,
            "gap_low": gap - 0.02,
            "gap_high": gap + 0.02,
            "gap_by_seed": each,
        }

    scale = next(one for one in COMPARISONS if one.name == "pictures-scale")
    for last, said in (("+0.380 +0.420", "here it does, too."), ("+0.180 +0.620", "here no such widening is shown.")):
        gaps = [
            record("small", 0.2, "+0.190 +0.210"),
            record("medium", 0.3, "+0.290 +0.310"),
            record("large", 0.4, last),
        ]
        assert [sentence.split("; ")[1] for sentence in beside_claims(gaps, scale)] == [said]


def test_whether_the_gap_widens_with_scale_is_said_once_all_seeds_are_there() -> None:
    """The paper's claim, beside what is seen: gaps that grow clearly, and gaps that do not."""

    def rows(wrong: tuple[int, ...]) -> list[dict]:
        made = []
        for scale, missed in zip(("small", "medium", "large"), wrong, strict=True):
            for family, seed in product(FAMILIES, (0, 1)):
                right = "1" * 80 if family == "pythia" else "0" * missed + "1" * (80 - missed)
                asked = {"per_picture": "2" * 40, "types": "a" * 80, "names": ["attribute"], "floor": "0" * 80}
                task = {"group": "retrieval", "metric": "accuracy", "right": right, **asked}
                made.append(row(family, seed, scale=scale) | {"tasks": {"grounding": task}})
        return made

    def said(rows: list[dict]) -> list[str]:
        (figure,) = picture_figures(rows)
        return [sentence for sentence in figure.says if "widens" in sentence]

    assert said(rows((4, 20, 60))) == ["In the paper the gap in grounding widens with scale; here it does, too."]
    none = "In the paper the gap in grounding widens with scale; here no such widening is shown"
    less = "(the largest Mamba is right less often than a smaller one: trained too briefly to test it)"
    for wrong, why in (((20, 20, 20), ""), ((4, 60, 20), f" {less}"), ((20, 22, 24), f" {less}")):
        assert said(rows(wrong)) == [f"{none}{why}."]
    assert said(rows((4, 20, 60))[:-1]) == [], "a seed is missing"


def test_what_reading_again_does_is_said_once_two_layouts_have_all_seeds() -> None:
    def said(*layouts: str, seeds: tuple[int, ...] = (0, 1)) -> list[str]:
        rows = []
        for layout, family, seed in product(layouts, FAMILIES, seeds):
            right = "10" * 40 if (family, layout) == ("pythia", "image_twice") else "1" * 80
            asked = {"per_picture": "2" * 40, "types": "a" * 80, "names": ["attribute"], "floor": "0" * 80}
            task = {"group": "retrieval", "metric": "accuracy", "right": right, **asked}
            rows.append(row(family, seed, layout=layout) | {"tasks": {"grounding": task}})
        return [sentence for figure in picture_figures(rows) for sentence in figure.says if "2407.05483" in sentence]

    assert said("image_first", "image_twice") == [
        "Reading again is meant to help recurrent models (arXiv 2407.05483); here, of the things located: Transformer "
        "image first 1.00, image twice .50; Mamba image first 1.00, image twice 1.00."
    ]
    assert said("image_first", "image_twice", seeds=(0,)) == [] == said("image_twice", "query_around")


# ---------------------------------------------------------------------------------------------- comparisons


def test_gaps_are_paired_over_the_seeds_that_both_families_have() -> None:
    rows = [row("pythia", 0, "1111"), row("pythia", 1, "1110"), row("mamba", 0, "1000"), row("pythia", 7, "0000")]
    found = {record["type"]: record for record in comparison_records(rows, COMPARISONS[0], V1.name)}
    assert list(found) == ["all", "color", "kind"]
    assert (found["all"]["pythia"], found["all"]["mamba"], found["all"]["gap"], found["all"]["seeds"]) == (
        1,
        0.25,
        0.75,
        1,
    )
    assert [found[name]["floor"] for name in found] == [0.25, 0.5, 0.0]
    assert found["color"]["gap"] == 0.5 and found["kind"]["gap"] == 1.0 and not found["all"]["complete"]
    rows += [row("mamba", 1, "0000"), row("pythia", 0, "0000", recipe="pictures-smoke")]
    both = next(comparison_records(rows, COMPARISONS[0], V1.name))
    assert (both["pythia"], both["mamba"], both["gap"], both["gap_by_seed"]) == (0.875, 0.125, 0.75, "+0.750 +0.750")
    assert both["complete"] and both["gap_low"] < 0.75 < both["gap_high"] and both["n"] == 4


def test_rows_of_other_questions_are_not_paired() -> None:
    other = row("mamba")
    other["tasks"] = {
        "vqa": other["tasks"]["vqa"] | {"right": "101", "floor": "101", "per_picture": "21", "types": "aba"}
    }
    with pytest.raises(SampleError, match="image first, medium, mamba, seed 0 were not asked the same questions"):
        list(comparison_records([row("pythia"), other], COMPARISONS[0], V1.name))


def test_a_comparison_needs_two_values_and_says_where_it_is_unfinished(tmp_path: Path) -> None:
    rows = [row(family, 0) for family in FAMILIES]
    assert picture_figures(rows) == []
    rows += [row(family, 0, layout="query_first") for family in FAMILIES]
    (figure,) = picture_figures(rows)
    assert figure.name == "pictures-order" and "Unfinished" in figure.reads and len(figure.panels) == 1
    assert list(figure.panels[0].x_ticks.values()) == ["", "image first", "query first", ""]
    rows += [row(family, 1, layout=layout) for family in FAMILIES for layout in ("image_first", "query_first")]
    assert "Unfinished: no rows of both families yet at template first." in picture_figures(rows)[0].reads
    whole = rows + [row(family, seed, layout="template_first") for family in FAMILIES for seed in (0, 1)]
    assert "Unfinished" not in picture_figures(whole)[0].reads
    other = [{**one, "recipe": ALL_TASKS.name} for one in whole]  # another budget of each task: a figure of its own
    assert picture_figures(whole + other[:1])[0].records == picture_figures(whole)[0].records
    assert [one.name for one in picture_figures(whole + other)] == [
        "pictures-order", "pictures-order-pictures-all-tasks-v1"
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (tmp_path / "grid.json").write_text(json.dumps(PICTURE_GRIDS["pictures-scale"].as_json()))
    assert main(["study", "report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "This grid is unfinished: 4 of 12 rows" in text  # those of the baseline
    assert "Unfinished: pictures-order, 8 of 12 rows" in text and "pictures-scale, " not in text
    assert '"steps": 1500' in text and "| query first | summary | Question | all | 4 | 0.250 | 0.500 (" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.md", "rows.csv", "pictures-order.csv", "pictures-order.svg"
    }  # fmt: skip
    for odd in ("null", "5", "[1]", '"x"', '{"rows": 5}', "{"):  # what was asked is then not known
        (tmp_path / "grid.json").write_text(odd)
        assert planned_settings(tmp_path) == []
    floors = [point for panel in picture_figures(rows)[0].panels for point in panel.floors]
    assert [(point.x, point.y) for point in floors] == [(0.0, 0.25), (1.0, 0.25)]
    assert (tmp_path / "out" / "pictures-order.svg").read_text().count("The floor, ") == 2


def test_a_test_on_other_pictures_is_compared_with_its_own_training(tmp_path: Path) -> None:
    trained = {"layout": "image_first"}
    rows = [row(family, right=right, **trained, **fields) for family in FAMILIES for right, fields in (
        ("1111", {}), ("1100", {"tested_size": 160}), ("1110", {"image_size": 160}),
        ("0000", {"sampling": "natural"}), ("0001", {"tested_sampling": "natural"}),
    )]  # fmt: skip
    found = {figure.name: figure.records for figure in picture_figures(rows)}
    shares = {name: {r["value"]: r["pythia"] for r in records if r["type"] == "all"} for name, records in found.items()}
    assert shares == {
        "pictures-resolution": {"112": 1.0, "160, finetuned": 0.75, "160, extrapolated": 0.5},
        "pictures-sampling": {
            "balanced, tested balanced": 1.0, "balanced, tested natural": 0.25, "natural, tested natural": 0.0
        },
    }  # fmt: skip
    assert all("Ours" in figure.reads for figure in picture_figures(rows))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main(["study", "report", str(tmp_path), "--out", str(tmp_path)]) == 0  # rows that lack fields, and others
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert ",tested_size," in lines[0] and len(lines) == 11 and len({line.count(",") for line in lines}) == 1
    assert {(one.comparison, one.finished, one.asked) for one in progress(rows)} == {
        ("pictures-resolution", 6, 12), ("pictures-sampling", 6, 16)
    }  # fmt: skip


def test_a_pilot_decides_which_tasks_are_reported(tmp_path: Path) -> None:
    """Captions leave the floor in both seeds of one family, matching in one seed only, pointing in none."""

    def piloted(family: str, seed: int, layout: str = "image_first") -> dict:
        made = row(family, seed, layout=layout, recipe=ALL_TASKS.name)
        about = made["tasks"]["vqa"] | {
            "floor": "10" * 40, "per_picture": "2" * 40, "types": "a" * 80, "names": ["x"], "group": "retrieval"
        }  # fmt: skip
        learnt, not_learnt = {"right": "11" * 40}, {"right": "10" * 40}
        caption, match = family == "mamba", family == "pythia" and seed == 0
        made["tasks"] = {
            "vqa": about | learnt,
            "captioning": about | (learnt if caption else not_learnt),
            "image_text_match": about | (learnt if match else not_learnt),
            "pointing": about | not_learnt,
        }
        return made

    rows = [piloted(family, seed) for family in FAMILIES for seed in (0, 1)]
    assert reported(rows, ALL_TASKS.name) == (*V1.tasks, "captioning")
    assert reported(rows[1:], ALL_TASKS.name) == (*V1.tasks, "captioning")  # one family is enough
    assert reported(rows[:-1], ALL_TASKS.name) == V1.tasks  # a seed is missing
    rows += [piloted(family, 0, "query_first") for family in FAMILIES]
    found = comparison_records(rows, COMPARISONS[0], ALL_TASKS.name)
    assert {record["task"] for record in found} == {"vqa", "captioning"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main(["study", "report", str(tmp_path), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert f"The rule: {RULE}." in text and "- Caption: reported." in text
    assert f"- {task_title('image_text_match')}: not reported: neither family leaves the floor." in text
    assert f"- {task_title('multiple_choice')}: not known yet, seeds are missing." in text


# ---------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("name", PICTURE_GRIDS)
def test_named_grids_are_read_back_from_their_json(name: str) -> None:
    grid = open_grid(name)
    assert isinstance(grid, PictureGrid) and grid_of(json.loads(json.dumps(grid.as_json()))) == grid
    for one in COMPARISONS:
        if name in ("pictures", one.name):
            asked = {entry.provisional for entry in grid.entries}
            assert set(one.settings()) <= asked and len(set(one.settings())) == 2 * 2 * len(one.values)
    waiting = [entry for entry in grid.entries if entry.provisional != entry.provisional.trained]
    assert all(entry.model == entry.provisional.trained for entry in waiting)
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
        ({"family": "mamba", "image_size": 224}, "image_size is 112, 160; not 224"),
        ({"family": "mamba", "image_size": 112.0}, "image_size is 112, 160; not 112.0"),
        ({"family": "mamba", "tested_sampling": "wild"}, 'tested_sampling is null, balanced, natural; not "wild"'),
    ],
)
def test_settings_that_cannot_be_trained(values: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        picture_setting_of(values)


def test_values_that_are_no_grid() -> None:
    for value, message in (
        ({"rows": []}, "A grid of pictures is"),
        ({"rows": [{"famly": 1}]}, "has no field famly"),
        ({"rows": [{"family": "mamba"}], "axis": {}}, "A grid of pictures has no axis"),
        ({"kind": "picture"}, '"kind" is "pictures", or left out'),
    ):
        with pytest.raises(RequestError, match=message):
            grid_of({"kind": "pictures", **value})


def test_rows_of_another_kind_or_version_are_not_to_be_deleted(tmp_path: Path) -> None:
    shipped = (EXAMPLES / "study" / "cpu" / "rows.jsonl").read_bytes().split(b"\n")[0] + b"\n"
    assert parse_picture_rows(shipped, "rows.jsonl")[1] == [
        "rows.jsonl, line 1: a row of a training on sequences, where those on pictures are wanted; "
        "give another folder or file."
    ]
    later = json.dumps(row("mamba", version=9)).encode() + b"\n"
    assert parse_picture_rows(later, "rows.jsonl")[1] == [
        "rows.jsonl, line 1: a row of version 9, where this program makes version 1; give another folder or file."
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("mamba")) + "\n")
    with pytest.raises(SampleError, match="a row of a training on pictures, where those on sequences are wanted"):
        run_grid(open_grid("quick"), tmp_path)


def test_what_is_tested_as_trained_is_one_setting_whose_files_keep_their_names() -> None:
    plain = PictureSetting("pythia")
    assert plain.id == "pythia-image_first-0-medium-pictures-v1-0"
    assert PictureSetting("pythia", tested_size=112, tested_sampling="balanced") == plain == replace(plain).trained
    larger = replace(plain, image_size=160, tested_size=112)
    assert (larger.asked_size, larger.trained.asked_size) == (112, 160)
    ids = [entry.provisional.id for entry in PICTURE_GRIDS["pictures"].entries]
    assert len(set(ids)) == len(ids)


def test_recipes_are_named_after_themselves() -> None:
    assert all(name == recipe.name for name, recipe in RECIPES.items())
