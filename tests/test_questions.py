"""Questions about scenes: every answer is checked by a reader that shares no code with the generator."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache

import pytest
import scene_world as world

from vlcompare.errors import RequestError
from vlcompare.synth.scenes.phrases import (
    ALL_KEYS,
    VOCABULARY,
    article,
    caption,
    listed,
    plural,
    unknown_words,
    words_of,
)
from vlcompare.synth.scenes.questions import SCENE_TASKS, as_objects, ask
from vlcompare.synth.scenes.referring import PHRASE_FAMILIES, all_references, opposed, related
from vlcompare.synth.scenes.scene import Scene, SceneObject, lay_out
from vlcompare.tasks.boxes import parse_boxes
from vlcompare.tasks.prompts import build_turns
from vlcompare.types import TASKS, Box, Request, Sample

SCENES = 500
LETTERS = "ABCD"


def scene_of(seed: int, stream: str = "evaluation") -> Scene:
    """A scene without its picture, which no question needs."""
    ground, objects, document = lay_out(seed, stream)
    return Scene(None, objects, document, ground, seed, stream)


@cache
def all_rows() -> tuple[Sample, ...]:
    return tuple(sample for seed in range(SCENES) for sample in ask(scene_of(seed)))


def rows(task: str, document: bool = False) -> list[Sample]:
    found = [row for row in all_rows() if row.task == task and bool(row.tags["document"]) == document]
    assert found, task
    return found


def close(a: Sequence[float], b: Sequence[float], tolerance: float = 1e-4) -> bool:
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) < tolerance


# --- referring --------------------------------------------------------------------------------------------------------


def test_every_reference_points_at_one_thing_only() -> None:
    """Not only those that are asked: every phrase that the generator would ever use for these scenes."""
    seen: Counter[str] = Counter()
    for seed in range(SCENES):
        scene = scene_of(seed)
        objects = as_objects(scene)
        for family, references in all_references(scene.objects).items() if scene.objects else ():
            for reference in references:
                found = world.meant(reference.text, objects)
                assert found is objects[reference.target], (seed, reference.text)
                seen[family] += 1
    assert set(seen) == set(PHRASE_FAMILIES) and min(seen.values()) > 100, seen


def test_grounding_rows_have_the_box_of_what_they_mean() -> None:
    for row in rows("grounding"):
        assert close(world.meant(row.text, row.objects)["box"], row.boxes[0]), row.text
    for row in rows("grounding", document=True):
        assert close(world.document_line(row.text, row.objects), row.boxes[0]), row.text


def box_at(x: float, y: float, side: float = 0.1) -> Box:
    return Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


@pytest.mark.parametrize(
    ("name", "at", "side", "clear", "never"),
    [
        ("left of", (0.2, 0.5), 0.1, True, False),
        ("left of", (0.45, 0.5), 0.1, False, False),  # too near to say
        ("left of", (0.38, 0.1), 0.1, False, False),  # rather above
        ("left of", (0.7, 0.5), 0.1, False, True),
        ("right of", (0.7, 0.4), 0.1, True, False),
        ("above", (0.5, 0.2), 0.1, True, False),
        ("below", (0.45, 0.8), 0.1, True, False),
        ("below", (0.5, 0.2), 0.1, False, True),
        ("below", (0.35, 0.62), 0.4, False, False),  # beside a large thing, not past its edge
    ],
)
def test_relations_keep_a_margin(name: str, at: tuple[float, float], side: float, clear: bool, never: bool) -> None:
    anchor = box_at(0.5, 0.5, side)
    assert related(box_at(*at), name, anchor) is clear
    assert opposed(box_at(*at), name, anchor) is never


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answers_are_right() -> None:
    for row in rows("vqa"):
        assert row.references == (world.answer(row.text, row.objects),), row.text
    for row in rows("document_vqa", document=True):
        assert row.references == (world.document_answer(row.text, row.objects),), row.text


def test_the_right_choice_is_the_only_right_one() -> None:
    for row in (*rows("multiple_choice"), *rows("multiple_choice", document=True)):
        assert len(row.choices) == len(set(row.choices)) == 4
        right = (world.document_answer if row.tags["document"] else world.answer)(row.text, row.objects)
        assert [LETTERS[i] for i, choice in enumerate(row.choices) if choice == right] == list(row.references)


def test_the_right_box_is_the_one_that_is_meant() -> None:
    for row in (*rows("pointing"), *rows("pointing", document=True)):
        phrase = re.fullmatch(r"Which box shows (.+)\?", row.text)[1]
        if row.tags["document"]:
            wanted = world.document_line(phrase, row.objects)
        else:
            wanted = world.meant(phrase, row.objects)["box"]
        assert len(set(row.choices)) == 4
        assert [LETTERS[i] for i, box in enumerate(row.choices) if close(box, wanted)] == list(row.references)


def test_region_descriptions_say_what_is_there() -> None:
    for row in rows("region_description"):
        thing = next(thing for thing in row.objects if close(thing["box"], row.boxes[0]))
        words = row.references[0].split()
        assert words[0] in ("a", "an") and thing["color"] in words and thing["kind"] in words
        assert words[-1] == (thing["text"].lower() if thing["text"] else thing["kind"])
        assert (thing["size"] in words) is (thing["text"] is None)
    for row in rows("region_description", document=True):
        assert close(world.document_line(row.references[0], row.objects), row.boxes[0])


def test_statements_are_true_or_false_by_one_word() -> None:
    changed = 0
    for row in (*rows("image_text_match"), *rows("image_text_match", document=True)):
        holds = world.document_holds if row.tags["document"] else world.holds
        assert row.references == (str(holds(row.text, row.objects)),), row.text
        assert holds(row.tags["true_text"], row.objects)
        pairs = list(zip(row.text.rstrip(".").split(), row.tags["true_text"].rstrip(".").split(), strict=True))
        different = [(said, true) for said, true in pairs if said != true]
        assert len(different) == (row.references == ("False",)), row.text
        for said, true in different:
            assert row.tags["changed"] == f"{true} -> {said}"
            changed += 1
    assert changed > SCENES / 2


def mentioned(phrase: str, objects) -> list:
    """The things of a caption's phrase; as many as it says."""
    number, _, rest = phrase.partition(" ")
    words, _, text = rest.partition(" that says ")
    found = [t for t in world.of_class(words, objects) if not text or (t["text"] or "").lower() == text]
    assert len(found) == (1 if number in ("a", "an") else world.NUMBERS.index(number)), phrase
    return found


def test_captions_name_what_is_there() -> None:
    for row in rows("captioning"):
        for reference in row.references:
            phrases = re.split(r", | and ", reference.removesuffix("."))
            assert 1 <= len(phrases) <= 4 and len(set(phrases)) == len(phrases)
            singles = [phrase for phrase in phrases if phrase.startswith(("a ", "an "))]
            for phrase in phrases:
                if phrase in singles and "says" not in phrase:
                    words = phrase.split(" ", 1)[1]
                    assert len([t for t in world.of_class(words, row.objects) if t["text"] is None]) <= 1
                else:
                    mentioned(phrase, row.objects)
    for row in rows("captioning", document=True):
        keys = [key for key, _, _ in world.document_lines(row.objects)]
        assert row.references == (f"a {row.objects[0]['kind']} with {listed(keys)}.",)


def test_grounded_captions_have_each_things_box() -> None:
    for row in rows("grounded_captioning"):
        parts = re.findall(r"\|\|(.+?) (\[[^\]]+\])\|\|", row.references[0])
        assert len(parts) == min(3, len(row.objects)) and row.references[0].endswith("||.")
        for phrase, box in parts:
            near = [thing for thing in row.objects if close(thing["box"], parse_boxes(box)[0], 0.006)]
            assert len(near) == 1 and near[0]["color"] in phrase and near[0]["kind"] in phrase


# --- rows -------------------------------------------------------------------------------------------------------------


def test_every_task_and_type_occurs() -> None:
    assert {row.task for row in all_rows()} == set(SCENE_TASKS) == set(TASKS) - {"chat"}
    types = defaultdict(set)
    for row in all_rows():
        types[row.task].add(row.tags["type"])
    assert types["vqa"] == {"color", "size", "kind", "count", "existence", "comparison", "relation", "reading"}
    assert types["grounding"] == {*PHRASE_FAMILIES, "value"}
    assert types["document_vqa"] == {"value", "extreme", "line", "document", "count"}
    assert types["image_text_match"] >= {"existence", "count", "color", "size", "reading", "relation", "value", "place"}
    assert types["multiple_choice"] >= {"color", "kind", "count", "reading", "place", "value", "line", "document"}


def test_the_words_alone_tell_little() -> None:
    """The best guess for each type of question, by its most frequent answer, stays near chance."""
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in all_rows():
        if row.task in ("vqa", "image_text_match", "multiple_choice", "pointing"):
            answers[row.task, row.tags["type"]][row.references[0]] += 1
    share = {key: counts.most_common(1)[0][1] / counts.total() for key, counts in answers.items()}
    most = {"color": 0.25, "kind": 0.2, "size": 0.5, "count": 0.4, "reading": 0.2}
    for (task, kind), value in share.items():
        limit = most.get(kind, 0.6) if task == "vqa" else 0.62 if task == "image_text_match" else 0.45
        assert value <= limit, (task, kind, value, answers[task, kind].most_common(3))
    vqa = [key for key in answers if key[0] == "vqa"]
    best = sum(answers[key].most_common(1)[0][1] for key in vqa) / sum(answers[key].total() for key in vqa)
    assert best < 0.42


def test_true_and_false_come_in_equal_numbers() -> None:
    counts = Counter(row.references[0] for row in all_rows() if row.task == "image_text_match")
    assert abs(counts["True"] - counts["False"]) <= 0.04 * counts.total()


def test_rows_depend_on_the_seed_alone() -> None:
    for seed in range(30):
        every = ask(scene_of(seed))
        assert every == ask(scene_of(seed))
        for task in {row.task for row in every}:
            assert ask(scene_of(seed), [task]) == [row for row in every if row.task == task]
    assert len({row.id for row in all_rows()}) == len(all_rows())


def test_the_vocabulary_is_closed() -> None:
    words: set[str] = set()
    for row in all_rows():
        if row.task not in ("pointing", "multiple_choice", "image_text_match"):
            words.update(*(words_of(text) for text in row.references))
        words.update(words_of(row.text), *(words_of(text) for text in row.choices or () if isinstance(text, str)))
    unknown = {word for word in words if not word.isdigit()} - set(VOCABULARY)
    assert not unknown and all(len(word) <= 3 for word in words if word.isdigit())
    assert len(VOCABULARY) == len(set(VOCABULARY)) < 200
    assert [word for row in all_rows() for word in unknown_words(row.text)] == []
    assert unknown_words("How many Giraffes and giraffes and 3 red umbrellas? A b") == ["Giraffes", "giraffes"]
    assert unknown_words("Isn't the fish red?") == ["Isn't"]


def test_every_row_can_be_asked() -> None:
    """The prompts' own check takes every row as it is."""
    for row in all_rows()[:2000]:
        box = row.boxes[0] if row.task == "region_description" else None
        request = Request(row.task, row.text, row.choices, box, source=row.source)
        assert build_turns(request)


def test_tags_describe_the_sample() -> None:
    for row in all_rows():
        assert {"type", "things", "words", "ground", "document"} <= set(row.tags) and row.split == "evaluation"
        if row.task in ("grounding", "region_description", "pointing"):
            assert 0 <= row.tags["position"] <= 1 and 0 < row.tags["area"] < 1 and row.tags["distractors"] >= 0
            x, y = row.boxes[0].center
            assert (row.tags["row"], row.tags["column"]) == (int(y * 8), int(x * 8))
            assert row.tags["position"] == pytest.approx((8 * row.tags["row"] + row.tags["column"]) / 63, abs=1e-3)
        if row.task in ("vqa", "document_vqa"):
            assert row.tags["letters"] == len(row.references[0])


def test_a_task_without_questions_is_refused() -> None:
    with pytest.raises(RequestError, match="no questions for 'chat'"):
        ask(scene_of(1), ["chat"])


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (article("orange car"), "an orange car"),
        (article("red umbrella"), "a red umbrella"),
        (plural("fish"), "fish"),
        (plural("butterfly"), "butterflies"),
        (plural("house"), "houses"),
        (listed(["a"]), "a"),
        (listed(["a", "b"]), "a and b"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (len(ALL_KEYS), len(set(ALL_KEYS))),
    ],
)
def test_words(made: object, expected: object) -> None:
    assert made == expected


def test_a_crowded_caption_names_four_groups() -> None:
    def thing(kind: str, color: str, text: str | None = None) -> SceneObject:
        return SceneObject(kind, color, "small", Box(0, 0, 0.1, 0.1), text)

    things = [thing("car", "red"), thing("star", "blue"), thing("sign", "pink", "OPEN"), thing("star", "blue")]
    things += [thing("umbrella", "orange"), thing("tree", "black")]
    assert caption(things) == "a red car, two blue stars, a pink sign that says open and an orange umbrella"
