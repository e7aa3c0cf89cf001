"""Three rows each, counted by hand as the benchmarks' own definitions count them."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from vlcompare.evaluate.metrics.captions import cider_d
from vlcompare.evaluate.score_files import score_files


def _figures(tmp_path, samples, said, **declared):
    (tmp_path / "s.json").write_text(json.dumps(samples))
    (tmp_path / "p.json").write_text(json.dumps(said))
    (found,) = score_files(tmp_path / "s.json", tmp_path / "p.json", **declared)["tasks"].values()
    return found


def _asked(source, references, task="vqa"):
    return [
        {"id": str(n), "image": f"{n}.jpg", "task": task, "text": f"{n}?", "references": given, "source": source}
        for n, given in enumerate(references)
    ]


def test_vqa_leaves_unanimous_references_as_they_stand(tmp_path):
    """1. Ten times "yes": "Yes" is compared as it stands, 0 (normalised: 1).
    2. Nine "net", one "a ball": both sides are normalised, "The Net." is "net". Leaving one "net" out, 8 agree: 1;
       leaving "a ball" out, 9 do: 1. So 1.
    3. Two "red", eight "blue", answer "red": (2 x 1/3 + 8 x 2/3) / 10 = .6."""
    samples = _asked("vqav2", [["yes"] * 10, ["net"] * 9 + ["a ball"], ["red"] * 2 + ["blue"] * 8])
    found = _figures(tmp_path, samples, {"0": "Yes", "1": "The Net.", "2": "red"})
    assert found["accuracy"] == pytest.approx((0 + 1 + 0.6) / 3)
    assert found["accuracy_normalised"] == pytest.approx((1 + 1 + 0.6) / 3)


def test_anls_at_exactly_one_half(tmp_path):
    """1. "abcd" for "abxy": two of four letters differ, NL = .5, so 1 - NL = .5, which the benchmark's script keeps (it
       drops what is below) and the paper's equation does not (NL < .5).
    2. "abcde" for "abxyz": three of five, .4, nothing either way.
    3. "ABCDE" for "abcdx": one of five in lower case, .8 either way."""
    samples = _asked("docvqa", [["abxy"], ["abxyz"], ["abcdx"]], "document_vqa")
    found = _figures(tmp_path, samples, {"0": "abcd", "1": "abcde", "2": "ABCDE"})
    assert found["anls"] == pytest.approx((0.5 + 0 + 0.8) / 3)
    assert found["anls_strict"] == pytest.approx((0 + 0 + 0.8) / 3)


def test_pope_takes_everything_that_is_not_no_for_yes(tmp_path):
    """POPE's script: "no" where No, no or not is a word of the text up to its first full stop, else "yes".
    Truths yes, no, no. "Maybe a dog" is yes, right; "There is not." is no, right; "NO" is yes, wrong.
    One true positive, one false positive, none missed: precision 1/2, recall 1, F1 = 2/3; yes in two of three."""
    samples = _asked("pope", [["yes"], ["no"], ["no"]])
    found = _figures(tmp_path, samples, {"0": "Maybe a dog", "1": "There is not.", "2": "NO"})
    assert found["accuracy"] == pytest.approx(2 / 3) and found["f1"] == pytest.approx(2 / 3)
    assert found["yes_rate"] == pytest.approx(2 / 3)


def test_gqa_counts_its_balanced_questions(tmp_path):
    """eval.py reads the balanced questions: of three, two, one of them right. With the third, two of three."""
    row = {"imageId": "1", "answer": "yes"}
    samples = {str(n): {**row, "question": f"{n}?", "isBalanced": n < 2} for n in range(3)}
    said = [{"questionId": str(n), "prediction": answer} for n, answer in enumerate(["yes", "no", "yes"])]
    found = _figures(tmp_path, samples, said)
    assert (found["n"], found["accuracy"]) == (2, 1 / 2)
    found = _figures(tmp_path, samples, said, balanced=False)
    assert (found["n"], found["accuracy"]) == (3, pytest.approx(2 / 3))


def test_mmbench_counts_a_question_once_and_right_where_every_turn_is(tmp_path):
    """CircularEval: question 1 has two turns, both right; question 2 one of two: 1 of 2 questions, not 3 of 4 rows."""
    table = "index\tquestion\tA\tB\tanswer\timage_path\n"
    for index, letter in ((1, "A"), (1000001, "B"), (2, "A"), (1000002, "B")):
        table += f"{index}\tq\tcat\tdog\t{letter}\ta.jpg\n" if letter == "A" else f"{index}\tq\tdog\tcat\tB\ta.jpg\n"
    (tmp_path / "t.tsv").write_text(table)
    said = {"1": "A", "1000001": "B", "2": "A", "1000002": "A"}
    (tmp_path / "p.json").write_text(json.dumps(said))
    found = score_files(tmp_path / "t.tsv", tmp_path / "p.json")["tasks"]["multiple_choice"]
    assert found["accuracy"] == 1 / 2


def test_scienceqa_counts_the_letter(tmp_path):
    """`answer` counts from 0: 0 is A, 1 is B. "A" and "B." are right, "A" for B is wrong; the third has no picture and
    is left out (IMG split)."""
    rows = {
        str(n): {"question": f"{n}?", "choices": ["x", "y"], "answer": answer, "hint": "", "lecture": "",
                 "solution": "", "image": image, "split": "test"}
        for n, (answer, image) in enumerate([(0, "image.png"), (1, "image.png"), (1, "image.png"), (1, None)])
    }  # fmt: skip
    found = _figures(tmp_path, rows, {"0": "A", "1": "B.", "2": "A"})
    assert (found["n"], found["accuracy"]) == (3, pytest.approx(2 / 3))


CAPTIONS = [
    ("a red dog runs on the grass", ["a red dog runs on grass", "the dog runs"]),
    ("two cats", ["two cats sit on a red sofa", "cats on a sofa"]),
    ("a man rides a bike", ["a man rides a bike", "a man on a bike"]),
]


def _published_cider_d(candidates, references):
    """CIDEr-D by its published formula, in ten lines of its own: 10/4 of the sum over n of the mean over references of
    exp(-(l_c - l_s)^2 / (2 x 6^2)) x <min(g_c, g_s), g_s> / (|g_c| |g_s|), g = tf x log(N / df)."""

    def grams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for candidate, own in zip(candidates, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            df = Counter(gram for texts in references for gram in set().union(*(grams(text, n) for text in texts)))

            def weigh(text, n=n, df=df):
                return {g: tf * math.log(len(references) / max(1, df[g])) for g, tf in grams(text, n).items()}

            ours = weigh(candidate)
            for text in own:
                theirs = weigh(text)
                dot = sum(min(value, theirs[g]) * theirs[g] for g, value in ours.items() if g in theirs)
                norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
                gap = len(candidate.split()) - len(text.split())
                total += math.exp(-(gap**2) / 72) * (dot / norms if norms else 0) / len(own)
        scores.append(10 * total / 4)
    return scores


def test_cider_d_is_the_published_formula():
    candidates, references = zip(*CAPTIONS, strict=True)
    assert cider_d(candidates, references).tolist() == pytest.approx(_published_cider_d(candidates, references))


@pytest.mark.parametrize("set_name", ["coco", "textcaps"])
def test_captions_of_both_benchmarks_equal_the_reference_package(tmp_path, set_name):
    """One CIDEr-D, BLEU-4 and ROUGE-L for COCO's and TextCaps' files (TextCaps is scored by COCO's package)."""
    package = pytest.importorskip("pycocoevalcap")
    assert package
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {n: list(references) for n, (_, references) in enumerate(CAPTIONS)}
    given = {n: [caption] for n, (caption, _) in enumerate(CAPTIONS)}
    if set_name == "coco":
        captions = [{"image_id": n, "id": 9 * n, "caption": text} for n, texts in truth.items() for text in texts]
        samples = {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in truth], "annotations": captions}
    else:
        samples = {"data": [{"image_id": str(n), "image_classes": [], "caption_id": 10 * n + k, "caption_str": text,
                             "reference_strs": texts, "set_name": "val"}
                            for n, texts in truth.items() for k, text in enumerate(texts)]}  # fmt: skip
    found = _figures(tmp_path, samples, [{"image_id": n, "caption": texts[0]} for n, texts in given.items()])
    assert found["n"] == 3
    assert found["cider_d"] == pytest.approx(Cider().compute_score(truth, given)[0])
    assert found["rouge_l"] == pytest.approx(Rouge().compute_score(truth, given)[0])
    assert found["bleu4"] == pytest.approx(Bleu(4).compute_score(truth, given, verbose=0)[0][3])
