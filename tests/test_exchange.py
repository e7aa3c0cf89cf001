"""Answers from and for other programs: every kind of file, how its rows find their samples, boxes in other units."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import replace

import pytest

from vlcompare.cli import main
from vlcompare.errors import SampleError
from vlcompare.evaluate.exchange import spreadsheet
from vlcompare.evaluate.exchange.answer_files import read_answers
from vlcompare.evaluate.exchange.matching import plain
from vlcompare.evaluate.exchange.spreadsheet import sheet_rows, write_sheet
from vlcompare.evaluate.score_files import score_files


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


ASKED = ["What is it?", "How many?", "Is it red?"]
TRUE = ["a cat", "2", "no"]
IDS = ["42000", "42001", "00300"]
SAMPLES = [
    {"id": id, "image": f"COCO_val2014_{n:012d}.jpg", "task": "vqa", "text": text, "references": [true]}
    for n, (id, text, true) in enumerate(zip(IDS, ASKED, TRUE, strict=True))
]


def rows(**fields):
    """A row for each sample; a field is a function of (id, question, answer, number)."""
    given = zip(IDS, ASKED, TRUE, strict=True)
    return [{name: make(id, q, a, n) for name, make in fields.items()} for n, (id, q, a) in enumerate(given)]


def _id(id, q, a, n):
    return int(id)


def _said(id, q, a, n):
    return a


def _table(columns, made):
    return "\t".join(columns) + "\n" + "".join("\t".join(str(row[name]) for name in columns) + "\n" for row in made)


LMMS = rows(
    doc_id=lambda id, q, a, n: n,
    doc=lambda id, q, a, n: {"question_id": int(id), "question": q, "answers": ["x"]},
    target=lambda *_: "x",
    resps=lambda id, q, a, n: [["something longer"]],
    filtered_resps=lambda id, q, a, n: [a],
    exact_match=lambda *_: 0.0,
)
LLAVA = rows(
    question_id=_id, prompt=lambda id, q, a, n: q, text=_said, answer_id=lambda *_: "x", metadata=lambda *_: {}
)
KITS = rows(index=_id, question=lambda id, q, a, n: q, answer=lambda *_: "zebra", prediction=_said)
NO_ID = rows(
    image=lambda id, q, a, n: f"val2014/COCO_val2014_{n:012d}.jpg", question=lambda id, q, a, n: q, answer=_said
)

# name -> (what the file holds, how its answers were matched)
FILES = {
    "lmms.jsonl": (lines(LMMS), "id"),
    "lmms.json": (json.dumps({"args": {}, "logs": LMMS}, indent=1), "id"),
    "llava.jsonl": (lines(LLAVA), "id"),
    "vqa.json": (json.dumps(rows(question_id=_id, answer=_said)), "id"),
    "docvqa.json": (json.dumps(rows(questionId=_id, answer=_said)), "id"),
    "gqa.json": (json.dumps(rows(questionId=lambda id, *_: id, prediction=_said), indent=2), "id"),
    "own.jsonl": (lines(rows(id=lambda id, *_: id, text=_said)), "id"),
    "own.json": (json.dumps(rows(id=lambda id, *_: id, text=_said)), "id"),
    "response.jsonl": (lines(rows(id=_id, response=_said, answer=lambda *_: "zebra")), "id"),
    "outputs.jsonl": (lines(rows(sample_id=_id, outputs=lambda id, q, a, n: [a])), "id"),
    "map.json": (json.dumps(dict(zip(IDS, TRUE, strict=True))), "id"),
    "kit.tsv": (_table(["index", "question", "answer", "prediction"], KITS), "id"),
    "packed.jsonl.gz": (lines(LLAVA), "id"),
    "no id.jsonl": (lines(NO_ID), "image and question"),
    "pope.jsonl": (
        lines(rows(question=lambda id, q, a, n: q, answer=_said)),
        "order: both files have the same questions, one after the other",
    ),
    "fewer.jsonl": (
        lines(rows(question=lambda id, q, a, n: q, answer=_said)[::-1]),
        "question alone, where it is asked once",
    ),
}


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(lines(SAMPLES))
    return path


@pytest.mark.parametrize("name", FILES)
def test_answers_of_other_programs(tmp_path, samples, name):
    content, by = FILES[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    result = score_files(samples, path)
    assert result["tasks"]["vqa"]["accuracy"] == 1.0
    assert (result["predictions"]["matched"], result["predictions"]["matched_by"]) == (3, by)
    assert any(by in warning for warning in result["warnings"]) is (by != "id")


def test_coco_captions_name_their_pictures(tmp_path):
    captions = {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}]}
    captions["annotations"] = [{"image_id": 391895, "id": 1, "caption": "A man on a bike."}]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "results.json").write_text(json.dumps([{"image_id": 391895, "caption": "a man on a bike"}]))
    result = score_files(tmp_path / "captions.json", tmp_path / "results.json")
    assert result["tasks"]["captioning"]["rouge_l"] == pytest.approx(1.0)


def test_a_spreadsheet_of_vlmevalkit(tmp_path, samples):
    path = tmp_path / "answers.xlsx"
    columns = ("index", "question", "answer", "prediction")
    write_sheet(path, columns, [[str(row[name]) for name in columns] for row in KITS])
    assert [row for _, row in sheet_rows(path)] == [{key: str(value) for key, value in row.items()} for row in KITS]
    assert score_files(samples, path)["tasks"]["vqa"]["accuracy"] == 1.0


def test_a_spreadsheet_as_others_write_it(tmp_path, monkeypatch):
    """Shared texts, numbers, gaps between cells, rich text; a bomb and entities are refused."""
    path = tmp_path / "a.xlsx"

    def write(sheet, shared="<sst/>"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/workbook.xml", "<workbook/>")
            archive.writestr("xl/worksheets/sheet1.xml", sheet)
            archive.writestr("xl/sharedStrings.xml", shared)

    write(
        '<worksheet><sheetData><row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1" t="s"><v>1</v></c></row>'
        '<row r="2"><c r="A2"><v>7</v></c><c r="B2"><v>8</v></c><c r="C2" t="inlineStr"><is><t>a b</t></is></c></row>'
        "</sheetData></worksheet>",
        "<sst><si><t>index</t></si><si><r><t>predi</t></r><r><t>ction</t></r><rPh><t>x</t></rPh></si></sst>",
    )
    assert [row for _, row in sheet_rows(path)] == [{"index": "7", "prediction": "a b"}]
    write('<!DOCTYPE a [<!ENTITY x "y">]><worksheet><sheetData>&x;</sheetData></worksheet>')
    with pytest.raises(SampleError, match="entities of its own"):
        list(sheet_rows(path))
    monkeypatch.setattr(spreadsheet, "MAX_PART", 1000)
    write("<worksheet>" + " " * 2000 + "</worksheet>")
    with pytest.raises(SampleError, match="more than 1,000 bytes"):
        list(sheet_rows(path))


@pytest.mark.parametrize(
    ("id", "number"),
    [("007", "7"), ("7.0", "7"), ("COCO_val2014_000000000007.jpg", "7"), ("RefCOCO_testA_7", "7"), ("a7", "a7"),
     ("7.5", "7.5"), ("v7w_7.jpg", "v7w_7.jpg")],
)  # fmt: skip
def test_numbers_as_ids(id, number):
    assert plain(id) == number


def test_ids_that_fit_but_belong_to_other_questions_are_no_match(tmp_path, samples):
    """Row numbers look like ids: the questions show that they are none."""
    own = [{**row, "id": str(n)} for n, row in enumerate(SAMPLES)]
    samples.write_text(lines(own))
    shifted = [{"idx": (n + 1) % 3, "question": ASKED[n], "answer": TRUE[n]} for n in range(3)]
    path = tmp_path / "p.jsonl"
    path.write_text(lines(shifted))
    result = score_files(samples, path)
    assert result["tasks"]["vqa"]["accuracy"] == 1.0 and result["predictions"]["matched_by"].startswith("order")


def test_ambiguous_and_duplicate_ids_are_a_sentence_each(tmp_path, samples):
    same = [{**SAMPLES[0], "id": "7"}, {**SAMPLES[1], "id": "07"}, {**SAMPLES[2], "id": "8"}]
    samples.write_text(lines(same))
    path = tmp_path / "p.jsonl"
    path.write_text(lines([{"question_id": "007", "answer": "a cat"}, {"question_id": 8, "answer": "no"},
                           {"question_id": 8, "answer": "yes"}]))  # fmt: skip
    result = score_files(samples, path)
    counts = result["predictions"]
    assert (counts["matched"], counts["ambiguous"], counts["duplicates"]) == (1, 1, 1)
    assert any("more than one sample" in problem for problem in counts["problems"])
    assert any("a second answer to '8'; the first one counts" in problem for problem in counts["problems"])
    assert result["tasks"]["vqa"]["accuracy"] == pytest.approx(1 / 3)


def test_two_formats_in_one_file_of_answers_are_named(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(lines([{"question_id": 1, "answer": "a"}, {"image_id": 1, "caption": "b"}]))
    with pytest.raises(SampleError, match=r"answers of 2 formats: VQA or LLaVA \(line 1\), COCO captions \(line 2\)"):
        read_answers(path)


def test_a_pickle_of_answers_is_refused(tmp_path):
    (tmp_path / "p.pkl").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(SampleError, match="pickle"):
        read_answers(tmp_path / "p.pkl")


# ---- boxes -----------------------------------------------------------------------------------------------------------

TRUTH = [0.1, 0.1, 0.5, 0.5]  # 64, 48 .. 320, 240 of a picture of 640 x 480


def _boxes(tmp_path, answers, sizes=True, **options):
    row = {"img_path": "train2014/a.jpg", "expression": "x", "bbox": [64, 48, 320, 240]}
    row |= {"width": 640, "height": 480} if sizes else {}
    (tmp_path / "s.jsonl").write_text(lines([row] * len(answers)))
    (tmp_path / "p.jsonl").write_text(lines({"id": f"line-{n}", **a} for n, a in enumerate(answers, 1)))
    declared = {"box_format": "xyxy", "box_scale": "absolute"}
    return score_files(tmp_path / "s.jsonl", tmp_path / "p.jsonl", **declared, **options)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"answer_box_scale": "unit"}, TRUTH),
        ({}, TRUTH),
        ({"answer_box_scale": "percent"}, [10, 10, 50, 50]),
        ({"answer_box_scale": "thousand"}, [100, 100, 500, 500]),
        ({"answer_box_scale": "pixel"}, [64, 48, 320, 240]),
        ({"answer_box_scale": "pixel", "answer_box_size": "448"}, [44.8, 44.8, 224, 224]),
        ({"answer_box_scale": "pixel", "answer_box_size": "200x100"}, [20, 10, 100, 50]),
    ],
)
def test_predicted_boxes_are_read_in_the_unit_that_is_declared(tmp_path, options, numbers):
    answers = [{"text": f"It is at {json.dumps(numbers)}."}, {"boxes": [numbers]}, {"boxes": numbers}]
    result = _boxes(tmp_path, answers, **options)
    assert result["tasks"]["grounding"]["mean_iou"] == pytest.approx(1.0, abs=1e-4)
    assert not result["alerts"]


def test_auto_warns_and_never_chooses(tmp_path, capsys):
    answers = [{"text": "[64, 48, 320, 240]"}] * 3 + [{"text": "[0.10,0.10,0.50,0.50]"}]
    result = _boxes(tmp_path, answers)
    assert result["tasks"]["grounding"]["mean_iou"] == pytest.approx(0.25)
    assert (
        len(result["alerts"]) == 1
        and "3 of 4 answers have a box with coordinates above 1 (up to 320)" in result["alerts"][0]
    )
    command = ["score", str(tmp_path / "s.jsonl"), str(tmp_path / "p.jsonl")]
    assert main([*command, "--box-format", "xyxy", "--box-scale", "absolute"]) == 0
    assert capsys.readouterr().out.startswith("warning: 3 of 4 answers")
    assert not _boxes(tmp_path, answers[2:])["alerts"]  # one of two is not most
    assert not _boxes(tmp_path, answers, answer_box_scale="unit")["alerts"]


def test_sizes_come_from_the_pictures_where_the_data_do_not_say_them(tmp_path):
    from PIL import Image

    (tmp_path / "train2014").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "train2014" / "a.jpg")
    result = _boxes(tmp_path, [{"text": "[64, 48, 320, 240]"}], sizes=False, answer_box_scale="pixel")
    assert result["tasks"]["grounding"]["mean_iou"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"answer_box_scale": "guess"}, "is one of auto, unit"),
        ({"answer_box_size": "448"}, "give --answer-box-scale pixel, too"),
        ({"answer_box_scale": "pixel", "answer_box_size": "0x5"}, "WIDTHxHEIGHT"),
    ],
)
def test_wrong_declarations_are_a_sentence(tmp_path, options, sentence):
    with pytest.raises(SampleError, match=sentence):
        _boxes(tmp_path, [{"text": "x"}], **options)


# ---- submissions -----------------------------------------------------------------------------------------------------


def _submitted(tmp_path, capsys, samples, answers, format, *more):
    (tmp_path / "p.jsonl").write_text(lines(answers))
    out = tmp_path / f"out.{'xlsx' if format == 'vlmevalkit' else 'json'}"
    command = ["score", str(samples), str(tmp_path / "p.jsonl"), "--submission", format, "--submission-file", str(out)]
    assert main([*command, *more]) == 0
    return out, capsys.readouterr().out


QUESTIONS = {
    "data_subtype": "test-dev2015",
    "data_type": "mscoco",
    "questions": [{"image_id": 1, "question": f"{n}?", "question_id": 1000 + n} for n in range(3)],
}
DOCUMENTS = {"dataset_split": "test", "data": [{"questionId": 5, "question": "T?", "image": "a.png", "docId": 1}]}


@pytest.mark.parametrize(
    ("format", "data", "answers", "written"),
    [
        ("vqa", QUESTIONS, [{"id": 1000, "text": "Yes."}, {"id": 1001, "text": "2"}],
         [{"question_id": 1000, "answer": "Yes"}, {"question_id": 1001, "answer": "2"},
          {"question_id": 1002, "answer": ""}]),
        ("docvqa", DOCUMENTS, [{"id": 5, "text": "Rs. 12 Crore"}], [{"questionId": 5, "answer": "Rs. 12 Crore"}]),
        ("gqa", {"201": {"question": "q?", "imageId": "42", "isBalanced": True}}, [{"id": "201", "text": "Left."}],
         [{"questionId": "201", "prediction": "left"}]),
        ("coco", {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [
            {"image_id": 7, "id": 1, "caption": "a cat"}]}, [{"id": 7, "text": "A cat."}],
         [{"image_id": 7, "caption": "A cat."}]),
    ],
)  # fmt: skip
def test_result_files_are_as_the_servers_take_them(tmp_path, capsys, format, data, answers, written):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data))
    out, said = _submitted(tmp_path, capsys, path, answers, format)
    assert json.loads(out.read_text()) == written
    assert f"holds {len(written)} answers for {format}" in said
    assert ("1 of them have no answer" in said) is (format == "vqa")
    score_files(path, out, submit=(format, tmp_path / "again.json"))  # and they are read again
    assert json.loads((tmp_path / "again.json").read_text()) == written


def test_mmbench_is_submitted_as_a_spreadsheet(tmp_path, capsys):
    (tmp_path / "a.jpg").touch()
    table = "index\tquestion\tA\tB\timage_path\n1\twhich?\tx\ty\ta.jpg\n1000001\twhich?\ty\tx\ta.jpg\n"
    (tmp_path / "MMBench_TEST.tsv").write_text(table)
    answers = [{"id": 1, "text": "B."}, {"id": 1000001, "text": "A"}]
    out, _ = _submitted(tmp_path, capsys, tmp_path / "MMBench_TEST.tsv", answers, "vlmevalkit")
    assert [row for _, row in sheet_rows(out)] == [
        {"index": "1", "question": "which?", "A": "x", "B": "y", "prediction": "B"},
        {"index": "1000001", "question": "which?", "A": "y", "B": "x", "prediction": "A"},
    ]


def test_a_set_without_answers_is_not_scored_without_saying_so(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "p.jsonl").write_text(lines([{"id": 1000, "text": "x"}]))
    with pytest.raises(SampleError, match="has no right answers.*--submission"):
        score_files(tmp_path / "d.json", tmp_path / "p.jsonl")
    with pytest.raises(SampleError, match="is of the task document_vqa; the samples are vqa"):
        score_files(tmp_path / "d.json", tmp_path / "p.jsonl", submit=("docvqa", tmp_path / "x.json"))


def test_ids_that_a_server_cannot_take_are_refused(tmp_path, samples):
    samples.write_text(lines([{**SAMPLES[0], "id": "line-1"}]))
    (tmp_path / "p.jsonl").write_text(lines([{"id": "line-1", "text": "x"}]))
    with pytest.raises(SampleError, match="'line-1' is no whole number"):
        score_files(samples, tmp_path / "p.jsonl", submit=("vqa", tmp_path / "x.json"))


@pytest.mark.parametrize("submitted", [False, True])
def test_a_submission_is_advised_where_none_is_made(tmp_path, monkeypatch, capsys, submitted):
    from test_evaluate_run import PICTURE, FakeEngine

    import vlcompare.evaluate.run as running

    (tmp_path / "COCO_test2015_000000000001.jpg").write_bytes(PICTURE.read_bytes())
    (tmp_path / "q.json").write_text(json.dumps(QUESTIONS))
    run = running.run
    monkeypatch.setattr(running, "run", lambda settings: run(settings, FakeEngine().as_engine()))
    given = ["evaluate", str(tmp_path / "q.json"), "--left", "tiny-mamba-vl", "--out", str(tmp_path / "run")]
    assert main([*given, "--no-progress", *(["--submission", "vqa"] if submitted else [])]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("--submission FORMAT writes" in said) is not submitted
    assert ("answers for vqa" in said) is submitted and "has no right answers" in said


def test_options_of_a_side_that_is_not_evaluated_are_refused(tmp_path, capsys):
    given = ["evaluate", "q.json", "--left", "tiny-mamba-vl", "--out", str(tmp_path / "run"), "--seed-right", "1"]
    assert main(given) == 2
    assert "--seed-right is for the right side, which is not asked: give --right as well." in capsys.readouterr().err


def test_a_run_over_a_set_without_answers_can_be_submitted(tmp_path):
    from test_evaluate_run import PICTURE, FakeEngine, settings

    from vlcompare.evaluate.run import run
    from vlcompare.evaluate.score_files import submit_run

    (tmp_path / "COCO_test2015_000000000001.jpg").write_bytes(PICTURE.read_bytes())
    (tmp_path / "q.json").write_text(json.dumps(QUESTIONS))
    summary = run(settings(tmp_path / "q.json", tmp_path / "run"), FakeEngine().as_engine())
    assert not summary["sides"]["left"]["tasks"] and any("no right answers" in note for note in summary["warnings"])
    assert len(submit_run(tmp_path / "run", "vqa")) == 2
    written = json.loads((tmp_path / "run" / "submission-vqa-left.json").read_text())
    assert written == [{"question_id": 1000 + n, "answer": "red"} for n in range(3)]
    again = replace(settings(tmp_path / "q.json", tmp_path / "run"), resume=True)
    run(again, FakeEngine().as_engine())


# ---- what an answer is to --------------------------------------------------------------------------------------------


def _scored(tmp_path, samples, name, answers):
    path = tmp_path / name
    path.write_text(lines(answers))
    return score_files(samples, path)


def _at(place, answer, **more):
    return {"doc_id": place, "target": "x", "resps": [[answer]], "filtered_resps": [answer], **more}


def test_documents_are_known_by_their_place_where_both_files_have_the_same_count(tmp_path, samples):
    placed = [_at(n, answer) for n, answer in enumerate(TRUE)]
    result = _scored(tmp_path, samples, "samples_x.jsonl", placed[::-1])
    assert result["tasks"]["vqa"]["accuracy"] == 1.0
    assert any(
        "place in the data set (`doc_id`): both files have the same count" in note for note in result["warnings"]
    )
    asked = [{**row, "input": f"{ASKED[row['doc_id']]}\nAnswer shortly."} for row in placed]
    assert _scored(tmp_path, samples, "asked.jsonl", asked)["tasks"]["vqa"]["accuracy"] == 1.0
    for wrong in (placed[:2], [{**row, "doc_id": row["doc_id"] + 1} for row in placed]):
        with pytest.raises(SampleError, match=r"by place alone \(`doc_id` \d to \d\).*--limit"):
            _scored(tmp_path, samples, "fewer.jsonl", wrong)
    other = [{**row, "input": "Where is the sun?"} for row in placed]
    with pytest.raises(SampleError, match="None of the 3 answers"):
        _scored(tmp_path, samples, "other.jsonl", other)


def test_what_was_to_be_submitted_names_the_question_where_the_document_is_not_kept(tmp_path, samples):
    rows_ = [_at(n, a, doc={}, submission={"question_id": int(IDS[n]), "answer": a}) for n, a in enumerate(TRUE)]
    assert _scored(tmp_path, samples, "s.jsonl", rows_)["predictions"]["matched_by"] == "id"


def test_second_answers_are_alerts_the_same_and_others_apart(tmp_path, samples):
    """By either reader: this project's own lines, and others'."""
    for key, said in (("id", "text"), ("question_id", "answer")):
        twice = [(IDS[0], "a cat"), (IDS[0], "a cat"), (IDS[1], "2"), (IDS[1], "3"), (IDS[2], "no")]
        result = _scored(tmp_path, samples, f"{key}.jsonl", [{key: id, said: answer} for id, answer in twice])
        assert result["tasks"]["vqa"]["accuracy"] == 1.0
        assert (result["predictions"]["duplicates"], result["predictions"]["contradicting"]) == (2, 1)
        first, second = result["alerts"]
        assert first.startswith("1 answer contradicts an") and second.startswith("1 answer repeats an")


def test_answers_to_other_questions_are_told(tmp_path, samples):
    answers = [{"question_id": id, "prompt": f"{q}\nAnswer the question using a single word or phrase.", "text": a}
               for id, q, a in zip(IDS, ASKED, TRUE, strict=True)]  # fmt: skip
    assert not _scored(tmp_path, samples, "llava.jsonl", answers)["alerts"]
    answers[1]["prompt"] = "Where is the dog?"
    (alert,) = _scored(tmp_path, samples, "one.jsonl", answers)["alerts"]
    assert "1 answer is to another question" in alert and "'Where is the dog?' where 'How many?' is asked" in alert
    for answer in answers:
        answer["prompt"] = "Where is the dog?"
    with pytest.raises(SampleError, match="`question_id` fits, but they are to other questions, such as 'Where is"):
        _scored(tmp_path, samples, "all.jsonl", answers)


@pytest.mark.parametrize("end", ["", "\nAnswer the question using a single word or phrase."])
def test_a_file_of_questions_is_no_file_of_answers(tmp_path, samples, end):
    questions = [{"question_id": id, "image": "a.jpg", "text": q + end} for id, q in zip(IDS, ASKED, strict=True)]
    with pytest.raises(SampleError, match="holds questions, not answers"):
        _scored(tmp_path, samples, "questions.jsonl", questions)
    (tmp_path / "q.json").write_text(json.dumps(QUESTIONS))
    with pytest.raises(SampleError, match="holds questions, not answers"):
        score_files(samples, tmp_path / "q.json")


def test_captions_may_name_their_pictures_alone(tmp_path):
    captions = {"images": [{"id": 7, "file_name": "a b.jpg"}, {"id": 8, "file_name": "c.jpg"}]}
    captions["annotations"] = [{"image_id": id, "id": id, "caption": "A man on a bike."} for id in (7, 8)]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    given = [{"image": f"val2014/{name}", "caption": "a man on a bike"} for name in ("a b.jpg", "c.jpg")]
    result = _scored(tmp_path, tmp_path / "captions.json", "results.jsonl", given)
    assert result["tasks"]["captioning"]["rouge_l"] == pytest.approx(1.0)
    assert result["predictions"]["matched_by"].startswith("image, where")


def test_a_phrase_beside_its_box_is_an_answer_and_a_mark_for_the_picture_is_no_word(tmp_path, samples):
    found = {"id": "1", "image": "a.jpg", "task": "grounding", "text": "the dog", "boxes": [TRUTH]}
    (tmp_path / "g.jsonl").write_text(lines([found]))
    said = [{"id": 1, "text": "the dog", "boxes": [TRUTH]}]
    assert _scored(tmp_path, tmp_path / "g.jsonl", "p.jsonl", said)["tasks"]["grounding"]["mean_iou"] == 1
    marked = [{"question_id": id, "question": q.replace(" ", " <image 1> "), "answer": a}
              for id, q, a in zip(IDS, ASKED, TRUE, strict=True)]  # fmt: skip
    assert not _scored(tmp_path, samples, "m.jsonl", marked)["alerts"]
