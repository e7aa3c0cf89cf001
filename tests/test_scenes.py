"""Rendered scenes: the truth agrees with the pixels, pixels with the seed, and the two streams never meet."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from vlcompare.cli import main
from vlcompare.cli import scenes as command
from vlcompare.errors import RequestError, SampleError
from vlcompare.synth.scenes import documents, shapes
from vlcompare.synth.scenes.backgrounds import GROUNDS
from vlcompare.synth.scenes.dataset import SPAN, evaluation_scenes, write_scenes
from vlcompare.synth.scenes.dice import Dice, LongTailDice
from vlcompare.synth.scenes.phrases import ALL_KEYS
from vlcompare.synth.scenes.scene import (
    SAMPLINGS,
    SIGN_WORDS,
    USUAL_COLORS,
    USUALLY,
    SceneObject,
    draw_scene,
    lay_out,
    render,
)
from vlcompare.synth.scenes.shapes import KINDS
from vlcompare.types import Box

MODEL_SIZE = 112  # the smallest picture that the embedded models may see

DIGEST = """
import hashlib
from vlcompare.synth.scenes.scene import draw_scene
for seed, size in ((0, 224), (4, 128), (12, 160), (33, 112)):
    print(hashlib.sha256(draw_scene(seed, size=size).image.tobytes()).hexdigest())
"""


def layouts(count: int, stream: str = "evaluation"):
    return [lay_out(seed, stream) for seed in range(count)]


def ink(changed: Image.Image, plain: Image.Image) -> tuple[int, int, int, int]:
    box = ImageChops.difference(changed, plain).convert("L").point([0] * 3 + [255] * 253).getbbox()
    assert box is not None
    return box


@pytest.mark.parametrize("size", [112, 128, 224, 333])
def test_a_box_bounds_the_pixels_of_its_thing_within_one(size: int) -> None:
    for ground, objects, _ in layouts(40):
        for thing in objects:
            plain = render(ground, (), None, size)
            found = ink(render(ground, (thing,), None, size, shadows=False), plain)
            for edge, value in zip(found, thing.box, strict=True):
                assert abs(edge - value * size) <= 1.01, (thing, found)


def test_every_kind_fills_its_box_in_every_size() -> None:
    ground = lay_out(0)[0]
    for kind, size, mirrored in itertools.product((*shapes.KINDS, shapes.SIGN), shapes.SIZES, (False, True)):
        width, height = (0.5 * sum(shapes.SIZES[size]) * side for side in shapes.aspect(kind))
        thing = SceneObject(kind, "red", size, Box(0.2, 0.3, 0.2 + width, 0.3 + height), None, mirrored)
        found = ink(render(ground, (thing,), None, 128, shadows=False), render(ground, (), None, 128))
        assert all(abs(a - b * 128) <= 1.01 for a, b in zip(found, thing.box, strict=True)), (kind, size)


def test_things_lie_apart_and_inside() -> None:
    for _, objects, _ in layouts(400):
        for thing in objects:
            assert min(thing.box) >= 0.019 and max(thing.box) <= 0.981
            low, high = shapes.SIZES[thing.size]
            longer = max(thing.box.x1 - thing.box.x0, thing.box.y1 - thing.box.y0)
            assert low - 1e-9 <= longer <= (0.42 if thing.text else high) + 1e-9
        for a, b in itertools.combinations(objects, 2):
            assert not a.box.iou(b.box)


def test_a_document_lies_inside_and_its_lines_within_it() -> None:
    seen = 0
    for _, objects, document in layouts(600):
        if document is None:
            continue
        seen += 1
        assert not objects and 2 <= len(document.lines) <= 5
        assert min(document.card) >= 0 and max(document.card) <= 1
        values, keys = [line.value for line in document.lines], [line.key for line in document.lines]
        assert len(set(values)) == len(values) and len(set(keys)) == len(keys)
        assert all(1 <= value <= 999 for value in values) and set(keys) <= set(documents.KEYS[document.kind])
        for line in document.lines:
            assert document.card.contains(*line.box[:2]) and document.card.contains(*line.box[2:])
        for a, b in itertools.pairwise(document.lines):
            assert a.box.y1 == pytest.approx(b.box.y0)
    assert 100 < seen < 200  # about a quarter


def test_a_documents_text_stays_on_its_card() -> None:
    """What is painted for a document changes nothing outside the card, its shadow aside."""
    size = 224
    for ground, _, document in layouts(120):
        if document:
            found = ink(render(ground, (), document, size), render(ground, (), None, size))
            rim = 0.016 + 1.5 / size  # the shadow and a pixel
            card = document.card
            limits = (card.x0 - 1.5 / size, card.y0 - 1.5 / size, card.x1 + rim, card.y1 + rim)
            assert found[0] >= limits[0] * size and found[1] >= limits[1] * size
            assert found[2] <= limits[2] * size + 1 and found[3] <= limits[3] * size + 1


def test_the_same_seed_gives_the_same_pixels_in_another_process() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    here = [
        hashlib.sha256(draw_scene(seed, size=size).image.tobytes()).hexdigest()
        for seed, size in ((0, 224), (4, 128), (12, 160), (33, 112))
    ]
    assert runs[0] == runs[1] and runs[0].split() == here and len(set(here)) == 4


def test_the_truth_does_not_depend_on_the_size() -> None:
    for seed in range(12):
        small, large = draw_scene(seed, size=112), draw_scene(seed, size=448)
        assert (small.objects, small.document, small.ground) == (large.objects, large.document, large.ground)
        assert large.image.size == (448, 448) and large.image.mode == "RGB"
        reduced = np.asarray(large.image.resize((112, 112), Image.Resampling.BOX), float)
        assert np.abs(reduced - np.asarray(small.image, float)).mean() < 9


def test_the_streams_are_disjoint() -> None:
    evaluation, training = ({repr(layout) for layout in layouts(1500, stream)} for stream in ("evaluation", "training"))
    assert len(evaluation) == len(training) == 1500 and not evaluation & training
    first = {
        Dice(seed, stream, purpose).share()
        for seed in range(200)
        for stream in ("evaluation", "training")
        for purpose in (0, 1)
    }
    assert len(first) == 800


def test_every_kind_color_size_ground_and_document_occurs() -> None:
    found = layouts(1200)
    things = [thing for _, objects, _ in found for thing in objects]
    assert {thing.kind for thing in things} == {*shapes.KINDS, shapes.SIGN} and len(shapes.KINDS) == 12
    assert {thing.color for thing in things} == set(shapes.COLORS) and len(shapes.COLORS) == 8
    assert {thing.size for thing in things} == set(shapes.SIZES)
    assert {ground.kind for ground, _, _ in found} == set(GROUNDS)
    assert {document.kind for _, _, document in found if document} == set(documents.DOCUMENTS)
    assert {line.key for _, _, document in found if document for line in document.lines} == set(ALL_KEYS)
    assert {thing.text for thing in things if thing.text} >= set(SIGN_WORDS)
    assert {len(objects) for _, objects, document in found if not document} == set(range(2, 8))
    alike = sum(len({thing.kind for thing in objects}) < len(objects) for _, objects, _ in found)
    assert alike > 0.5 * len(found)  # several of a kind, so that a kind alone says too little


def _lab(color: tuple[int, int, int]) -> np.ndarray:
    """CIELAB of an sRGB colour (D65)."""
    rgb = np.array(color) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = (matrix @ linear) / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colors_are_well_told_apart() -> None:
    for a, b in itertools.combinations(shapes.COLORS, 2):
        assert np.linalg.norm(_lab(shapes.COLORS[a]) - _lab(shapes.COLORS[b])) > 30, (a, b)


def test_text_is_legible_at_the_models_size() -> None:
    """Capitals and digits at least 7 pixels high, and clearly lighter or darker than what they stand on."""
    for _, objects, document in layouts(300):
        for sign in (thing for thing in objects if thing.text):
            x0, y0, x1, y1 = shapes.PANEL
            width = (sign.box.x1 - sign.box.x0) * MODEL_SIZE * (x1 - x0)
            height = (sign.box.y1 - sign.box.y0) * MODEL_SIZE * (y1 - y0)
            face, dx, dy = shapes.fitted(sign.text, round(width), round(height))
            left, top, right, bottom = face.getbbox(sign.text)
            assert bottom - top >= 7, (sign.text, bottom - top)
            assert left + dx >= 0 and right + dx <= width + 1 and top + dy >= 0 and bottom + dy <= height + 1
            letters = shapes.INK if sign.color in shapes.LIGHT else shapes.WHITE
            assert abs(_lab(letters)[0] - _lab(shapes.COLORS[sign.color])[0]) > 35, sign.color
        for line in document.lines if document else ():
            face = shapes.font(max(6, round(document.letter * MODEL_SIZE)))
            box = face.getbbox(str(line.value))
            assert box[3] - box[1] >= 7
            room = (line.box.x1 - line.box.x0) * MODEL_SIZE
            assert face.getlength(line.key.capitalize()) + face.getlength(str(line.value)) < room


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 0, "size": 20}, "64"),
        ({"seed": 0, "size": 100_000}, "4096"),
        ({"seed": 0, "stream": "test"}, "stream"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        draw_scene(**arguments)


# --- written to a folder ----------------------------------------------------------------------------------------------


def test_written_scenes_are_those_of_the_evaluation_stream(tmp_path: Path) -> None:
    path, count = write_scenes(tmp_path / "new" / "out", 6, seed=7, size=96)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert count == len(rows) > 40 and len({row["id"] for row in rows}) == count
    assert {row["split"] for row in rows} == {"evaluation"}
    pictures = sorted({row["image"] for row in rows})
    assert len(pictures) == 6
    for index, name in enumerate(pictures):
        scene = draw_scene(7 * SPAN + index, size=96)
        with Image.open(path.parent / name) as picture:
            assert picture.size == (96, 96) and picture.tobytes() == scene.image.tobytes()
    assert not list(path.parent.glob("*.partial"))


def test_scenes_can_be_sampled_naturally(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["scenes", str(tmp_path / "out"), "--count", "3", "--size", "64", "--sampling"]
    assert main([*command, "natural"]) == 0 and "sampled naturally" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "pictures" / "000001.png") as picture:
        assert picture.tobytes() == draw_scene(1, size=64, sampling="natural").image.tobytes()
        assert picture.tobytes() != draw_scene(1, size=64).image.tobytes()
    assert main([*command, "evenly"]) == 2 and "balanced or natural" in capsys.readouterr().err


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, _ = write_scenes(tmp_path / "a", 3, seed=1, size=64)
    second, _ = write_scenes(tmp_path / "b", 3, seed=1, size=64)
    assert first.read_bytes() == second.read_bytes()


def test_different_seeds_share_no_scene() -> None:
    seeds = [{scene.seed for scene, _ in evaluation_scenes(4, seed, 64)} for seed in (0, 1, 2)]
    assert len(set().union(*seeds)) == 12


@pytest.mark.parametrize("count", [0, -3, SPAN + 1])
def test_a_count_out_of_range_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(RequestError, match="pictures"):
        write_scenes(tmp_path / "out", count, seed=0)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SampleError, match="cannot be written"):
        write_scenes(tmp_path / "file" / "out", 1, seed=0)


def test_the_command_reaches_no_other_stream(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    args = parser.parse_args(
        ["scenes", str(tmp_path), "--count", "2", "--seed", "5", "--size", "64", "--tasks", "vqa", "captioning"]
    )
    assert command.run(args) == 0 and "about 2 pictures" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} <= {"vqa", "captioning"} and {row["split"] for row in rows} == {"evaluation"}
    options = set(vars(args)) - {"command"}
    assert options == {"out", "count", "seed", "size", "tasks", "sampling"}
    args.tasks = ["chat"]
    with pytest.raises(RequestError, match="no questions"):
        command.run(args)


# --- how scenes are sampled -------------------------------------------------------------------------------------------


def test_natural_scenes_have_a_long_tail_and_usual_colors() -> None:
    """Of the same seeds: as many documents, the first kinds most often, most things in the colour of their kind."""
    natural, balanced = ([lay_out(seed, "training", sampling) for seed in range(400)] for sampling in SAMPLINGS[::-1])
    assert [scene[2] is None for scene in natural] == [scene[2] is None for scene in balanced]
    things, plain = ([thing for scene in scenes for thing in scene[1]] for scenes in (natural, balanced))
    usual, by_chance = (
        sum(thing.color == USUAL_COLORS[thing.kind] for thing in each) / len(each) for each in (things, plain)
    )
    assert usual > USUALLY and by_chance < 0.2
    kinds, even = (Counter(thing.kind for thing in each if not thing.text) for each in (things, plain))
    assert kinds[KINDS[0]] > 3 * kinds[KINDS[-1]] and even[KINDS[0]] < 2 * even[KINDS[-1]]
    with pytest.raises(RequestError, match="sampled balanced or natural, not 'wild'"):
        lay_out(0, "training", "wild")


def test_long_tailed_choices_follow_zipf_and_use_one_number_each() -> None:
    dice, plain = LongTailDice(3, "training", 5), Dice(3, "training", 5)
    counts = Counter(dice.one("abcd") for _ in range(4000))
    total = sum(1 / rank for rank in range(1, 5))
    for rank, letter in enumerate("abcd", 1):
        assert abs(counts[letter] / 4000 - 1 / rank / total) < 0.03
    for _ in range(4000):
        plain.one("abcd")
    assert dice.share() == plain.share()
    assert sorted(LongTailDice(1, "training", 5).some("abcd", 4)) == list("abcd")
