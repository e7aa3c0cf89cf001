"""Where two sides differ most: the tests against brute force, their error rate, and what is ranked."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_slices import write_run

from vlcompare.evaluate import paired_tests
from vlcompare.evaluate.paired_tests import corrected_p
from vlcompare.evaluate.results.aspects import Aspect
from vlcompare.evaluate.results.differences import largest_differences
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.results.slices import share_figures, slice_figures
from vlcompare.evaluate.results.table import Filter, RunTable


def by_hand(sums: np.ndarray) -> list[float]:
    """Step-down maxT over all sets of signs, as the book writes it: one slice after the other."""
    size = np.sqrt((sums**2).sum(axis=1))

    def t(signs: tuple[int, ...]) -> list[float]:
        return [abs(float(row @ np.array(signs))) / one if one else 0.0 for row, one in zip(sums, size, strict=True)]

    observed = t((1,) * sums.shape[1])
    order = sorted(range(len(sums)), key=lambda s: -observed[s])
    everything = [t(signs) for signs in itertools.product((1, -1), repeat=sums.shape[1])]
    p, before = [1.0] * len(sums), 0.0
    for place, s in enumerate(order):
        left = order[place:]
        share = sum(max(drawn[r] for r in left) >= observed[s] - 1e-9 for drawn in everything) / len(everything)
        before = max(before, share)
        p[s] = before if size[s] else 1.0
    return p


@pytest.mark.parametrize("seed", range(5))
def test_few_pictures_give_the_exact_p(seed: int) -> None:
    sums = np.random.default_rng(seed).integers(-2, 4, size=(6, 8)).astype(float)
    sums[3] = 0
    assert corrected_p(sums) == pytest.approx(by_hand(sums), abs=1e-12)


@pytest.mark.parametrize(("better", "worse"), [(5, 0), (7, 2), (4, 4), (9, 1)])
def test_one_slice_of_one_row_a_picture_is_mcnemars_exact_test(better: int, worse: int) -> None:
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(max(better, worse), n + 1)) / 2**n
    assert corrected_p([[1.0] * better + [-1.0] * worse + [0.0] * 3])[0] == pytest.approx(min(1.0, 2 * tail))


def test_many_pictures_come_close_to_the_exact_p() -> None:
    better, worse = 40, 20
    tail = sum(math.comb(60, k) for k in range(better, 61)) / 2**60
    assert corrected_p([[1.0] * better + [-1.0] * worse])[0] == pytest.approx(2 * tail, abs=0.004)


def test_more_pictures_than_are_flipped_alone_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(3)
    sums = np.stack([dice.choice([-1, 1], 3000, p=(0.5 - lean, 0.5 + lean)) for lean in (0.0, 0.05)]).astype(float)
    none, clear = corrected_p(sums)
    assert none > 0.05 and clear < 0.01
    monkeypatch.setattr(paired_tests, "MAX_BLOCKS", 3000)
    assert corrected_p(sums) == pytest.approx([none, clear], abs=0.2)


def test_chance_finds_are_no_more_than_one_in_twenty() -> None:
    """Twelve overlapping slices of two sides that are alike: the share of runs with any slice called clear."""
    dice, found, runs = np.random.default_rng(11), 0, 400
    for _ in range(runs):
        change = dice.choice([-1.0, 0.0, 1.0], size=30, p=(0.2, 0.6, 0.2))
        member = dice.random((12, 30)) < 0.5
        found += bool((corrected_p(member * change) < 0.05).any())
    assert found / runs < 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_nothing_differs_and_nothing_is_there() -> None:
    assert corrected_p(np.zeros((3, 5))).tolist() == [1, 1, 1]
    assert corrected_p(np.zeros((0, 0))).tolist() == []


# ---- what is ranked --------------------------------------------------------------------------------------------------


def write_table(folder: Path, count: int = 120) -> RunTable:
    """One picture a row; the left side is right always, the right one wherever the color is not red."""
    folder.mkdir(parents=True)
    samples, answers = [], []
    for i in range(count):
        color, shape = ("red", "blue", "green")[i % 3], ("round", "square")[i // 3 % 2]
        tags = {"color": color, "again": color.upper(), "shape": shape, "name": f"n{i // 4}", "all": "same"}
        row = {"id": f"r{i}", "image": f"p{i}.png", "task": "vqa", "text": f"q{i}?", "references": ["yes"]}
        samples.append({**row, "tags": tags})
        answers.append({"id": row["id"], "side": "left", "text": "yes"})
        answers.append({"id": row["id"], "side": "right", "text": "no" if color == "red" else "yes"})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return RunTable(RunFolder.open(folder, read_only=True))


def test_the_slice_that_differs_comes_first_and_once(tmp_path: Path) -> None:
    table = write_table(tmp_path / "run")
    first, *others = found = largest_differences(table)
    assert (first.aspect, first.value, first.difference, first.clear) == ("tag: color", "red", 1.0, True)
    figures = first.figures(table)
    assert (figures.n, figures.left, figures.right) == (40, 1.0, 0.0)
    assert not {one.aspect for one in found} & {"tag: again", "tag: name", "tag: all"}
    shares = {(row.aspect, row.value): row for name in table.aspects for row in slice_figures(table, name)}
    for one in others:
        row = shares[one.aspect, one.value]
        assert row.paired is not None and one.difference == pytest.approx(row.paired.difference)
        assert len(one.rows) == row.n >= 10
    assert {one.value for one in others if one.clear} == {"round", "square"}  # of each, a third differs


def test_of_two_slices_of_one_word_the_one_within_the_other_is_not_tested(tmp_path: Path) -> None:
    table = write_table(tmp_path / "run")
    color = table.aspects["tag: color"]
    red = color.values.index("red")
    codes = np.where(color.codes == red, 0, 1).astype(np.int32)
    codes[np.flatnonzero(codes == 0)[:9]] = 1
    table.aspects = {**table.aspects, "tag: shade": Aspect("tag: shade", "Shade", codes, ("Red", "other"))}
    found = {(one.aspect, one.value) for one in largest_differences(table)}
    assert ("tag: color", "red") in found and ("tag: shade", "other") in found and ("tag: shade", "Red") not in found
    far = np.where(np.arange(table.count) < 15, 0, codes)  # another thing by the same word: not within the other
    table.aspects["tag: shade"] = Aspect("tag: shade", "Shade", far.astype(np.int32), ("Red", "other"))
    assert ("tag: shade", "Red") in {(one.aspect, one.value) for one in largest_differences(table)}


def test_small_slices_are_not_ranked_and_a_selection_can_be(tmp_path: Path) -> None:
    table = write_table(tmp_path / "run")
    rows = table.select(Filter(aspects={"tag: shape": "round"}))
    assert {len(one.rows) for one in largest_differences(table, rows)} == {20}
    assert largest_differences(table, rows, least=21) == []
    assert largest_differences(table, np.zeros(0, dtype=np.int64)) == []


def test_one_side_differs_from_nothing(tmp_path: Path) -> None:
    table = RunTable(RunFolder.open(write_run(tmp_path / "run", sides=("left",))))
    assert largest_differences(table) == []


def test_near_unique_tags_are_those_whose_values_are_of_few_rows() -> None:
    codes = np.array([0] * 12 + [1] * 11 + list(range(2, 20)), dtype=np.int32)
    names = tuple(map(str, range(20)))
    assert not Aspect("tag: x", "x", codes, names).near_unique(10)
    assert Aspect("tag: x", "x", codes, names).near_unique(12)
    assert not Aspect("position", "x", codes, names).near_unique(12)


# ---- the share of a selection ----------------------------------------------------------------------------------------


def test_a_quadrants_share_is_counted_in_each_slice(tmp_path: Path) -> None:
    table = write_table(tmp_path / "run")
    only_left = table.select(Filter(quadrants=("only_left",)))
    rows = {row.value: row for row in share_figures(table, "tag: color", np.arange(table.count), only_left)}
    assert {value: (row.n, row.count, row.share) for value, row in rows.items()} == {
        "red": (40, 40, 1.0),
        "blue": (40, 0, 0.0),
        "green": (40, 0, 0.0),
    }
    assert rows["red"].ci95.low > 0.8 and rows["blue"].ci95.high < 0.2
    within = table.select(Filter(aspects={"tag: shape": "round"}))
    assert {row.n for row in share_figures(table, "tag: color", within, only_left)} == {20}
