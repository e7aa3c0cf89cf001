"""The layout of image positions and the joining of turns, against layouts written out by hand and recorded ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vlcompare.tasks.sequence import IMAGE_MARK, IMAGE_SLOT, image_ids, prompt_ids

S = IMAGE_SLOT


def test_small_grids_by_hand() -> None:
    assert image_ids(1, 1, mark=7, separator=9) == (7, S, 7)
    assert image_ids(2, 3, mark=7, separator=9) == (7, S, S, S, 9, S, S, S, 7)
    assert image_ids(3, 1, mark=7, separator=9) == (7, S, 9, S, 9, S, 7)


@pytest.mark.parametrize("grid, count", [(24, 601), (16, 273), (8, 73), (4, 21)])
def test_counts_of_the_published_sizes(grid: int, count: int) -> None:
    ids = image_ids(grid, grid, mark=4118, separator=10494)
    assert len(ids) == count and ids.count(S) == grid * grid and ids.count(10494) == grid - 1


@pytest.mark.parametrize("rows, cols", [(0, 3), (3, 0), (-1, 2)])
def test_an_empty_grid_is_a_defect(rows: int, cols: int) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        image_ids(rows, cols, mark=1, separator=2)


def test_turns_are_encoded_one_by_one_around_the_image() -> None:
    image = image_ids(1, 2, mark=7, separator=9)

    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    assert prompt_ids(["ab", IMAGE_MARK, "c"], encode, image) == (97, 98, 7, S, S, 7, 99)
    assert prompt_ids(["ab", "c"], encode, image) == (97, 98, 99)


@pytest.mark.parametrize("variant, grid", [("b_mamba_ln_both", 8), ("h_mamba_clipflags_336", 24)])
def test_recorded_input_ids(reference: Path, variant: str, grid: int) -> None:
    turns = json.loads((reference / "expected" / "summary.json").read_text())["turns"]
    image = image_ids(grid, grid, mark=4118, separator=10494)
    with np.load(reference / "expected" / f"{variant}.npz") as recorded:
        for order, names in (
            ("image_first", (IMAGE_MARK, "turn0", "turn1")),
            ("instruction_first", ("turn0", IMAGE_MARK, "turn1")),
        ):
            assert prompt_ids(names, turns.__getitem__, image) == tuple(recorded[f"{order}.input_ids"])
