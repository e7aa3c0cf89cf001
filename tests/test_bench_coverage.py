"""The coverage of the intervals, by a small simulation; the whole table is `bench --what coverage`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vlcompare.bench import coverage
from vlcompare.bench.coverage import CoverageOptions, run, table
from vlcompare.cli import main
from vlcompare.errors import RequestError
from vlcompare.evaluate import intervals

SMALL = CoverageOptions(rows=(30, 100), rates=(0.8, 0.97, 1.0), apart=(0.0, 0.01, 0.1), replicates=150)


def test_the_intervals_cover_what_they_promise():
    report = run(SMALL)
    assert {cell.figure for cell in report.cells} == set(coverage.FIGURES)
    assert report.below == ()
    assert min(cell.coverage for cell in report.cells) >= 0.9


def test_the_simulation_finds_intervals_that_collapse(monkeypatch):
    """Without the pseudo-rows, where one of a hundred rows differs: the case that they are there for."""
    monkeypatch.setattr(intervals, "PSEUDO_PAIRS", 1e-9)
    options = replace(SMALL, figures=("fraction",), rows=(100,), shapes=((1, 0.0),), rates=(0.97,), apart=(0.01,))
    report = run(options)
    pair = next(cell for cell in report.cells if cell.apart == 0.01)
    assert pair.coverage < 0.8 and pair in report.below


def test_a_cell_is_the_same_alone_and_among_others():
    few = replace(SMALL, figures=("f1",), rows=(100,), rates=(0.97,), replicates=20)
    alone = run(replace(few, apart=(0.1,))).cells
    assert set(alone) <= set(run(few).cells)
    assert set(alone) != set(run(replace(few, apart=(0.1,), seed=1)).cells)


def test_the_table_that_is_kept_is_what_the_command_prints():
    kept = Path(coverage.__file__).with_name("coverage.txt").read_text().splitlines()
    options = CoverageOptions(figures=("fraction",), rows=(100,), shapes=((1, 0.0),))
    again = table(run(options)).splitlines()
    assert again[0] in kept and again[5] in kept
    assert [line for line in again if line.startswith("fraction")] == [
        line for line in kept if line.startswith("fraction    100          1 ")
    ]
    assert not any("!" in line for line in kept if line[:8].strip() in coverage.FIGURES)


def test_rows_of_a_picture_are_as_correlated_as_is_said():
    import numpy as np

    dice = np.random.default_rng(0)
    right = coverage._rights(dice, 400, np.arange(500) // 5, 0.8, 0.3).reshape(-1, 5)
    assert right.mean() == pytest.approx(0.8, abs=0.01)
    assert np.corrcoef(right[:, 0], right[:, 1])[0, 1] == pytest.approx(0.3, abs=0.02)


def test_the_table_says_its_seed_and_marks_what_falls_short():
    report = run(replace(SMALL, figures=("fraction",), replicates=10))
    text = table(report)
    assert "seed 2026" in text and "10 replicates" in text and "6 pictures only" in text
    low = replace(report, cells=(replace(report.cells[0], coverage=0.5),))
    assert "0.500!" in table(low) and "1 below the goal" in table(low)


def test_the_command_writes_json(tmp_path, capsys):
    out = tmp_path / "coverage.json"
    given = ["bench", "--what", "coverage", "--figures", "f1", "--replicates", "5", "--seed", "3", "--json", str(out)]
    assert main(given) == 0
    written = json.loads(out.read_text())
    assert written["options"]["seed"] == 3 and {"coverage", "width", "rate"} <= set(written["rows"][0])
    assert "at 0.97" in capsys.readouterr().out


@pytest.mark.parametrize("given", [{"figures": ("median",)}, {"replicates": 0}])
def test_what_cannot_be_simulated_is_one_sentence(given):
    with pytest.raises(RequestError):
        run(replace(SMALL, **given))
