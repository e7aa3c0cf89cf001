"""Readers: files in each format's true schema, right rows and broken ones, made by hand in fixtures/readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlcompare.errors import HubError, SampleError
from vlcompare.evaluate.readers import open_samples
from vlcompare.evaluate.readers.base import literal_texts
from vlcompare.types import Box

HERE = Path(__file__).parent / "fixtures" / "readers"
PICTURES = HERE / "pictures"


def read(name, format, **declared):
    stream = open_samples(HERE / name, format=format, **declared)
    return stream, list(stream)


def picture(sample):
    from vlcompare.runtime.image import open_image

    return open_image(sample.image() if callable(sample.image) else sample.image)


# name, format, declared, read, skipped, then fields of the first sample
CASES = [
    (
        "coco_captions.json",
        "coco-captions",
        {"images": PICTURES},
        2,
        3,
        {"id": "42", "task": "captioning", "references": ("A red wall.", "A wall that is red"), "source": "coco"},
    ),
    (
        "vqav2_questions.json",
        "vqav2",
        {"images": PICTURES, "annotations": HERE / "vqav2_annotations.json"},
        2,
        2,
        {
            "id": "42000",
            "text": "What color is the wall?",
            "references": ("red",) * 8 + ("dark red", "maroon"),
            "split": "val2014",
            "tags": {"question_type": "what color is the", "answer_type": "other"},
        },
    ),
    (
        "gqa.json",
        "gqa",
        {"images": PICTURES},
        1,
        2,
        {"id": "20602949", "references": ("yes",), "source": "gqa"},
    ),
    (
        "docvqa.json",
        "docvqa",
        {"images": PICTURES},
        1,
        1,
        {"id": "49153", "task": "document_vqa", "references": ("Rs. 12 Crore", "12 Crore"), "split": "val"},
    ),
    ("pope.jsonl", "pope", {"images": PICTURES}, 2, 2, {"id": "1", "references": ("yes",), "source": "pope"}),
    (
        "vsr.jsonl",
        "vsr",
        {"images": PICTURES},
        2,
        1,
        {"task": "image_text_match", "references": ("True",), "tags": {"relation": "at the right side of"}},
    ),
    (
        "ai2d",
        "ai2d",
        {},
        1,
        1,
        {"id": "0.png-0", "choices": ("a Cell wall", "nucleus", "B"), "references": ("B",), "source": "ai2d"},
    ),
    ("ai2d.jsonl", "ai2d", {}, 1, 1, {"choices": ("a", "b", "c", "d"), "references": ("C",)}),
    (
        "visual7w_telling.json",
        "visual7w",
        {"images": PICTURES},
        1,
        2,
        {"id": "986769", "task": "multiple_choice", "split": "test", "tags": {"question_type": "where"}},
    ),
    ("visual7w_pointing.json", "visual7w", {"images": PICTURES}, 1, 1, {"id": "200000", "task": "pointing"}),
    (
        "refcoco_hub.jsonl",
        "refcoco",
        {"images": PICTURES, "box_format": "xyxy", "box_scale": "absolute"},
        2,
        1,
        {"id": "0-0", "text": "the lady with the blue shirt", "boxes": (Box(0.1, 0.1, 0.5, 0.5),), "split": "testA"},
    ),
    (
        "refcoco_hw.jsonl",
        "refcoco",
        {"images": PICTURES, "box_format": "xywh", "box_scale": "absolute"},
        2,
        1,
        {"text": "the grey wall", "boxes": (Box(0.1, 0.1, 0.5, 0.5),)},
    ),
    (
        "vlmevalkit_mcq.tsv",
        "vlmevalkit",
        {},
        2,
        2,
        {"id": "0", "choices": ("red", "blue", "green"), "references": ("A",), "split": "dev"},
    ),
    (
        "vlmevalkit_vqa.tsv",
        "vlmevalkit",
        {"task": "document_vqa"},
        2,
        0,
        {"task": "document_vqa", "references": ("12 Crore", "Rs. 12")},
    ),
    ("ours.jsonl", "jsonl", {}, 6, 10, {"id": "scene-grounding-1", "boxes": (Box(0.1, 0.2, 0.4, 0.5),)}),
    ("pictures", "folder", {"question": "What is it?"}, 7, 0, {"task": "vqa", "text": "What is it?"}),
]


@pytest.mark.parametrize(("name", "format", "declared", "count", "skipped", "first"), CASES, ids=[c[0] for c in CASES])
def test_each_format(name, format, declared, count, skipped, first):
    stream, samples = read(name, format, **declared)
    assert (len(samples), stream.skipped) == (count, skipped), [str(issue) for issue in stream.issues]
    assert {key: getattr(samples[0], key) for key in first} == first
    for sample in samples:
        assert picture(sample).size == (80, 60)
        assert sample.image_key
    assert len(stream.issues) == skipped and all(issue.location and issue.reason for issue in stream.issues)
    assert len(list(stream)) == count and stream.skipped == skipped  # reading again reads the same


def test_broken_rows_name_their_line_and_reason():
    stream, _ = read("ours.jsonl", "jsonl")
    found = [str(issue) for issue in stream.issues]
    for location, reason in [
        ("line 7", "`task` is None"),
        ("line 8", "inverted"),
        ("line 9", "outside the data folder"),
        ("line 10", "outside the data folder"),
        ("line 11", "not a file name"),
        ("line 12", "is not in"),
        ("line 13, sample 'inline'", "same `id`"),
        ("line 14", "not JSON"),
        ("line 15", "not a JSON object"),
        ("line 16, sample 'letter'", "not a letter"),
    ]:
        assert any(issue.startswith(location) and reason in issue for issue in found), (location, reason, found)


def test_rows_of_one_picture_share_their_key():
    _, samples = read("refcoco_hub.jsonl", "refcoco", images=PICTURES, box_format="xyxy", box_scale="absolute")
    assert samples[0].image_key == samples[1].image_key
    _, samples = read("vlmevalkit_mcq.tsv", "vlmevalkit")
    assert samples[0].image_key == samples[1].image_key and samples[0].image == samples[1].image
    assert samples[1].text == 'look closely\nAnd\nnow, "again"?'


@pytest.mark.parametrize("declared", [{}, {"box_format": "xyxy"}, {"box_scale": "absolute"}])
def test_undeclared_boxes_are_refused_with_a_sentence(declared):
    with pytest.raises(SampleError, match="--box-format"):
        read("refcoco_hub.jsonl", "refcoco", images=PICTURES, **declared)


@pytest.mark.parametrize(
    ("format", "scale", "numbers", "box"),
    [
        ("xyxy", "absolute", [8, 6, 40, 30], (0.1, 0.1, 0.5, 0.5)),
        ("xywh", "absolute", [8, 6, 32, 24], (0.1, 0.1, 0.5, 0.5)),
        ("xyxy", "relative", [0.1, 0.1, 0.5, 0.5], (0.1, 0.1, 0.5, 0.5)),
        ("xywh", "relative", [0.1, 0.1, 0.4, 0.4], (0.1, 0.1, 0.5, 0.5)),
        ("xyxy", "thousandths", [100, 100, 500, 500], (0.1, 0.1, 0.5, 0.5)),
        ("xyxy", "relative", [8, 6, 40, 30], None),  # declared wrongly: refused, not repaired
        ("xyxy", "absolute", [40, 6, 8, 30], None),
        ("xyxy", "absolute", [8, 6, 40, float("nan")], None),
        ("xyxy", "absolute", ["a", 6, 40, 30], None),
    ],
)
def test_boxes_are_read_as_declared(tmp_path, format, scale, numbers, box):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"image": "v7w_1.jpg", "sent": "it", "bbox": numbers}) + "\n")
    stream = open_samples(path, format="refcoco", images=PICTURES, box_format=format, box_scale=scale)
    samples = list(stream)
    if box is None:
        assert not samples and stream.skipped == 1
    else:
        assert samples[0].boxes[0] == pytest.approx(box)


def test_parquet_as_on_the_hub(tmp_path):
    import pyarrow
    import pyarrow.parquet

    data = (PICTURES / "v7w_1.jpg").read_bytes()
    table = pyarrow.table(
        {
            "question_id": [1, 2],
            "image": [{"bytes": data, "path": "x.jpg"}, {"bytes": data, "path": "x.jpg"}],
            "answer": [["the left one", "left"], ["right"]],
            "bbox": [[8.0, 6.0, 32.0, 24.0], [1.0, 1.0, -5.0, 2.0]],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "r.parquet")
    stream = open_samples(tmp_path / "r.parquet", format="refcoco", box_format="xywh", box_scale="absolute")
    samples = list(stream)
    assert [(s.id, s.text) for s in samples] == [("1-0", "the left one"), ("1-1", "left")]
    assert samples[0].boxes[0] == pytest.approx((0.1, 0.1, 0.5, 0.5)) and picture(samples[0]).size == (80, 60)
    assert stream.skipped == 1
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SampleError, match="parquet"):
        list(open_samples(tmp_path / "broken.parquet", format="refcoco", box_format="xywh", box_scale="absolute"))


class FakeHub:
    """Stands for `datasets.load_dataset`: remembers how it was called, and counts the rows taken."""

    def __init__(self, rows):
        self.rows, self.taken, self.called = rows, 0, None

    def __call__(self, name, config, **options):
        self.called = (name, config, options)
        return self

    def __iter__(self):
        for row in self.rows:
            self.taken += 1
            yield row


def test_hub_sets_are_streamed_row_by_row():
    data = (PICTURES / "v7w_1.jpg").read_bytes()
    hub = FakeHub(
        [
            {"question_id": i, "image": {"bytes": data}, "question": "What?", "answers": [{"answer": "a"}] * 10}
            for i in range(50)
        ]
    )
    stream = open_samples("hub:owner/vqa", format="vqav2", split="validation", config="c", load_dataset=hub, limit=3)
    samples = list(stream)
    assert [s.id for s in samples] == ["0", "1", "2"] and samples[0].references == ("a",) * 10
    assert hub.taken <= 4
    assert hub.called == ("owner/vqa", "c", {"split": "validation", "streaming": True, "revision": None})


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        (
            "refcoco",
            {"question_id": "q", "answer": ["it"], "bbox": [0, 0, 40, 30]},
            {"task": "grounding", "text": "it"},
        ),
        ("coco-captions", {"question_id": "x", "answer": ["a", "b"]}, {"task": "captioning", "references": ("a", "b")}),
        ("pope", {"question_id": "1", "question": "Is?", "answer": "yes"}, {"references": ("yes",), "source": "pope"}),
        ("docvqa", {"questionId": "1", "question": "T?", "answers": ["a", "b"]}, {"task": "document_vqa"}),
        ("vsr", {"caption": "c", "label": 0, "relation": "on"}, {"references": ("False",), "tags": {"relation": "on"}}),
        (
            "ai2d",
            {"question": "q", "options": ["x", "y"], "answer": "1"},
            {"references": ("B",), "choices": ("x", "y")},
        ),
        ("gqa", {"id": "7", "question": "q", "answer": "yes"}, {"id": "7", "references": ("yes",)}),
        (
            "vlmevalkit",  # as MMBench stands on the Hub
            {"index": 3, "question": "q", "hint": "nan", "A": "x", "B": "y", "C": "nan", "D": "nan", "answer": "B"},
            {"id": "3", "text": "q", "choices": ("x", "y"), "references": ("B",)},
        ),
    ],
)
def test_rows_of_hub_sets(format, row, expected):
    row = {**row, "image": {"bytes": (PICTURES / "v7w_1.jpg").read_bytes(), "path": None}}
    hub = FakeHub([row, {"image": None}])
    declared = {"box_format": "xyxy", "box_scale": "absolute"} if format == "refcoco" else {}
    stream = open_samples("hub:a/b", format=format, split="test", load_dataset=hub, **declared)
    samples = list(stream)
    assert {key: getattr(samples[0], key) for key in expected} == expected
    assert stream.skipped == 1


def test_a_hub_that_fails_is_one_sentence():
    def fails(*args, **options):
        raise ConnectionError("no route to host\nand a traceback")

    with pytest.raises(HubError, match="no route to host"):
        list(open_samples("hub:a/b", format="vqav2", split="test", load_dataset=fails))
    with pytest.raises(SampleError, match="--split"):
        list(open_samples("hub:a/b", format="vqav2", load_dataset=fails))


def test_a_real_datasets_stream_keeps_pictures_encoded(tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict(
        {"question": ["q"], "answer": ["a"], "image": [str(PICTURES / "v7w_1.jpg")]},
        features=datasets.Features(
            {"question": datasets.Value("string"), "answer": datasets.Value("string"), "image": datasets.Image()}
        ),
    )
    from vlcompare.evaluate.readers.hub_stream import undecoded

    row = next(iter(undecoded(rows.to_iterable_dataset())))
    assert set(row["image"]) == {"bytes", "path"}


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "long.jsonl"
    row = {"image": "v7w_1.jpg", "task": "vqa", "text": "q", "references": ["a"]}
    with path.open("w") as file:
        for i in range(5):
            file.write(json.dumps({"id": str(i), **row}) + "\n")
        file.write("{broken\n")
    stream = open_samples(path, images=PICTURES)
    first = next(iter(stream))
    assert first.id == "0" and stream.skipped == 0 and stream.read == 1


def test_inline_pictures_are_not_kept_in_memory(tmp_path):
    _, samples = read("ours.jsonl", "jsonl")
    inline = next(sample for sample in samples if sample.id == "inline")
    assert callable(inline.image) and not hasattr(inline.image, "data")
    assert inline.image()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("['a', 'b']", ("a", "b")),
        ("[1, 2]", ("1", "2")),
        ("plain", ("plain",)),
        ("['a', __import__('os')]", ("['a', __import__('os')]",)),
        ("", ()),
    ],
)
def test_lists_in_python_notation_are_literals_only(text, read_as):
    assert literal_texts(text) == read_as


def test_a_huge_literal_is_refused():
    with pytest.raises(ValueError, match="longer"):
        literal_texts("[" + "1," * 20_000 + "]")


def test_nothing_is_evaluated(tmp_path):
    _, samples = read("vlmevalkit_vqa.tsv", "vlmevalkit", task="vqa")
    assert samples[1].references == ("__import__('os').system('touch /tmp/x')",)


def test_a_reference_is_one_letter(tmp_path):
    row = {"image": "v7w_1.jpg", "task": "multiple_choice", "text": "q", "choices": ["a", "b", "c"]}
    path = tmp_path / "r.jsonl"
    references = ["AB", " b ", "ABC", "D"]
    path.write_text("".join(json.dumps({"id": i, **row, "references": [r]}) + "\n" for i, r in enumerate(references)))
    stream = open_samples(path, images=PICTURES)
    assert [sample.references for sample in stream] == [(" b ",)]
    assert all("is not a letter of the 3 choices" in issue.reason for issue in stream.issues)


@pytest.mark.parametrize(
    ("format", "line", "reason"),
    [
        ("pope", '{"question_id": 1, "image": "v7w_1.jpg", "text": "Is the caf\u00e9 open?", "label": "yes"}', "UTF-8"),
        ("pope", '{"question_id": 1, "image": "v7w_1.jpg", "text": "Half \\ud83d?", "label": "yes"}', "surrogates"),
        ("jsonl", '{"id": 1, "image": "v7w_1.jpg", "task": "chat", "text": "Half \\ud83d?"}', "surrogates"),
        (
            "jsonl",
            '{"id": 1, "image": "v7w_1.jpg", "task": "grounding", "text": "x", "boxes": [[1%s, 0, 1, 1]]}',
            "large",
        ),
    ],
)
def test_a_line_that_cannot_be_held_is_skipped_and_named(tmp_path, format, line, reason):
    """Another encoding, half of a character, a number beyond any float: the next row is read all the same."""
    sound = {"pope": {"question_id": 2, "label": "no"}, "jsonl": {"id": 2, "task": "chat"}}[format]
    sound = json.dumps({**sound, "image": "v7w_1.jpg", "text": "Whole \U0001f600?"})
    path = tmp_path / "r.jsonl"
    path.write_bytes((line.replace("%s", "0" * 400) + "\n").encode("latin-1") + sound.encode() + b"\n")
    stream = open_samples(path, format=format, images=PICTURES)
    assert [sample.text for sample in stream] == ["Whole \U0001f600?"]
    assert stream.skipped == 1 and stream.issues[0].location == "line 1" and reason in stream.issues[0].reason


def test_half_of_a_character_in_a_whole_file_costs_its_own_row_only(tmp_path):
    rows = {
        str(n): {"question": text, "answer": "yes", "imageId": "v7w_1"} for n, text in enumerate(("Half \ud83d?", "Y?"))
    }
    path = tmp_path / "gqa.json"
    path.write_text(json.dumps(rows))
    stream = open_samples(path, format="gqa", images=PICTURES)
    assert [sample.text for sample in stream] == ["Y?"]
    assert stream.skipped == 1 and "half of a character" in stream.issues[0].reason


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("nothing.jsonl", {}, "There is no"),
        (HERE / "ours.jsonl", {"format": "guess"}, "Unknown format"),
        (HERE / "ours.jsonl", {"task": "guess"}, "Unknown task"),
        (HERE / "ours.jsonl", {"box_format": "yxyx"}, "box_format"),
        (HERE / "ours.jsonl", {"images": "nowhere"}, "declared as images"),
    ],
)
def test_bad_declarations_are_one_sentence(spec, options, sentence):
    with pytest.raises(SampleError, match=sentence):
        open_samples(spec, **options)


@pytest.mark.parametrize("content", ["not json at all\n", "[1, 2]\n", "{}\n"])
@pytest.mark.parametrize("format", ["coco-captions", "docvqa", "vqav2", "visual7w", "vlmevalkit"])
def test_a_file_of_another_format_is_one_sentence(tmp_path, format, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(SampleError):
        list(open_samples(path, format=format))


def test_choices_of_visual7w_are_mixed_the_same_way_every_time():
    _, first = read("visual7w_telling.json", "visual7w", images=PICTURES)
    _, second = read("visual7w_telling.json", "visual7w", images=PICTURES)
    assert first[0].choices == second[0].choices
    assert first[0].choices["ABCD".index(first[0].references[0])] == "On the sofa."
    _, pointing = read("visual7w_pointing.json", "visual7w", images=PICTURES)
    chosen = pointing[0].choices["ABCD".index(pointing[0].references[0])]
    assert chosen == pytest.approx((0.1, 0.1, 0.3, 0.3))


def test_an_answer_of_a_tsv_is_its_columns_letter(tmp_path):
    import base64

    good = base64.b64encode((PICTURES / "doc_1.png").read_bytes()).decode()
    rows = [
        ["index", "image", "question", "A", "B", "C", "answer"],
        ["1", good, "a gap", "x", "", "z", "C"],
        ["2", "1", "an answer in the gap", "x", "nan", "z", "B"],
        ["3", "1", "no gap", "x", "None", "z", "b"],
    ]
    (tmp_path / "t.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    stream = open_samples(tmp_path / "t.tsv", format="vlmevalkit")
    assert [(s.choices, s.references) for s in stream] == [(("x", "z"), ("B",)), (("x", "None", "z"), ("B",))]
    assert [issue.location.partition(",")[0] for issue in stream.issues] == ["line 3"]


def test_a_tsv_row_may_name_a_later_rows_picture_and_broken_pictures_are_told(tmp_path):
    import base64

    good = base64.b64encode((PICTURES / "doc_1.png").read_bytes()).decode()
    rows = [
        ["index", "image", "question", "A", "B", "answer"],
        ["10", "12", "named ahead", "x", "y", "A"],
        ["11", "!" + good, "no base64", "x", "y", "A"],
        ["12", good, "own", "x", "y", "B"],
        ["13", "10", "a row that has none of its own", "x", "y", "B"],
        ["14", f"['{good}', '{good}']", "two pictures", "x", "y", "B"],
        ["15", good, "no choices", "", "", "B"],
    ]
    (tmp_path / "t.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    stream = open_samples(tmp_path / "t.tsv", format="vlmevalkit")
    samples = list(stream)
    assert [s.id for s in samples] == ["10", "12"]
    assert samples[0].image_key == samples[1].image_key and picture(samples[0]).size == (80, 60)
    assert [str(issue).partition(":")[0] for issue in stream.issues] == ["line 3", "line 5", "line 6", "line 7"]


@pytest.mark.parametrize(("name", "format", "declared", "count", "skipped", "first"), CASES, ids=[c[0] for c in CASES])
def test_any_value_in_any_place_is_a_skipped_row_or_one_sentence(
    tmp_path, name, format, declared, count, skipped, first
):
    """Every value of every row in turn becomes something else: nothing but SampleError may come out."""
    path = HERE / name
    if path.is_dir() or path.suffix == ".tsv":
        return
    text = path.read_text(encoding="utf-8")
    whole = path.suffix == ".json"
    rows = [json.loads(text)] if whole else [json.loads(line) for line in text.splitlines()[:2]]
    declared = {"images": PICTURES, **declared}
    for index, row in enumerate(rows):
        for location in list(_places(row)):
            for odd in (None, 7, "", "x", [], {}, [None], True, -1.5):
                changed = json.loads(json.dumps(row))
                _set(changed, location, odd)
                made = [*rows[:index], changed, *rows[index + 1 :]]
                (tmp_path / name).write_text("".join(json.dumps(value) + "\n" for value in made))
                try:
                    for sample in open_samples(tmp_path / name, format=format, **declared):
                        assert all(isinstance(text, str) for text in (sample.id, sample.text, *sample.references))
                        assert isinstance(sample.source or sample.split or "", str)
                except SampleError:
                    pass


def _places(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _set(value, path, new):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new
