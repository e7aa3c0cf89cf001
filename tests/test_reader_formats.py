"""Every format of the table in its publisher's schema, made here by hand: how many rows, which task, which truth."""

from __future__ import annotations

import base64
import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest

from vlcompare.errors import SampleError
from vlcompare.evaluate.benchmarks import set_name
from vlcompare.evaluate.readers import FORMATS, open_samples, opening, same_split
from vlcompare.evaluate.readers.source import DatasetSource
from vlcompare.types import Box

PICTURE = (Path(__file__).parent / "fixtures" / "readers" / "pictures" / "v7w_1.jpg").read_bytes()  # 80 x 60
BASE64 = base64.b64encode(PICTURE).decode()
HALF = Box(0.1, 0.1, 0.5, 0.5)  # 8, 6 .. 40, 30 in pixels
XYWH, XYXY = [8, 6, 32, 24], [8.0, 6.0, 40.0, 30.0]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(rows):
    import pyarrow
    import pyarrow.parquet

    return lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def table(rows):
    return "".join("\t".join(row) + "\n" for row in rows)


ENCODED = {"bytes": PICTURE, "path": None}
TEN = ["net"] * 9 + ["a net"]
VQA_QUESTIONS = {
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "questions": [{"image_id": 42, "question": "What?", "question_id": 42000 + n} for n in range(3)],
}
VQA_ANSWERS = {
    "annotations": [
        {"question_id": 42000 + n, "image_id": 42, "answer_type": "other", "answers": [{"answer": a} for a in TEN]}
        for n in range(2)
    ]
}
MDETR = {
    "images": [
        {"id": 0, "original_id": 42, "file_name": "COCO_train2014_000000000042.jpg", "caption": "the wall",
         "dataset_name": "refcoco", "width": 80, "height": 60}
    ],
    "annotations": [{"id": 0, "image_id": 0, "bbox": XYWH, "category_id": 1, "tokens_positive": [[0, 8]]}],
    "categories": [{"id": 1, "name": "object"}],
}  # fmt: skip
INSTANCES = {
    "images": [{"id": 42, "file_name": "COCO_train2014_000000000042.jpg", "width": 80, "height": 60}],
    "annotations": [
        {"id": 7, "image_id": 42, "bbox": XYWH, "category_id": 1, "iscrowd": 0},
        {"id": 8, "image_id": 42, "bbox": [0, 0, 8, 6], "category_id": 2, "iscrowd": 0},
        {"id": 9, "image_id": 42, "bbox": [8, 8, 8, 6], "category_id": 2, "iscrowd": 0},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
REFS = [
    {"ref_id": 1, "ann_id": 7, "image_id": 42, "split": "testA", "category_id": 1,
     "file_name": "COCO_train2014_000000000042_7.jpg", "sentences": [{"sent": "a cat", "sent_id": 1}, {"sent": "cat"}]},
    {"ref_id": 2, "ann_id": 8, "image_id": 42, "split": "train", "category_id": 2,
     "file_name": "COCO_train2014_000000000042_8.jpg", "sentences": [{"sent": "a dog", "sent_id": 3}]},
]  # fmt: skip
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "imgid": 0, "cocoid": 42, "split": split,
         "sentids": [1], "sentences": [{"raw": "A wall.", "tokens": ["a", "wall"], "imgid": 0, "sentid": 1}]}
        for split in ("test", "val")
    ],
}  # fmt: skip
KARPATHY["images"][1]["cocoid"] = 43
TEXTCAPS = {
    "dataset_name": "textcaps",
    "data": [
        {"image_id": "0ab", "set_name": "val", "caption_id": n, "caption_str": "a sign", "image_classes": ["Sign"],
         "reference_strs": ["a sign", "the sign says stop"], "caption_tokens": ["a", "sign"]}
        for n in range(2)
    ],
}  # fmt: skip
TEXTVQA = {
    "dataset_name": "textvqa",
    "data": [
        {"question": "what brand?", "image_id": "0ab", "image_classes": ["Sign"], "answers": TEN, "question_id": 34602,
         "set_name": "val", "image_width": 80, "image_height": 60}
    ],
}  # fmt: skip
OCR = {"data": [{"image_id": "0ab", "ocr_tokens": ["STOP", "Main", "St."], "ocr_info": []}]}
INFOGRAPHIC = {
    "dataset_name": "infographicVQA",
    "dataset_split": "val",
    "data": [
        {"questionId": 98313, "question": "Which?", "image_local_name": "37313.jpeg", "answers": ["pinterest"],
         "data_split": "val", "ocr_output_file": "37313.json", "operation/reasoning": []}
    ],
}  # fmt: skip
NOCAPS = {
    "images": [
        {"id": 0, "open_images_id": "0013ea2087020901", "file_name": "0013ea2087020901.jpg", "domain": "near-domain"}
    ],
    "annotations": [{"id": n, "image_id": 0, "caption": f"a horse {n}"} for n in range(10)],
}
SEED = {
    "questions": [
        {"question_id": "101", "question": "How many?", "choice_a": "1", "choice_b": "2", "choice_c": "3",
         "choice_d": "4", "answer": "B", "data_id": "1454426_25", "data_type": "image", "question_type_id": 5},
        {"question_id": "102", "question": "Then?", "choice_a": "1", "choice_b": "2", "choice_c": "3", "choice_d": "4",
         "answer": "B", "data_id": "v.mp4", "data_type": "video", "question_type_id": 10},
    ],
    "question_type": {"Scene": 1},
}  # fmt: skip
GQA = {
    "201": {"question": "Is it?", "imageId": "42", "answer": "yes", "isBalanced": True, "types": {"semantic": "attr"}},
    "202": {"question": "Was it?", "imageId": "42", "answer": "no", "isBalanced": False, "types": {}},
}
AOKVQA = [
    {"split": "val", "image_id": 42, "question_id": "22jb", "question": "What?", "choices": ["a", "b", "c", "d"],
     "correct_choice_idx": 2, "direct_answers": TEN, "difficult_direct_answer": False, "rationales": []}
]  # fmt: skip
MMMU = [
    {"id": "validation_Art_1", "question": "<image 1> Who?", "options": "['x', 'y']", "answer": "B", "image_1": ENCODED,
     "image_2": None, "question_type": "multiple-choice", "subfield": "Art", "topic_difficulty": "Easy"},
    {"id": "validation_Art_2", "question": "<image 1> or <image 2>?", "options": "['x', 'y']", "answer": "A",
     "image_1": ENCODED, "image_2": ENCODED, "question_type": "multiple-choice", "subfield": "Art"},
    {"id": "validation_Art_3", "question": "<image 1> How many?", "options": "[]", "answer": "8", "image_1": ENCODED,
     "image_2": None, "question_type": "open", "subfield": "Art"},
]  # fmt: skip
HUB_TEXTVQA = {
    "image_id": "0ab", "question_id": 34602, "question": "what brand?", "image": ENCODED, "image_classes": ["Sign"],
    "answers": TEN, "ocr_tokens": ["STOP", "Main", "St."], "set_name": "val", "flickr_original_url": "x",
}  # fmt: skip
HUB_NOCAPS = {
    "image": ENCODED, "image_id": 0, "image_open_images_id": "0013", "image_file_name": "0013.jpg",
    "annotations_ids": [0, 1], "annotations_captions": ["a horse", "one horse"],
}  # fmt: skip
HUB_TEXTCAPS = {
    "question_id": "0ab", "question": "Caption?", "image": ENCODED, "image_id": "0ab", "image_name": "0ab",
    "caption_id": [1, 2], "caption_str": ["a sign", "a stop sign"], "reference_strs": ["a sign", "a stop sign"],
}  # fmt: skip
HUB_SEED = {
    "answer": "A", "choice_a": "one", "choice_b": "two", "choice_c": "three", "choice_d": "four", "data_id": "x",
    "data_type": "image", "question": "How many?", "question_id": "101", "question_type_id": 5, "image": [ENCODED],
}  # fmt: skip
LLAVA = [
    {"question_id": 42000 + n, "image": "COCO_val2014_000000000042.jpg", "category": "default",
     "text": "What?\nAnswer the question using a single word or phrase."}
    for n in range(3)
]  # fmt: skip
POPE_ROWS = [
    {"question_id": n, "image": "COCO_val2014_000000000042.jpg", "text": f"Is there a {n}?", "label": label}
    for n, label in enumerate(("yes", "no"))
]
HEADER = ["index", "question", "hint", "A", "B", "answer", "category", "image"]
MMBENCH = [
    HEADER,
    ["241", '"Which ""one""\nis it?"', "", "x", "y", "A", "logic", BASE64],
    ["1000241", "Which?", "", "y", "x", "B", "logic", "241"],
]
REFCOCO_TSV = [
    ["index", "image", "question", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "width", "height", "category"],
    ["0", BASE64, "Please find <ref>the wall</ref>.", "8", "6", "40", "30", "80", "60", "RefCOCO+ testA"],
]
ENTITIES_XML = """<annotation><filename>36979.jpg</filename><size><width>80</width><height>60</height></size>
<object><name>1</name><bndbox><xmin>8</xmin><ymin>6</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
<object><name>1</name><bndbox><xmin>16</xmin><ymin>6</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>
<object><name>2</name><nobndbox>1</nobndbox></object></annotation>"""
ENTITIES_TXT = "[/EN#1/people Two men] at [/EN#2/scene the beach] with [/EN#0/notvisual nothing]\nNo phrase here .\n"

COCO42, TRAIN42 = "COCO_val2014_000000000042.jpg", "COCO_train2014_000000000042.jpg"

# format, files, pictures, declared, read, skipped, left out, fields of the first sample; the first file is the data
CASES = {
    "own array": ("jsonl", {"s.json": [{"id": 1, "image": COCO42, "task": "vqa", "text": "q", "references": ["a"]}]},
                  [COCO42], {}, 1, 0, 0, {"id": "1", "references": ("a",)}),
    "own parquet": ("jsonl", {"s.parquet": parquet([{"id": "1", "image": ENCODED, "task": "vqa", "text": "q",
                    "references": ["a"]}])}, [], {}, 1, 0, 0, {"id": "1", "references": ("a",)}),
    "refcoco array": ("refcoco", {"r.json": [{"img_path": f"train2014/{TRAIN42}", "expression": "x", "bbox": XYXY}]},
                      [TRAIN42], {"box_format": "xyxy", "box_scale": "absolute"}, 1, 0, 0, {"boxes": (HALF,)}),
    "mdetr": ("mdetr", {"m.json": MDETR}, [TRAIN42], {}, 1, 0, 0,
              {"task": "grounding", "text": "the wall", "boxes": (HALF,), "source": "refcoco", "size": (80, 60)}),
    "refer": ("refer", {"refs.json": REFS, "instances.json": INSTANCES}, [TRAIN42],
              {"annotations": "instances.json", "split": "testA"}, 2, 0, 1,
              {"id": "1-0", "text": "a cat", "boxes": (HALF,), "split": "testA"}),
    "instances": ("coco-instances", {"instances.json": INSTANCES}, [f"train2014/{TRAIN42}"], {}, 1, 1, 0,
                  {"id": "42-1", "text": "cat", "boxes": (HALF,)}),
    "karpathy": ("karpathy", {"dataset_coco.json": KARPATHY}, [f"val2014/{COCO42}"], {"split": "test"}, 1, 0, 1,
                 {"id": "42", "task": "captioning", "references": ("A wall.",), "split": "test", "source": "coco"}),
    "textcaps": ("textcaps", {"t.json": TEXTCAPS}, ["train_images/0ab.jpg"], {}, 1, 0, 1,
                 {"id": "0ab", "references": ("a sign", "the sign says stop"), "source": "textcaps"}),
    "textcaps rows": ("textcaps", {"t.parquet": parquet([HUB_TEXTCAPS])}, [], {}, 1, 0, 0,
                      {"references": ("a sign", "a stop sign")}),
    "captions": ("captions", {"c.jsonl": lines([{"image": "a.jpg", "captions": ["one", "two"]}])}, ["a.jpg"], {}, 1, 0,
                 0, {"task": "captioning", "references": ("one", "two")}),
    "nocaps": ("nocaps", {"n.json": NOCAPS}, ["0013ea2087020901.jpg"], {}, 1, 0, 0,
               {"source": "nocaps", "tags": {"domain": "near-domain"}}),
    "nocaps rows": ("nocaps", {"n.parquet": parquet([HUB_NOCAPS])}, [], {}, 1, 0, 0,
                    {"references": ("a horse", "one horse"), "source": "nocaps"}),
    "vqav2 gz": ("vqav2", {"q.json.gz": VQA_QUESTIONS, "a.json": VQA_ANSWERS}, [f"val2014/{COCO42}"],
                 {"annotations": "a.json"}, 2, 1, 0, {"id": "42000", "references": tuple(TEN), "split": "val2014"}),
    "vqav2 zip": ("vqav2", {"q.zip": VQA_QUESTIONS}, [COCO42], {}, 3, 0, 0, {"id": "42000", "references": ()}),
    "vqav2 rows": ("vqav2", {"v.parquet": parquet([{"question_id": 1, "question": "q?", "image": ENCODED,
                   "image_id": 2, "answers": [{"answer": a} for a in (*TEN, "")], "question_type": "what"}])},
                   [], {}, 1, 0, 0, {"id": "1", "references": (*TEN, ""), "source": "vqav2"}),
    "vizwiz rows": ("questions", {"v.parquet": parquet([{"question_id": "VizWiz_val_00000000.jpg", "image": ENCODED,
                    "question": "q?", "answers": TEN, "category": "other"}])}, [], {}, 1, 0, 0,
                    {"id": "VizWiz_val_00000000.jpg", "references": tuple(TEN), "source": "vizwiz"}),
    "vizwiz": ("questions", {"val.json": [{"image": "VizWiz_val_1.jpg", "question": "q?", "answer_type": "other",
               "answers": [{"answer": a, "answer_confidence": "yes"} for a in TEN], "answerable": 1}]},
               ["VizWiz_val_1.jpg"], {}, 1, 0, 0, {"references": tuple(TEN), "source": "vizwiz"}),
    "okvqa rows": ("questions", {"v.parquet": parquet([{"question_id": "1", "image": ENCODED, "question": "q?",
                   "answers": TEN, "question_type": "one", "answer_type": "other"}])}, [], {}, 1, 0, 0,
                   {"references": tuple(TEN), "source": "okvqa"}),
    "mm-vet": ("questions", {"MM-Vet/data/test-00000-of-00001.parquet": parquet([{"question_id": "v1_0",
               "image": ENCODED, "question": "x?", "answer": "-1<AND>-5", "image_source": "u", "capability": "ocr"}])},
               [], {}, 1, 0, 0, {"id": "v1_0", "references": ("-1<AND>-5",), "source": "MM-Vet"}),
    "realworldqa": ("questions", {"RealWorldQA.parquet": parquet([{"image": ENCODED, "question": "x?", "answer": "A",
                    "image_path": "0.webp"}])}, [], {}, 1, 0, 0, {"references": ("A",), "source": "RealWorldQA"}),
    "declared": ("questions", {"RealWorldQA.parquet": parquet([{"image": ENCODED, "question": "x?", "answer": "A"}])},
                 [], {"source": "mine"}, 1, 0, 0, {"source": "mine"}),
    "a name that would choose a script": ("questions", {"pope_of_mine.parquet": parquet([{"image": ENCODED,
                 "question": "x?", "answer": "A"}])}, [], {}, 1, 0, 0, {"source": None}),
    "coco test pictures": ("coco-images", {"image_info_test2014.json": {"info": {}, "licenses": [], "categories": [],
                           "images": [{"id": 42, "file_name": "a.jpg", "height": 60, "width": 80, "coco_url": "u"}]}},
                           ["a.jpg"], {}, 1, 0, 0, {"id": "42", "references": (), "source": "coco", "size": (80, 60)}),
    "pictures alone": ("pictures", {"mine.jsonl": '{"image": "a.jpg", "id": 7}\n{"image": "b.jpg", "id": 8}\n'},
                       ["a.jpg", "b.jpg"], {}, 2, 0, 0, {"id": "7", "task": "captioning", "source": "mine"}),
    "karpathy flickr30k": ("karpathy", {"d.json": {"dataset": "flickr30k", "images": [{"filename": "1.jpg", "imgid": 1,
                           "sentids": [0], "sentences": [{"raw": "A man."}], "split": "test"}]}},
                           ["flickr30k-images/1.jpg"], {}, 1, 0, 0, {"source": "flickr30k"}),
    "gqa": ("gqa", {"g.json": GQA}, ["42.jpg"], {}, 1, 0, 1, {"id": "201", "references": ("yes",), "source": "gqa"}),
    "gqa all": ("gqa", {"g.json": GQA}, ["42.jpg"], {"balanced": False}, 2, 0, 0, {"id": "201"}),
    "gqa rows": ("gqa", {"g.parquet": parquet([{"id": k, **{**v, "types": None}} for k, v in GQA.items()]),
                 "i.parquet": parquet([{"id": "41", "image": ENCODED}, {"id": "42", "image": ENCODED}])}, [],
                 {"images": "i.parquet"}, 1, 0, 1, {"id": "201", "image_key": "42"}),
    "docvqa test": ("docvqa", {"d.json": {"dataset_split": "test", "data": [{"questionId": 5, "question": "T?",
                    "image": "documents/a_1.png", "docId": 1, "data_split": "test"}]}}, ["documents/a_1.png"], {}, 1, 0,
                    0, {"task": "document_vqa", "references": (), "split": "test"}),
    "infographicvqa": ("infographicvqa", {"i.json": INFOGRAPHIC}, ["infographicsvqa_images/37313.jpeg"], {}, 1, 0, 0,
                       {"task": "document_vqa", "source": "infographicvqa", "references": ("pinterest",)}),
    "textvqa": ("textvqa", {"t.json": TEXTVQA, "o.json": OCR}, ["train_images/0ab.jpg"], {"annotations": "o.json"}, 1,
                0, 0, {"source": "textvqa", "references": tuple(TEN), "ocr_text": "STOP Main St.", "split": "val"}),
    "textvqa rows": ("textvqa", {"t.parquet": parquet([HUB_TEXTVQA])}, [], {}, 1, 0, 0,
                     {"id": "34602", "ocr_text": "STOP Main St.", "source": "textvqa"}),
    "pope indented": ("pope", {"p.json": json.dumps(POPE_ROWS, indent=2)}, [COCO42], {}, 2, 0, 0,
                      {"id": "0", "references": ("yes",), "source": "pope"}),
    "vsr array": ("vsr", {"v.json": [{"image": "1.jpg", "caption": "A cat.", "label": 1, "relation": "on"}]}, ["1.jpg"],
                  {}, 1, 0, 0, {"task": "image_text_match", "references": ("True",)}),
    "llava": ("llava", {"q.jsonl": lines(LLAVA)}, [COCO42], {}, 3, 0, 0, {"text": "What?", "references": ()}),
    "llava answered": ("llava", {"q.jsonl": lines(LLAVA), "a.json": VQA_ANSWERS}, [COCO42], {"annotations": "a.json"},
                       2, 1, 0, {"text": "What?", "references": tuple(TEN)}),
    "ai2d rows": ("ai2d", {"a.parquet": parquet([{"question": "q", "options": ["x", "y"], "answer": "1",
                  "image": ENCODED}])}, [], {}, 1, 0, 0, {"references": ("B",), "source": "ai2d"}),
    "scienceqa": ("scienceqa", {"s.parquet": parquet([{"image": ENCODED, "question": "Which?", "choices": ["x", "y"],
                  "answer": 1, "hint": "Look.", "lecture": "l", "solution": "s"}])}, [], {}, 1, 0, 0,
                  {"text": "Look.\nWhich?", "references": ("B",)}),
    "aokvqa": ("aokvqa", {"a.json": AOKVQA}, ["val2017/000000000042.jpg"], {}, 1, 0, 0,
               {"id": "22jb", "task": "multiple_choice", "references": ("C",)}),
    "aokvqa direct": ("aokvqa", {"a.json": AOKVQA}, ["val2017/000000000042.jpg"], {"task": "vqa"}, 1, 0, 0,
                      {"task": "vqa", "references": tuple(TEN)}),
    "mmmu": ("mmmu", {"m.parquet": parquet(MMMU)}, [], {}, 2, 1, 0,
             {"text": "Who?", "choices": ("x", "y"), "references": ("B",), "source": "mmmu"}),
    "seedbench": ("seedbench", {"s.json": SEED}, ["1454426_25"], {}, 1, 0, 1, {"id": "101", "references": ("B",)}),
    "seedbench rows": ("seedbench", {"s.parquet": parquet([HUB_SEED])}, [], {}, 1, 0, 0, {"references": ("A",)}),
    "choices": ("choices", {"c.jsonl": lines([{"image": "a.jpg", "question": "q", "choices": ["x", "y"],
                "answer": "a"}])}, ["a.jpg"], {"format": "choices"}, 1, 0, 0, {"references": ("A",)}),
    "questions": ("questions", {"q.jsonl": lines([{"image": "a.jpg", "question": "q", "answer": "z", "id": 3}])},
                  ["a.jpg"], {}, 1, 0, 0, {"task": "vqa", "references": ("z",), "id": "3"}),
    "mmbench": ("vlmevalkit", {"m.tsv": table(MMBENCH)}, [], {}, 2, 0, 0,
                {"id": "241", "text": 'Which "one"\nis it?', "references": ("A",)}),
    "mmbench test": ("vlmevalkit", {"m.tsv": table([[*r[:5], *r[6:]] for r in MMBENCH])}, [], {}, 2, 0, 0,
                     {"references": (), "choices": ("x", "y")}),
    "refcoco tsv": ("vlmevalkit", {"r.tsv": table(REFCOCO_TSV)}, [], {}, 1, 0, 0,
                    {"task": "grounding", "text": "the wall", "boxes": (HALF,), "split": "testA"}),
    "captions tsv": ("vlmevalkit", {"c.tsv": table([["index", "image", "answer"], ["0", BASE64, "['a', 'b']"]])}, [],
                     {}, 1, 0, 0, {"task": "captioning", "references": ("a", "b")}),
    "path tsv": ("vlmevalkit", {"p.tsv": table([["index", "image_path", "question", "A", "B", "answer"],
                 ["0", "a.jpg", "q", "x", "y", "b"], ["1", "['a.jpg', 'b.jpg']", "q", "x", "y", "B"]])}, ["a.jpg"], {},
                 1, 1, 0, {"references": ("B",)}),
    "image list tsv": ("vlmevalkit", {"l.tsv": table([["index", "image", "question", "A", "B", "answer"],
                       ["1.0", f"['{BASE64}']", "<image 1> q", "x", "y", "A"], ["2.0", "1", "q", "x", "y", "B"]])}, [],
                       {}, 2, 0, 0, {"id": "1", "text": "q"}),
    "quote tsv": ("vlmevalkit", {"q.tsv": table([["index", "image", "question", "A", "B", "answer"],
                  ["1", BASE64, 'a 5" pipe', "x", '"y ""z"""', "A"], ["2", "1", "q", "x", "y", "B"]])}, [], {}, 2, 0, 0,
                  {"text": 'a 5" pipe', "choices": ("x", 'y "z"')}),
    "pope tsv": ("vlmevalkit", {"p.tsv": table([["index", "image", "question", "answer", "category"],
                 ["1", BASE64, "Is it?", "yes", "popular"]])}, [], {}, 1, 0, 0, {"task": "vqa", "source": "pope"}),
    "entities": ("flickr30k-entities", {"Annotations/36979.xml": ENTITIES_XML, "Sentences/36979.txt": ENTITIES_TXT,
                 "test.txt": "36979\n"}, ["flickr30k-images/36979.jpg"], {"split": "test"}, 1, 0, 0,
                 {"text": "Two men", "boxes": (HALF,), "split": "test"}),
    "entities as captions": ("flickr30k-entities", {"Annotations/36979.xml": ENTITIES_XML,
                             "Sentences/36979.txt": ENTITIES_TXT}, ["flickr30k-images/36979.jpg"],
                             {"task": "grounded_captioning"}, 1, 0, 0, {"references": (
                             "||Two men [0.10,0.10,0.50,0.50]|| at the beach with nothing", "No phrase here .")}),
}  # fmt: skip


def make(folder, files, pictures=()):
    """Write the files and the pictures; returns the data's path: the first file, or the folder of several kinds."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
            continue
        text = content if isinstance(content, str) else json.dumps(content)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        elif name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("inside/data.json", text)
        else:
            path.write_text(text, encoding="utf-8")
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)
    first = next(iter(files))
    return folder if "/" in first and not first.endswith(".parquet") else folder / first


@pytest.mark.parametrize("name", CASES)
def test_each_schema(tmp_path, name):
    from vlcompare.runtime.image import open_image

    format, files, pictures, declared, count, skipped, left_out, first = CASES[name]
    path = make(tmp_path, files, pictures)
    paths = {key: tmp_path / declared[key] for key in ("annotations", "images") if key in declared}
    stream = open_samples(path, **{**declared, **paths})
    samples = list(stream)
    assert stream.format == format
    assert (len(samples), stream.skipped, sum(stream.left_out.values())) == (count, skipped, left_out), stream.report()
    found = {key: getattr(samples[0], key) for key in first}
    if "boxes" in found:
        assert found.pop("boxes")[0] == pytest.approx(first["boxes"][0])
    assert found == {key: value for key, value in first.items() if key != "boxes"}
    assert stream.answered is bool(samples[0].references or samples[0].boxes)
    for sample in samples:
        assert open_image(sample.image() if callable(sample.image) else sample.image).size == (80, 60)
    scored = list(open_samples(path, need_pictures=False, **{**declared, **paths}))
    assert [sample.id for sample in scored] == [sample.id for sample in samples]


def test_every_format_is_tried():
    from test_readers import CASES as MORE

    assert {case[0] for case in CASES.values()} | {case[1] for case in MORE} == set(FORMATS) - {"hub"}


# ---- AI2D ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ai2d(tmp_path):
    questions = {
        "What?": {"abcLabel": False, "answerTexts": ["a", "b"], "correctAnswer": 1, "questionId": "{}-0"},
        "Which letter?": {"abcLabel": True, "answerTexts": ["A", "B"], "correctAnswer": 0, "questionId": "{}-1"},
    }
    texts = {"T0": {"rectangle": [[20, 20], [60, 40]], "value": "cell", "replacementText": "A"}}
    files = {}
    for n in range(3):
        own = json.loads(json.dumps(questions).replace("{}", f"{n}.png"))
        files[f"questions/{n}.png.json"] = {"imageName": f"{n}.png", "questions": own}
        files[f"annotations/{n}.png.json"] = {"text": texts}
    files["ai2d_test_ids.csv"] = "0\n1\n"
    return make(tmp_path, files, [f"images/{n}.png" for n in range(3)])


def test_ai2d_has_letters_on_its_pictures_and_reads_the_test_split(ai2d):
    from vlcompare.runtime.image import open_image

    stream = open_samples(ai2d)
    samples = list(stream)
    assert [sample.id for sample in samples] == ["0.png-0", "0.png-1", "1.png-0", "1.png-1"]
    assert {sample.split for sample in samples} == {"test"} and stream.left_out["row of another split"] == 2
    plain, drawn = (open_image(s.image() if callable(s.image) else s.image) for s in samples[:2])
    assert drawn.getpixel((24, 24)) == (255, 255, 255) != plain.getpixel((24, 24))  # the word is covered
    assert drawn.getpixel((5, 5)) == plain.getpixel((5, 5))
    assert samples[0].image_key == samples[1].image_key
    assert len(list(open_samples(ai2d, split="train"))) == 2 and len(list(open_samples(ai2d, split="all"))) == 6


def test_ai2d_takes_the_sets_own_lettered_pictures(ai2d):
    (ai2d / "abc_images").mkdir()
    (ai2d / "abc_images" / "0.png").write_bytes(PICTURE)
    samples = list(open_samples(ai2d))
    assert samples[1].image == (ai2d / "abc_images" / "0.png").resolve()


def test_a_lettered_question_without_letters_is_refused(ai2d):
    for path in (ai2d / "annotations").iterdir():
        path.unlink()
    stream = open_samples(ai2d)
    assert len(list(stream)) == 2
    assert "abc_images" in stream.issues[0].reason


# ---- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "wanted", "same"),
    [("val2014", "val", True), ("validation", "val", True), ("testA", "testa", True), ("testA", "test", False),
     ("test-dev2015", "test-dev", True), ("test2015", "test-dev", False), ("val2014", "val2017", False)],
)  # fmt: skip
def test_splits_go_by_several_names(split, wanted, same):
    assert same_split(split, wanted) is same


def test_a_split_selects_and_never_relabels(tmp_path):
    path = make(tmp_path, {"dataset_coco.json": KARPATHY}, [COCO42])
    assert [(s.id, s.split) for s in open_samples(path, split="val")] == [("43", "val")]
    assert len(list(open_samples(path, split="test+val"))) == 2
    with pytest.raises(SampleError, match=r"split 'train'; its splits are test, val"):
        list(open_samples(path, split="train"))
    own = make(
        tmp_path, {"s.jsonl": lines([{"id": 1, "image": COCO42, "task": "vqa", "text": "q", "references": ["a"]}])}
    )
    assert [s.split for s in open_samples(own, split="mine")] == ["mine"]  # rows of no split get the name


# ---- links -----------------------------------------------------------------------------------------------------------


def test_links_inside_the_folder_and_of_a_hub_cache_are_followed_and_others_refused(tmp_path):
    repository = tmp_path / "datasets--owner--name"
    snapshot = repository / "snapshots" / "abc"
    for folder in (snapshot, repository / "blobs", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (repository / "blobs" / "123").write_bytes(PICTURE)
    (tmp_path / "elsewhere" / "secret.jpg").write_bytes(PICTURE)
    (snapshot / "here.jpg").write_bytes(PICTURE)
    (snapshot / "inside.jpg").symlink_to("here.jpg")
    (snapshot / "blob.jpg").symlink_to("../../blobs/123")
    (snapshot / "out.jpg").symlink_to(tmp_path / "elsewhere" / "secret.jpg")
    names = (
        "inside.jpg",
        "blob.jpg",
        "out.jpg",
        "../../../elsewhere/secret.jpg",
        str(tmp_path / "elsewhere/secret.jpg"),
    )
    rows = [{"id": n, "image": name, "task": "vqa", "text": "q", "references": ["a"]} for n, name in enumerate(names)]
    (repository / "blobs" / "456").write_text(lines(rows))
    (snapshot / "s.jsonl").symlink_to("../../blobs/456")
    stream = open_samples(snapshot / "s.jsonl")
    assert [sample.id for sample in stream] == ["0", "1"]
    assert all("outside the data folder" in issue.reason for issue in stream.issues) and stream.skipped == 3


def test_a_link_to_blobs_that_are_another_sets_is_refused(tmp_path):
    other = tmp_path / "datasets--other--name" / "blobs"
    snapshot = tmp_path / "datasets--owner--name" / "snapshots" / "abc"
    other.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (other / "1").write_bytes(PICTURE)
    (snapshot / "a.jpg").symlink_to(other / "1")
    (snapshot / "s.jsonl").write_text(lines([{"id": 1, "image": "a.jpg", "task": "chat", "text": "q"}]))
    stream = open_samples(snapshot / "s.jsonl")
    assert not list(stream) and "outside" in stream.issues[0].reason


def test_leading_folders_of_another_machine_are_dropped(tmp_path):
    own = {"task": "vqa", "text": "q", "references": ["a"]}
    rows = [{"id": 1, "image": f"/home/x/coco/train2014/{TRAIN42}", **own}, {"id": 2, "image": TRAIN42, **own}]
    path = make(tmp_path, {"s.jsonl": lines(rows)}, [f"train2014/{TRAIN42}"])
    assert [sample.image for sample in open_samples(path)] == [(tmp_path / "train2014" / TRAIN42).resolve()] * 2


# ---- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("refs(unc).p", b"\x80\x02]q\x00.", r"pickle.*never opened.*json\.dump\(pickle\.load"),
        ("x.json", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        ("x.json", b"<!DOCTYPE html><html>", "HTML"),
        ("x.json", b"", "is empty"),
        ("x.json", b"\x89PNG\r\n\x1a\n", "a picture"),
        ("x.json", "\ufeff{}".encode("utf-16"), "UTF-16"),
        ("x.tar", b"a" * 257 + b"ustar" + b"\0" * 300, "tar archive"),
        ("x.bin", b"a\0b", "binary file"),
        ("x.json", b'{"pictures": [1], "texts": []}', "none of the formats.* it has the keys pictures, texts"),
        ("x.jsonl", b'{"image": "a", "question": "b"}\n' * 2, "nearest is .*which also needs"),
        ("x.json", b'{"info": 1, "annotations": [{"question_id": 1, "answers": []}]}', "VQA's answers.*--annotations"),
        ("x.tsv", b"a\tb\n1\t2\n", "columns a, b"),
        ("x.csv", b"index,question\n1,q\n", r"a table with commas \(CSV\): save it with tabs"),
        ("x.json", b'[{"question_id": 1, "answer": "x"}]', "a file of answers, with the keys answer, question_id"),
        ("x.gz", gzip.compress(b'{"id": 1}', mtime=0)[:-9], "damaged, cut off"),
        ("x.zip", b"PK\x03\x04 nothing", "damaged, cut off"),
        ("x.parquet", b"PAR1 no", "not a parquet file"),
    ],
)  # fmt: skip
def test_every_unreadable_file_is_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SampleError, match=sentence) as raised:
        list(open_samples(path))
    assert "Error:" not in str(raised.value) and "codec" not in str(raised.value)


def test_two_formats_in_one_file_are_named(tmp_path):
    row = {"image": "a.jpg", "caption": "c", "label": 1}
    path = make(tmp_path, {"x.jsonl": lines([*POPE_ROWS, row])})
    with pytest.raises(SampleError, match=r"rows of 2 formats: pope \(line 1\), vsr \(line 3\)"):
        open_samples(path)


def test_a_row_that_lacks_all_but_its_picture_is_no_other_format(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    row = {"id": "1", "image": "a.jpg", "task": "vqa", "text": "q?", "references": ["a"]}
    (tmp_path / "s.jsonl").write_text(lines([row, {"id": "2", "image": "a.jpg"}]))
    stream = open_samples(tmp_path / "s.jsonl")
    assert (len(list(stream)), stream.format, stream.skipped) == (1, "jsonl", 1)


def test_a_row_of_another_format_is_named_where_the_format_is_declared(tmp_path):
    path = make(tmp_path, {"x.jsonl": lines([*POPE_ROWS, {"image": COCO42, "caption": "c", "label": 1}])}, [COCO42])
    stream = open_samples(path, format="pope")
    assert len(list(stream)) == 2
    assert str(stream.issues[0]) == "line 3: a row of the format vsr, in a file read as pope"


# ---- the Hub ---------------------------------------------------------------------------------------------------------


def hub_of(configs, called):
    """Stands for `datasets.load_dataset`; `called` collects the configs that are asked for."""

    def load(name, config, **options):
        called.append(config)
        return list(configs[config])

    return load


def test_rows_of_the_hub_show_their_format(tmp_path):
    load = hub_of({None: [HUB_TEXTVQA, {**HUB_TEXTVQA, "question_id": 2}]}, [])
    stream = open_samples("hub:owner/textvqa", split="validation", load_dataset=load)
    samples = list(stream)
    assert [(s.id, s.ocr_text, s.source, s.split) for s in samples] == [
        ("34602", "STOP Main St.", "textvqa", "validation"),
        ("2", "STOP Main St.", "textvqa", "validation"),
    ]
    with pytest.raises(SampleError, match="hub:owner/x is of none of the formats.*fields words"):
        list(open_samples("hub:owner/x", split="test", load_dataset=hub_of({None: [{"words": 1}]}, [])))


@pytest.mark.parametrize(
    ("path", "hub_id", "name"),
    [
        ("hub:lmms-lab/RealWorldQA", "lmms-lab/RealWorldQA", "RealWorldQA"),
        ("/d/datasets--lmms-lab--MME/snapshots/0a1b/data/test-00000-of-00002.parquet", "", "MME"),
        ("/d/MM-Vet/data/test-00000-of-00001.parquet", "", "MM-Vet"),
        ("/d/mmstar.jsonl.gz", "", "mmstar"),
        ("/d/pope/test.jsonl", "", None),  # it would choose POPE's scoring
        ("/tmp/data/test.jsonl", "", None),
    ],
)
def test_sets_of_common_columns_are_called_by_their_repository_file_or_folder(path, hub_id, name):
    assert set_name(DatasetSource(Path(path), hub_id=hub_id)) == name
    assert set_name(DatasetSource(Path(path), hub_id=hub_id, source="mine")) == "mine"


def test_pictures_in_lists_stay_encoded():
    import datasets

    from vlcompare.evaluate.readers.hub_stream import undecoded

    features = datasets.Features({"image": datasets.List(datasets.Image())})
    rows = datasets.Dataset.from_dict({"image": [[ENCODED]]}, features=features).to_iterable_dataset()
    assert next(iter(undecoded(rows)))["image"][0]["bytes"] == PICTURE


def test_gqas_pictures_are_in_the_other_config():
    questions = [{"id": k, **v} for k, v in GQA.items()]
    pictures = [{"id": "41", "image": ENCODED}, {"id": "42", "image": ENCODED}, {"id": "43", "image": ENCODED}]
    called = []
    load = hub_of({"testdev_instructions": questions, "testdev_images": pictures}, called)
    declared = {"config": "testdev_instructions", "split": "testdev", "load_dataset": load}
    stream = open_samples("hub:lmms-lab/GQA", **declared)
    samples = list(stream)
    assert [s.id for s in samples] == ["201"] and stream.left_out["unbalanced question"] == 1
    assert samples[0].image() == PICTURE and called == ["testdev_instructions", "testdev_images"]
    called.clear()
    assert len(list(open_samples("hub:lmms-lab/GQA", need_pictures=False, **declared))) == 1
    assert called == ["testdev_instructions"]


def test_a_file_read_as_the_wrong_format_says_which_it_is(tmp_path):
    path = make(tmp_path, {"x.jsonl": lines(POPE_ROWS)}, [COCO42])
    with pytest.raises(SampleError, match="looks like the format pope"):
        list(open_samples(path, format="vsr"))


@pytest.mark.parametrize("format", ["vqav2", "docvqa", "coco-captions", "refcoco", "visual7w"])
def test_a_whole_file_of_another_format_says_which_it_is(tmp_path, format):
    path = make(tmp_path, {"t.json": MDETR if format != "refcoco" else TEXTVQA})
    declared = {"box_format": "xyxy", "box_scale": "absolute"}
    with pytest.raises(SampleError, match="looks like the format (mdetr|textvqa): say --format"):
        list(open_samples(path, format=format, need_pictures=False, **declared))


def test_what_is_said_names_the_file_that_was_given(tmp_path):
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b"\x80\x04]\x94."))
    with pytest.raises(SampleError, match=r"x\.json\.gz is a pickle"):
        open_samples(tmp_path / "x.json.gz")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SampleError, match="a folder or a pipe"):
        open_samples(tmp_path / "pipe")


def test_the_samples_of_a_run_folder_are_lines_and_never_unpacked(tmp_path):
    from vlcompare.evaluate.run_files import read_samples

    row = {"id": "1", "image": "a.jpg", "task": "vqa", "text": "q", "references": ["a"]}
    (tmp_path / "samples.jsonl").write_text(lines([row]))
    assert [sample.id for sample in read_samples(tmp_path)] == ["1"]
    (tmp_path / "samples.jsonl").write_bytes(gzip.compress(lines([row]).encode()))
    with pytest.raises(SampleError, match="samples.jsonl line 1 is damaged: not text in UTF-8 but binary data"):
        list(read_samples(tmp_path))


def test_an_archive_of_several_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.json", "[]")
        archive.writestr("b.json", "[]")
        archive.writestr("__MACOSX/a.json", "")
    with pytest.raises(SampleError, match=r"archive of 2 files \(a\.json, b\.json\)"):
        open_samples(tmp_path / "x.zip")


def test_sizes_are_limited(tmp_path, monkeypatch):
    path = make(tmp_path, {"x.json": POPE_ROWS, "x.json.gz": POPE_ROWS}, [COCO42])
    monkeypatch.setattr(opening, "MAX_WHOLE", 100)
    with pytest.raises(SampleError, match="may have 100: split it, or write an object a line"):
        open_samples(path)
    monkeypatch.setattr(opening, "MAX_UNPACKED", 50)
    with pytest.raises(SampleError, match="unpacks to more than 50 bytes"):
        open_samples(tmp_path / "x.json.gz")


def test_no_field_is_named_by_python(tmp_path):
    broken = [{"question_id": 1, "text": "q"}, {"question_id": 2, "image": COCO42, "text": "q", "label": "maybe"}]
    path = make(tmp_path, {"x.jsonl": lines([*POPE_ROWS, *broken])}, [COCO42])
    stream = open_samples(path, format="pope")
    assert len(list(stream)) == 2
    assert not any("Error" in str(issue) for issue in stream.issues)


def test_xml_that_declares_entities_is_refused(tmp_path):
    bomb = '<!DOCTYPE a [<!ENTITY x "y">]><annotation><size><width>&x;</width></size></annotation>'
    path = make(tmp_path, {"Annotations/1.xml": bomb, "Sentences/1.txt": ENTITIES_TXT}, ["1.jpg"])
    stream = open_samples(path, format="flickr30k-entities")
    assert not list(stream)
    assert "entities" in stream.issues[0].reason


def test_pictures_in_base64_survive_packing(tmp_path):
    row = {"id": 1, "image": BASE64, "task": "vqa", "text": "q", "references": ["a"]}
    path = make(tmp_path, {"s.jsonl.gz": lines([row, {**row, "id": 2}])})
    samples = list(open_samples(path))
    assert [sample.image() for sample in samples] == [PICTURE, PICTURE]
    assert os.listdir(tmp_path) == ["s.jsonl.gz"]


def test_scienceqa_problems_have_their_pictures_by_split_and_id(tmp_path):
    row = {"question": "Which?", "choices": ["a", "b"], "answer": 1, "hint": "", "lecture": "", "solution": "s"}
    problems = {
        "4": {**row, "image": "image.png", "split": "test"},
        "5": {**row, "image": None, "split": "test"},
        "6": {**row, "image": "image.png", "split": "train"},
    }
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    for folder in ("test/4", "train/6"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "image.png").write_bytes(PICTURE)
    stream = open_samples(tmp_path / "problems.json", split="test")
    (sample,) = stream
    assert (stream.format, sample.id, sample.task, sample.references) == ("scienceqa", "4", "multiple_choice", ("B",))
    assert stream.left_out == {"question without a picture": 1, "row of another split": 1}


def test_nocaps_test_file_is_read_without_captions(tmp_path):
    image = {"id": 3, "open_images_id": "00ab", "file_name": "00ab.jpg", "domain": "in-domain", "width": 8, "height": 6}
    (tmp_path / "nocaps_test_image_info.json").write_text(json.dumps({"info": {}, "images": [image]}))
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "00ab.jpg").write_bytes(PICTURE)  # as it is unpacked
    stream = open_samples(tmp_path / "nocaps_test_image_info.json")
    (sample,) = stream
    assert (stream.format, stream.answered, sample.task, sample.references) == ("nocaps", False, "captioning", ())


def test_a_picture_is_found_in_the_folder_that_the_benchmark_unpacks_to(tmp_path):
    (tmp_path / "train_images").mkdir()
    (tmp_path / "train_images" / "00ab.jpg").write_bytes(PICTURE)
    row = {"image_id": "00ab", "image_path": "train/00ab.jpg", "caption_id": 1, "caption_str": "c", "set_name": "val"}
    (tmp_path / "TextCaps_0.1_val.json").write_text(json.dumps({"data": [row]}))
    (sample,) = open_samples(tmp_path / "TextCaps_0.1_val.json")
    assert sample.image == tmp_path / "train_images" / "00ab.jpg"
