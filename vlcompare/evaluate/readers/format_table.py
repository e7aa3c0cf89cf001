"""The table of formats: what each is called, which module reads it, and which keys show it.

A signature is a list of groups; of each group one name must be there (`a|b`), and no name of `without`. A path such as
`images[].caption` means the first entries of a list, `*.question` the values of an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

AUTO, HUB = "auto", "hub"


@dataclass(frozen=True, slots=True)
class Format:
    """One format. `rows` and `whole` are the signatures of its rows, and of a file that is one JSON object."""

    name: str
    module: str
    what: str
    rows: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()  # where given: a row has no other keys
    whole_module: str = ""  # the module for a file that is one JSON object, if not `module`
    folder_module: str = ""  # the module for a folder, if not `module`
    folder: tuple[str, ...] = ()  # what a folder of this format holds


def _row(name: str, module: str, what: str, rows: str, **more: Any) -> Format:
    more = {key: tuple(value.split()) if isinstance(value, str) else value for key, value in more.items()}
    more |= {key: more[key][0] for key in ("whole_module", "folder_module") if key in more}
    more |= {key: frozenset(more[key]) for key in ("without", "only") if key in more}
    return Format(name, module, what, tuple(rows.split()), **more)


_PICTURE = "image|img|image_path|img_path|image_file|file_name|filename|image_id"
_BOX = "bbox|box|bounding_box"
_PHRASE = "sentences|sents|captions|expressions|answer|expression|sent|phrase|caption|text"
_TSV_CHOICES = "index question A B"

# the first of those that fit equally well is taken
TABLE: tuple[Format, ...] = (
    _row("jsonl", "jsonl", "this project's own lines, or an array of them", "id task"),
    _row(
        "refcoco",
        "referring",
        "RefCOCO-style rows: a box and its expressions",
        f"{_BOX} {_PHRASE} {_PICTURE}",
        without="index",
    ),
    _row("mdetr", "referring", "MDETR's RefCOCO", "", whole="images[].caption images[].file_name annotations[].bbox"),
    _row(
        "refer",
        "referring",
        "refer's references as JSON, with --annotations instances.json",
        "ref_id ann_id sentences image_id",
        without=_BOX.replace("|", " "),
    ),
    _row(
        "coco-instances",
        "referring",
        "COCO or Objects365 instances, as phrases of categories",
        "",
        whole="images[].file_name annotations[].bbox annotations[].category_id categories[].name",
        without="images[].caption annotations[].caption",
    ),
    _row(
        "flickr30k-entities",
        "flickr_entities",
        "Flickr30k Entities: the folder of Annotations and Sentences",
        "",
        folder="Annotations Sentences",
    ),
    _row(
        "coco-captions",
        "rows",
        "COCO captions: the JSON, or rows as on the Hub",
        "answer|captions|caption coco_url|cocoid file_name|filename image|file_name",
        whole="images[].file_name annotations[].caption annotations[].image_id",
        whole_module="coco",
        without=f"{_BOX.replace('|', ' ')} images[].open_images_id images[].domain",
    ),
    _row(
        "nocaps",
        "rows",
        "NoCaps: the JSON, or rows as on the Hub",
        "annotations_captions image_open_images_id|image_id image|image_file_name",
        whole="images[].open_images_id|images[].domain images[].file_name",
        whole_module="coco",
    ),
    _row(
        "karpathy",
        "rows",
        "Karpathy's dataset_coco.json and its kin",
        "sentences filename imgid|cocoid|sentids",
        whole="images[].sentences images[].filename",
        whole_module="coco",
        without="ref_id",
    ),
    _row(
        "textcaps",
        "rows",
        "TextCaps: the JSON, or rows as on the Hub",
        "caption_str|reference_strs image_id",
        whole="data[].caption_str|data[].reference_strs|data[].caption_id|data[].image_classes data[].image_id",
        whole_module="coco",
        without="data[].question",
    ),
    _row(
        "captions",
        "rows",
        "rows of a picture and its captions",
        "caption|captions image|filename|file_name",
        without="label question bbox",
    ),
    _row(
        "vqav2",
        "rows",
        "VQA: the question file, with --annotations, or rows as on the Hub",
        "question_id question answers|multiple_choice_answer image_id|multiple_choice_answer",
        whole="questions[].question_id questions[].question questions[].image_id",
        whole_module="vqa",
        without="ocr_tokens image_classes imageId caption_str direct_answers questions[].choice_a",
    ),
    _row(
        "gqa",
        "rows",
        "GQA: the question file, or rows as on the Hub",
        "imageId question answer|isBalanced",
        whole="*.question *.imageId",
        whole_module="vqa",
    ),
    _row(
        "docvqa",
        "rows",
        "DocVQA: the JSON, or rows as on the Hub",
        "questionId question image|ucsf_document_id docId|question_types|answers",
        whole="data[].questionId data[].question data[].image",
        whole_module="vqa",
        without="operation/reasoning",
    ),
    _row(
        "infographicvqa",
        "rows",
        "InfographicVQA: the JSON, or rows as on the Hub",
        "questionId question image operation/reasoning|ocr|image_url|answer_type",
        whole="data[].questionId data[].question data[].image_local_name",
        whole_module="vqa",
    ),
    _row(
        "textvqa",
        "rows",
        "TextVQA: the JSON (--annotations: its OCR file), or rows as on the Hub",
        "question_id question image_id image_classes|ocr_tokens|flickr_original_url",
        whole="data[].question_id data[].question data[].image_id",
        whole_module="vqa",
        without="caption_str data[].caption_str",
    ),
    _row(
        "pope",
        "rows",
        "POPE: lines, or rows as on the Hub",
        "image text|question label|image_source label|category",
        without="caption choices options index",
    ),
    _row("vsr", "rows", "VSR: lines, or rows as on the Hub", "caption label image"),
    _row(
        "llava",
        "rows",
        "LLaVA's question lines (--annotations: VQA's answers)",
        "question_id image text",
        without="label answers answer_id",
    ),
    _row(
        "ai2d",
        "rows",
        "AI2D: its folder, or rows as on the Hub",
        "image question|text options|answerTexts answer|correctAnswer",
        folder="questions|ai2d_test_ids.csv",
        folder_module="choices",
        without="image_1 question_type",
    ),
    _row(
        "scienceqa",
        "rows",
        "ScienceQA: problems.json, or rows as on the Hub",
        "image question choices answer lecture|solution|hint",
        whole="*.question *.choices *.image *.lecture|*.solution",
        whole_module="vqa",
    ),
    _row(
        "aokvqa",
        "rows",
        "A-OKVQA: the JSON, or rows as on the Hub",
        "question_id question choices direct_answers|correct_choice_idx|difficult_direct_answer",
    ),
    _row("mmmu", "rows", "MMMU: rows as on the Hub", "question options image_1"),
    _row(
        "seedbench",
        "rows",
        "SEED-Bench: the JSON, or rows as on the Hub",
        "question choice_a choice_b question_id",
        whole="questions[].choice_a questions[].choice_b questions[].data_id",
        whole_module="vqa",
    ),
    _row(
        "choices",
        "rows",
        "rows {image, question, choices, answer}",
        "image question choices|options answer",
        without="image_1",
    ),
    _row(
        "visual7w",
        "choices",
        "Visual7W's JSON, telling and pointing",
        "",
        whole="images[].qa_pairs images[].filename",
    ),
    _row("vlmevalkit", "rows", "VLMEvalKit's TSV, or its columns as rows on the Hub", _TSV_CHOICES),
    _row(
        "questions",
        "rows",
        "rows {image, question, answer}",
        "image question answer|answers|annotation",
        without="choices options bbox segmentation",
    ),
    _row(
        "coco-images",
        "coco",
        "COCO's lists of pictures without captions (image_info_test2014.json)",
        "",
        whole="images[].file_name images[].id",
        without="annotations images[].caption images[].sentences images[].qa_pairs",
    ),
    _row(
        "pictures",
        "rows",
        "rows that name a picture and nothing else, to be captioned",
        "image|image_path|file_name|filename",
        only="image image_path file_name filename id image_id index height width split license coco_url flickr_url url "
        "date_captured",
    ),
    _row("folder", "folder", "a folder of pictures, with --question", ""),
    _row(HUB, "hub", "a data set on the Hub by its id (hub:OWNER/NAME), streamed; rows as in any format above", ""),
)
FORMATS: dict[str, Format] = {format.name: format for format in TABLE}
