"""The retrieval lab answers as the training's own evaluation does; shipped figures are those of the shipped rows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.paths import EXAMPLES
from vlcompare.study.extent import fairness, state
from vlcompare.study.figures import all_figures, share_text
from vlcompare.study.lab import Lab
from vlcompare.study.opened import open_study
from vlcompare.study.pictures.figures import label
from vlcompare.study.pictures.grids import COMPARISONS
from vlcompare.study.report import write_report
from vlcompare.study.rows import read_rows, setting_of
from vlcompare.study.seen import practice, seen, summary, unlearnt
from vlcompare.study.streams import Stream
from vlcompare.study.tables import for_lab, groups
from vlcompare.study.tasks import SYMBOLS, ItemSource
from vlcompare.study.train import Training
from vlcompare.study.weights import load_weights
from vlcompare.ui.study.session import Shelf
from vlcompare.ui.study.views import UNKNOWN
from vlcompare.units import fraction

SHIPPED = EXAMPLES / "study"
ROWS = read_rows(SHIPPED / "cpu" / "rows.jsonl")
ORDERS = ("query_first", "query_last")


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab.open(SHIPPED / "models")


def model_of(row: dict) -> Path:
    return SHIPPED / "models" / f"{row['order']}-{row['length']}-{row['family']}.safetensors"


def evaluation(row: dict) -> Training:
    """The training of a shipped row with its finished model in it."""
    training = Training(setting_of(row), torch.device("cpu"))
    training.model = load_weights(model_of(row)).model
    return training


@pytest.mark.parametrize("row", for_lab(groups(ROWS)), ids=lambda row: model_of(row).stem)
def test_the_lab_answers_as_the_training_evaluates(lab: Lab, row: dict) -> None:
    training, order, trained, family = evaluation(row), row["order"], row["length"], row["family"]
    share = training.right(training._measured).mean()
    assert [row["examples"], round(float(share), 4)] == row["curve"][-1]  # these are the row's weights
    for length in (5, trained, 2 * trained):
        within = min(length, trained)
        source = ItemSource("position", order, length, row["vocabulary"], within)
        items = source.items(7, Stream.EVALUATION, 0, 20)
        right, begin = training.right(items)[:, 0], 3 if order == "query_first" else 1
        asked = []
        for ids, place in zip(items.ids, items.places[:, 0], strict=True):
            sequence = (ids[begin : begin + length] - SYMBOLS).tolist()
            answer = lab.ask(sequence, sequence[place], order, trained)[family]
            asked.append(answer.position == place)
            assert len(answer.shares) == within and sum(answer.shares) <= 1 + 1e-5
            assert answer.position is None or answer.shares[answer.position] == max(answer.shares)
        assert asked == right.tolist()
        tally = lab.round(length, order, 7, 20, trained)[family]
        assert sum(tally.asked) == 20 and sum(tally.right) == right.sum() and len(tally.right) == within


def test_what_the_lab_refuses(lab: Lab, tmp_path: Path) -> None:
    for sequence, query, order, message in (
        ([1], 1, "query_last", "2 to 80"),
        (list(range(81)), 1, "query_last", "2 to 80"),
        ([1, 2, 1], 1, "query_last", "once"),
        ([1, 80], 1, "query_last", "0 to 79"),
        ([-1, 2], 2, "query_last", "0 to 79"),
        ([1, 2], 3, "query_last", "one of"),
        ([1, 2], 1, "query_twice", "query_first or query_last"),
    ):
        with pytest.raises(RequestError, match=message):
            lab.ask(sequence, query, order)
    for values in ((10, "query_last", -1, 5), (10, "query_last", 0, 201), (81, "query_last", 0, 5)):
        with pytest.raises(RequestError):
            lab.round(*values)
    with pytest.raises(RequestError, match="trained at length 10"):
        lab.ask([1, 2], 1, "query_last", 11)
    with pytest.raises(CheckpointError, match="at least one"):
        Lab.open(tmp_path)
    whole = next((SHIPPED / "models").glob("query_last-*-mamba.safetensors")).read_bytes()
    for name, data in (("cut", whole[:5000]), ("none", b"no model"), ("other", whole.replace(b"mamba", b"rwkv!"))):
        (tmp_path / f"{name}.safetensors").write_bytes(data)
        with pytest.raises(CheckpointError, match="holds no model of the study"):
            load_weights(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("folder", sorted(path.parent for path in SHIPPED.glob("*/rows.jsonl")), ids=lambda p: p.name)
def test_the_report_on_the_shipped_rows_is_the_shipped_one(folder: Path, tmp_path: Path) -> None:
    write_report(folder, tmp_path)
    shipped = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == shipped
    for name in shipped:
        if name.endswith(".svg"):
            ElementTree.fromstring(shipped[name])


def behind(figure: str, words: str) -> tuple[list[float | None], str]:
    """The values of the shipped rows that a mark's words are about, found without the study's own tables."""
    family = {"Transformer": "pythia", "Mamba": "mamba", "Hybrid": "hybrid"}[words.partition(":")[0]]
    found = re.search(r"length (\d+)(?:, query (first|last))?, (\w+) seeds?\)", words)
    alike = [
        row
        for row in ROWS
        if (row["task"], row["family"]) == ("position", family)
        and row["state_size"] in (None, 16)
        and row["length"] == int(found[1])
        and row["order"] == (found[2] and f"query_{found[2]}")
    ]
    rates = {row["learning_rate"] for row in alike}
    first = {rate: next(row for row in alike if row["learning_rate"] == rate and row["seed"] == 0) for rate in rates}
    best = min(rates, key=lambda rate: (first[rate]["reached"] or 10**9, -first[rate]["accuracy"], rate))
    chosen = [row for row in alike if row["learning_rate"] == best]
    assert len(chosen) == (1 if found[3] == "one" else int(found[3]))
    if figure in ("examples_to_95", "query_first_against_last"):
        return [row["reached"] for row in chosen], "examples"
    if figure == "accuracy_by_position":
        place = int(re.search(r"at position (\d+)", words)[1]) - 1
        return [row["by_position"][place] for row in chosen], "share"
    if figure == "extrapolation":
        tested = re.search(r"at length (\d+)", words)[1]
        return [row["accuracy"] if tested == found[1] else row["extrapolation"][tested] for row in chosen], "share"
    at = int(re.search(r"after ([\d,]+) examples", words)[1].replace(",", ""))
    seed = re.search(r"seed (\d)", words)
    chosen = [row for row in chosen if seed is None or row["seed"] == int(seed[1])]
    return [[accuracy for count, accuracy in row["curve"] if count <= at][-1] for row in chosen], "share"


def test_every_number_of_the_figures_stands_in_the_shipped_rows() -> None:
    known = ("examples_to_95", "query_first_against_last", "accuracy_by_position", "extrapolation", "curves",
             "accuracy_at_equal_examples")  # fmt: skip
    checked = 0
    for figure in all_figures([group for group in groups(ROWS) if group.key["task"] == "position"]):
        if figure.name not in known:
            continue
        for panel in figure.panels:
            words = [point.words for series in panel.series for point in series.points]
            words += [words for strip in panel.strips for _, words in strip.cells]
            for one in words:
                values, kind = behind(figure.name, one)
                middle = median(sorted(10**12 if value is None else value for value in values))
                if kind == "share":
                    assert f" {share_text(middle)} " in one, (figure.name, one, values)
                elif "not reached in" in one:
                    assert middle > 10**9
                else:
                    assert f" {middle:,.0f} examples" in one, (figure.name, one, values)
                checked += 1
    assert checked > 100


def test_every_number_of_the_sentences_stands_in_the_shipped_rows() -> None:
    """Of the tab's paragraph, of what is said beside the figures, and of the models' card."""
    study = open_study(SHIPPED / "cpu")
    counts = range(1, 13)  # of seeds, and of settings that have too few of them
    known = {str(len(ROWS)), str(study.planned), ".95", *map(str, counts)}
    for row in ROWS:
        known |= {str(row["length"]), f"{row['budget']:,}", share_text(row["accuracy"]), share_text(1 / row["length"])}
        known |= {*row["extrapolation"], *map(share_text, row["extrapolation"].values())}
        known |= {f"{row['reached'] or 0:,}", str(row["state_size"])}
        known |= {f"{row['parameters']:,}", f"{row['learning_rate']:g}", f"{row['examples']:,}"}
    equal = [row["parameters"] for row in ROWS if row["length"] == 10 and row["state_size"] in (None, 16)]
    least, most = min(equal), max(equal)
    unequal = re.search(r"parameters within ([\d.]+)% of", fairness(study))
    assert unequal is not None and float(unequal[1]) >= round(100 * (most / least - 1), 1) - 0.1
    sentences = " ".join([summary(study), state(study), practice(study), *unlearnt(study).values(), *seen(study)])
    card = (SHIPPED / "models" / "README.md").read_text().partition("| file |")[2].partition("\n\n")[0]
    found = re.findall(r"(?<![\w.])(?:\d[\d,]*\d|\d|\.\d+|0\.\d+|1\.00)(?![\w])", f"{sentences} {card}")
    assert len(found) > 40 and not {one for one in found if one not in known}


def test_what_the_tab_says_without_looking_at_rows_is_true_of_them() -> None:
    text = " ".join(UNKNOWN)
    assert "these have about a hundred thousand parameters" in text
    assert all(75_000 < row["parameters"] < 175_000 for row in ROWS)
    assert "Whether another rate than the four tried" in text
    assert max(group.rates_tried for group in groups(ROWS)) == 4


def test_every_number_about_pictures_stands_in_the_shipped_rows() -> None:
    """Of the figures' marks and sentences, found from the single questions without the study's own tables."""
    shelf, checked = Shelf(), 0
    study = shelf.pictures()
    for figure in study.figures:
        comparison = next(one for one in COMPARISONS if one.name == figure.records[0]["comparison"])
        for record in (one for one in figure.records if one["type"] == "all"):
            rights: dict[str, list[float]] = {}
            for row in study.rows:
                fields = comparison.values[record["value"]]
                usual = {"layout": "image_first", "distractors": 0, "scale": "medium", "image_size": 112,
                         "sampling": "balanced", "tested_size": None, "tested_sampling": None}  # fmt: skip
                alike = {**usual, **fields, "recipe": record["recipe"]}
                if all(row[name] == value for name, value in alike.items()):
                    digits = row["tasks"][record["task"]]["right"]
                    rights.setdefault(row["family"], []).append(digits.count("1") / len(digits))
            seeds = min(map(len, rights.values()))
            if len({len(found) for found in rights.values()}) > 1:
                continue  # of a seed that one family has alone
            ours, theirs = (sum(rights[family]) / seeds for family in ("pythia", "mamba"))
            assert record["seeds"] == seeds and record["n"] == len(digits)
            assert (record["pythia"], record["mamba"]) == pytest.approx((ours, theirs), abs=1e-4)
            gap = record["gap"]
            assert gap == pytest.approx(ours - theirs, abs=2e-4)
            assert any(
                f"{label(record['value'])} {fraction(gap, signed=True)} [" in sentence for sentence in figure.says
            )
            words = [point.words for panel in figure.panels for one in panel.series for point in one.points]
            for family, share in (("Transformer", record["pythia"]), ("Mamba", record["mamba"])):
                assert any(w.startswith(f"{family}, {label(record['value'])}: {share_text(share)} (") for w in words)
            checked += 1
    assert checked or not study.figures


def test_rows_and_figures_are_read_without_torch() -> None:
    code = "import sys, vlcompare.ui.study.figures as v, vlcompare.ui.study.lab, vlcompare.ui.study.session as s\n"
    code += "v.figures(s.Shelf().study()); print([n for n in ('torch', 'matplotlib', 'gradio') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_unfinished_grid_is_named_so() -> None:
    planned = len(json.loads((SHIPPED / "cpu" / "grid.json").read_text())["rows"])
    text = (SHIPPED / "cpu" / "figures" / "report.md").read_text()
    assert (f"unfinished: {len(ROWS)} of {planned} rows" in text) == (len(ROWS) < planned)


def test_strips_of_long_sequences_are_means() -> None:
    first = next(row for row in ROWS if row["task"] == "position")
    row = {**first, "length": 600, "vocabulary": 1200, "by_position": (np.arange(600) / 600).tolist()}
    figure = next(one for one in all_figures(groups([row])) if one.name == "accuracy_by_position")
    cells = figure.panels[0].strips[0].cells
    assert len(cells) == 60 and all(a[0] < b[0] for a, b in pairwise(cells))
    assert "positions 591 to 600" in cells[-1][1]
