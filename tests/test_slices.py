"""Run folders as they are looked at: table, filters, slices, joined runs."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from vlcompare.errors import ImageError, RequestError, SampleError
from vlcompare.evaluate import statistics
from vlcompare.evaluate.results.aspects import raster_position
from vlcompare.evaluate.results.run_folder import RunFolder, find_runs, half_runs, join
from vlcompare.evaluate.results.safe_regex import Search
from vlcompare.evaluate.results.slices import overall, slice_figures
from vlcompare.evaluate.results.table import Filter, RunTable
from vlcompare.types import Box

PICTURE = Path(__file__).parent / "fixtures" / "readers" / "pictures" / "v7w_1.jpg"
GOOD, BAD = "[0.10,0.10,0.50,0.50]", "[0.60,0.60,0.90,0.90]"


def write_run(folder, *, left="[0.10,0.10,0.50,0.50]", count=24, sides=("left", "right"), logprobs=True):
    """Half grounding, half questions; left is right on all but every sixth, right on all but every fourth."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "p.jpg").write_bytes(PICTURE.read_bytes())
    samples, rows = [], []
    for i in range(count):
        row = {"id": f"r{i:02d}", "image": "images/p.jpg", "text": f"the thing number {i}", "split": "val"}
        row["tags"] = {"size": "small" if i % 2 else "large", "question_type": f"type {i % 3}", "distractors": i % 5}
        if i % 2:
            x = 0.1 if i < count // 2 else 0.55
            samples.append({**row, "task": "grounding", "boxes": [[x, x, x + 0.4, x + 0.4]]})
        else:
            samples.append({**row, "task": "vqa", "references": ["red"]})
        for side in sides:
            right = i % (6 if side == "left" else 4) != 0
            x = 0.1 if i < count // 2 else 0.55
            box = f"[{x:.2f},{x:.2f},{x + 0.4:.2f},{x + 0.4:.2f}]" if right else "[0.00,0.00,0.05,0.05]"
            text = box if i % 2 else ("Red." if right else "=blue <b>x</b>")
            answer = {"id": row["id"], "side": side, "text": text}
            if logprobs:
                answer["tokens"] = [{"id": 1, "text": "x", "logprob": -0.1 * (i % 7) * (1 if side == "left" else 2)}]
            rows.append(answer)
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.fixture
def table(tmp_path):
    return RunTable(RunFolder.open(write_run(tmp_path / "run")))


def ids(table, rows):
    return [table.run.samples[i].id for i in rows]


def test_scores_and_quadrants(table):
    assert table.sides == ("left", "right") and table.count == 24
    # left is wrong at 0, 6, 12, 18; right at 0, 4, 8, 12, 16, 20 (all of them questions)
    assert table.quadrant_counts() == {"both": 16, "only_left": 4, "only_right": 2, "neither": 2}
    assert ids(table, table.select(Filter(quadrants=("only_right",)))) == ["r06", "r18"]
    assert table.score["left"][1] == pytest.approx(1.0) and table.score["left"][0] == 0
    assert table.main == {"vqa": "accuracy", "grounding": "mean_iou"}
    assert table.cells(6)["quadrant"] == "only_right" and table.cells(6)["answer_right"] == "Red."


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Filter(), 24),
        (Filter(quadrants=("both", "neither")), 18),
        (Filter(aspects={"task": "vqa"}), 12),
        (Filter(aspects={"task": "vqa", "tag: size": "large"}), 12),
        (Filter(aspects={"position": "first fifth"}), 0),
        (Filter(text="NUMBER 11"), 1),
        (Filter(text="blue"), 8),
        (Filter(pattern=r"number 1\d$"), 10),
        (Filter(pattern="^r0[0-3]"), 4),
        (Filter(disagreeing=True), 6),
        (Filter(min_confidence_gap=0.45), 6),
        (Filter(samples=frozenset(["r03", "r05", "zz"])), 2),
        (Filter(quadrants=("both",), text="number 1", aspects={"task": "grounding"}), 6),
    ],
)
def test_filters(table, wanted, count):
    if "position" in wanted.aspects:
        with pytest.raises(RequestError, match="no value"):
            table.select(wanted)
    else:
        assert len(table.select(wanted)) == count


def test_sorting(table):
    rows = table.select()
    by_score = table.sort(rows, "score_left")
    assert ids(table, by_score[:4]) == ["r00", "r06", "r12", "r18"]
    assert ids(table, table.sort(rows, descending=True))[0] == "r23"
    assert ids(table, table.sort(rows, "difference", descending=True))[:4] == ["r04", "r08", "r16", "r20"]
    with pytest.raises(RequestError, match="sorted by"):
        table.sort(rows, "colour")


@pytest.mark.parametrize(
    "pattern",
    ["[", "x" * 300, "a{1000000}", "(?:(?:(?:a{100}){100}){100}){100}", "(?:(?:x?){50}){50}", "(?x)a{ 1 000 }", "(?R)"],
)
def test_patterns_that_are_none_or_take_much_memory_are_refused(pattern):
    with pytest.raises(RequestError):
        Search(pattern)


SLOW = [
    *("(a+)+$", "(a*)*", "(.*.*)*", "a*b*c*d*", "(x)\\1", "(?:(?:a|b)*)*c", "a*a*a*b", "(?:a|b|ab)*c"),
    *("(?:a{1,10})*b", "(?:aa?){40}b", "a?" * 40 + "b", "(?:a++|ab)*c", "(?:(?=(a+)+!)|a)*b", "((a|aa)+(?!b))+$"),
]


@pytest.mark.parametrize("pattern", SLOW)
def test_no_pattern_runs_on(pattern):
    """Each of these can try more ways than could be counted; searching ends all the same."""
    search = Search(pattern)
    for text in ("a" * 600, "a" * 599 + "!", "ab" * 300, "x" * 600):
        with suppress(RequestError):
            assert search.matching([text], [0], 1.0) in ([], [0])


def test_a_pattern_that_takes_too_long_on_one_text_is_stopped(monkeypatch):
    monkeypatch.setattr("vlcompare.evaluate.results.safe_regex.TEXT_SECONDS", 0.001)
    with pytest.raises(RequestError, match="too long"):
        Search("(a+)+$").matching(["a" * 599 + "!"], [0], 1.0)


@pytest.mark.parametrize(
    "pattern",
    ["red|blue", r"\bcar\b", "^the .* on", r"\d{2,4}", "(?:a|b)+c", "colou?r", "(red|green) \\w+ number \\d*7$"],
)
def test_plain_patterns_are_taken(pattern):
    text = "s1\nThe colour on a RED car number 77"
    found = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
    assert Search(pattern).matching(["", text], [0, 1], 1.0) == ([1] if found else [])


def test_a_pattern_that_takes_too_long_on_these_rows_is_stopped(table, monkeypatch):
    monkeypatch.setattr("vlcompare.evaluate.results.table.PATTERN_SECONDS", -1.0)
    with pytest.raises(RequestError, match="too long"):
        table.select(Filter(pattern="thing"))


def test_slices_are_the_paired_statistics_of_their_rows(table):
    figures = {row.value: row for row in slice_figures(table, "task")}
    assert figures["vqa"].n == 12 and figures["vqa"].left == pytest.approx(8 / 12)
    left, right = (
        table.right[side][table.aspects["task"].codes == table.aspects["task"].values.index("vqa")]
        for side in table.sides
    )
    clusters = table.clusters[table.aspects["task"].codes == table.aspects["task"].values.index("vqa")]
    assert figures["vqa"].paired == statistics.paired(left, right, clusters)
    assert figures["vqa"].paired.only_left == 4 and figures["vqa"].paired.only_right == 2
    assert figures["grounding"].paired.difference == 0
    by_score = slice_figures(table, "task", scores=True)
    assert {row.value: row.left for row in by_score}["grounding"] == pytest.approx(1.0)
    assert overall(table).n == 24 and overall(table, table.select(Filter(text="nothing like it"))) is None


def test_slices_of_scores_follow_their_metric(tmp_path):
    """CIDEr-D is not a fraction, however small it is in a slice, and is right from its own value on."""
    folder = write_run(tmp_path / "run", sides=("left", "right"))
    said = ["a van", "the car", "the moon", "one blue thing"]
    samples = [
        {"id": f"c{i}", "image": f"images/{i}.jpg", "task": "captioning", "references": [text]}
        for i, text in enumerate(["a red car on a hill", "a small dog by a car", "a tree", "a house that is blue"])
    ]
    rows = [{"id": f"c{i}", "side": side, "text": text} for i, text in enumerate(said) for side in ("left", "right")]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = RunTable(RunFolder.open(folder))
    values = table.score["left"].astype(float)
    assert table.main == {"captioning": "cider_d"} and 0.5 < values.max() < 1.0
    row = overall(table, scores=True)
    assert row.left_ci95 == pytest.approx(statistics.mean_interval(values, table.clusters, fraction=False))
    assert (row.paired.both, row.paired.neither) == (0, 4) == (table.quadrant_counts()["both"], 4)


def test_slices_of_a_selection(table):
    rows = table.select(Filter(quadrants=("only_left", "only_right")))
    assert sum(row.n for row in slice_figures(table, "tag: size", rows)) == len(rows) == 6


def test_aspects_that_the_data_have(table):
    assert {"task", "box size", "position", "similar objects", "question type", "tag: size"} <= set(table.aspects) | {
        "box size"
    }
    assert table.aspects["similar objects"].values == ("none", "1", "2", "3 or more")
    assert "split" not in table.aspects  # one value is not a slice
    assert set(table.aspects["question type"].values) == {"type 0", "type 1", "type 2"}


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 0, 0.04, 0.04), 0.0),
        ((0.97, 0.97, 1, 1), 1.0),
        ((0, 0.5, 0.04, 0.54), 12 * 24 / 575),
        ((0.96, 0, 1, 0.04), 23 / 575),
    ],
)
def test_raster_position(box, place):
    assert raster_position(Box(*box)) == pytest.approx(place)


def test_one_side_alone(tmp_path):
    table = RunTable(RunFolder.open(write_run(tmp_path / "run", sides=("left",))))
    assert table.sides == ("left",)
    assert table.quadrant_counts() == {"both": 20, "only_left": 0, "only_right": 0, "neither": 4}
    assert slice_figures(table, "task")[0].paired is None
    assert "answer_right" not in table.cells(0)


def test_rows_without_confidence_sort_last(tmp_path):
    table = RunTable(RunFolder.open(write_run(tmp_path / "run", logprobs=False)))
    assert np.isnan(table.confidence["left"]).all()
    assert len(table.sort(table.select(), "confidence_gap")) == 24


def test_whole_rows_are_read_from_the_file(table):
    assert table.run.row("left", 3)["tokens"][0]["logprob"] == pytest.approx(-0.3)
    assert table.run.answer("right", 1).boxes[0] == pytest.approx((0.1, 0.1, 0.5, 0.5))


def test_pictures_come_from_the_run_or_from_allowed_folders(tmp_path):
    folder = write_run(tmp_path / "run")
    outside = tmp_path / "elsewhere" / "p.jpg"
    outside.parent.mkdir()
    outside.write_bytes(PICTURE.read_bytes())
    lines = (folder / "samples.jsonl").read_text().replace("images/p.jpg", str(outside), 1).splitlines(keepends=True)
    lines[1] = lines[1].replace("images/p.jpg", "../elsewhere/p.jpg")
    lines[2] = lines[2].replace("images/p.jpg", "/etc/passwd")
    (folder / "samples.jsonl").write_text("".join(lines))
    run = RunFolder.open(folder)
    for i in (0, 1, 2):
        with pytest.raises(ImageError, match="outside"):
            run.picture(i)
    assert run.picture(3).name == "p.jpg"
    allowed = RunFolder.open(folder, allowed=[outside.parent])
    assert allowed.picture(0) == outside.resolve() and allowed.picture(1) == outside.resolve()
    with pytest.raises(ImageError):
        allowed.picture(2)


def test_damaged_and_torn_rows_are_left_out_and_named(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "predictions.jsonl").open("a") as file:
        file.write('{"id": "r00", "side"')
    run = RunFolder.open(folder)
    assert run.problems and "damaged" in run.problems[0]


def test_rows_of_others_may_hold_anything(tmp_path):
    """Numbers beyond floats and 64 bits, half of a character, a picture that is none."""
    folder, huge, name = tmp_path / "run", "1" + "0" * 400, str(2**64 + 1)
    folder.mkdir()
    sample = {"image": "data:image/png;base64,!!!!", "task": "vqa", "text": "q", "references": ["a"]}
    samples = [{"id": "a", **sample, "tags": {"area": int(huge)}}, {"id": int(name), **sample}, {"id": "c", **sample}]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    rows = [
        f'{{"id": "a", "schema_version": 1, "boxes": [[{huge}, 0, 1, 1]], "tokens": [{{"logprob": {huge}}}]}}',
        f'{{"id": {name}, "text": "a"}}',
        '{"id": "c", "text": "half \\ud83d"}',
    ]
    (folder / "predictions.jsonl").write_text("".join(row + "\n" for row in rows))
    table = RunTable(RunFolder.open(folder))
    assert table.quadrant_counts()["both"] == 1 and table.run.answer("left", 1).text == "a"
    assert table.run.answer("left", 0).boxes == () and table.run.answer("left", 2) is None
    assert [problem for problem in table.run.problems if "line 3" in problem]
    with pytest.raises(ImageError, match="cannot be read"):
        table.run.picture(0)


def test_not_a_run_is_one_sentence(tmp_path):
    with pytest.raises(SampleError, match="not a run folder"):
        RunFolder.open(tmp_path)
    write_run(tmp_path / "run")
    (tmp_path / "run" / "predictions.jsonl").unlink()
    with pytest.raises(SampleError, match="no answers"):
        RunFolder.open(tmp_path / "run")


def test_joining_sides_of_two_runs(tmp_path, monkeypatch):
    first = RunFolder.open(write_run(tmp_path / "a"))
    second = RunFolder.open(write_run(tmp_path / "b", count=20))
    joined = RunTable(join((first, "left"), (second, "right")))
    assert joined.count == 19  # the box of r11 differs, and 20 to 23 are in one alone
    assert joined.run.read_only and joined.run.problems
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    (tmp_path / "a0").mkdir()
    is_file = Path.is_file

    def refused(path: Path) -> bool:
        if path.parent.name == "a0":
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refused)
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b"], "a folder that must not be looked into is left out"
    assert half_runs(tmp_path) == "Not listed: a0 cannot be read (Permission denied)."
    with pytest.raises(SampleError, match="no side"):
        join((first, "left"), (second, "middle"))


def test_many_rows_are_filtered_in_time(tmp_path):
    """A bound that holds on a busy machine too; the times on a quiet one stand in the benchmark."""
    count = 10_000
    folder = tmp_path / "run"
    folder.mkdir()
    dice = np.random.default_rng(0)
    wins = dice.random((2, count)) < 0.6
    with (folder / "samples.jsonl").open("w") as samples, (folder / "predictions.jsonl").open("w") as rows:
        for i in range(count):
            samples.write(
                f'{{"id":"s{i}","image":"images/{i // 3}.jpg","task":"grounding","text":"the red thing {i}",'
                f'"boxes":[[0.1,0.1,0.5,0.5]],"tags":{{"size":"{i % 5}"}}}}\n'
            )
            for side, won in zip(("left", "right"), wins[:, i], strict=True):
                rows.write(f'{{"id":"s{i}","side":"{side}","text":"{GOOD if won else BAD}"}}\n')
    started = time.process_time()
    table = RunTable(RunFolder.open(folder))
    opened = time.process_time() - started
    for work in (
        lambda: table.select(Filter(text="thing 49")),
        lambda: table.select(Filter(pattern=r"thing \d*77\b", quadrants=("only_left",))),
        lambda: [table.cells(i) for i in table.sort(table.select(Filter(disagreeing=True)), "difference", True)[:50]],
        lambda: slice_figures(table, "tag: size"),
    ):
        work()
        started = time.process_time()
        work()
        assert time.process_time() - started < 0.5
    assert opened < 10
    assert sum(table.quadrant_counts().values()) == count
    print(f"opened in {opened:.2f} s of processor time")
