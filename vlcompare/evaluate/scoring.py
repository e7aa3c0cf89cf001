"""Which metrics each task has, and their values row by row.

A task's scorer is a row of SCORERS; what a metric means stands in METRICS and goes into every summary beside the
figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlcompare.evaluate.metrics import answers, captions
from vlcompare.evaluate.metrics import boxes as box_metrics
from vlcompare.evaluate.metrics.boxes import THRESHOLDS, match_phrases
from vlcompare.evaluate.metrics.objects import Words, objects_right
from vlcompare.evaluate.metrics.ptb import tokenise
from vlcompare.evaluate.replies import Reply
from vlcompare.tasks.reading import read_answer
from vlcompare.types import Request, Sample

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a figure means, and from which value on a row counts as right (for the four quadrants)."""

    definition: str
    fraction: bool = True  # values lie within 0..1
    right_at: float = 0.5


METRICS: dict[str, Metric] = {
    **{
        f"acc@{threshold}": Metric(
            f"share of rows whose first box has IoU >= {threshold} with the true box (the checkpoints' authors count "
            "IoU > 0.5; exact hits alone differ)"
        )
        for threshold in THRESHOLDS
    },
    "mean_iou": Metric("mean IoU of the first box with the true box; no, inverted or empty box: 0"),
    "center": Metric("share of rows where the centre of the first box lies inside the true box"),
    **dict.fromkeys(
        ("grounding.parse_rate", "grounded_captioning.parse_rate"),
        Metric("share of rows whose answer holds a box, be it inverted or empty"),
    ),
    "parse_rate": Metric("share of rows whose answer could be read as the task asks: a letter, or True / False"),
    "vqa.accuracy": Metric(
        "VQA soft accuracy: mean over the leave-one-out sets of references of min(1, matches / 3) after the official "
        "normalisation; with fewer than four references all others must match, with one it is an exact match. "
        "GQA: exact match in lower case. POPE: yes / no as POPE's own script reads them"
    ),
    "f1": Metric("POPE: F1 with 'yes' as the positive class, over the yes / no rows"),
    "yes_rate": Metric("POPE: share of the yes / no rows that are answered 'yes'; one without an answer is not"),
    "anls": Metric(
        "Average Normalised Levenshtein Similarity: the best over the references of 1 - NL where NL < 0.5, else 0; in "
        "lower case, white space folded, a final full stop dropped"
    ),
    "exact": Metric("exact match in lower case, white space folded, a final full stop dropped"),
    "cider_d": Metric(
        "CIDEr-D over Penn-Treebank tokens, document frequencies from the rows scored, on the package's scale: 1.3289 "
        "here is 132.89 in papers",
        fraction=False,
        right_at=1.0,
    ),
    "bleu4": Metric("BLEU-4 of the whole set, closest reference length"),
    "rouge_l": Metric("ROUGE-L, beta 1.2, mean over rows"),
    "objects_right": Metric(
        "rendered scenes: share of captions that mention something and every object they mention is there, with its "
        "size, colour and text, each mention an object of its own"
    ),
    "box_f1": Metric(
        "F1 of pairs of phrase and box: the same phrase in lower case at IoU >= 0.5, each true pair used once; mean"
    ),
    "region_description.accuracy": Metric(
        "exact match with a reference in lower case, white space folded, a final full stop dropped"
    ),
    "multiple_choice.accuracy": Metric("the letter is the true one"),
    "pointing.accuracy": Metric("the letter is the true one"),
    "image_text_match.accuracy": Metric("True / False is the true one"),
}


def metric_of(task: str, name: str) -> Metric:
    """What a metric means for a task."""
    return METRICS.get(f"{task}.{name}") or METRICS[name]


@dataclass(slots=True)
class Scores:
    """Values of one task's rows on one side, in the order of the rows.

    `values[metric]` is (n,). Metrics that are no mean stand in `corpus` too: what each row adds, and the function of
    the sums. `only[metric]` is the mask of rows a metric is about, where that is not all of them.
    """

    main: str
    values: dict[str, Floats] = field(default_factory=dict)
    corpus: dict[str, tuple[Floats, Callable[[Floats], Floats]]] = field(default_factory=dict)
    only: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def figure(self, metric: str) -> float:
        """The figure of the whole set."""
        if metric in self.corpus:
            columns, statistic = self.corpus[metric]
            return float(statistic(columns.sum(axis=0)))
        values = self.values[metric][self.only[metric]] if metric in self.only else self.values[metric]
        return float(values.mean()) if len(values) else float("nan")


Scorer = Callable[[Sequence[Sample], Sequence[Reply], Words], Scores]


def score(task: str, samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores | None:
    """Score one task's rows; None for a task without a right answer (chat)."""
    scorer = SCORERS.get(task)
    return scorer(samples, replies, words) if scorer and samples else None


def _array(values: Sequence[float] | Sequence[bool]) -> Floats:
    return np.array(values, dtype=np.float64)


def _grounding(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    predicted = box_metrics.as_columns([reply.box for reply in replies])
    truth = box_metrics.as_columns([sample.boxes[0] for sample in samples])
    ious = box_metrics.ious(predicted, truth)
    values = {f"acc@{at}": box_metrics.reaches(ious, at).astype(np.float64) for at in THRESHOLDS}
    values["mean_iou"] = ious
    values["center"] = box_metrics.centers_inside(predicted, truth).astype(np.float64)
    values["parse_rate"] = np.isfinite(predicted[:, 0]).astype(np.float64)
    return Scores("acc@0.5", values)


def _vqa(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    scores = Scores("accuracy", {"accuracy": _array(list(map(_vqa_one, samples, replies)))})
    polled = np.array([_kind_of_question(sample) == "pope" for sample in samples])
    if polled.any():
        answered = np.array([answers.read_yes_no(reply.text) == "yes" for reply in replies]) & polled
        truth = np.array([_truth_of(sample) == "yes" for sample in samples]) & polled
        scores.values |= {"f1": scores.values["accuracy"], "yes_rate": answered.astype(np.float64)}
        scores.corpus["f1"] = (answers.f1_columns(answered, truth), answers.f1)
        scores.only |= {"f1": polled, "yes_rate": polled}
    return scores


def _kind_of_question(sample: Sample) -> str:
    source = (sample.source or "").lower()
    return next((kind for kind in ("pope", "gqa") if source.startswith(kind)), "")


def _truth_of(sample: Sample) -> str | None:
    return answers.read_yes_no(sample.references[0]) if sample.references else None


def _vqa_one(sample: Sample, reply: Reply) -> float:
    match _kind_of_question(sample):
        case "pope":
            answer = answers.read_yes_no(reply.text)
            return float(answer is not None and answer == _truth_of(sample))
        case "gqa":
            return answers.exact_match(reply.text, sample.references)
        case _:
            return answers.vqa_accuracy(reply.text, sample.references)


def _document_vqa(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    pairs = [(reply.text, sample.references) for sample, reply in zip(samples, replies, strict=True)]
    return Scores(
        "anls",
        {
            "anls": _array([answers.anls(text, references) for text, references in pairs]),
            "exact": _array([answers.exact_match(text, references) for text, references in pairs]),
        },
    )


def _captioning(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    candidates = [tokenise(reply.text) for reply in replies]
    references = [[tokenise(reference) for reference in sample.references] for sample in samples]
    columns = captions.bleu_columns(candidates, references)
    scores = Scores(
        "cider_d",
        {
            "cider_d": captions.cider_d(candidates, references),
            "bleu4": captions.bleu4(columns),
            "rouge_l": captions.rouge_l(candidates, references),
        },
        {"bleu4": (columns, captions.bleu4)},
    )
    _add_objects(scores, samples, replies, words)
    return scores


def _add_objects(scores: Scores, samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> None:
    rendered = np.array([bool(sample.objects) for sample in samples])
    if rendered.any():
        scores.values["objects_right"] = _array(
            [objects_right(reply.text, sample.objects, words) for sample, reply in zip(samples, replies, strict=True)]
        )
        scores.main = "objects_right" if rendered.all() else scores.main
        if not rendered.all():
            scores.only["objects_right"] = rendered


def _grounded_captioning(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    scores = Scores("box_f1")
    values = []
    for sample, reply in zip(samples, replies, strict=True):
        reference = read_answer(Request("grounded_captioning"), sample.references[0] if sample.references else "")
        predicted, true = (
            [(answers.fold(phrase), box) for phrase, box in zip(pair.phrases, pair.boxes, strict=False)]
            for pair in (reply, reference)
        )
        matched, *counts = match_phrases(predicted, true)
        values.append(2 * matched / sum(counts) if sum(counts) else 0.0)
    scores.values["box_f1"] = _array(values)
    scores.values["parse_rate"] = _array([bool(reply.boxes) for reply in replies])
    _add_objects(scores, samples, replies, words)
    scores.main = "box_f1"
    return scores


def _exact(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    right = [answers.exact_match(reply.text, sample.references) for sample, reply in zip(samples, replies, strict=True)]
    return Scores("accuracy", {"accuracy": _array(right)})


def _choice(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    """A letter, or True / False: read by the task, and right only where it could be read."""
    right = [
        reply.readable and answers.fold(reply.text) in {answers.fold(reference) for reference in sample.references}
        for sample, reply in zip(samples, replies, strict=True)
    ]
    return Scores("accuracy", {"accuracy": _array(right), "parse_rate": _array([reply.readable for reply in replies])})


SCORERS: dict[str, Scorer] = {
    "grounding": _grounding,
    "vqa": _vqa,
    "document_vqa": _document_vqa,
    "captioning": _captioning,
    "grounded_captioning": _grounded_captioning,
    "region_description": _exact,
    "multiple_choice": _choice,
    "pointing": _choice,
    "image_text_match": _choice,
}
