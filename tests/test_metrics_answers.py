"""Short answers against worked examples from the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from vlcompare.evaluate.metrics import answers
from vlcompare.evaluate.metrics.choices import lenient_letter

TEN_RED = ["red"] * 10


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("Yes.", "yes"),
        ("  A red\tcar\n", "red car"),
        ("the man", "man"),
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("black/white", "black white"),
        ("black / white", "black  white".replace("  ", " ")),
        ("t-shirt", "t shirt"),
        ("what?", "what"),
        ("10:30", "10:30"),  # the colon is not in the official list
        ("it's", "it's"),
        ("somebody'd", "somebodyd"),  # as in the official table
        ("yall'd've", "y'all'd've"),
        ("", ""),
    ],
)
def test_vqa_normalisation(said, normal):
    assert answers.normalise_vqa(said) == normal


def test_contractions_hold_the_official_table_and_nothing_else():
    table = answers.CONTRACTIONS
    assert len(table) == 114  # the official 120 without two identities and four that lower-casing makes unreachable
    assert table["aint"] == "ain't" and table["twas"] == "'twas" and table["ow's'at"] == "'ow's'at"
    assert not {"well", "shed", "wed", "hell", "lets", "its", "were", "id", "ill"} & set(table)


@pytest.mark.parametrize(
    ("said", "references", "score"),
    [
        ("red", TEN_RED, 1.0),
        ("Red.", TEN_RED, 1.0),
        ("blue", TEN_RED, 0.0),
        ("red", ["red"] * 3 + ["blue"] * 7, (3 * 2 / 3 + 7 * 1) / 10),  # 0.9
        ("red", ["red"] * 2 + ["blue"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),  # 0.6
        ("red", ["red"] * 1 + ["blue"] * 9, (0 + 9 * 1 / 3) / 10),  # 0.3
        ("red", ["red"] * 4 + ["blue"] * 6, 1.0),
        ("2", ["two"] * 10, 1.0),
        ("red", ["red"], 1.0),
        ("red", ["blue"], 0.0),
        ("red", ["red", "blue"], 0.5),
        ("red", ["red", "red"], 1.0),
        ("red", ["red", "red", "blue"], (2 * 0.5 + 1) / 3),
        ("red", ["red"] * 4, 1.0),
        ("red", ["red", "b", "c", "d"], 0.25),
        ("", TEN_RED, 0.0),
        ("red", [], 0.0),
    ],
)
def test_vqa_soft_accuracy(said, references, score):
    assert answers.vqa_accuracy(said, references) == pytest.approx(score)


@pytest.mark.parametrize(
    ("said", "references", "official", "usual"),
    [
        ("Yes", ["yes"] * 10, 0.0, 1.0),  # unanimous: neither side is normalised
        ("yes.", ["yes"] * 10, 0.0, 1.0),
        (" yes\n", ["yes"] * 10, 1.0, 1.0),
        ("yes", ["yes"] * 10, 1.0, 1.0),
        ("Yes", ["yes"] * 9 + ["no"], 1.0, 1.0),
        ("a dog", ["a dog"] * 10, 1.0, 1.0),
        ("dog", ["a dog"] * 10, 0.0, 1.0),
        ("two", ["2"] * 10, 0.0, 1.0),
        ("Red.", ["red"] * 3 + ["blue"] * 7, 0.9, 0.9),
        ("", ["yes"] * 10, 0.0, 0.0),
    ],
)
def test_the_official_soft_accuracy_and_the_usual_one(said, references, official, usual):
    assert answers.vqa_accuracy_official(said, references) == pytest.approx(official)
    assert answers.vqa_accuracy(said, references) == pytest.approx(usual)


def test_vqa_soft_accuracy_is_the_mean_over_leave_one_out_sets():
    dice = np.random.default_rng(0)
    for _ in range(200):
        references = list(dice.choice(["red", "blue", "green"], size=10))
        literal = np.mean([min(1, (references[:i] + references[i + 1 :]).count("red") / 3) for i in range(10)])
        assert answers.vqa_accuracy("red", references) == pytest.approx(literal)


@pytest.mark.parametrize(
    ("said", "references", "score"),
    [
        ("ITC Limited", ["itc limited"], 1.0),
        ("abcd", ["abcx"], 0.75),
        ("ab", ["ax"], 0.5),  # exactly 0.5 counts
        ("abc", ["axx"], 0.0),
        ("abc", ["abd", "abc"], 1.0),
        ("hello", ["helo"], 0.8),
        ("x", ["a long answer"], 0.0),
        ("", ["anything"], 0.0),
        ("12.", ["12"], 2 / 3),  # full stops stay
        ("12", ["12."], 2 / 3),
        ("ab c", ["ab    x"], 1 - 1 / 7),  # the distance of folded texts over the length of those as they stand
    ],
)
def test_anls(said, references, score):
    assert answers.anls(said, references) == pytest.approx(score)
    assert answers.anls_strict([answers.anls(said, references)])[0] == pytest.approx(score if score != 0.5 else 0.0)


def _plain_anls(answer, references):
    """The definition, with the distance by the full table."""
    results = []
    for reference in references:
        a, b = " ".join(answer.lower().split()), " ".join(reference.lower().split())
        table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
        table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
        for i in range(len(a)):
            for j in range(len(b)):
                table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (a[i] != b[j]))
        results.append(table[-1, -1] / max(len(answer), len(reference)))
    best = 1 - min(results)
    return best if best >= 0.5 else 0.0


def test_anls_is_its_definition():
    dice = np.random.default_rng(1)
    for _ in range(300):
        texts = ["".join(dice.choice(list("aB .1"), dice.integers(1, 9))) for _ in range(4)]
        said = texts[0].strip() or "a"
        assert answers.anls(said, texts[1:]) == pytest.approx(_plain_anls(said, texts[1:])), (said, texts[1:])


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("a", "a", 0)]
)
def test_edit_distance(a, b, distance):
    assert answers.edit_distance(a, b) == answers.edit_distance(b, a) == distance


def test_anls_of_a_huge_answer_is_decided_by_its_length():
    assert answers.anls("x" * 1_000_000, ["12"]) == 0.0


@pytest.mark.parametrize(
    ("said", "references", "score"),
    [("Yes.", ["yes"], 1), ("A  Red car", ["a red CAR."], 1), ("red", ["a red"], 0), ("", [""], 0), (".", ["."], 1)],
)
def test_exact_match(said, references, score):
    assert answers.exact_match(said, references) == score


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Yes", "yes"),
        ("no, there is none", "no"),
        ("There is not a dog.", "no"),
        ("Yes. There is no cat.", "yes"),  # the first sentence alone
        ("maybe", "yes"),  # POPE's script: everything that is not "no"
        ("", "yes"),
        ("   ", "yes"),
        ("NO", "yes"),  # "No" and "no" alone are in the script
        ("No, sir", "no"),
        ("nothing", "yes"),
    ],
)
def test_pope_reading(said, read):
    assert answers.read_yes_no(said) == read


def test_pope_figures_are_those_of_its_script():
    """The script's reading and counts, written down step by step."""
    dice = np.random.default_rng(3)
    said = dice.choice(["yes", "No", "no.", "not at all", "", "NO", "Yes. No", "no,", "nope"], 200).tolist()
    labels = dice.choice(["yes", "no"], 200).tolist()
    read = []
    for text in said:
        if text.find(".") != -1:
            text = text.split(".")[0]
        words = text.replace(",", "").split(" ")
        read.append(0 if "No" in words or "not" in words or "no" in words else 1)
    pairs = list(zip(read, [int(label == "yes") for label in labels], strict=True))
    hits, wrong, missed = (pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1)))
    precision, recall = hits / (hits + wrong), hits / (hits + missed)
    ours = [answers.read_yes_no(text) == "yes" for text in said]
    assert ours == [bool(value) for value in read]
    sums = answers.f1_columns(ours, [label == "yes" for label in labels]).sum(axis=0)
    assert answers.F1.of_sums(sums) == pytest.approx(2 * precision * recall / (precision + recall))


def test_f1_by_hand():
    said = [True, True, False, False, True]
    truth = [True, False, True, False, True]
    sums = answers.f1_columns(said, truth).sum(axis=0)
    assert list(sums) == [2, 1, 1]
    assert answers.F1.of_sums(sums) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert answers.F1.of_sums(np.zeros(3)) == 0


@pytest.mark.parametrize(("said", "right"), [("Yes", True), (" YES\n", True), ("yes.", False), ("yes it is", False)])
def test_yes_by_the_whole_answer(said, right):
    assert answers.says_exactly(said, "yes") == right


CELL = ("a nucleus", "the cell wall", "mitochondria", "a ribosome")


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("Answer: B", "B"),
        ("The answer is B.", "B"),
        ("the answer is (b)", "B"),
        ("The correct answer is: **C**", "C"),
        ("B the cell wall", "B"),
        ("the cell wall", "B"),
        ("It is the cell wall.", "B"),
        ("cell wall", "B"),
        ("**B.** the cell wall", "B"),
        ("option B", "B"),
        ("Option D is right", "D"),
        ("B, because", "B"),
        ("B because it is", "B"),
        ("I think it is B", "B"),
        ("(D) a ribosome", "D"),
        ("A ribosome", "D"),  # the article, not the letter
        ("A nucleus", "A"),
        ("The answer is a ribosome", "D"),
        ("A", "A"),
        ("A.", "A"),
        ("The answer is A", "A"),
        ("b) the first", "B"),
        ("(c) whatever", "C"),
        ("ANSWER: D", "D"),
        ("The correct option is C", "C"),
        ("The answer is option C", "C"),
        ("I would choose B", "B"),
        ("\\boxed{D}", "D"),
        ("The answer is therefore B.", "B"),
        ("A because it is", "A"),
        ("A is right", "A"),
        ("Both A and B", None),
        ("e.g. something", None),
        ("Nucleus or mitochondria", None),
        ("Answer: B or answer: C", None),
        ("B or C", "B"),  # ahead of the rest
        ("either B or C", None),
        ("The answer is F", None),
        ("A man", None),
        ("something else", None),
        ("", None),
    ],
)
def test_lenient_letters(said, letter):
    assert lenient_letter(said, CELL) == letter


def test_a_long_answer_is_read_in_time_that_grows_with_its_length():
    """Ten thousand repetitions would take minutes if each looked through all that follow."""
    assert lenient_letter("choice is " * 10_000, CELL) is None


def test_lenient_letters_of_options_that_hold_each_other():
    options = ("red", "dark red", "blue", "red")
    assert lenient_letter("dark red", options) == "B"
    assert lenient_letter("it is red", options) is None  # two options read so
    assert lenient_letter("red and blue", options) is None
    assert lenient_letter("the answer is blue", options) == "C"
    assert lenient_letter("B", ((0.1, 0.1, 0.2, 0.2), (0.3, 0.3, 0.4, 0.4))) == "B"
