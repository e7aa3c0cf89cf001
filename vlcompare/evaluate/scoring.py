"""Which metrics each task has, and their values row by row.

A task's scorer is a row of SCORERS; METRICS defines each metric, and the definitions go into every summary beside the
figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlcompare.evaluate.benchmarks import script_of
from vlcompare.evaluate.intervals import CorpusFigure
from vlcompare.evaluate.metrics import answers, captions
from vlcompare.evaluate.metrics import boxes as box_metrics
from vlcompare.evaluate.metrics.boxes import THRESHOLDS, match_phrases
from vlcompare.evaluate.metrics.choices import lenient_letter
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


_FOLDED = "in lower case, white space folded, a final full stop dropped"
_CIRCULAR = "a question asked again with its choices turned counts once, and is right where every turn of it is"
_LENIENT = Metric(
    "the letter is the true one, read leniently: as for `accuracy`, else a letter after 'answer', 'option' or "
    "'choice', a letter ahead of the rest, the one option whose text the answer holds, or the one capital letter that "
    f"stands alone; an answer in which none of these gives one letter is wrong; {_CIRCULAR}"
)
_STRICT = Metric(
    "the letter is the true one, read strictly: a letter alone in the first line, or a capital at the start set off by "
    f"a bracket, full stop or colon; {_CIRCULAR}"
)
METRICS: dict[str, Metric] = {
    **{
        f"acc@{threshold}": Metric(
            f"share of rows whose first box has IoU >= {threshold} with the true box, both clipped to the picture "
            "(0..1) first (the checkpoints' authors count IoU > 0.5; exact hits alone differ)"
        )
        for threshold in THRESHOLDS
    },
    "mean_iou": Metric(
        "mean IoU of the first box with the true box, both clipped to the picture (0..1) first; no, inverted or empty "
        "box: 0"
    ),
    "center": Metric("share of rows where the centre of the first box, clipped to 0..1, lies inside the true box"),
    **dict.fromkeys(
        ("grounding.parse_rate", "grounded_captioning.parse_rate"),
        Metric("share of rows whose answer holds a box, be it inverted or empty"),
    ),
    "parse_rate": Metric("share of rows whose answer could be read as the task asks: a letter, or True / False"),
    "vqa.accuracy": Metric(
        "each row by its benchmark's own script. VQA soft accuracy: mean over the leave-one-out sets of references of "
        "min(1, matches / 3), or matches over the number left where that is below three; one reference alone has to "
        "match. Answer and references are normalised first (case, punctuation, articles, number words, contractions); "
        "of VQA, VQAv2 and OK-VQA they are left as they stand, outer spaces aside, where all references are the same. "
        f"GQA: exact match {_FOLDED}. An empty answer is wrong. POPE: everything that is not 'no' is 'yes', as POPE's "
        "script reads it: 'no' where the answer up to its first full stop has the word No, no or not; an empty answer "
        "is 'yes', a row without an answer is wrong"
    ),
    "vqa.accuracy_normalised": Metric(
        "VQA, VQAv2 and OK-VQA rows: VQA soft accuracy with answer and references always normalised, as most "
        "harnesses count"
    ),
    "vqa.accuracy_exact": Metric(
        "POPE rows: the whole answer is 'yes' or 'no' as the reference is, in lower case, outer spaces dropped"
    ),
    "f1": Metric(
        "POPE: F1 with 'yes' as the positive class, over the yes / no rows, read as for `accuracy`; a row without an "
        "answer counts as missed where 'yes' is true, and not at all where 'no' is"
    ),
    "yes_rate": Metric(
        "POPE: share of the yes / no rows that are answered 'yes', read as for `accuracy`; one without an answer is not"
    ),
    "anls": Metric(
        "Average Normalised Levenshtein Similarity as the benchmark's own script counts it: the best over the "
        "references of 1 - NL, and 0 where that is below 0.5, so that exactly 0.5 counts; NL is the edit distance in "
        "lower case with white space folded, over the longer of both texts as they stand; full stops stay; an empty "
        "answer is 0"
    ),
    "anls_strict": Metric("as `anls`, but with NL < 0.5 as the paper defines it: a similarity of exactly 0.5 is 0"),
    "exact": Metric(f"exact match with a reference, {_FOLDED}"),
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
        "F1 of pairs of phrase and box: the same phrase in lower case, white space folded and a final full stop "
        "dropped, at IoU >= 0.5 after both boxes are clipped to the picture (0..1), each true pair used once; mean"
    ),
    "region_description.accuracy": Metric(f"exact match with a reference, {_FOLDED}"),
    "multiple_choice.accuracy": _STRICT,
    "pointing.accuracy": _STRICT,
    "accuracy_lenient": _LENIENT,
    "image_text_match.accuracy": Metric("the answer's first word is True / False, in any case, and it is the true one"),
}


def metric_of(task: str, name: str) -> Metric:
    """What a metric means for a task."""
    return METRICS.get(f"{task}.{name}") or METRICS[name]


@dataclass(slots=True)
class Scores:
    """Values of one task's rows on one side, in the order of the rows.

    `values[metric]` is (n,). Metrics that are not means stand in `corpus` too: what each row adds to the sums, and the
    figure of the sums. `only[metric]` is the mask of rows a metric is about, where that is not all of them.
    """

    main: str
    values: dict[str, Floats] = field(default_factory=dict)
    corpus: dict[str, tuple[Floats, CorpusFigure]] = field(default_factory=dict)
    only: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def figure(self, metric: str) -> float:
        """The figure of the whole set."""
        if metric in self.corpus:
            columns, figure = self.corpus[metric]
            return float(figure.of_sums(columns.sum(axis=0)))
        values = self.values[metric][self.only[metric]] if metric in self.only else self.values[metric]
        return float(values.mean()) if len(values) else float("nan")


Scorer = Callable[[Sequence[Sample], Sequence[Reply], Words], Scores]


def score(task: str, samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores | None:
    """Score one task's rows; None for a task without a right answer (chat)."""
    scorer = SCORERS.get(task)
    return scorer(samples, replies, words) if scorer and samples else None


def _array(values: Sequence[float] | Sequence[bool] | NDArray[np.bool_]) -> Floats:
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


# ---- short answers ---------------------------------------------------------------------------------------------------


def _vqa(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    benchmarks = [script_of(sample.source or "") for sample in samples]
    own, normalised = [], []
    for benchmark, sample, reply in zip(benchmarks, samples, replies, strict=True):
        usual = 0.0 if benchmark in ("pope", "gqa") else answers.vqa_accuracy(reply.raw, sample.references)
        normalised.append(usual)
        own.append(_vqa_own(benchmark, sample, reply, usual))
    scores = Scores("accuracy", {"accuracy": _array(own)})
    if (official := np.array([name == "vqa" for name in benchmarks])).any():
        scores.values["accuracy_normalised"] = _array(normalised)
        scores.only["accuracy_normalised"] = official
    if (polled := np.array([name == "pope" for name in benchmarks])).any():
        _add_pope(scores, samples, replies, polled)
    return scores


def _vqa_own(benchmark: str, sample: Sample, reply: Reply, usual: float) -> float:
    """A row by its benchmark's own script; `usual` is the figure of the usual harnesses."""
    match benchmark:
        case "pope":
            return float(reply.status == "ok" and answers.read_yes_no(reply.raw) == _pope_truth(sample))
        case "gqa":
            return answers.exact_match(reply.raw, sample.references)
        case "vqa":
            return answers.vqa_accuracy_official(reply.raw, sample.references, usual)
    return usual


def _pope_truth(sample: Sample) -> str | None:
    return answers.read_yes_no(sample.references[0]) if sample.references else None


def _add_pope(scores: Scores, samples: Sequence[Sample], replies: Sequence[Reply], polled: NDArray[np.bool_]) -> None:
    is_yes, truth, exact = (np.zeros(len(samples), dtype=bool) for _ in range(3))
    for i in np.flatnonzero(polled).tolist():
        sample, reply = samples[i], replies[i]
        truth[i] = _pope_truth(sample) == "yes"
        is_yes[i] = reply.status == "ok" and answers.read_yes_no(reply.raw) == "yes"
        exact[i] = reply.status == "ok" and answers.says_exactly(reply.raw, "yes" if truth[i] else "no")
    scores.values |= {"accuracy_exact": _array(exact), "f1": scores.values["accuracy"], "yes_rate": _array(is_yes)}
    scores.corpus["f1"] = (answers.f1_columns(is_yes, truth), answers.F1)
    scores.only |= dict.fromkeys(("accuracy_exact", "f1", "yes_rate"), polled)


def _document_vqa(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    pairs = [(reply.raw, sample.references) for sample, reply in zip(samples, replies, strict=True)]
    anls = _array([answers.anls(*pair) for pair in pairs])
    exact = _array([answers.exact_match(*pair) for pair in pairs])
    return Scores("anls", {"anls": anls, "anls_strict": answers.anls_strict(anls), "exact": exact})


# ---- captions --------------------------------------------------------------------------------------------------------


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
        {"bleu4": (columns, captions.BLEU4)},
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
    pairs = list(zip(samples, replies, strict=True))
    right = [reply.readable and _is_true(reply.text, sample) for sample, reply in pairs]
    return Scores("accuracy", {"accuracy": _array(right), "parse_rate": _array([reply.readable for reply in replies])})


def _letter(samples: Sequence[Sample], replies: Sequence[Reply], words: Words) -> Scores:
    """The strict reading of the task, and the lenient one where there is no strict one."""
    scores = _choice(samples, replies, words)
    lenient = []
    for sample, reply in zip(samples, replies, strict=True):
        letter = reply.text if reply.readable else lenient_letter(reply.text, sample.choices or ())
        lenient.append(letter is not None and _is_true(letter, sample))
    scores.values["accuracy_lenient"] = _array(lenient)
    _join_circular(scores, samples)
    return scores


def _join_circular(scores: Scores, samples: Sequence[Sample]) -> None:
    """A question that is asked again with its choices turned (MMBench: rows tagged `circular` with the first one's id)
    counts once, and is right where every turn of it is."""
    turns: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        turns.setdefault(str(sample.tags.get("circular", sample.id)), []).append(row)
    if len(turns) == len(samples):
        return
    counted = np.zeros(len(samples), dtype=bool)
    counted[[rows[0] for rows in turns.values()]] = True
    for metric in ("accuracy", "accuracy_lenient"):
        for rows in turns.values():
            scores.values[metric][rows] = scores.values[metric][rows].min()
        scores.only[metric] = counted


def _is_true(text: str, sample: Sample) -> bool:
    return answers.fold(text) in {answers.fold(reference) for reference in sample.references}


SCORERS: dict[str, Scorer] = {
    "grounding": _grounding,
    "vqa": _vqa,
    "document_vqa": _document_vqa,
    "captioning": _captioning,
    "grounded_captioning": _grounded_captioning,
    "region_description": _exact,
    "multiple_choice": _letter,
    "pointing": _letter,
    "image_text_match": _choice,
}
