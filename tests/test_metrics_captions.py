"""Caption metrics: equal to the COCO caption evaluation's package, and to its recorded tokens."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from vlcompare.evaluate.metrics import captions
from vlcompare.evaluate.metrics.boxes import match_phrases, most_pairs
from vlcompare.evaluate.metrics.objects import Words, mentions, objects_right
from vlcompare.evaluate.metrics.ptb import tokenise
from vlcompare.types import Box

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "ptb_recorded.json").read_text(encoding="utf-8"))[
    "captions"
]
VOCABULARY = "a the man woman dog red car on in street with two and riding surfboard wave small large near"
WORDS = VOCABULARY.split()


def corpus(seed: int, count: int = 40) -> tuple[list[str], list[list[str]]]:
    """Sentences of few words, so that they share n-grams; some candidates repeat, some are empty."""
    dice = random.Random(seed)

    def sentence() -> str:
        return " ".join(dice.choices(WORDS, k=dice.randint(1, 12)))

    references = [[sentence() for _ in range(dice.randint(1, 5))] for _ in range(count)]
    candidates = [dice.choice([sentence(), dice.choice(texts), "", "a a a a a"]) for texts in references]
    return candidates, references


def test_tokens_are_those_of_the_reference_tokeniser():
    assert len(RECORDED) > 800
    found = {row["caption"]: tokenise(row["caption"]) for row in RECORDED}
    assert found == {row["caption"]: row["tokens"] for row in RECORDED}


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_the_reference_package(seed):
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates, references = corpus(seed)
    gts = dict(enumerate(references))
    res = {key: [text] for key, text in enumerate(candidates)}
    mean, each = Cider().compute_score(gts, res)
    assert np.allclose(captions.cider_d(candidates, references), each, atol=1e-12)
    assert math.isclose(captions.cider_d(candidates, references).mean(), mean, abs_tol=1e-12)
    mean, each = Rouge().compute_score(gts, res)
    assert np.allclose(captions.rouge_l(candidates, references), each, atol=1e-12)
    scorer = BleuScorer(n=4)
    for key in gts:
        scorer += (res[key][0], gts[key])
    bleus, rows = scorer.compute_score(option="closest")
    columns = captions.bleu_columns(candidates, references)
    assert math.isclose(captions.bleu4(columns.sum(axis=0)), bleus[3], abs_tol=1e-12)
    assert np.allclose(captions.bleu4(columns), rows[3], atol=1e-12)


def test_cider_by_hand():
    # two pictures; "red" and "car" are in one picture's references each, so log(2 / 1) weighs them alike
    value = captions.cider_d(["red car", "blue disc"], [["red car"], ["green ring"]])
    # unigrams and the bigram agree (cosine 1 each), n = 3 and 4 do not exist: 10 * (1 + 1 + 0 + 0) / 4
    assert value == pytest.approx([5.0, 0.0])


def test_the_set_decides_the_document_frequencies():
    candidates, references = corpus(9)
    whole, part = captions.cider_d(candidates, references)[:5], captions.cider_d(candidates[:5], references[:5])
    assert not np.allclose(whole, part)


CAR = {"kind": "car", "color": "red", "size": "small"}
RING = {"kind": "ring", "color": "blue", "size": "large"}
SIGN = {"kind": "sign", "color": "green", "size": "large", "text": "STOP"}
SCENE = [CAR, RING, SIGN]


@pytest.mark.parametrize(
    ("caption", "right"),
    [
        ("A small red car near a large blue ring.", 1),
        ("A red car.", 1),
        ("a car and a ring", 1),
        ("A blue car.", 0),  # its colour is another
        ("A red car and a red car.", 0),  # there is one only
        ("A large red car.", 0),
        ("A purple tree.", 0),  # a kind that no scene has
        ("A green sign that says STOP.", 1),
        ("a sign saying stop next to a ring", 1),
        ("A green sign that says SALE.", 0),
        ("Something nice.", 0),  # mentions nothing
        ("", 0),
        ("||a red car [0.10,0.10,0.30,0.30]|| left of ||a blue ring [0.50,0.50,0.90,0.90]||.", 1),
        ("Two cars.", 0),
    ],
)
def test_objects_right(caption, right):
    assert objects_right(caption, SCENE, Words.of([SCENE])) == right


FORM = [{"kind": "form", "color": "red"}, {"kind": "line", "text": "gate 2"}, {"kind": "line", "text": "room 500"}]


@pytest.mark.parametrize(
    ("caption", "right"),
    [
        ("a form with gate and room.", 1),
        ("a form with gate and seat.", 0),
        ("a form with two lines.", 1),
        ("a form with three lines.", 0),
        ("a table with gate and room.", 0),
    ],
)
def test_objects_right_of_documents(caption, right):
    other = [{"kind": "table"}, {"kind": "line", "text": "seat 7"}]
    assert objects_right(caption, FORM, Words.of([FORM, other])) == right


def test_boxes_of_like_phrases_are_matched_whatever_their_order():
    truth = [("a dog", Box(0.0, 0.0, 0.4, 0.4)), ("a dog", Box(0.1, 0.0, 0.5, 0.4))]
    either, first = ("a dog", Box(0.04, 0.0, 0.44, 0.4)), ("a dog", Box(0.0, 0.0, 0.3, 0.4))
    assert match_phrases([either, first], truth) == match_phrases([first, either], truth) == (2, 2, 2)
    assert match_phrases([first, first, ("a cat", truth[0][1])], truth) == (1, 3, 2)


def test_thousands_that_must_make_room_for_each_other_are_matched() -> None:
    """An imported run may name any number of boxes, and each new pair may move all that were made before."""
    assert most_pairs([*([place, place + 1] for place in range(3000)), [0]]) == 3001


def test_mentions_take_objects_of_their_own():
    # "a car" fits both, "a red car" only one: the general mention must not take the particular one's object
    words = Words.of([[CAR]])
    assert objects_right("a car and a red car", [CAR, {**CAR, "color": "blue"}], words) == 1
    assert [m.color for m in mentions("two red cars", words)] == ["red", "red"]
