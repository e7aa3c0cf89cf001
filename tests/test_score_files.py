"""Scoring of files, end to end: worked figures, and everything that can be wrong with a predictions file."""

from __future__ import annotations

import json

import pytest

from vlcompare.cli import main
from vlcompare.errors import SampleError
from vlcompare.evaluate.published import group_of
from vlcompare.evaluate.score_files import score_files
from vlcompare.evaluate.summary_text import figures_as_text
from vlcompare.runtime.loading.registry import registry


def write(path, rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def files(tmp_path):
    def make(samples, predictions, **options):
        return score_files(write(tmp_path / "s.jsonl", samples), write(tmp_path / "p.jsonl", predictions), **options)

    return make


def grounding(name, box, image="a.png"):
    return {"id": name, "image": image, "task": "grounding", "text": "it", "boxes": [box]}


TRUTH = [0.1, 0.1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("answer", "iou", "center", "parsed"),
    [
        ({"text": "[0.10,0.10,0.50,0.50]."}, 1.0, 1, 1),
        ({"text": "[0.10,0.10,0.30,0.50]."}, 0.5, 1, 1),  # exactly a half counts for acc@0.5
        ({"text": "it is at [0.1, 0.1, 0.5, 0.5]"}, 1.0, 1, 1),
        ({"text": "[0.50,0.50,0.10,0.10]."}, 0.0, 0, 1),  # inverted: read, and worth nothing
        ({"text": "[0.10,0.10,0.10,0.50]."}, 0.0, 0, 1),  # empty
        ({"text": "[0.10,0.10,0.50]."}, 0.0, 0, 0),
        ({"text": "no box"}, 0.0, 0, 0),
        ({"text": ""}, 0.0, 0, 0),
        ({"text": "[0.60,0.60,0.90,0.90] [0.10,0.10,0.50,0.50]"}, 0.0, 0, 1),  # the first one counts
        ({"text": "nothing", "boxes": [[0.1, 0.1, 0.5, 0.5]]}, 1.0, 1, 1),
        ({"boxes": [0.1, 0.1, 0.5, 0.5]}, 1.0, 1, 1),
        ({"text": "[0.10,0.10,0.50,0.50]", "boxes": [[0.6, 0.6, 0.9, 0.9]]}, 0.0, 0, 1),  # given boxes go first
        ({"text": "", "boxes": [["a", 0, 1, 1]]}, 0.0, 0, 0),
        ({"text": "[-0.50,-0.50,1.50,1.50]"}, 0.16, 1, 1),  # clipped to the whole picture
        ({"text": "", "boxes": [[10, 10, 200, 200]]}, 0.0, 0, 1),
        ({"text": "", "error": "out of memory"}, 0.0, 0, 0),
    ],
)
def test_one_box(files, answer, iou, center, parsed):
    task = files([grounding("a", TRUTH)], [{"id": "a", **answer}])["tasks"]["grounding"]
    assert task["n"] == 1
    assert task["mean_iou"] == pytest.approx(iou)
    assert [task[f"acc@{t}"] for t in (0.3, 0.5, 0.7, 0.9)] == [float(iou >= t - 1e-9) for t in (0.3, 0.5, 0.7, 0.9)]
    assert (task["center"], task["parse_rate"]) == (center, parsed)


def test_missing_answers_count_as_wrong_and_are_reported(files):
    result = files([grounding("a", TRUTH), grounding("b", TRUTH)], [{"id": "a", "text": "[0.10,0.10,0.50,0.50]"}])
    assert result["tasks"]["grounding"]["acc@0.5"] == 0.5
    assert result["report"]["grounding"]["missing"] == 1
    assert any("no answer" in warning for warning in result["warnings"])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "is empty"),
        (
            [{"name": "a", "words": "x"}] * 2,
            r"no answer that can be used. Its rows have: name, words. Expected are an id \(id",
        ),
        (
            [{"id": "b", "text": "x"}, {"id": "c", "text": "y"}],
            r"None of the 2 answers .* by `id`, such as 'b', 'c'.*'a'",
        ),
    ],
)
def test_nothing_usable_and_nothing_matched_are_errors_with_status_2(tmp_path, capsys, rows, sentence):
    samples = write(tmp_path / "s.jsonl", [grounding("a", TRUTH)])
    answers = write(tmp_path / "p.jsonl", rows)
    with pytest.raises(SampleError, match=sentence):
        score_files(samples, answers)
    assert main(["score", str(samples), str(answers)]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1


def test_few_answers_are_a_warning_above_the_figures(files, tmp_path, capsys):
    samples = [grounding(str(n), TRUTH) for n in range(10)]
    result = files(samples, [{"id": "3", "text": "[0.10,0.10,0.50,0.50]"}])
    assert result["alerts"] == ["Only 1 of 10 samples (10 %) have an answer; the others count as wrong."]
    assert main(["score", str(tmp_path / "s.jsonl"), str(tmp_path / "p.jsonl")]) == 0
    assert capsys.readouterr().out.startswith("warning: Only 1 of 10")
    assert not files(samples, [{"id": str(n), "text": "x"} for n in range(9)])["alerts"]


def test_every_task_in_one_file(files):
    samples = [
        grounding("g", TRUTH),
        {"id": "r", "image": "a.png", "task": "region_description", "boxes": [TRUTH], "references": ["a red car"]},
        {
            "id": "m",
            "image": "a.png",
            "task": "multiple_choice",
            "text": "q",
            "choices": ["x", "y"],
            "references": ["B"],
        },
        {
            "id": "p",
            "image": "a.png",
            "task": "pointing",
            "text": "q",
            "choices": [TRUTH, [0, 0, 1, 1]],
            "references": ["A"],
        },
        {"id": "i", "image": "a.png", "task": "image_text_match", "text": "s", "references": ["True"]},
        {"id": "v", "image": "a.png", "task": "vqa", "text": "q", "references": ["two"] * 10},
        {"id": "d", "image": "a.png", "task": "document_vqa", "text": "q", "references": ["Rs. 12 Crore", "12 crore"]},
        {"id": "c", "image": "a.png", "task": "captioning", "references": ["a red car", "one car"]},
        {
            "id": "o",
            "image": "a.png",
            "task": "grounded_captioning",
            "references": ["||a car [0.10,0.10,0.50,0.50]||."],
        },
        {"id": "t", "image": "a.png", "task": "chat", "text": "hello"},
    ]
    answers = {
        "g": "[0.10,0.10,0.50,0.50].",
        "r": "A red car.",
        "m": "b",
        "p": "A.",
        "i": "True.",
        "v": "2",
        "d": "12 crores",
        "c": "A red car.",
        "o": "||A car [0.10,0.10,0.50,0.50]||.",
        "t": "hi",
    }
    tasks = files(samples, [{"id": key, "text": text} for key, text in answers.items()])["tasks"]
    assert set(tasks) == {s["task"] for s in samples} - {"chat"}
    for task, metric in [
        ("grounding", "acc@0.9"),
        ("region_description", "accuracy"),
        ("multiple_choice", "accuracy"),
        ("pointing", "accuracy"),
        ("image_text_match", "accuracy"),
        ("vqa", "accuracy"),
        ("captioning", "rouge_l"),
        ("grounded_captioning", "box_f1"),
    ]:
        assert tasks[task][metric] == 1.0, task
    assert tasks["document_vqa"] == {
        "n": 1,
        "anls": pytest.approx(1 - 1 / 9),
        "anls_strict": pytest.approx(1 - 1 / 9),
        "exact": 0.0,
        "ci95": tasks["document_vqa"]["ci95"],
    }
    for figures in tasks.values():
        metrics = set(figures) - {"n", "ci95"}
        assert set(figures["ci95"]) == metrics
        for metric in metrics - {"cider_d"}:
            low, high = figures["ci95"][metric]
            assert low <= figures[metric] <= high


@pytest.mark.parametrize(
    ("text", "right"),
    [("B", 1), ("b.", 1), ("(B)", 1), ("B: blue", 1), ("A", 0), ("C", 0), ("blue", 0), ("", 0), ("A man", 0)],
)
def test_multiple_choice_reads_a_letter(files, text, right):
    sample = {
        "id": "m",
        "image": "a",
        "task": "multiple_choice",
        "text": "q",
        "choices": ["red", "blue"],
        "references": ["B"],
    }
    assert files([sample], [{"id": "m", "text": text}])["tasks"]["multiple_choice"]["accuracy"] == right


def test_multiple_choice_reads_a_letter_leniently_beside(files):
    said = ["B", "Answer: B", "the cell wall", "A nucleus", "none"]
    samples = [
        {
            "id": str(i),
            "image": "a.png",
            "task": "multiple_choice",
            "text": "q",
            "choices": ["a nucleus", "the cell wall"],
            "references": ["B"],
        }
        for i in range(len(said))
    ]
    found = files(samples, [{"id": str(i), "text": text} for i, text in enumerate(said)])["tasks"]["multiple_choice"]
    assert (found["accuracy"], found["accuracy_lenient"]) == (1 / 5, 3 / 5)
    boxes = {"task": "pointing", "choices": [TRUTH, [0, 0, 1, 1]], "references": ["A"]}
    found = files([{**samples[0], **boxes}], [{"id": "0", "text": "The answer is A."}])["tasks"]["pointing"]
    assert (found["accuracy"], found["accuracy_lenient"]) == (0, 1)


@pytest.mark.parametrize(
    ("source", "accuracy", "normalised"),
    [
        ("vqav2", 0, 1),
        ("VQA v2", 0, 1),
        ("vqav2_val", 0, 1),
        ("vqa", 0, 1),
        ("okvqa", 0, 1),
        ("OK-VQA", 0, 1),
        ("textvqa", 1, None),
        ("aokvqa", 1, None),
        ("vqa-rad", 1, None),
        ("vqarad", 1, None),
        (None, 1, None),
    ],  # fmt: skip
)
def test_unanimous_references_are_left_as_they_stand_by_vqas_own_script(files, source, accuracy, normalised):
    sample = {"id": "a", "image": "a", "task": "vqa", "text": "q", "references": ["yes"] * 10, "source": source}
    found = files([sample], [{"id": "a", "text": "Yes"}])["tasks"]["vqa"]
    assert found["accuracy"] == accuracy and found.get("accuracy_normalised") == normalised


def test_both_definitions_count_their_own_rows_only(files):
    samples = [
        {"id": source, "image": source, "task": "vqa", "text": "q", "references": ["yes"] * 10, "source": source}
        for source in ("vqav2", "pope", "gqa")
    ]
    found = files(samples, [{"id": source, "text": "Yes it is"} for source in ("pope", "gqa")])["tasks"]["vqa"]
    assert found["accuracy"] == pytest.approx(1 / 3)  # POPE alone
    assert (found["accuracy_normalised"], found["accuracy_exact"], found["f1"], found["yes_rate"]) == (0, 0, 1, 1)


def test_what_a_pope_answer_of_nothing_counts(files):
    """POPE's script reads an empty answer as "yes"; a row without an answer is wrong."""
    samples = [
        {"id": str(i), "image": f"{i}.png", "task": "vqa", "text": "q", "references": [truth], "source": "pope"}
        for i, truth in enumerate(["yes", "no", "yes", "no"])
    ]
    found = files(samples, [{"id": "0", "text": ""}, {"id": "1", "text": ""}])["tasks"]["vqa"]
    assert (found["accuracy"], found["yes_rate"]) == (1 / 4, 1 / 2)
    assert found["f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1)) and found["accuracy_exact"] == 0


def test_boxes_are_clipped_before_the_iou_and_the_definition_says_so(files):
    truth, said = [0.05, 0.4, 0.25, 0.7], [-0.1, 0.4, 0.25, 0.7]
    result = files([grounding("a", truth)], [{"id": "a", "boxes": [said]}])
    assert result["tasks"]["grounding"]["mean_iou"] == pytest.approx(0.8)
    for metric in ("acc@0.5", "mean_iou", "center"):
        assert "clipped" in result["definitions"]["grounding"][metric]


def test_intervals_over_few_pictures_are_marked(files):
    samples = [grounding(str(i), TRUTH, image=f"{i // 5}.png") for i in range(30)]
    said = [{"id": str(i), "text": "[0.10,0.10,0.50,0.50]"} for i in range(30)]
    result = files(samples, said)
    assert "6 pictures only" in result["ci95_notes"]["grounding"]["mean_iou"]
    text = figures_as_text(result)
    assert "]*" in text and "\n* 6 pictures only" in text
    alone = files([grounding(str(i), TRUTH, image=f"{i}.png") for i in range(30)], said)
    assert alone["ci95_notes"] == {} and "*" not in figures_as_text(alone)


def test_a_question_asked_in_turned_order_counts_once(files):
    row = {"image": "a", "task": "multiple_choice", "text": "q", "choices": ["x", "y"], "references": ["A"]}
    samples = [{**row, "id": id} for id in ("241", "242", "243")]
    samples += [{**row, "id": f"1000{id}", "references": ["B"], "tags": {"circular": id}} for id in ("241", "242")]
    said = {"241": "A", "1000241": "B", "242": "A", "1000242": "A", "243": "A"}
    figures = files(samples, [{"id": id, "text": text} for id, text in said.items()])["tasks"]["multiple_choice"]
    assert (figures["n"], figures["accuracy"], figures["accuracy_lenient"]) == (
        3,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    )
    assert figures["parse_rate"] == 1.0


def test_a_summary_without_notes_is_still_shown(files):
    """As earlier versions wrote them."""
    result = files([grounding("a", TRUTH)], [{"id": "a", "text": "[0.10,0.10,0.50,0.50]"}])
    del result["ci95_notes"]
    assert "mean_iou" in figures_as_text(result) and "*" not in figures_as_text(result)


def test_sides_and_the_paired_difference(files):
    samples = [grounding(str(i), TRUTH, image=f"{i // 2}.png") for i in range(8)]
    good, bad = "[0.10,0.10,0.50,0.50]", "[0.60,0.60,0.90,0.90]"
    rows = [{"id": str(i), "side": "left", "text": good if i < 6 else bad} for i in range(8)]
    rows += [{"id": str(i), "side": "right", "text": good if i in (0, 1, 6) else bad} for i in range(8)]
    result = files(samples, rows)
    assert set(result["sides"]) == {"left", "right"} and "tasks" not in result
    pair = result["paired"]["grounding"]["acc@0.5"]
    assert pair["difference"] == pytest.approx(6 / 8 - 3 / 8)
    assert (pair["both"], pair["only_left"], pair["only_right"], pair["neither"]) == (2, 4, 1, 1)
    assert (pair["n"], pair["n_images"]) == (8, 4)
    assert pair["ci95"][0] < pair["difference"] < pair["ci95"][1]
    assert set(result["paired"]["grounding"]) == set(result["sides"]["left"]["tasks"]["grounding"]) - {"n", "ci95"}


def test_pope_has_f1_and_yes_rate_over_its_own_rows(files):
    samples = [
        {"id": str(i), "image": f"{i}.png", "task": "vqa", "text": "q", "references": [truth], "source": "pope"}
        for i, truth in enumerate(["yes", "yes", "no", "no"])
    ]
    samples.append({"id": "x", "image": "x.png", "task": "vqa", "text": "q", "references": ["red"]})
    said = {"0": "Yes.", "1": "no", "2": "yes", "3": "No.", "x": "red"}
    task = files(samples, [{"id": key, "text": text} for key, text in said.items()])["tasks"]["vqa"]
    assert task["accuracy"] == pytest.approx(3 / 5)
    assert task["f1"] == pytest.approx(2 * 1 / (2 * 1 + 1 + 1))
    assert task["yes_rate"] == pytest.approx(0.5)


def test_gqa_is_an_exact_match(files):
    sample = {"id": "a", "image": "a", "task": "vqa", "text": "q", "references": ["two"], "source": "gqa"}
    assert files([sample], [{"id": "a", "text": "2"}])["tasks"]["vqa"]["accuracy"] == 0
    assert files([sample], [{"id": "a", "text": "Two."}])["tasks"]["vqa"]["accuracy"] == 1


def test_bad_prediction_lines_are_named_and_the_first_answer_counts(files):
    rows = [
        {"id": "a", "text": "[0.10,0.10,0.50,0.50]"},
        {"id": "a", "text": "no box"},
        {"id": "unknown", "text": "x"},
        {"text": "no id"},
        {"id": "b"},
        "{not json",
        "[1, 2]",
    ]
    result = files([grounding("a", TRUTH)], rows)
    assert result["tasks"]["grounding"]["acc@0.5"] == 1
    assert result["predictions"]["duplicates"] == 1 and result["predictions"]["unknown_ids"] == 1
    assert [p.split(":")[0] for p in result["predictions"]["problems"]] == [f"line {n}" for n in (2, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("said", "f1"),
    [
        ({"text": "||a dog [0.10,0.10,0.50,0.50]||"}, 1.0),
        ({"text": "a dog", "boxes": [TRUTH], "phrases": ["A dog"]}, 1.0),
        ({"text": "||a dog [0.10,0.10,0.50,0.50]||", "boxes": [TRUTH]}, 1.0),
        ({"text": "x", "boxes": [TRUTH, [0.6, 0.6, 0.9, 0.9]], "phrases": ["a dog", "a dog"]}, 2 / 3),
        ({"text": "||a dog [0.10,0.10,0.50,0.50]||", "boxes": [TRUTH, TRUTH, TRUTH]}, 0.0),  # whose phrase is it?
        ({"text": "no box at all"}, 0.0),
    ],
)
def test_every_box_of_a_grounded_caption_counts(files, said, f1):
    sample = {"id": "a", "image": "a.png", "task": "grounded_captioning"}
    sample["references"] = ["||a dog [0.10,0.10,0.50,0.50]||."]
    task = files([sample], [{"id": "a", **said}])["tasks"]["grounded_captioning"]
    assert task["box_f1"] == pytest.approx(f1)


def test_definitions_are_those_of_their_task(files):
    samples = [
        {**grounding("a", TRUTH)},
        {
            "id": "b",
            "image": "b.png",
            "task": "multiple_choice",
            "text": "q",
            "choices": ["x", "y"],
            "references": ["A"],
        },
    ]
    found = files(samples, [{"id": "a", "text": "x"}])["definitions"]
    assert "box" in found["grounding"]["parse_rate"]
    assert "letter" in found["multiple_choice"]["parse_rate"] and "box" not in found["multiple_choice"]["parse_rate"]


def test_rows_of_others_may_hold_anything(files):
    huge = int("1" + "0" * 400)
    rows = [{"id": "a", "text": "", "boxes": [[huge, 0, 1, 1], TRUTH], "checkpoint": {"name": ["x"]}}]
    task = files([grounding("a", TRUTH)], rows)["tasks"]["grounding"]
    assert task["mean_iou"] == pytest.approx(1.0)


def test_ids_may_be_numbers(files):
    assert (
        files([{**grounding(7, TRUTH)}], [{"id": 7, "text": "[0.1,0.1,0.5,0.5]"}])["tasks"]["grounding"]["acc@0.5"] == 1
    )


def test_rows_with_and_without_a_side_are_refused(files):
    with pytest.raises(SampleError, match="name no side"):
        files([grounding("a", TRUTH)], [{"id": "a", "text": "x"}, {"id": "a", "text": "x", "side": "left"}])


def test_broken_samples_are_skipped_and_counted(files):
    samples = [grounding("a", TRUTH), grounding("b", [0.5, 0.5, 0.1, 0.1]), "{", grounding("a", TRUTH)]
    result = files(samples, [{"id": "a", "text": "[0.1,0.1,0.5,0.5]"}])
    assert result["samples"]["read"] == 1 and result["samples"]["skipped"] == 3
    assert "inverted" in result["samples"]["issues"][0] and result["samples"]["issues"][1].startswith("line 3")


def test_nothing_to_score_is_one_sentence(files):
    with pytest.raises(SampleError, match="not JSON"):
        files(["{"], [{"id": "a", "text": "x"}])


def test_boxes_in_pixels_are_warned_about(files):
    result = files([grounding("a", TRUTH)], [{"id": "a", "boxes": [[10, 10, 200, 200]]}])
    assert any("pixels" in warning for warning in result["alerts"])


def test_a_caption_subset_is_labelled(files):
    samples = [
        {"id": str(i), "image": f"{i}", "task": "captioning", "references": [f"a {w} car"]} for i, w in enumerate("ab")
    ]
    result = files(samples, [{"id": "0", "text": "a a car"}, {"id": "1", "text": ""}])
    assert any("CIDEr-D" in warning for warning in result["warnings"])
    assert "132.89" in result["definitions"]["captioning"]["cider_d"]


def test_every_published_benchmark_has_a_group():
    groups = {benchmark.name: group_of(benchmark.name) for benchmark in registry().benchmarks}
    retrieval = {"V7W-P", "RefCOCOg", *(f"RefCOCO{more} {split}" for more in ("", "+") for split in "AB")}
    assert {name for name, group in groups.items() if group == "retrieval"} == retrieval
    assert {name for name, group in groups.items() if group == "reading"} == {"TextCaps", "TextVQA", "AI2D"}
    assert len(groups) == 16 and groups["V7W-T"] == groups["POPE"] == "summary"


def test_a_known_checkpoint_gets_its_published_figure(files):
    samples = [grounding("a", TRUTH) | {"source": "refcoco", "split": "testA"}]
    row = {"id": "a", "side": "left", "text": "[0.1,0.1,0.5,0.5]", "checkpoint": "finetuned_mambavl_2.8b"}
    rows = files(samples, [row])["published"]["rows"]
    assert [(r["benchmark"], r["published"], r["difference"]) for r in rows] == [
        ("RefCOCO A", 79.29, pytest.approx(20.71))
    ]


def test_the_command_writes_json(tmp_path, capsys):
    import argparse

    from vlcompare.cli.score import add_parser, run

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    samples = write(tmp_path / "s.jsonl", [grounding("a", TRUTH)])
    predictions = write(tmp_path / "p.jsonl", [{"id": "a", "text": "[0.1,0.1,0.5,0.5]"}])
    out = tmp_path / "out.json"
    assert run(parser.parse_args(["score", str(samples), str(predictions), "--json", str(out)])) == 0
    assert json.loads(out.read_text())["tasks"]["grounding"]["acc@0.5"] == 1.0
    assert "acc@0.5" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["score", "samples.jsonl", "answers.jsonl"], ["bench"]])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, command):
    assert main([*command, "--json", str(tmp_path / "nowhere" / "f.json")]) == 2
    assert "name a file in a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--submission-file", "x.json"], "--submission FORMAT what is written: give that as well"),
        (["--submission", "vqa", "--submission-file", "nowhere/x.json"], "--submission-file nowhere/x.json cannot"),
    ],
)
def test_where_answers_go_is_checked_before_the_work(given, said, monkeypatch, capsys):
    monkeypatch.setattr("vlcompare.evaluate.score_files.score_files", lambda *a, **k: pytest.fail("scored"))
    assert main(["score", "samples.jsonl", "answers.jsonl", *given]) == 2
    assert said in capsys.readouterr().err
