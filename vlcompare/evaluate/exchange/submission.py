"""Result files as the benchmarks' servers take them: VQA, DocVQA, COCO captions, GQA, and VLMEvalKit (MMBench).

    vqa         [{"question_id": 1, "answer": ".."}]        visualqa.org, "Results format"
    docvqa      [{"questionId": 1, "answer": ".."}]         the Robust Reading Competition's task page
    coco        [{"image_id": 1, "caption": ".."}]          cocodataset.org, "Results format"
    gqa         [{"questionId": "1", "prediction": ".."}]   GQA's evaluation script: lower case, no full stop
    vlmevalkit  XLSX with index, question, the choices' columns and prediction

A server wants every question: one without an answer is written with an empty one, and counted.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.exchange.spreadsheet import write_sheet
from vlcompare.evaluate.replies import read_reply
from vlcompare.types import Sample


@dataclass(frozen=True, slots=True)
class Submission:
    """A server's format: which tasks it is for, and how a row is made of a sample and its answer."""

    tasks: tuple[str, ...]
    suffix: str
    row: Callable[[Sample, str], dict[str, Any]]


def _number(sample: Sample) -> int:
    if not sample.id.isascii() or not sample.id.isdecimal() or len(sample.id) > 25:
        raise SampleError(
            f"The id {sample.id[:60]!r} is no whole number, which this result format names its questions by: read the "
            "samples from the benchmark's own file."
        )
    return int(sample.id)


def _row_of_choices(sample: Sample, answer: str) -> dict[str, Any]:
    choices = dict(zip(string.ascii_uppercase, map(str, sample.choices or ()), strict=False))
    return {"index": sample.id, "question": sample.text, **choices, "prediction": answer}


SUBMISSIONS: dict[str, Submission] = {
    "vqa": Submission(("vqa",), ".json", lambda s, answer: {"question_id": _number(s), "answer": answer}),
    "docvqa": Submission(("document_vqa",), ".json", lambda s, answer: {"questionId": _number(s), "answer": answer}),
    "coco": Submission(("captioning",), ".json", lambda s, answer: {"image_id": _number(s), "caption": answer}),
    "gqa": Submission(("vqa",), ".json", lambda s, answer: {"questionId": s.id, "prediction": answer.lower()}),
    "vlmevalkit": Submission(("multiple_choice", "vqa"), ".xlsx", _row_of_choices),
}


def check(format: str, samples: Sequence[Sample]) -> list[Sample]:
    """The samples that a submission covers. Raises SampleError if there are none, or an id has the wrong form."""
    kind = SUBMISSIONS[format]
    wanted = [sample for sample in samples if sample.task in kind.tasks]
    if not wanted:
        tasks = ", ".join(dict.fromkeys(sample.task for sample in samples))
        raise SampleError(
            f"A submission for {format} is of the task {' or '.join(kind.tasks)}; the samples are {tasks}."
        )
    kind.row(wanted[0], "")
    return wanted


def write(format: str, samples: Sequence[Sample], answers: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    """Write one side's result file; returns a sentence. Raises SampleError where it cannot be written."""
    kind, wanted = SUBMISSIONS[format], check(format, samples)
    replies = [read_reply(sample, answers.get(sample.id)) for sample in wanted]
    rows = [kind.row(sample, reply.text) for sample, reply in zip(wanted, replies, strict=True)]
    missing = sum(reply.status != "ok" for reply in replies)
    try:
        if kind.suffix == ".xlsx":
            columns = list(dict.fromkeys(name for row in rows for name in row if name != "prediction"))
            columns.append("prediction")
            write_sheet(path, columns, ([str(row.get(name, "")) for name in columns] for row in rows))
        else:
            path.write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise SampleError(f"{path} cannot be written: {error.strerror or error}.") from error
    without = f"; {missing} of them have no answer, and an empty one was written" if missing else ""
    return f"{path} holds {len(rows)} answers for {format}{without}."
