"""Files that are not what they are given as: one sentence each, exit status 2, and nothing is left behind."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from types import SimpleNamespace

import pytest

from vlcompare.cli import main
from vlcompare.evaluate.exchange import spreadsheet
from vlcompare.evaluate.readers import opening, safe_xml
from vlcompare.evaluate.score_files import score_files

GOOD = [{"id": str(n), "text": "net"} for n in range(3)]
SAMPLES = [{"id": str(n), "image": "a.jpg", "task": "vqa", "text": f"{n}?", "references": ["net"]} for n in range(3)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def packed(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def sheet(*sheets, merged=""):
    """A spreadsheet of the XML of its sheets' rows."""
    parts = {f"xl/worksheets/sheet{n}.xml": f"<worksheet><sheetData>{rows}</sheetData>{merged}</worksheet>"
             for n, rows in enumerate(sheets, 1)}  # fmt: skip
    return packed(**{"xl/workbook.xml": "<workbook/>", **parts})


def cells(*values):
    """A row of texts; one that begins with "=" is a formula, as "=code|value"."""
    made = []
    for value in values:
        code, _, result = value.removeprefix("=").partition("|")
        formula = f"<c><f>{code}</f>{f'<v>{result}</v>' if result else ''}</c>"
        made.append(formula if value.startswith("=") else f'<c t="inlineStr"><is><t>{value}</t></is></c>')
    return f"<row>{''.join(made)}</row>"


ARRAY = json.dumps(GOOD).encode()
HEAD = cells("index", "prediction")
MERGED = '<mergeCells><mergeCell ref="B2:B3"/></mergeCells>'
# name -> (content, what the sentence says)
FILES = {
    "empty": (b"", "is empty"),
    "white space": (b" \n\n", "is empty"),
    "gz of nothing": (gzip.compress(b""), "is empty"),
    "gz of gz": (gzip.compress(gzip.compress(ARRAY)), "is compressed twice"),
    "zip of gz": (packed(a=gzip.compress(ARRAY)), "is compressed twice"),
    "two members": (packed(a=ARRAY, b=ARRAY), r"archive of 2 files \(a, b\)"),
    "no member": (packed(), "an archive without a file"),
    "cut off": (ARRAY[:-9], "ends in the middle of a value, as if cut off"),
    "cut off gz": (gzip.compress(ARRAY * 99)[:-20], "damaged, cut off"),
    "python": (str(GOOD).encode(), "Python's notation, with single quotes"),
    "utf-16": (json.dumps(GOOD).encode("utf-16"), "is text in UTF-16"),
    "utf-16 without a mark": (json.dumps(GOOD).encode("utf-16-le"), "is text in UTF-16 without a byte order mark"),
    "utf-32": (json.dumps(GOOD).encode("utf-32"), "is text in UTF-32"),
    "latin-1": ('[{"id": "0", "text": "café"}]'.encode("latin-1"), r"not text in UTF-8 \(byte E9 .* is 'é' in Latin-1"),
    "csv": (b"id,text\n0,net\n", r"a table with commas \(CSV\)"),
    "nested": (b"[" * 100_000, "nested too deeply"),
    "page": (b"<html>404</html>", "a page of HTML"),
    "number": (b"3\n", "not a JSON object"),
}
ANSWERS = {
    "no rows": (b"[]", "holds no answers: it is an empty"),
    "no object": (b"{}", "holds no answers: it is an empty"),
    "nan as an id": (b'{"id": NaN, "text": "net"}', "`id` is the number nan"),
    "latin-1 table": ("index\tprediction\n0\tcafé\n".encode("latin-1"), "line 2 is not text in UTF-8"),
    "open quote": (b'index\tprediction\n0\tnet\n1\t"net\n', "ends inside a quoted field that began in line 3: a quote"),
    "two formats": (lines([GOOD[0], {"question_id": 1, "answer": "net"}]).encode(),
                    r"answers of 2 formats: this project's lines \(line 1\), VQA or LLaVA \(line 2\)"),
    "merged cells": (sheet(HEAD + cells("0", "net") + cells("1"), merged=MERGED), "B2:B3 are merged over several rows"),
    "formulas": (sheet(HEAD + cells("0", "=A1")), "row 2: a formula without its value"),
    "figures": (b'{"results": {"vqav2": {"exact_match": 0.7}}, "configs": {}}', "holds lmms-eval's figures, not its"),
    "samples": (lines(SAMPLES).encode(), "holds questions, not answers"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "s.jsonl").write_text(lines(SAMPLES))
    return tmp_path


def refused(folder, capsys, *arguments):
    before = sorted(folder.rglob("*"))
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert sorted(folder.rglob("*")) == before and not said.out
    assert said.err.count("\n") == 1 and said.err.startswith("vlcompare: ")
    return said.err


@pytest.mark.parametrize("name", [*FILES, *ANSWERS])
def test_each_is_one_sentence_as_answers_and_as_samples(folder, capsys, name):
    import re

    content, sentence = (FILES | ANSWERS)[name]
    path = folder / f"{name}.data"
    path.write_bytes(content)
    assert re.search(sentence, refused(folder, capsys, "score", folder / "s.jsonl", path))
    run = ("evaluate", path, "--left", "tiny-pythia-vl", "--out", folder / "run")
    said = refused(folder, capsys, *run)
    if name in FILES:
        assert re.search(sentence, said)


def test_a_folder_for_a_file(folder, capsys):
    (folder / "nothing").mkdir()
    assert "is a folder: PREDICTIONS is a file" in refused(
        folder, capsys, "score", folder / "s.jsonl", folder / "nothing"
    )
    run = ("evaluate", folder / "nothing", "--left", "tiny-pythia-vl", "--out", folder / "run")
    assert "a folder without pictures" in refused(folder, capsys, *run)


def test_values_of_formulas_are_read_and_a_second_sheet_is_said(folder):
    (folder / "p.xlsx").write_bytes(sheet(HEAD + cells("0", "=B9|7") + cells("1", "net") + cells("2", "=A1"), HEAD))
    result = score_files(folder / "s.jsonl", folder / "p.xlsx")
    assert result["predictions"]["matched"] == 2
    assert result["tasks"]["vqa"]["accuracy"] == pytest.approx(1 / 3)
    assert any("has 2 sheets, and the answers are those of the first" in text for text in result["warnings"])
    assert result["predictions"]["problems"] == ["row 4: a formula without its value: open the file and save it once"]


def test_numbers_that_are_none_cost_their_own_row(folder):
    (folder / "p.jsonl").write_text(
        '{"id": 0, "text": NaN}\n{"id": 1, "text": "net"}\n{"id": 2, "boxes": [[0, 0, Infinity, 1]]}\n'
    )
    result = score_files(folder / "s.jsonl", folder / "p.jsonl")
    assert result["tasks"]["vqa"]["accuracy"] == pytest.approx(1 / 3)
    assert result["predictions"]["problems"][0].startswith("line 1: `text` is the number nan")


def test_a_quote_inside_a_field_is_a_character(folder):
    (folder / "p.tsv").write_text('index\tprediction\n0\t12" net\n1\tnet\n2\t"net"\n')
    assert score_files(folder / "s.jsonl", folder / "p.tsv")["tasks"]["vqa"]["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("module", "limit", "most", "name", "content", "sentence"),
    [
        (opening, "MAX_WHOLE", 20, "p.json", ARRAY, "a JSON file that is read whole may have 20"),
        (opening, "MAX_UNPACKED", 20, "p.json.gz", gzip.compress(ARRAY), "unpacks to more than 20 bytes"),
        (opening, "MAX_UNPACKED", 20, "p.zip", packed(a=ARRAY), "unpacks to more than 20 bytes"),
        (opening.shutil, "disk_usage", lambda path: SimpleNamespace(free=9), "p", gzip.compress(ARRAY), "has room for"),
        (spreadsheet, "MAX_PART", 20, "p.xlsx", sheet(HEAD), "unpacks to more than 20 bytes"),
        (spreadsheet, "MAX_ROWS", 1, "p.xlsx", sheet(HEAD + cells("0", "net")), "has over 1 rows"),
        (safe_xml, "MAX_DEPTH", 3, "p.xlsx", sheet(HEAD), "has over 3 elements in one another"),
        (safe_xml, "MAX_SILENT", 1000, "p.xlsx", sheet(f"<row a='{'x' * 600_000}'/>"), "tag of over 1,000 bytes"),
    ],
    ids=["json", "gz", "zip", "full disk", "sheet's part", "sheet's rows", "depth", "long tag"],
)  # fmt: skip
def test_a_file_over_a_limit_is_one_sentence(folder, capsys, monkeypatch, module, limit, most, name, content, sentence):
    monkeypatch.setattr(module, limit, most)
    (folder / name).write_bytes(content)
    assert sentence in refused(folder, capsys, "score", folder / "s.jsonl", folder / name)


def test_answers_to_aokvqa_both_ways(folder):
    """The letter against `correct_choice_idx`; the direct answer against ten people's, three of whom are enough."""
    row = {"split": "val", "image_id": 42, "question": "What?", "choices": ["bus", "cab", "bike", "ride"],
           "correct_choice_idx": 1, "direct_answers": ["cab"] * 2 + ["taxi"] * 3 + ["ride"] * 5}  # fmt: skip
    (folder / "a.json").write_text(json.dumps([{**row, "question_id": f"q{n}"} for n in range(4)]))
    letters = {"q0": "B", "q1": "The answer is B.", "q2": "A", "q3": "cab"}
    (folder / "l.json").write_text(json.dumps(letters))
    found = score_files(folder / "a.json", folder / "l.json")["tasks"]["multiple_choice"]
    assert (found["accuracy"], found["accuracy_lenient"]) == (1 / 4, 3 / 4)
    # two of ten say "cab": leaving each out in turn, (2 x 1/3 + 8 x 2/3) / 10 = .6; "taxi": (3 x 2/3 + 7 x 1) / 10 = .9
    (folder / "d.json").write_text(json.dumps({"q0": "cab", "q1": "a taxi", "q2": "Ride", "q3": "horse"}))
    found = score_files(folder / "a.json", folder / "d.json", task="vqa")["tasks"]["vqa"]
    assert found["accuracy"] == pytest.approx((0.6 + 0.9 + 1 + 0) / 4)


def test_gqas_test_predictions_are_submitted_and_never_scored(folder, capsys):
    questions = {str(200 + n): {"question": f"{n}?", "imageId": "42", "isBalanced": n < 2} for n in range(3)}
    (folder / "test.json").write_text(json.dumps(questions))
    (folder / "p.json").write_text(json.dumps([{"questionId": str(200 + n), "prediction": "Yes."} for n in range(3)]))
    assert "has no right answers" in refused(folder, capsys, "score", folder / "test.json", folder / "p.json")
    command = ["score", str(folder / "test.json"), str(folder / "p.json"), "--submission", "gqa", "--unbalanced"]
    assert main([*command, "--submission-file", str(folder / "out.json")]) == 0
    assert json.loads((folder / "out.json").read_text()) == [
        {"questionId": str(200 + n), "prediction": "yes"} for n in range(3)
    ]
