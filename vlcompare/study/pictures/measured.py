"""What finished rows say question by question: who is right, in which picture, of what type. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vlcompare.study.pictures.settings import PictureSetting, picture_setting_of
from vlcompare.types import FAMILIES

Row = Mapping[str, Any]
Record = dict[str, Any]


def by_setting(rows: Iterable[Row], recipe: str) -> dict[PictureSetting, Row]:
    """The rows of a recipe by their settings; of equal ones the last."""
    known = {picture_setting_of(dict(row)): row for row in rows}
    return {setting: row for setting, row in known.items() if setting.recipe == recipe}


def baseline(settings: Iterable[PictureSetting], recipe: str) -> PictureSetting:
    """What the comparisons of a recipe vary, of the first family: at the only scale there is, where there is one."""
    scales = {setting.scale for setting in settings}
    return PictureSetting(FAMILIES[0], recipe=recipe, scale=scales.pop() if len(scales) == 1 else "medium")


def right(found: Mapping[str, Any], which: str = "right") -> np.ndarray:
    """(n,) 1.0 where a question of a row's task is right, or where its "floor" is; NaN where the row does not say."""
    if which not in found:
        return np.full(len(found["right"]), np.nan)
    return np.array([digit == "1" for digit in found[which]], dtype=np.float64)


def clusters(found: Mapping[str, Any]) -> np.ndarray:
    """(n,) which picture each question is about."""
    counts = [int(digit, 36) for digit in found["per_picture"]]
    return np.repeat(np.arange(len(counts)), counts)


def slices(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """(n,) masks: all questions, and those of each type where there are several."""
    types = np.array([ord(letter) - ord("a") for letter in found["types"]])
    out = {"all": np.ones(len(types), dtype=bool)}
    if len(found["names"]) > 1:
        out |= {name: types == index for index, name in enumerate(found["names"])}
    return out


def short(value: Any) -> float | None:
    """A figure as it stands in a table; None for NaN."""
    return None if np.isnan(value) else round(float(value), 4)
