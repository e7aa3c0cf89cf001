"""Charts as markup: where data lies, which side's colour a mark has, what is left out, and that names stay text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from vlcompare.render.charts import (
    BINS,
    MAX_POINTS,
    Axes,
    Curve,
    Measure,
    bar,
    curves,
    histogram,
    interval,
    scatter,
    ticks,
)
from vlcompare.render.panels import COLOUR_OF, Panel, Point, Series, drawn
from vlcompare.units import decimal

SCORE = Measure("score", "score")
EVIL = "<script>&\"'"


def elements(chart: str, tag: str) -> list[dict[str, str]]:
    return [found.attrib for found in ElementTree.fromstring(chart).iter(tag)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 2), (0, 0.00037), (2, 251), (0, 9.99e8), (0, 100)])
def test_ticks_hold_the_range(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low and found[-1] >= high - 1e-12 and 2 <= len(found) <= 12


def test_data_lies_within_the_margins_and_up_is_more() -> None:
    axes = Axes((0.0, 10.0), (0.0, 2.0), (100, 50), (10, 5, 10, 5))
    assert axes.at(0, 0) == (10, 45) and axes.at(10, 2) == (90, 5) and axes.at(5, 1) == (50, 25)
    assert axes.at(99, -3) == (90, 45)  # at the end of the range, not outside of the chart


def test_curves_share_their_axes() -> None:
    chart = curves([Curve("left", [(0, 0), (10, 4)]), Curve("right", [(10, 4)], "measured")], EVIL, str)
    (curve,), (dot,) = elements(chart, "polyline"), elements(chart, "circle")
    assert curve["data-side"] == "left" and curve["points"].split()[-1] == f"{dot['cx']},{dot['cy']}"
    assert EVIL not in chart and "Nothing to draw" in curves([], "", str)


def test_a_scatter_colours_by_the_better_side_and_leaves_out_what_a_side_lacks() -> None:
    left, right = np.array([1.0, 0.2, 0.5, np.nan]), np.array([0.0, 0.4, 0.5, 1.0])
    points = elements(scatter(left, right, [7, 8, 9, 10], SCORE, (EVIL, EVIL)), "circle")
    assert [(p["data-pick"], p.get("data-side")) for p in points] == [
        ("row:7", "left"),
        ("row:8", "right"),
        ("row:9", None),
    ]
    assert "No sample" in scatter(left[3:], right[3:], [10], SCORE, ("a", "b"))


def test_many_samples_are_squares_that_hold_them_all() -> None:
    left, right = np.random.default_rng(0).random((2, MAX_POINTS + 1))
    chart = scatter(left, right, range(len(left)), Measure("iou", "IoU", threshold=0.5), ("a", "b"))
    counts = [int(text) for text in re.findall(r"<title>(\d+) samples</title>", chart)]
    assert sum(counts) == len(left) and not elements(chart, "circle") and chart.count("vi-threshold") == 2


def test_bars_of_a_histogram_stand_beside_each_other_and_are_as_high_as_their_counts() -> None:
    bars = elements(histogram([("left", np.array([0.5, 0.5])), ("right", np.array([0.5, np.nan]))], SCORE), "rect")
    (one, two) = bars
    assert float(one["height"]) == pytest.approx(2 * float(two["height"]), abs=0.02)
    assert float(one["x"]) + float(one["width"]) == pytest.approx(float(two["x"]), abs=0.1)
    assert one["data-pick"] == f"bin:left:score:0.5:{0.5 + 1 / BINS:g}"
    assert "No sample" in histogram([("left", np.array([np.nan]))], SCORE)


def test_an_interval_has_a_side_only_where_it_leaves_zero_out() -> None:
    drawn = [interval(value, value - 0.1, value + 0.1, 0.5) for value in (0.2, -0.2, 0.05)]
    assert [ElementTree.fromstring(chart).get("data-side") for chart in drawn] == ["left", "right", None]
    centres = [float(elements(chart, "circle")[0]["cx"]) for chart in drawn]
    assert centres[1] < 55 < centres[2] < centres[0]


def test_pieces_of_a_bar_fill_its_width() -> None:
    widths = re.findall(r"width:([\d.]+)%", bar([(EVIL, 1.0, "1"), ("b", 3.0, "3")], 4.0))
    assert widths == ["25.00", "75.00"] and EVIL not in bar([(EVIL, 1.0, "1")], 1.0)


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.754, False, "0.75"),
        (-0.208, True, "−0.21"),
        (0.208, True, "+0.21"),
        (-0.001, True, "+0.00"),
        (None, True, "–"),
    ],
)
def test_one_answers_figures_are_written_with_two_decimals_and_a_true_minus(
    value: float | None, signed: bool, text: str
) -> None:
    assert decimal(value, signed=signed) == text


@pytest.mark.parametrize("places", [3, 20, 80])
def test_marks_of_several_series_stay_at_their_place(places: int) -> None:
    points = tuple(Point(float(place), 0.5, f"place {place}") for place in range(1, places + 1))
    panel = Panel(
        "p", "x", {1.0: "1", float(places): "last"}, {0.0: "0", 1.0: "1"}, tuple(Series(f, points) for f in COLOUR_OF)
    )
    chart = drawn(panel)
    circles = [float(circle["cx"]) for circle in elements(chart, "circle")]
    squares = [float(square["x"]) + 4 for square in elements(chart, "rect")]
    between = squares[1] - squares[0]
    assert len(circles) == len(squares) == places
    assert all(0 < square - circle <= between / 4 + 0.11 for circle, square in zip(circles, squares, strict=True))
