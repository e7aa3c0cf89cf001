"""Which sample each answer belongs to.

By its id, as a text or as a number; where a file has several fields that name rows, by the one that names most samples.
Rows without an id that fits are matched by image and question, by the question alone where it is asked once, or, where
both files have the same questions in the same order, by that order (POPE's own script goes by order alone). Rows that
say no more than their document's place in the data set (lmms-eval's `doc_id`) are matched by it where both files have
the same count. How it was done is always said, and an answer that could belong to two samples belongs to none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.exchange.answer_files import QUESTIONS, AnswerFile, AnswerRow
from vlcompare.evaluate.fields import described
from vlcompare.evaluate.predictions import same_answer
from vlcompare.evaluate.readers.rows import bare_question
from vlcompare.evaluate.schema import MAX_SIDES, NO_SIDE
from vlcompare.types import Sample

ENOUGH = 0.9  # of the samples have an answer: below, a warning stands above the figures
_SHOWN = 3
_COCO = re.compile(r"COCO_\w+?_(\d{12})(?:\.jpg)?\Z")
_IN_SPLIT = re.compile(r"RefCOCO[+g]?_(?:val|test[AB]?)_(.+)\Z")  # VLMEvalKit's index of joined splits
_MENTION = re.compile(r"<image[ _]?\d{0,2}>")
_FRACTION = re.compile(r"(\d{1,25})\.0+\Z")


@dataclass(slots=True)
class Matched:
    """Answers by side and sample id. `by` says how they were matched; `problems` are sentences about single rows."""

    by: str
    sides: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    rows: int = 0
    duplicates: int = 0
    contradicting: int = 0  # duplicates that answer otherwise than the first
    unknown: int = 0
    ambiguous: int = 0
    about_file: list[str] = field(default_factory=list)  # sentences
    elsewhere: list[tuple[str, str]] = field(default_factory=list)  # (question answered, question asked) that differ

    def notes(self, samples: int) -> tuple[list[str], list[str]]:
        """(alerts, notes): sentences to show above the figures, and below them."""
        alerts, notes = [], list(self.about_file)
        for side, answers in self.sides.items():
            if len(answers) < ENOUGH * samples:
                share = 100 * len(answers) / samples
                of = f"{side}: only" if side else "Only"
                alerts.append(
                    f"{of} {len(answers)} of {samples} samples ({share:.0f} %) have an answer; the others count as "
                    "wrong."
                )
        alerts += self._doubts()
        if self.by != "id":
            notes.append(f"The answers were matched to the samples by {self.by}.")
        if self.unknown:
            many = _answers(self.unknown, "names", "name")
            notes.append(f"{many} an id that none of the samples read has; what they say is not counted.")
        if self.ambiguous:
            many = _answers(self.ambiguous, "could", "could")
            notes.append(f"{many} belong to more than one sample, and count for none.")
        return alerts, notes

    def _doubts(self) -> list[str]:
        """Sentences about answers that may not be what they are taken for."""
        found = []
        if self.contradicting:
            many = _answers(self.contradicting, "contradicts", "contradict")
            found.append(
                f"{many} an earlier answer to the same sample; the first one counts. Was one file written by two runs?"
            )
        if same := self.duplicates - self.contradicting:
            many = _answers(same, "repeats", "repeat")
            found.append(f"{many} an earlier one to the same sample word for word; each counts once.")
        if self.elsewhere:
            said, asked = self.elsewhere[0]
            found.append(
                f"{_answers(len(self.elsewhere), 'is', 'are')} to another question than their sample asks, "
                f"such as {said[:60]!r} where {asked[:60]!r} is asked: are they to this data set and split?"
            )
        return found


Find = Callable[[AnswerRow], "str | None"]
AMBIGUOUS = ""  # what a Find gives for an answer that could belong to several samples


def _answers(count: int, one: str, several: str) -> str:
    """A number of answers and what they do."""
    return f"{count} answer {one}" if count == 1 else f"{count} answers {several}"


def match(samples: Sequence[Sample], file: AnswerFile) -> Matched:
    """The answers of a file by side and sample. Raises SampleError where none belongs to a sample."""
    if len(set(row.side for row in file.rows)) > 1 and any(row.side == NO_SIDE for row in file.rows):
        count = sum(row.side == NO_SIDE for row in file.rows)
        raise SampleError(f"{count} rows of {file.path} name no side and others do: give every row a `side`, or none.")
    asked = {sample.id: sample.text for sample in samples}
    for by, find in _ways(samples, file.rows):
        matched = _matched(by, file, find)
        if any(matched.sides.values()):
            _refuse_questions(matched, asked, file)
            matched.elsewhere = _elsewhere(file.rows, find, asked)
            return matched
    raise _none_matched(samples, file)


def _ways(samples: Sequence[Sample], rows: Sequence[AnswerRow]) -> Iterable[tuple[str, Find]]:
    """(what answers are matched by, sample id of an answer), the surest first."""
    names = list(dict.fromkeys(name for row in rows for name, _ in row.names))
    by_id = {sample.id: sample.id for sample in samples}
    by_number = _once((plain(sample.id), sample.id) for sample in samples)
    asked = {sample.id: sample.text for sample in samples}

    def finder(name: str) -> Find:
        def find(row: AnswerRow) -> str | None:
            value = next((value for key, value in row.names if key == name), None)
            return None if value is None else by_id.get(value, by_number.get(plain(value)))

        return find

    counted = []
    for order, name in enumerate(names):
        find = finder(name)
        found = [(row, key) for row in rows if (key := find(row))]
        if found and len(_elsewhere(rows, find, asked)) * 2 <= len(found):
            counted.append((-len(found), order, name, find))
    for _, _, name, find in sorted(counted, key=lambda way: way[:2]):
        yield ("id" if name == names[0] else f"`{name}`"), find
    yield from _by_question(samples, rows)
    if at_position := _by_position(samples, rows):
        yield "the document's place in the data set (`doc_id`): both files have the same count", at_position
    if any(row.image and not row.question for row in rows):
        pictures = _once((image_name(sample.image_key), sample.id) for sample in samples)
        yield "image, where it is asked about once", lambda row: pictures.get(image_name(row.image))


def _by_question(samples: Sequence[Sample], rows: Sequence[AnswerRow]) -> Iterable[tuple[str, Find]]:
    if not any(row.question for row in rows):
        return
    pairs = _once(((image_name(sample.image_key), fold(sample.text)), sample.id) for sample in samples)
    if any(row.image for row in rows):
        yield "image and question", lambda row: pairs.get((image_name(row.image), fold(row.question)))
    if in_order := _in_order(samples, rows):
        yield "order: both files have the same questions, one after the other", lambda row: in_order[id(row)]
    questions = _once((fold(sample.text), sample.id) for sample in samples)
    yield "question alone, where it is asked once", lambda row: questions.get(fold(row.question))


def _once(pairs: Iterable[tuple[Hashable, str]]) -> dict[Hashable, str]:
    """Key -> id; AMBIGUOUS for a key that several samples have."""
    found: dict[Hashable, str] = {}
    for key, id in pairs:
        found[key] = AMBIGUOUS if found.get(key, id) != id else id
    return found


def _elsewhere(rows: Sequence[AnswerRow], find: Find, asked: dict[str, str]) -> list[tuple[str, str]]:
    """(what it answers, what its sample asks) of the answers that name another question than their sample's; a prompt
    holds the question, and a question may stand behind a hint."""
    found = []
    for row in rows:
        if row.question and (question := asked.get(find(row) or "")):
            said, own = fold(row.question), fold(question)
            if said not in own and own not in said:
                found.append((row.question, question))
    return found


def _by_position(samples: Sequence[Sample], rows: Sequence[AnswerRow]) -> Find | None:
    """By each row's document, where every side answers as many documents as there are samples, counted from 0."""
    for side in dict.fromkeys(row.side for row in rows):
        places = {row.position for row in rows if row.side == side}
        if places != set(range(len(samples))):
            return None
    at = [sample.id for sample in samples]

    def find(row: AnswerRow) -> str | None:
        return None if row.position is None else at[row.position]

    asked = {sample.id: sample.text for sample in samples}
    return None if len(_elsewhere(rows, find, asked)) * 2 > len(rows) else find


def _refuse_questions(matched: Matched, asked: dict[str, str], file: AnswerFile) -> None:
    """Raise SampleError where the answers are the samples' own questions: then the file is that of the questions."""
    rows = [(id, row) for answers in matched.sides.values() for id, row in answers.items()]
    both = ((row.get("text"), asked[id]) for id, row in rows if not row.get("boxes"))
    said = [(str(text or ""), question) for text, question in both]
    same = sum(bool(question) and fold(bare_question(text)) == fold(question) for text, question in said)
    if same * 2 > len(rows):
        raise SampleError(f"{file.path} {QUESTIONS}.")


def _in_order(samples: Sequence[Sample], rows: Sequence[AnswerRow]) -> dict[int, str]:
    """Answer (by `id()`) -> sample id, where each side's questions are the samples' in their order; else nothing."""
    found: dict[int, str] = {}
    for side in dict.fromkeys(row.side for row in rows):
        mine = [row for row in rows if row.side == side]
        if len(mine) != len(samples):
            return {}
        for row, sample in zip(mine, samples, strict=True):
            if fold(row.question) != fold(sample.text):
                return {}
            found[id(row)] = sample.id
    return found


def _matched(by: str, file: AnswerFile, find: Find) -> Matched:
    result = Matched(by, problems=list(file.problems), rows=len(file.rows), duplicates=file.duplicates)
    result.contradicting, result.about_file = file.contradicting, list(file.notes)
    for row in file.rows:
        if row.side not in result.sides and len(result.sides) >= MAX_SIDES:
            raise SampleError(f"The predictions name more than {MAX_SIDES} sides: {described(row.side)}.")
        answers, id = result.sides.setdefault(row.side, {}), find(row)
        if id is None:
            result.unknown += 1
        elif id == AMBIGUOUS:
            result.ambiguous += 1
            result.problems.append(f"{row.location or row.names}: it could belong to more than one sample")
        elif id in answers:
            result.duplicates += 1
            result.contradicting += not same_answer(answers[id], row.row)
            result.problems.append(f"{row.location}: a second answer to {id!r}; the first one counts")
        else:
            answers[id] = row.row
    return result


def _none_matched(samples: Sequence[Sample], file: AnswerFile) -> SampleError:
    names = list(dict.fromkeys(name for row in file.rows for name, _ in row.names))
    own = ", ".join(repr(sample.id[:40]) for sample in samples[:_SHOWN])
    none = f"None of the {len(file.rows)} answers in {file.path} belongs to one of the {len(samples)} samples"
    if other := _fits_but_asks(samples, file, names):
        name, said, asked = other
        return SampleError(
            f"{none}: their `{name}` fits, but they are to other questions, such as {said[:60]!r} where the sample "
            f"asks {asked[:60]!r}. Are these the answers to this data set and split?"
        )
    places = [row.position for row in file.rows if row.position is not None]
    if places and not names:
        return SampleError(
            f"{none}: they name their documents by place alone (`doc_id` {min(places)} to {max(places)}), which says "
            "which is which only where both files have the same count, from 0 on, and the same questions. Give the "
            "same split (--split), as many samples (--limit), or log the samples with their documents."
        )
    if names:
        theirs = [value for row in file.rows[:_SHOWN] for name, value in row.names if name == names[0]]
        found = f"name their samples by `{names[0]}`, such as {', '.join(repr(value[:40]) for value in theirs)}"
    elif file.rows[0].question:
        found = f"have no id, and questions such as {file.rows[0].question[:60]!r}"
    else:
        found = f"have no id, and pictures such as {file.rows[0].image[:60]!r}"
    return SampleError(
        f"{none}: the answers {found}, and the samples' ids are such as {own}. Are these the answers to this data set "
        "and split? Else give each row the `id` of its sample, or its image and question."
    )


def _fits_but_asks(samples: Sequence[Sample], file: AnswerFile, names: Sequence[str]) -> tuple[str, str, str] | None:
    """(field, question answered, question asked) where ids fit and the questions do not."""
    asked = {plain(sample.id): sample.text for sample in samples}
    for name in names:
        ids = [(row, plain(value)) for row in file.rows for key, value in row.names if key == name]
        differing = [(row.question, asked[id]) for row, id in ids if row.question and asked.get(id)]
        if len(differing) * 2 > len(ids):
            return (name, *differing[0])
    return None


def plain(id: str) -> str:
    """An id as a number where it is one: "000042", "42.0" and COCO's picture names are 42."""
    id = id.strip()
    if match := _COCO.match(id) or _FRACTION.match(id) or _IN_SPLIT.match(id):
        id = match[1]
    return str(int(id)) if id.isascii() and id.isdecimal() and len(id) <= 25 else id


def image_name(name: str) -> str:
    """A picture's name without folders and ending."""
    path = PurePosixPath(str(name).replace("\\", "/"))
    return plain(path.stem if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") else path.name)


def fold(text: str) -> str:
    """A question as it is compared: in lower case, white space folded, without marks for the picture's place."""
    return " ".join(_MENTION.sub(" ", text).lower().split())
