"""The inspect page without a browser: queries, selections, markup, runs side by side, notes, files, and its limits."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
import zipfile
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from inspect_world import CHECKPOINTS, write_run, write_samples
from ui_fakes import uploaded

from vlcompare.errors import RequestError, SampleError
from vlcompare.evaluate.results.archive import write_archive
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.render import charts
from vlcompare.ui.compare.session import CompareSession, Run
from vlcompare.ui.compare.stored import stored_line
from vlcompare.ui.inspect import files as files
from vlcompare.ui.inspect import handlers as actions
from vlcompare.ui.inspect import views
from vlcompare.ui.inspect.action import InspectUpdate
from vlcompare.ui.inspect.headline import headline
from vlcompare.ui.inspect.library import Library, RunSide
from vlcompare.ui.inspect.query import PAGE_ROWS, Query, Range, chips, clicked, filled, pages
from vlcompare.ui.inspect.selection import MEASURES, Names, Opened, Selection
from vlcompare.ui.inspect.session import Inspection
from vlcompare.ui.inspect.thumbnails import Thumbnails
from vlcompare.ui.settings import AppSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over the same painted pictures (one of a single side), and one over others."""
    root = tmp_path_factory.mktemp("runs")
    data = write_samples(root / "data", 20)
    write_run(root / "runs" / "both", data)
    write_run(root / "runs" / "single", data, sides={"left": "tiny-mamba-vl-seed-2"})
    write_run(root / "runs" / "other", write_samples(root / "more", 2), copy_images=True)
    (root / "more" / "p0.png").unlink()
    for run in (root / "runs" / "other",):  # other samples: nothing in common
        for name in ("samples.jsonl", "predictions.jsonl"):
            text = (run / name).read_text()
            (run / name).write_text(re.sub(r'"id": "([gsvc])', r'"id": "x\1', text))
    return root / "runs"


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))


@pytest.fixture
def inspection(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Inspection:
    """The run of two sides, open; notes go to a place of the test's own."""
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    (folder / "both" / "notes.sqlite").unlink(missing_ok=True)
    made = Inspection(Library(folder, [folder / "both"], shipped=tmp_path, pictures=[folder.parent]))
    page = actions.start(made)
    assert page["controls"] and made.data is not None
    return made


# ---- queries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pick", "wanted"),
    [
        ("quadrant:only_left", Query(quadrant="only_left")),
        ("quadrant:all", Query()),
        ("slice:task|vqa", Query(slices=(("task", "vqa"),))),
        ("slice:tag: a|b|c", Query(slices=(("tag: a", "b|c"),))),
        ("slice:task", Query()),
        ("bin:left:iou:0.5:0.55", Query(ranges=(Range("left", "iou", 0.5, 0.55),))),
        ("bin:middle:iou:0.5:0.55", Query()),
        ("bin:left:iou:a:b", Query()),
        ("bin:left:iou:nan:1", Query()),
        ("cell:iou:0:0.1:0.2:0.3", Query(ranges=(Range("left", "iou", 0, 0.1), Range("right", "iou", 0.2, 0.3)))),
        ("sort:difference", Query(sort="difference", descending=True)),
        ("sort:text", Query(sort="text")),
        ("sort:evil", Query()),
        ("page:7", Query(page=7)),
        ("page:-1", Query()),
        ("page:99999999999999999999", Query()),
        ("drop:everything", Query()),
        ("unknown", Query()),
        ("", Query()),
    ],
)
def test_a_click_changes_the_query_or_nothing(pick: str, wanted: Query) -> None:
    assert clicked(Query(), pick) == wanted


def test_clicks_that_are_repeated_take_back_what_they_did() -> None:
    for pick in ("quadrant:both", "slice:task|vqa", "bin:left:iou:0.5:0.55", "cell:iou:0:0.1:0.2:0.3"):
        assert clicked(clicked(Query(), pick), pick) == Query()
    assert clicked(clicked(Query(), "slice:task|vqa"), "slice:task|pointing").slices == (("task", "pointing"),)
    first = clicked(Query(), "sort:left")
    assert [first.descending, clicked(first, "sort:left").descending] == [True, False]
    assert clicked(clicked(first, "sort:left"), "sort:left") == Query()
    assert clicked(replace(Query(), page=3), "quadrant:both").page == 0


def test_every_chip_drops_its_filter_and_nothing_else() -> None:
    full = Query("both", "red", True, True, 0.5, "noted", "counting", (("task", "vqa"),), (Range("left", "iou", 0, 1),))
    found = chips(full)
    assert len(found) == 8
    for _, what in found:
        fewer = clicked(full, f"drop:{what}")
        assert len(chips(fewer)) == 7 and what not in [other for _, other in chips(fewer)]
    assert clicked(replace(full, sort="text"), "drop:all") == Query(sort="text")
    assert full.narrowed and not Query(sort="left", regex=True, page=3).narrowed


def test_the_form_is_brought_within_its_bounds() -> None:
    found = filled(Query(page=4), "a\x00b" + "x" * 900, 1, None, "1e9", "<b>", "y" * 900)
    assert found.text.startswith("abx") and len(found.text) == 300 and found.page == 0
    assert (found.gap, found.noted, len(found.tag), found.disagree) == (50.0, "", 80, False)
    assert filled(Query(), None, 0, 0, "much", "", None) == Query()
    assert filled(Query(), None, 0, 0, float("nan"), "", None) == Query()
    assert [pages(n) for n in (0, 1, 50, 51, 50_000)] == [1, 1, 1, 2, 1000]


# ---- selections ------------------------------------------------------------------------------------------------------


def test_the_quadrants_count_what_they_then_select(inspection: Inspection) -> None:
    data = inspection.data
    counts = data.quadrant_counts(inspection.data.select(Query(), {}))
    assert sum(counts.values()) == data.table.count == 80
    for name, count in counts.items():
        actions.click(inspection, f"quadrant:{name}")
        assert len(inspection.rows) == count
        # the other quadrants stay countable while one is chosen
        assert data.quadrant_counts(inspection.selection) == counts
        actions.click(inspection, f"quadrant:{name}")
    assert not inspection.query.narrowed


def test_filters_hold_together(inspection: Inspection) -> None:
    samples = inspection.data.run.samples
    actions.click(inspection, "slice:task|grounding")
    actions.fill(inspection, "square", False, False, 0, "", "")
    assert {samples[i].task for i in inspection.rows} == {"grounding"}
    assert len(inspection.rows) == 20 and all("square" in samples[i].text for i in inspection.rows)
    actions.fill(inspection, r"square 1\d$", True, False, 0, "", "")
    ids = {samples[i].id for i in inspection.rows}
    assert ids <= {f"g{n}" for n in range(10, 20)}
    actions.fill(inspection, "", False, True, 0, "", "")
    table = inspection.data.table
    assert all(table.text("left", i) != table.text("right", i) for i in inspection.rows)
    actions.fill(inspection, "", False, False, 0.3, "", "")
    assert len(inspection.rows) and all(abs(table.confidence_gap()[i]) >= 0.3 for i in inspection.rows)


@pytest.mark.parametrize("measure", list(MEASURES))
def test_the_bars_of_a_histogram_select_their_samples(inspection: Inspection, measure: str) -> None:
    """Every sample that a side has a value for is in exactly one bar, and a click on the bar finds just these."""
    column = inspection.data.measure("left", measure)
    drawn = charts.histogram([("left", column)], MEASURES[measure])
    found = re.findall(r"<title>left: ([\d,]+) samples.*?</title>", drawn)
    picks = re.findall(r'data-pick="(bin:[^"]+)"', drawn)
    assert len(found) == len(picks) > 0
    assert sum(int(n.replace(",", "")) for n in found) == int(np.isfinite(column).sum())
    for count, pick in zip(found, picks, strict=True):
        rows = inspection.data.select(clicked(Query(), pick), {}).rows
        assert len(rows) == int(count), pick


@pytest.mark.parametrize(("name", "values"), [("score", [0.0, 1.0, 2.5, 10.0]), ("words", [5.0, 5.0, 1.0, 2.0])])
def test_the_last_bar_holds_the_largest_value(name: str, values: list[float]) -> None:
    """CIDEr-D goes beyond 1, and the largest of whole numbers stands at the axis' end."""
    column = np.array(values)
    drawn = charts.histogram([("left", column)], MEASURES[name])
    picks = [clicked(Query(), pick).ranges[0] for pick in re.findall(r'data-pick="(bin:[^"]+)"', drawn)]
    assert sorted(v for r in picks for v in values if r.low <= v < r.high) == sorted(values)


def test_the_squares_of_a_dense_scatter_select_their_samples(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "MAX_POINTS", 3)
    data = inspection.data
    left, right = data.measure("left", "iou"), data.measure("right", "iou")
    drawn = charts.scatter(left, right, range(data.table.count), MEASURES["iou"], ("left", "right"))
    cells = re.findall(r'<rect[^>]*data-pick="(cell:[^"]+)"[^>]*><title>([\d,]+) samples', drawn)
    assert sum(int(n) for _, n in cells) == 40
    for pick, count in cells:
        assert len(data.select(clicked(Query(), pick), {}).rows) == int(count)


def test_the_charts_draw_a_measure_that_the_selection_has(inspection: Inspection) -> None:
    def drawn(update: InspectUpdate) -> str:
        """The measure that is marked as chosen, which is the one that is drawn."""
        title = MEASURES[update["measure"]].title
        assert update["charts"].count(f"<figcaption>{title[:1].upper()}{title[1:]}, ") == 2
        assert "No sample here has" not in update["charts"]
        return update["measure"]

    assert drawn(actions.click(inspection, "sort:text") and actions.everything(inspection)) == "iou"
    assert drawn(actions.click(inspection, "slice:task|vqa")) == "confidence"  # no boxes, and scores of 0 and 1
    assert drawn(actions.click(inspection, "slice:task|grounding")) == "iou"
    assert "charts" in actions.draw(inspection, "words")
    assert drawn(actions.click(inspection, "slice:task|vqa")) == "words"  # what was chosen stays
    actions.draw(inspection, "iou")
    assert drawn(actions.fill(inspection, "square", False, False, 0, "", "")) == "confidence"
    assert inspection.data.measures(inspection.rows)[-1] == "score"
    assert inspection.data.measures(np.arange(inspection.data.table.count))[:2] == ["iou", "score"]  # of all sizes
    assert drawn(actions.click(inspection, "slice:task|vqa")) == "iou"  # what was chosen is there again
    nothing = actions.fill(inspection, "no such words", False, False, 0, "", "")
    assert nothing["measure"] == "iou"


def test_what_is_said_of_a_selection_without_samples(inspection: Inspection) -> None:
    nothing = actions.fill(inspection, "no such words", False, False, 0, "", "")
    assert "No sample fits these filters." in nothing["headline"] and nothing["quadrants"] == ""
    assert "0 of 80 samples" in nothing["chips"]
    assert "All 80 samples" in actions.fill(inspection, "", False, False, 0, "", "")["chips"]
    assert '<b role="status">1 sample</b>' in views.chips_view(Query(), 1, 1, lambda aspect, value: value)


def test_a_sample_that_nobody_has_chosen_is_the_first_of_each_selection(inspection: Inspection) -> None:
    actions.start(inspection, beside=True)
    assert inspection.row == inspection.rows[0]
    found = actions.click(inspection, "slice:task|vqa")
    assert inspection.row == inspection.rows[0] and "1 of " in found["picture"] and {"sample", "note"} <= set(found)
    assert found["table"].count("vi-current") == 1
    found = actions.fill(inspection, "no such words", False, False, 0, "", "")
    assert "Not in this selection" in found["picture"] and "sample" not in found
    actions.fill(inspection, "", False, False, 0, "", "")
    actions.click(inspection, "sort:text")
    assert inspection.row == inspection.rows[0]
    for choose in (actions.click, lambda made, pick: actions.note(made, made.form_of(sample_id(made)), [], pick, 1)):
        row = inspection.rows[0]
        choose(inspection, f"row:{row}")
        actions.click(inspection, "slice:task|grounding")
        assert inspection.row == row and row not in inspection.rows, "what was chosen stays"
        inspection.row = None
        actions.click(inspection, "slice:task|vqa")


def sample_id(inspection: Inspection) -> str:
    return str(inspection.data.run.samples[inspection.row].id)


@pytest.mark.parametrize("sort", ["order", "text", "left", "right", "difference", "gap"])
def test_sorting_keeps_every_row_and_puts_it_in_order(inspection: Inspection, sort: str) -> None:
    data = inspection.data
    rows = data.select(Query(sort=sort, descending=True), {}).rows
    assert sorted(rows.tolist()) == list(range(80))
    lines = [data.row(int(i), {}) for i in rows]
    if sort == "gap":
        values = [line.gap for line in lines]
    elif sort in ("left", "right"):
        values = [line.cells[sort].score for line in lines]
    elif sort == "difference":
        values = [line.cells["left"].score - line.cells["right"].score for line in lines]
    else:
        values = [line.text.lower() if sort == "text" else line.row for line in lines]
    assert values == sorted(values, reverse=True)


def test_a_pattern_that_takes_too_long_leaves_everything_as_it_was(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlcompare.evaluate.results.table.PATTERN_SECONDS", 0.0)
    actions.fill(inspection, "red", False, False, 0, "", "")
    before, rows = inspection.query, inspection.rows
    page = actions.fill(inspection, "red", True, False, 0, "", "")
    assert set(page) == {"message"} and 'role="alert"' in page["message"] and "too long" in page["message"]
    assert inspection.query == before and inspection.rows is rows


@pytest.mark.parametrize("pattern", ["(", "a" * 500, "a{9999}", "(?:a{99}){99}"])
def test_a_pattern_that_cannot_be_used_leaves_everything_as_it_was(inspection: Inspection, pattern: str) -> None:
    actions.fill(inspection, "red", False, False, 0, "", "")
    before, rows = inspection.query, inspection.rows
    page = actions.fill(inspection, pattern, True, False, 0, "", "")
    assert set(page) == {"message"} and 'role="alert"' in page["message"]
    assert inspection.query == before and inspection.rows is rows


def test_only_one_page_of_rows_is_ever_shown(inspection: Inspection) -> None:
    page = actions.everything(inspection)
    assert page["table"].count("<tr") == PAGE_ROWS + 1
    shown = actions.click(inspection, "page:1")["table"]
    assert shown.count("<tr") == 30 + 1 and "51 to 80 of 80" in shown
    assert actions.click(inspection, "page:5000")["table"].count("<tr") == 30 + 1  # past the end: the last page


# ---- the sample ------------------------------------------------------------------------------------------------------


def test_a_sample_shows_everything_and_the_keys_walk_the_selection(inspection: Inspection) -> None:
    actions.click(inspection, "slice:task|grounding")
    page = actions.step(inspection, 1)
    shown = page["picture"] + page["sample"]
    assert "1 of 40 in this selection" in shown and 'class="vl-box vl-truth"' in shown
    assert shown.count("vl-side-box") >= 1 and shown.count('class="vl-token"') > 4
    assert "IoU" in shown and "confidence" in shown and "64 of them" not in shown and "49 of them patches" in shown
    assert "data:image/webp;base64," in shown and "a box written with two decimals reaches IoU" in shown
    assert actions.step(inspection, -1) == {"message": page["message"]}  # there is none before the first
    for place in range(2, 41):
        assert f"{place} of 40 in this selection" in actions.step(inspection, 1)["picture"]
    assert set(actions.step(inspection, 1)) == {"message"}
    page = actions.click(inspection, "slice:task|vqa")  # the open sample is not among these: the next is their first
    assert "Not in this selection" in page["picture"]
    assert "1 of 20 in this selection" in actions.step(inspection, 1)["picture"]


def test_walking_past_the_page_turns_the_table(inspection: Inspection) -> None:
    actions.click(inspection, f"row:{int(inspection.rows[PAGE_ROWS - 1])}")
    assert inspection.query.page == 0
    table = actions.step(inspection, 1)["table"]
    assert inspection.query.page == 1 and table.count("vi-current") == 1


@pytest.mark.parametrize("pick", ["row:80", "row:-1", "row:x", "row:999999999999", "row:"])
def test_rows_that_are_not_there_are_passed_over(inspection: Inspection, pick: str) -> None:
    assert set(actions.click(inspection, pick)) == {"message"} and inspection.row is None


class Strict(HTMLParser):
    """Collects elements and attributes as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_what_models_and_data_wrote_is_never_markup(inspection: Inspection) -> None:
    parser = Strict()
    for row in range(inspection.data.table.count):
        parser.feed(actions.click(inspection, f"row:{row}")["sample"])
    for name, shown in actions.everything(inspection).items():
        if isinstance(shown, str) and name != "message":
            parser.feed(shown)
    actions.fill(inspection, "<script>alert(1)</script>", False, False, 0, "", "")
    parser.feed(actions.everything(inspection)["chips"])
    assert not parser.tags & {"script", "iframe", "object", "a"} and "onerror" not in parser.attributes
    first = actions.click(inspection, "row:0")["sample"]
    assert "the red &lt;b&gt;square&lt;/b&gt;" in first


def test_a_picture_that_is_gone_or_outside_is_said_and_the_boxes_stay(folder: Path, tmp_path: Path) -> None:
    run = RunFolder.open(folder / "both", allowed=())
    made = Inspection(Library(shipped=tmp_path))
    made.add("r", run)
    shown = actions.click(made, "row:0")["picture"]
    assert "The picture is not shown" in shown and "outside" in shown and "vl-truth" in shown


# ---- several runs ----------------------------------------------------------------------------------------------------


def test_only_listed_runs_can_be_opened(inspection: Inspection, folder: Path) -> None:
    assert sorted(inspection.library.listed()) == ["both", "other", "single"]
    for key in (str(folder / "both"), "../both", "/etc", ""):
        page = actions.choose(inspection, [key])
        assert "not among those" in page["message"] and list(inspection.open) == ["both"]
    assert Library(None, (), shipped=folder / "none").first() is None


def test_a_damaged_run_is_named_and_hinders_no_other(inspection: Inspection, folder: Path) -> None:
    written = (folder / "single" / "run.json").read_bytes()
    (folder / "single" / "run.json").write_text("{")
    page = actions.choose(inspection, ["both", "single"])
    assert "single cannot be opened: run.json is damaged" in page["message"]
    assert page["controls"] and list(inspection.open) == ["both"], "the list shows what is open: it is chosen no longer"
    (folder / "single" / "run.json").write_bytes(written)
    assert "error" not in actions.choose(inspection, ["both", "other"])["message"]


def test_sides_of_two_runs_are_set_against_each_other(inspection: Inspection) -> None:
    actions.choose(inspection, ["both", "single"])
    titles = dict(inspection.side_choices())
    assert list(titles) == ["both\nleft", "both\nright", "single\nleft"]
    page = actions.set_sides(inspection, "both\nright", "single\nleft")
    assert "error" not in page["message"] and inspection.data.table.count == 80
    assert inspection.names.run == "both against single"
    both = RunFolder.open(inspection.open["both"].path)
    single = RunFolder.open(inspection.open["single"].path)
    actions.click(inspection, "row:7")
    assert inspection.run.answer("left") == both.answer("right", 7)
    assert inspection.run.answer("right") == single.answer("left", 7)
    assert "paired" in inspection.data.summary and inspection.data.summary["paired"]["vqa"]


def test_sides_can_be_swapped_and_one_alone_can_be_looked_at(inspection: Inspection) -> None:
    counts = inspection.data.quadrant_counts(inspection.data.select(Query(), {}))
    actions.set_sides(inspection, "both\nright", "both\nleft")
    swapped = inspection.data.quadrant_counts(inspection.data.select(Query(), {}))
    assert (swapped["only_left"], swapped["only_right"]) == (counts["only_right"], counts["only_left"])
    page = actions.set_sides(inspection, "both\nright", "")
    alone = inspection.data.quadrant_counts(inspection.data.select(Query(), {}))
    assert alone["both"] == counts["both"] + counts["only_right"] and alone["only_left"] == 0
    assert page["quadrants"].count("<button") == 2 and "difference" not in page["slices"]
    assert "vl-side-box" in actions.click(inspection, "row:0")["picture"]


def test_runs_without_a_common_sample_are_refused_and_nothing_changes(inspection: Inspection) -> None:
    actions.choose(inspection, ["both", "other"])
    before = inspection.left, inspection.right
    page = actions.set_sides(inspection, "both\nleft", "other\nright")
    assert "no sample in common" in page["message"] and (inspection.left, inspection.right) == before
    assert page["controls"], "the lists show again what is open"
    assert inspection.data.table.count == 80
    page = actions.set_sides(inspection, "both\nleft", "secret\nright")
    assert "no run that is open" in page["message"]


def part_of(run: Path, out: Path, ids: str) -> Path:
    """A copy of the run with only the samples whose id begins so."""
    out.mkdir()
    (out / "run.json").write_text((run / "run.json").read_text())
    for name in ("samples.jsonl", "predictions.jsonl"):
        lines = (run / name).read_text().splitlines(keepends=True)
        (out / name).write_text("".join(line for line in lines if f'"id": "{ids}' in line))
    return out


def test_a_run_of_one_side_can_be_uploaded_beside_one_over_other_samples(
    folder: Path, inspection: Inspection, tmp_path: Path
) -> None:
    archive = write_archive(RunFolder.open(folder / "single"), tmp_path / "single.zip")
    actions.choose(inspection, ["other"])
    page = files.upload(inspection, uploaded(archive))
    assert "error" not in page["message"] and list(inspection.open) == ["other", "single (uploaded)"]
    # what is shown stays; the run is offered for a side, where it has no sample in common, or alone
    assert inspection.left == "other\nleft" and "single (uploaded) is open" in page["offer"]
    refused = actions.click(inspection, "put:right:single (uploaded)\nleft")
    assert "no sample in common" in refused["message"] and inspection.offer
    actions.set_sides(inspection, "single (uploaded)\nleft", "")
    assert not inspection.offer and len(inspection.rows) == 80
    inspection.close()


def test_other_sides_drop_the_slices_that_they_know_nothing_of(
    folder: Path, inspection: Inspection, tmp_path: Path
) -> None:
    inspection.add("few", RunFolder.open(part_of(folder / "both", tmp_path / "few", "c")))
    actions.choose(inspection, ["both", "few"])
    actions.set_sides(inspection, "both\nleft", "both\nright")
    (dimension,) = (name for name in inspection.data.table.aspects if "distractors" in name)
    value = inspection.data.table.aspects[dimension].values[0]
    actions.click(inspection, f"slice:{dimension}|{value}")
    assert inspection.query.slices and len(inspection.rows) < 80
    page = actions.set_sides(inspection, "both\nleft", "few\nright")
    assert "error" not in page["message"] and inspection.query.slices == () and len(inspection.rows) == 20


def test_sides_whose_rows_a_pattern_cannot_search_change_nothing(
    folder: Path, inspection: Inspection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern that one run's rows allow may take too long for another's."""
    inspection.add("few", RunFolder.open(part_of(folder / "both", tmp_path / "few", "c")))
    actions.choose(inspection, ["both", "few"])
    actions.set_sides(inspection, "both\nleft", "both\nright")
    before = inspection.left, inspection.right, inspection.data, inspection.rows.tolist()

    def refuse(*given: object, **more: object) -> None:
        raise RequestError("takes too long")

    with monkeypatch.context() as patched:
        patched.setattr(Opened, "select", refuse)
        page = actions.set_sides(inspection, "few\nleft", "few\nright")
    assert "takes too long" in page["message"]
    assert (inspection.left, inspection.right, inspection.data, inspection.rows.tolist()) == before
    assert "error" not in actions.step(inspection, 1)["message"]


def test_a_pair_is_never_that_of_a_run_which_is_gone(folder: Path) -> None:
    library = Library(shipped=folder)
    for turn in range(6):  # a new run is likely to get the place, and so the id, of the one before
        run = RunFolder.open(folder / ("other", "both")[turn % 2])
        opened = library.pair(RunSide(run, "left"), None)
        assert opened.table.count == len(run.samples)
        assert opened.run.path == run.path
        del run, opened


def test_closing_the_last_run_leaves_an_empty_page(inspection: Inspection) -> None:
    actions.click(inspection, "row:3")
    page = actions.choose(inspection, [])
    assert "No run is open" in page["head"] and inspection.data is None and page["table"] == ""
    assert actions.step(inspection, 1)["message"] and set(actions.click(inspection, "row:1")) == {"message"}


def test_a_run_that_grew_is_read_again(folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", write_samples(tmp_path / "data", 1))
    library = Library(given=[run], shipped=tmp_path)
    first = library.run(run)
    assert library.run(run) is first
    lines = (run / "predictions.jsonl").read_text().splitlines(keepends=True)
    (run / "predictions.jsonl").write_text("".join(lines[:-1]))
    assert library.run(run) is not first and library.run(run).sides["right"].rows[-1] is None


# ---- notes -----------------------------------------------------------------------------------------------------------


def test_notes_are_kept_found_and_taken_back(inspection: Inspection, folder: Path) -> None:
    g3 = inspection.form_of("g3")
    page = actions.note(inspection, g3, ["counting", "my own"], "two of <them>", 1)
    assert "Kept" in page["note_state"] and (folder / "both" / "notes.sqlite").is_file()
    assert "my own" in page["table"] or inspection.query.page
    samples = inspection.data.run.samples
    for form, wanted in (
        (("", False, False, 0, "noted", ""), {"g3"}),
        (("", False, False, 0, "", "counting"), {"g3"}),
        (("", False, False, 0, "", "reading"), set()),
    ):
        actions.fill(inspection, *form)
        assert {samples[i].id for i in inspection.rows} == wanted
    actions.fill(inspection, "", False, False, 0, "bare", "")
    assert len(inspection.rows) == 79
    # the form belongs to the sample that it was opened for, wherever the visitor has gone since
    actions.click(inspection, "row:0")
    assert set(actions.note(inspection, g3, ["my own", "counting"], " two of <them> ", 2)) == {"message"}
    assert "gone" in actions.note(inspection, g3, [], " ", 5)["note_state"]
    assert set(actions.note(inspection, "", ["x"], "", 6)) == {"message"}, "no sample is open"
    for form_of in (inspection.form_of("nobody"), "999999:g3", "g3"):
        assert "not kept" in actions.note(inspection, form_of, ["x"], "", 6)["message"]
    # of two edits at once the later one counts, whichever arrives first; those of other samples go on
    assert set(actions.note(inspection, g3, ["counting"], "", 4)) == {"message"}
    assert "Kept" in actions.note(inspection, inspection.form_of("g4"), ["counting"], "", 3)["note_state"]
    assert list(inspection.notes()) == ["g4"]


def test_a_note_belongs_to_the_run_that_its_form_was_opened_in(inspection: Inspection) -> None:
    form_of, both = inspection.form_of("c0"), inspection.data.run
    actions.choose(inspection, ["both", "single"])
    actions.set_sides(inspection, "single\nleft", "")
    page = actions.note(inspection, form_of, ["reading"], "", 1)
    assert "Kept" in page["note_state"] and "table" not in page
    assert list(both.notes.all()) == ["c0"] and not inspection.notes()


def test_exchanged_sides_have_the_same_notes(inspection: Inspection) -> None:
    actions.note(inspection, inspection.form_of("g3"), ["counting"], "", 1)
    actions.set_sides(inspection, "both\nright", "both\nleft")
    assert list(inspection.notes()) == ["g3"]
    actions.note(inspection, inspection.form_of("g4"), ["counting"], "", 2)
    actions.set_sides(inspection, "both\nright", "")
    assert list(inspection.notes()) == ["g3", "g4"]
    # those of two runs are their own, whichever is left
    actions.choose(inspection, ["both", "single"])
    actions.set_sides(inspection, "both\nright", "single\nleft")
    assert not inspection.notes()
    actions.note(inspection, inspection.form_of("g5"), ["counting"], "", 3)
    actions.set_sides(inspection, "single\nleft", "both\nright")
    assert list(inspection.notes()) == ["g5"]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_exports_hold_the_selection_with_its_notes(inspection: Inspection) -> None:
    actions.note(inspection, inspection.form_of("v2"), ["label wrong"], "=1+1", 1)
    actions.click(inspection, "slice:task|vqa")
    name, content = files.export_text(inspection, "csv", only=True)
    rows = list(csv.DictReader(io.StringIO(content)))
    assert name.endswith(".csv") and len(rows) == 20
    (noted,) = [row for row in rows if row["id"] == "v2"]
    assert noted["note"] == "'=1+1" and "label wrong" in noted["tags"]
    assert len(list(csv.DictReader(io.StringIO(files.export_text(inspection, "csv", only=False)[1])))) == 80
    found = json.loads(files.export_text(inspection, "json", only=True)[1])
    assert len(found["samples"]) == 20 and found["samples"][0]["sides"]["left"]["tokens"]
    compared = json.loads(files.export_text(inspection, "comparator", only=True)[1])
    assert [model["name"] for model in compared["models"]] == list(CHECKPOINTS.values())
    assert len(compared["examples"]) == 20 and -1.5 <= compared["examples"][0]["score"] <= 1.5
    name, report = files.export_text(inspection, "report", only=True)
    parser = Strict()
    parser.feed(report)
    assert (
        name.endswith(".html") and not parser.tags & {"script", "link", "iframe"} and "onerror" not in parser.attributes
    )
    assert "http://" not in report.replace("http://www.w3.org", "") and report.index("v2") > 0
    whole = files.export_text(inspection, "report", only=False)[1]
    assert "Only: <b>" in report and "Only: <b>" not in whole
    assert "Where they differ most" not in report and "Where they differ most" in whole, "the rows were chosen"
    actions.click(inspection, "slice:task|vqa")  # once more: no longer
    actions.click(inspection, "quadrant:only_left")
    outcome = files.export_text(inspection, "report", only=True)[1]
    assert "Only: <b>" not in outcome and "Where they differ most" in outcome, "figures are not of a quadrant"
    assert "<h2>Samples: Only left</h2>" in outcome and "<h2>Samples</h2>" in whole
    everything = files.export_text(inspection, "report", only=False)[1]
    assert "<h2>Samples</h2>" in everything and "56 more are not shown" in everything, "of all 80, none of them chosen"


def test_what_cannot_be_exported_is_said(inspection: Inspection) -> None:
    actions.fill(inspection, "nothing is like this", False, False, 0, "", "")
    with pytest.raises(RequestError, match="nothing to export"):
        files.export_text(inspection, "csv", only=True)
    with pytest.raises(RequestError, match="no export"):
        files.export_text(inspection, "exe", only=False)
    actions.choose(inspection, [])
    with pytest.raises(RequestError, match="No run is open"):
        files.export_file(inspection, "archive", only=True)


def test_an_archive_goes_out_and_comes_back_with_its_notes(inspection: Inspection, tmp_path: Path) -> None:
    actions.note(inspection, inspection.form_of("g1"), ["attribute"], "kept", 1)
    path = files.export_file(inspection, "archive", only=True)
    other = Inspection(Library(shipped=tmp_path))
    page = files.upload(other, uploaded(path))
    assert "error" not in page["message"] and other.data.table.count == 80
    assert other.notes()["g1"].tags == ("attribute",)
    shown = actions.click(other, "row:0")["sample"]
    assert "not shown" not in shown  # the picture came along
    unpacked = Path(other.unpacked[0].name)
    closing = threading.Thread(target=other.close, daemon=True)
    with other.lock:  # while the visitor is at work nothing waits, and nothing is closed
        closing.start()
        closing.join(timeout=60)
        assert not closing.is_alive()
    assert unpacked.is_dir() and other.data is not None
    other.close()
    assert not unpacked.exists()


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/passwd", "run/../../evil", "images/x.svg"])
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    made = Inspection(Library(shipped=tmp_path))
    page = files.upload(made, uploaded(path))
    assert 'role="alert"' in page["message"] and not made.open and not made.unpacked


def test_an_uploaded_run_names_no_file_of_the_server(folder: Path, tmp_path: Path) -> None:
    """Absolute paths in a crafted archive's samples show no picture from this machine."""
    path = write_archive(RunFolder.open(folder / "both"), tmp_path / "run.zip", pictures=False)
    crafted = tmp_path / "crafted.zip"
    target = str((folder.parent / "data" / "p1.png").resolve())
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(crafted, "w") as new:
        for entry in old.namelist():
            text = old.read(entry).decode()
            if entry == "samples.jsonl":
                rows = [{**json.loads(line), "image": target} for line in text.splitlines()]
                text = "".join(json.dumps(row) + "\n" for row in rows)
            if entry == "run.json":
                text = json.dumps({**json.loads(text), "images_root": "/"})
            new.writestr(entry, text)
    made = Inspection(Library(shipped=tmp_path))
    files.upload(made, uploaded(crafted))
    assert made.data is not None and "The picture is not shown" in actions.click(made, "row:0")["picture"]


def test_archives_on_the_command_line_are_opened_like_folders(folder: Path, tmp_path: Path) -> None:
    path = write_archive(RunFolder.open(folder / "both"), tmp_path / "taken.zip")
    made = Inspection(Library(given=[path], shipped=tmp_path))
    actions.start(made)
    assert list(made.open) == ["taken"] and made.data.table.count == 80
    with pytest.raises(SampleError):
        Library(given=[tmp_path / "none.zip"])


def test_a_sample_can_be_asked_again(inspection: Inspection) -> None:
    settings = AppSettings()
    assert files.compare_values(inspection, settings) is None
    actions.click(inspection, "row:1")
    picture, ask, sides = files.compare_values(inspection, settings)
    sample = inspection.data.run.samples[1]
    assert Path(picture).read_bytes() == Path(sample.image).read_bytes()
    assert ask[:2] == [sample.task, sample.text]
    assert {side: form["checkpoint"] for side, form in sides.items()} == CHECKPOINTS
    offered = files.compare_values(inspection, AppSettings(offered=("something-else",)))
    assert all("checkpoint" not in form for form in offered[2].values())


def test_a_sample_without_its_picture_is_not_asked_about_a_stand_in(folder: Path, tmp_path: Path) -> None:
    made = Inspection(Library(shipped=tmp_path))
    made.add("r", RunFolder.open(folder / "both", allowed=()))
    actions.click(made, "row:0")
    picture, ask, _ = files.compare_values(made, AppSettings())
    assert picture is None and ask[0] == "grounding"


def test_a_visitor_sees_nothing_of_another(inspection: Inspection) -> None:
    import copy

    actions.click(inspection, "row:5")
    other = copy.deepcopy(inspection)
    assert other.library is inspection.library and other.data is None and not other.open and other.row is None


def test_archives_of_all_visits_together_leave_room_on_the_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_archive(RunFolder.open(folder / "both"), tmp_path / "both.zip")
    size = sum(entry.file_size for entry in zipfile.ZipFile(path).infolist())
    monkeypatch.setattr(files, "MAX_UNPACKED", sum(files._unpacked.values()) + 2 * size)
    visits = [Inspection(Library(shipped=tmp_path)) for _ in range(3)]
    for visit in visits[:2]:
        files.upload(visit, uploaded(path))
    assert "no room" in str(files.upload(visits[2], uploaded(path))) and not visits[2].open
    visits[0].close()  # what is removed makes room
    files.upload(visits[2], uploaded(path))
    assert len(visits[2].open) == 1
    visits[1].close()
    monkeypatch.setattr(files, "free_space", lambda folder: files.AT_ONCE * size - 1)
    assert "no room" in str(files.upload(visits[1], uploaded(path)))


# ---- what the figures say --------------------------------------------------------------------------------------------


def test_the_headline_is_the_shares_their_difference_and_what_they_count(inspection: Inspection) -> None:
    right = {role: inspection.data.table.right[role] == 1 for role in ("left", "right")}
    page = actions.everything(inspection)
    said = unescape(re.sub(r"<[^>]+>", "", page["headline"]))
    left, other = (f"{right[role].mean():.3f}".removeprefix("0") for role in ("left", "right"))
    difference = f"{right['left'].mean() - right['right'].mean():+.3f}".replace("+0.", "+.")
    models = f"Tiny Pythia-VL {left} against Tiny Mamba-VL {other}"
    assert said.startswith(f"{models} on 80 samples: {difference} [")
    assert "each by its task's own measure · 20 pictures" in said
    page = actions.click(inspection, "slice:task|grounding")
    said = unescape(re.sub(r"<[^>]+>", "", page["headline"]))
    assert " on 40 Locate samples: " in said and "IoU of at least 0.5 · 20 pictures" in said
    assert 'data-pick="drop:slice:task|grounding"' in page["headline"], "what is selected can be dropped there"
    page = actions.click(inspection, "slice:split|new")
    assert " on 20 Locate samples (Split: new): " in unescape(re.sub(r"<[^>]+>", "", page["headline"]))


def test_the_headline_never_contradicts_the_corrected_verdict(inspection: Inspection) -> None:
    """For every slice that was tested: a model is called better where the ranking calls the slice clear, and nowhere
    else; and a selection that was not tested gives a hint at most."""
    table = inspection.data.table
    _, tested = inspection.differences()
    for one in tested:
        page = actions.click(inspection, f"slice:{one.aspect}|{one.value}")
        said = unescape(re.sub(r"<[^>]+>", "", page["headline"]))
        assert ("is better here" in said) == one.clear, one.label
        assert ("vi-lead" in page["headline"]) and ('data-side="left" class="vi-lead"' in page["headline"]) == (
            one.clear and one.difference > 0
        )
        actions.click(inspection, "drop:all")
    names, everything = Names("run", {"left": "A", "right": "B"}), np.arange(table.count)
    ahead = np.array([row for row in everything if table.right["left"][row] == 1 and table.right["right"][row] == 0])
    others = Selection(Query(slices=(("task", "grounding"), ("split", "new"))), everything, ahead, ahead)
    said = re.sub(r"<[^>]+>", "", headline(inspection.data, names, others, tested))
    assert "is better here" not in said and f"none of the {len(tested)} slices" in said


@pytest.mark.parametrize(
    "pick", ["quadrant:only_left", "quadrant:both", "cell:iou:0:1.1:0:0.5", "bin:left:score:1:1.1"]
)
def test_no_figure_is_true_by_construction(inspection: Inspection, pick: str) -> None:
    """Where the outcome selects, the headline stays that of all, and slices have the selection's share of each."""
    table = inspection.data.table
    before = actions.everything(inspection)
    page = actions.click(inspection, pick)
    assert 0 < len(inspection.rows) < table.count
    assert page["headline"] == before["headline"] and page["differences"] == before["differences"]
    shares = re.findall(
        r'data-pick="slice:task\|(\w+)".*?<td[^>]*>(\d+)</td><td[^>]*>(\d+)</td><td[^>]*>(\S+)</td>', page["slices"]
    )
    tasks = np.array(table.task)
    assert {task for task, *_ in shares} == {"grounding", "vqa", "captioning"}
    for task, n, count, share in shares:
        chosen = int((tasks[inspection.rows] == task).sum())
        assert (int(n), int(count)) == (int((tasks == task).sum()), chosen)
        assert share == f"{chosen / int(n):.3f}".removeprefix("0")
    assert (
        "left"
        not in re.sub(r"<[^>]+>", " ", page["slices"])
        .lower()
        .replace("only left", "")
        .replace("left iou", "")
        .replace("left score", "")
        .split()
    )
    assert page["slices"].count("95 % interval") >= len(shares)
    page = actions.click(inspection, "drop:all")
    assert page["slices"] == before["slices"]


def test_disagreement_is_an_outcome_and_words_are_not(inspection: Inspection) -> None:
    page = actions.fill(inspection, "", False, True, 0, "", "")
    assert "answers differ" in page["slices"] and "data-shares" in page["slices"]
    page = actions.fill(inspection, "square", False, False, 0, "", "")
    assert "data-shares" not in page["slices"] and "60 samples (“square”)" in page["headline"]


def test_where_they_differ_most_filters_and_stays(inspection: Inspection) -> None:
    page = actions.everything(inspection)
    picks = re.findall(r'data-pick="(slice:[^"]+)"', page["differences"])
    assert picks and len(picks) == len(set(picks)) and not any("tag: relation" in pick for pick in picks)
    ranked, tested = inspection.differences()
    assert len(picks) == len(ranked) <= len(tested) and f"{len(tested)} slices tested" in page["differences"]
    for title in ("Locate", "Question", "Caption"):  # tasks go by one name on the whole page
        assert f">{title}</button>" in page["slices"]
    assert "grounding</" not in page["slices"] + page["differences"] + page["table"]
    page = actions.click(inspection, picks[-1])
    assert len(inspection.rows) == len(ranked[-1][0].rows)
    assert re.findall(r'data-pick="(slice:[^"]+)"', page["differences"]) == picks
    assert page["differences"].count('aria-pressed="true"') == 1
    assert actions.click(inspection, picks[-1])["differences"].count('aria-pressed="true"') == 0
    everything = inspection.differences()
    actions.fill(inspection, "square", False, False, 0, "", "")
    assert inspection.differences() is not everything
    actions.fill(inspection, "", False, False, 0, "", "")
    assert inspection.differences() is everything, "the ranking of all rows is made once"


def test_the_slices_to_choose_from_tell_groups_of_samples(inspection: Inspection) -> None:
    """No tag whose values are of few samples, and none that is another by a second name."""
    dimensions = inspection.data.dimensions
    assert {"task", "split", "box size"} <= set(dimensions)
    assert "tag: relation" not in dimensions
    assert not (
        "question type" in dimensions
        and "tag: type" in dimensions
        and (
            inspection.data.table.aspects["question type"].codes == inspection.data.table.aspects["tag: type"].codes
        ).all()
    )


# ---- small pictures --------------------------------------------------------------------------------------------------


def test_small_pictures_are_those_of_the_open_run_alone(inspection: Inspection, folder: Path) -> None:
    page = actions.everything(inspection)
    names = list(dict.fromkeys(re.findall(r'data-thumb="([^"]+)"', page["table"])))
    assert 10 < len(names) <= 20
    found = actions.thumbnails(inspection, names)
    assert list(found) == names[:12]  # a dozen at a time
    assert all(picture.startswith("data:image/webp;base64,") for picture in found.values())
    key = names[0].partition("-")[0]
    for wrong in (f"{int(key) + 1}-0", f"{key}-20", f"{key}--1", f"{key}-x", "", "x" * 500, None, 7, ["a"]):
        assert actions.thumbnails(inspection, [wrong]) == {}
    assert actions.thumbnails(Inspection(Library(shipped=folder.parent)), names) == {}


def test_a_small_picture_that_cannot_be_shown_is_empty(folder: Path, tmp_path: Path) -> None:
    made = Inspection(Library(shipped=tmp_path))
    made.add("r", RunFolder.open(folder / "both", allowed=()))
    (name,) = set(re.findall(r'data-thumb="([^"]+-0)"', actions.everything(made)["table"]))
    assert actions.thumbnails(made, [name]) == {name: ""}


def test_small_pictures_are_kept_within_their_bound(inspection: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(
        "vlcompare.ui.inspect.thumbnails._made", lambda opened, picture: made.append(picture) or "x" * 300
    )
    kept = Thumbnails(most_bytes=2000)
    for picture in (0, 1, 0, 2, 3, 0, 4):
        assert kept.get(inspection.data, picture) == "x" * 300
    assert made == [0, 1, 2, 3, 4]  # four of 500 bytes each: the one that was asked for again stayed
    kept.get(inspection.data, 1)
    assert made[-1] == 1


def test_pictures_have_the_boxes_of_truth_and_sides_and_both_views_list_the_same(inspection: Inspection) -> None:
    table = actions.click(inspection, "slice:task|grounding")["table"]
    gallery = actions.click(inspection, "view:gallery")["table"]
    for shown in (table, gallery):
        assert len(set(re.findall(r'data-pick="(row:\d+)"', shown))) == 40
        assert shown.count('class="vl-box vl-truth"') == 40
        assert shown.count('vl-side-box" style') > 30 and 'data-side="right"' in shown
    assert (
        "vi-card" in gallery
        and "<table" not in gallery
        and gallery.count('data-pick="sort:') == table.count('data-pick="sort:')
    )
    assert "<table" in actions.click(inspection, "view:table")["table"]


# ---- adding a run ----------------------------------------------------------------------------------------------------


def test_a_run_that_is_added_is_offered_for_a_side(inspection: Inspection) -> None:
    page = actions.choose(inspection, ["both", "single"])
    assert "single is open" in page["offer"] and inspection.names.run == "both"
    picks = re.findall(r'data-pick="(put:[^"]+)"', page["offer"])
    assert picks == ["put:left:single\nleft", "put:right:single\nleft", "put:later"]
    page = actions.click(inspection, "put:right:single\nleft")
    assert inspection.names.run == "both against single" and page["offer"] == "" and page["controls"]
    assert (inspection.left, inspection.right) == ("both\nleft", "single\nleft")


def test_an_added_run_of_two_sides_can_be_shown_alone_or_left(inspection: Inspection) -> None:
    page = actions.choose(inspection, ["both", "other"])
    assert "put:show:other" in page["offer"]
    assert actions.click(inspection, "put:later") == {"message": page["message"], "offer": ""}
    assert inspection.names.run == "both" and not inspection.offer
    actions.choose(inspection, ["both"])
    actions.choose(inspection, ["both", "other"])
    actions.click(inspection, "put:show:other")
    assert inspection.names.run == "other" and inspection.left == "other\nleft" and inspection.right == "other\nright"
    for nonsense in ("put:", "put:middle:x", "put:left:secret\nleft", "put:show:secret"):
        actions.click(inspection, nonsense)
        assert inspection.names.run == "other"


# ---- to the compare tab and back -------------------------------------------------------------------------------------


def test_the_open_sample_is_a_run_whose_answers_are_recorded(inspection: Inspection) -> None:
    assert files.stored_run(inspection) is None
    actions.click(inspection, "row:2")
    run = files.stored_run(inspection)
    assert run is not None and run.recorded and run.stored is not None and run.id != inspection.run.id
    assert (run.stored.evaluation, run.stored.sample) == ("both", inspection.data.run.samples[2].id)
    for side, (checkpoint, quantization, text) in run.stored.answers.items():
        assert (checkpoint, quantization) == (CHECKPOINTS[side], "none") and text == run.answer(side).text
    assert "Stored answers to" in stored_line(run) and 'data-pick="sample"' in stored_line(run)


def test_asking_again_says_whether_it_agrees(inspection: Inspection) -> None:
    actions.click(inspection, "row:2")
    shown = files.stored_run(inspection)
    session = CompareSession()
    session.show(shown)

    def asked(**texts: str) -> Run:
        sides = {
            side: replace(part, answer=replace(part.answer, text=texts.get(side, part.answer.text), stop_reason="end"))
            for side, part in shown.sides.items()
        }
        return replace(shown, sides=sides, stored=None, request=replace(shown.request, source=None))

    same = asked()
    session.start(same)
    assert "left agrees with what is stored. right agrees" in stored_line(same)
    other = asked(right="<b>nothing</b>")
    session.start(other)
    said = stored_line(other)
    assert "left agrees" in said and "right differs from what is stored (“" in said
    other.swap()
    assert "right agrees" in stored_line(other) and "left differs" in stored_line(other)
    elsewhere = replace(asked(), request=replace(shown.request, text="Something else?"))
    session.start(elsewhere)
    assert elsewhere.stored is None and stored_line(elsewhere) is None


def test_the_way_back_opens_the_same_sample_of_the_same_run(inspection: Inspection) -> None:
    sample = inspection.data.run.samples[7].id
    actions.click(inspection, "row:3")
    page = actions.return_to(inspection, "both", sample)
    assert inspection.row == 7 and sample in page["sample"]
    for wrong in (("other", sample), ("both", "nobody")):
        assert set(actions.return_to(inspection, *wrong)) == {"message"} and inspection.row == 7
