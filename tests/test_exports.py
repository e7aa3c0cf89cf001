"""Notes, archives and exports of a run: round trips, and what strangers can put into them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zipfile
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from make_examples import write_examples
from test_slices import write_run

from vlcompare.errors import ImageError, SampleError
from vlcompare.evaluate.results import html_report as html_report_module
from vlcompare.evaluate.results.archive import ArchiveLimits, open_archive, write_archive
from vlcompare.evaluate.results.export import to_csv, to_json, to_llm_comparator
from vlcompare.evaluate.results.html_report import html_report
from vlcompare.evaluate.results.notes import ERROR_TYPES, Notes
from vlcompare.evaluate.results.run_folder import RunFolder, join
from vlcompare.evaluate.results.table import Filter, RunTable, summary_of
from vlcompare.paths import EXAMPLES


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def table(tmp_path):
    return RunTable(RunFolder.open(write_run(tmp_path / "run")))


# ---- notes -----------------------------------------------------------------------------------------------------------


def test_notes_are_kept_beside_the_run(tmp_path, table):
    notes = table.run.notes
    assert notes.get("r03").text == "" and not notes.path.exists()  # looking writes nothing
    notes.put("r03", "  off by one  ", ["wrong object", " my  tag ", "wrong object"])
    again = Notes(tmp_path / "run" / "notes.sqlite")
    assert again.get("r03").text == "off by one" and again.get("r03").tags == ("wrong object", "my tag")
    assert again.tags() == (*ERROR_TYPES, "my tag")
    assert len(table.select(Filter(samples=frozenset(again.all())))) == 1
    again.put("r03")
    assert again.all() == {}


def test_notes_are_cut_not_refused(table):
    note = table.run.notes.put("r00", "x" * 100_000, [f"{i} " + "y" * 500 for i in range(100)])
    assert len(note.text) == 4000 and len(note.tags) == 20 and max(map(len, note.tags)) == 60


def test_notes_hold_anything_as_text(table):
    nasty = "'; DROP TABLE notes; -- \x00 <script>"
    table.run.notes.put(nasty, nasty, [nasty])
    assert table.run.notes.get(nasty).text == nasty.strip()


def test_notes_of_a_read_only_run_lie_in_the_data_folder(tmp_path, data_folder):
    run = RunFolder.open(write_run(tmp_path / "run"), read_only=True)
    run.notes.put("r01", "seen")
    assert not (tmp_path / "run" / "notes.sqlite").exists()
    assert list((data_folder / "notes").glob("*.sqlite"))
    assert RunFolder.open(tmp_path / "run", read_only=True).notes.get("r01").text == "seen"


# ---- archives --------------------------------------------------------------------------------------------------------


def test_an_archive_comes_back_as_it_was(tmp_path, table):
    table.run.notes.put("r05", "a note", ["counting"])
    path = write_archive(table.run, tmp_path / "run.zip")
    run = open_archive(path, tmp_path / "opened")
    back = RunTable(run)
    assert run.read_only and back.quadrant_counts() == table.quadrant_counts()
    assert run.notes.get("r05").tags == ("counting",)
    assert run.picture(0).parent == tmp_path / "opened" / "images"
    assert run.row("left", 3)["text"] == table.run.row("left", 3)["text"]


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


SOUND = [
    ("samples.jsonl", '{"id":"a","image":"images/a.png","task":"chat","text":"x"}\n'),
    ("predictions.jsonl", "{}\n"),
]


def link():
    info = zipfile.ZipInfo("images/a.png")
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([*SOUND, ("../evil.png", "x")], "which no run has"),
        ([*SOUND, ("/etc/passwd", "x")], "which no run has"),
        ([*SOUND, ("images/../../evil.png", "x")], "which no run has"),
        ([*SOUND, ("images/a.exe", "x")], "which no run has"),
        ([*SOUND, ("images\\..\\a.png", "x")], "which no run has"),
        ([*SOUND, ("notes.sqlite", "x")], "which no run has"),
        ([*SOUND, ("images/a.png", b"\0" * 3_000_000)], "more than allowed"),
        ([*SOUND, (link(), "/etc/passwd")], "link"),
        ([*SOUND, *((f"images/{i}.png", "x") for i in range(60))], "entries"),
        ([("samples.jsonl", "{}"), ("predictions.jsonl", "x" * 200)], "damaged"),
        ([*SOUND, ("run.json", '{"schema_version": 1, "identity": {"sides": 3}}')], "damaged"),
        ([*SOUND, ("run.json", '{"schema_version": 1, "identity": ["sides"]}')], "damaged"),
        ([*SOUND, ("run.json", '{"schema_version": 1, "sides": {"left": "x"}}')], "damaged"),
        ([("predictions.jsonl", "{}")], "not a run folder"),
        ([], "not a run folder"),
    ],
)
def test_archives_from_strangers(tmp_path, entries, sentence):
    path = zipped(tmp_path / "x.zip", entries)
    limits = ArchiveLimits(entries=50, total_bytes=1_000_000, picture_bytes=100_000)
    with pytest.raises(SampleError, match=sentence):
        open_archive(path, tmp_path / "into", limits)
    assert not (tmp_path / "into").exists() and not (tmp_path / "evil.png").exists()


def test_an_archive_that_lies_about_its_sizes_is_stopped_while_unpacking(tmp_path):
    path = zipped(tmp_path / "x.zip", [*SOUND, ("images/a.png", b"\x07" * 500_000)])
    data = bytearray(path.read_bytes())
    data = data.replace((500_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    with pytest.raises(SampleError):
        open_archive(path, tmp_path / "into", ArchiveLimits(picture_bytes=1000))
    assert not (tmp_path / "into").exists()


def test_an_archive_that_was_damaged_on_its_way_is_one_sentence(tmp_path):
    path = zipped(tmp_path / "x.zip", [("samples.jsonl", "".join(f"{i} " for i in range(5000)))])
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(SampleError, match="not a run archive"):
        open_archive(path, tmp_path / "into")
    named = zipped(tmp_path / "y.zip", [("\u00e9", "x")]).read_bytes().replace("\u00e9".encode(), b"\xff\xff")
    (tmp_path / "y.zip").write_bytes(named)
    with pytest.raises(SampleError, match="not a run archive"):
        open_archive(tmp_path / "y.zip", tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("gone", [True, False])
def test_rows_of_a_picture_that_stayed_out_still_belong_together(tmp_path, table, gone):
    if gone:
        table.run.picture(0).unlink()
    run = open_archive(write_archive(table.run, tmp_path / "run.zip", pictures=False), tmp_path / "opened")
    assert RunTable(run).clusters.tolist() == table.clusters.tolist() == [0] * 24
    with pytest.raises(ImageError, match="no longer there"):
        run.picture(0)


def test_no_zip_at_all(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK but no")
    with pytest.raises(SampleError, match="not a run archive"):
        open_archive(tmp_path / "x.zip", tmp_path / "into")


def test_an_uploaded_run_cannot_name_files_of_this_machine(tmp_path):
    samples = json.dumps({"id": "a", "image": "/etc/passwd", "task": "vqa", "text": "x", "references": ["y"]}) + "\n"
    record = json.dumps({"schema_version": 1, "identity": {"sides": {"left": {}}}, "images_root": "/etc"})
    row = json.dumps({"id": "a", "side": "left", "text": "y"}) + "\n"
    path = zipped(tmp_path / "x.zip", [("samples.jsonl", samples), ("predictions.jsonl", row), ("run.json", record)])
    run = open_archive(path, tmp_path / "into")
    with pytest.raises(Exception, match="outside"):
        run.picture(0)


# ---- exports ---------------------------------------------------------------------------------------------------------


def test_csv_reads_back_and_starts_no_formula(table):
    table.run.notes.put("r00", "=1+1", ["format"])
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == 24 and rows[0]["id"] == "r00"
    assert rows[0]["answer_left"] == "'=blue <b>x</b>" and rows[0]["note"] == "'=1+1" and rows[0]["tags"] == "format"
    assert float(rows[1]["score_left"]) == 1.0 and rows[1]["tag: size"] == "small"
    for i, row in enumerate(rows):
        sample = table.run.samples[i]
        assert row["checkpoint_left"] == table.run.checkpoint("left")
        assert row["reference"] or not (sample.references or sample.boxes), "true boxes are what is expected"
        for side in table.sides:
            mean = float(table.confidence[side][i])
            assert row[f"confidence_{side}"] == ("" if math.isnan(mean) else str(round(math.exp(mean), 4)))
    assert len(list(csv.DictReader(io.StringIO(to_csv(table, table.select(Filter(quadrants=("neither",)))))))) == 2


def test_csv_keeps_one_line_a_sample_and_names_each_column_once(tmp_path):
    folder = write_run(tmp_path / "run", sides=("right", "z"))
    text = (folder / "predictions.jsonl").read_text().replace("=blue <b>x</b>", "blue\\r=1+1")
    (folder / "predictions.jsonl").write_text(text)
    table = RunTable(RunFolder.open(folder))
    assert table.sides == ("right", "z")
    lines = list(csv.reader(io.StringIO(to_csv(table), newline="")))
    assert len(lines) == 25 and {len(line) for line in lines} == {len(set(lines[0]))}
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert rows[0]["answer_right"] == "blue\r=1+1" and rows[0]["score_right"] == "0.0"
    assert rows[6]["answer_right"] == rows[6]["answer_z"] == "Red."


def test_json_holds_answers_figures_and_notes(table):
    table.run.notes.put("r01", "looked at", [])
    value = json.loads(to_json(table))
    assert value["quadrants"]["both"] == 16 and len(value["samples"]) == 24
    assert value["samples"][1]["sides"]["left"]["tokens"] and value["samples"][1]["note"]["text"] == "looked at"
    assert {row["value"] for row in value["slices"]["task"]} == {"vqa", "grounding"}


def test_two_runs_of_one_model_have_two_names(table, monkeypatch):
    def named(**how):
        return [model["name"] for model in json.loads(to_llm_comparator(table, pictures=False, **how))["models"]]

    assert named(names=["a", "b"]) == [table.run.checkpoint(side) for side in table.sides], "they differ already"
    monkeypatch.setattr(RunFolder, "checkpoint", lambda run, side: "org/one")
    assert named(names=["One · int8", "One"]) == ["One · int8", "One"]
    assert named(names=["One", "One"]) == named() == ["org/one (left)", "org/one (right)"]
    assert "only One · int8:" in html_report(table, names=["One · int8", "One"])
    monkeypatch.setattr(
        RunFolder, "checkpoint", lambda run, side: f"/home/someone/checkpoints/of-a-long-name-of-may/{side}"
    )
    page = html_report(table)
    assert "only …" in page and "-may/left:" in page and "-may/right:" in page


def test_llm_comparator_has_its_schema(table):
    value = json.loads(to_llm_comparator(table))
    assert set(value) == {"metadata", "models", "examples"}
    assert [set(model) for model in value["models"]] == [{"name"}, {"name"}]
    schema = {field["name"]: field["type"] for field in value["metadata"]["custom_fields_schema"]}
    kinds = {"string", "category", "text", "number", "per_model_number", "per_model_boolean", "image_byte"}
    assert set(schema.values()) <= kinds
    for example in value["examples"]:
        required = {
            "input_text",
            "tags",
            "output_text_a",
            "output_text_b",
            "score",
            "individual_rater_scores",
            "custom_fields",
        }
        assert required == set(example)
        assert -1.5 <= example["score"] <= 1.5 and set(example["custom_fields"]) == set(schema)
        assert len(example["custom_fields"]["right"]) == len(example["custom_fields"]["score"]) == 2
    scores = {e["custom_fields"]["id"]: e["score"] for e in value["examples"]}
    assert scores["r04"] == 1.5 and scores["r06"] == -1.5 and scores["r01"] == 0
    assert value["examples"][0]["custom_fields"]["picture"].startswith("/9j/")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def test_the_report_is_one_page_that_loads_and_runs_nothing(table):
    nasty = '<img src=x onerror="alert(1)">'
    table.run.notes.put("r00", nasty, [nasty])
    text = html_report(table, table.select(Filter(quadrants=("neither",))), title=nasty)
    page = Page(text)
    assert "script" not in page.tags and "iframe" not in page.tags and "link" not in page.tags
    assert page.addresses and all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert page.tags.count("img") == 2 and "svg" in page.tags
    assert nasty not in text and "&lt;img src=x" in text
    assert "=blue &lt;b&gt;x&lt;/b&gt;" in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text


def test_the_report_says_the_result_first_and_the_settings_last(table):
    table.run.notes.put("r01", "", ["counting"])
    table.run.notes.put("r02", "", ["counting", "reading"])
    text = html_report(table, table.select())
    places = [
        text.index(part) for part in ("score", "Noted errors", "Samples", "Every task", "Settings") if part in text
    ]
    assert places == sorted(places)
    plain = re.sub(r"<[^>]+>", "|", text)
    assert re.search(r"\.\d{3}\|+ against \|+\.\d{3}\|+, \|+[+−]\.\d{3}", plain)
    assert re.search(r"\|2\|+ counting", plain) and re.search(r"\|1\|+ reading", plain)
    assert text.count("<article") == len(table.select())
    few = re.sub(r"<[^>]+>", "|", html_report(table, rows=table.select(Filter(samples=frozenset(["r01", "r03"])))))
    assert re.search(r"\|1\|+ counting", few) and "reading" not in few, "what was noted on other samples"
    some = html_report(table, table.select(Filter(quadrants=("only_left",))), rows=None)
    score = re.compile(r'<p class="score">.*?</p>')
    assert score.search(some).group() == score.search(text).group()


def test_figures_of_the_json_can_be_of_other_rows_than_those_listed(table):
    only_left = table.select(Filter(quadrants=("only_left",)))
    found = json.loads(to_json(table, only_left, figures=table.select()))
    assert len(found["samples"]) == len(only_left) > 0
    assert found["overall"]["n"] == 24 and found["overall"]["left"] < 1
    assert json.loads(to_json(table, only_left))["overall"]["n"] == len(only_left)


def test_names_of_sides_stay_text_in_the_report(tmp_path):
    nasty = '"><img src=x onerror="alert(1)">'
    table = RunTable(RunFolder.open(write_run(tmp_path / "run", sides=("left", nasty))))
    page = Page(html_report(table))
    assert table.sides == ("left", nasty) and "img" not in page.tags


def test_figures_of_a_joined_run_are_its_own(tmp_path):
    """Not those in the left run's summary.json, which are about other answers."""
    first = RunFolder.open(write_run(tmp_path / "a"))
    (tmp_path / "a" / "summary.json").write_text(json.dumps(summary_of(first)))
    both = join((first, "left"), (first, "left"))
    right = summary_of(both)["sides"]["right"]["tasks"]["vqa"]["accuracy"]
    assert right == summary_of(first)["sides"]["left"]["tasks"]["vqa"]["accuracy"] == pytest.approx(8 / 12)
    assert summary_of(first)["sides"]["right"]["tasks"]["vqa"]["accuracy"] == pytest.approx(6 / 12)


@pytest.mark.parametrize("content", ["[1]", "3", "{", '"text"'])
def test_a_damaged_summary_is_one_sentence(tmp_path, table, content):
    (tmp_path / "run" / "summary.json").write_text(content)
    with pytest.raises(SampleError, match="damaged"):
        summary_of(table.run)


def test_examples_are_written_into_its_own_folder_only(tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("samples.jsonl", "predictions.jsonl"):
        text = (folder / name).read_text().replace('"r', '"../../r')
        (folder / name).write_text(text.replace('"../../red', '"red').replace('"../../right', '"right'))
    count = write_examples(RunFolder.open(folder), tmp_path / "one" / "two" / "out")
    written = [path for path in tmp_path.rglob("*.png")]
    assert count and all(path.parent == tmp_path / "one" / "two" / "out" / "pictures" for path in written)
    kept = json.loads((tmp_path / "one" / "two" / "out" / "examples.json").read_text())["examples"]
    assert sorted(tmp_path / "one/two/out" / row["image"] for row in kept) == sorted(written)


def test_the_shipped_examples_are_those_of_the_shipped_run(tmp_path):
    write_examples(RunFolder.open(EXAMPLES / "tiny-pair-on-scenes", read_only=True), tmp_path)
    assert (tmp_path / "examples.json").read_bytes() == (EXAMPLES / "examples.json").read_bytes()
    for picture in (tmp_path / "pictures").iterdir():
        assert picture.read_bytes() == (EXAMPLES / "pictures" / picture.name).read_bytes()


def test_the_report_of_one_side(tmp_path):
    table = RunTable(RunFolder.open(write_run(tmp_path / "one", sides=("left",))))
    assert "<svg" in html_report(table, table.select())
    assert json.loads(to_llm_comparator(table))["examples"][0]["score"] is None


def test_the_report_draws_the_stored_maps_and_says_how_many_it_left_out(monkeypatch):
    monkeypatch.setattr(html_report_module, "MAX_MAPPED", 3)
    table = RunTable(RunFolder.open(EXAMPLES / "tiny-pair-on-scenes", read_only=True))
    mapped = np.array([i for i in table.select() if table.run.evidence("left", int(i))][:5])
    page = html_report(table, mapped)
    assert page.count("What the answers rest on") == 3 and page.count("<figure") == 6
    assert "Maps of what the answers rest on: 2 more are not drawn." in page
    assert re.search("(true box|region asked about|right choice): a block.s mean fall", unescape(page))
    assert "Purple: without this block" in page
    assert "What the answers rest on" not in html_report(table)


def test_the_report_explains_its_terms_without_a_script():
    page = html_report(RunTable(RunFolder.open(EXAMPLES / "tiny-pair-on-scenes", read_only=True)))
    assert re.search(r'<abbr title="With 95 % probability[^"]+" tabindex="0">clear of chance</abbr>', page)
    assert re.search(r'<abbr title="The 95 % confidence interval[^"]+" tabindex="0">95 % interval</abbr>', page)
    assert "<script" not in page and "Locate" in page and ">grounding<" not in page
