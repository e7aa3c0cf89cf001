"""The terms of the page, each explained in one sentence, and the button beside a term that shows its sentence.

The page's script `ui/terms.js` shows what `term` makes: on hover, on focus, and by a tap.
"""

from __future__ import annotations

from vlcompare.render.markup import Safe, el

TERMS = {
    # boxes
    "iou": "Intersection over union: the area that the predicted and the true box share, divided by the area that both "
    "cover together; 1 is a perfect match, 0 no overlap, and 0.5 is the usual bar for right.",
    "truth": "The box or text that is known to be right, drawn dashed on the picture.",
    # times
    "first token": "Time from the question until the first token of the answer is out: picture, vision encoder and "
    "prefill.",
    "picture": "Opening, resizing and normalising the picture.",
    "vision encoder": "The network that turns the picture into vectors which the language model reads.",
    "prefill": "The pass in which the language model reads the picture's vectors and the prompt, before it writes the "
    "first token.",
    "token": "A piece of text that the model reads or writes at once: a short word, a part of a word, or a digit.",
    "token time": "Time between one token of the answer and the next.",
    "tokens per second": "How many tokens come out in a second once the first one is there.",
    "p50": "The median: half of the values are below it.",
    "p95": "95 % of the values are below it: what a slow token takes.",
    "measure or race": "Measure: one side answers after the other, alone on the device and warmed up, so that its "
    "times are figures. Race: both at the same moment, sharing the device, so that they are none.",
    # memory
    "cache": "What a Transformer keeps of every position it has read (the keys and values of its attention); it grows "
    "with each token.",
    "state": "What a state-space model keeps of all it has read, in a fixed number of values; it stays the same size "
    "however long the text.",
    "cache or state": "What a model keeps of all it has read: a Transformer's cache grows with each token, a "
    "state-space model's state stays the same size.",
    "weights": "The model's learnt numbers, as they lie in memory.",
    "peak": "The most memory of the GPU that was in use while the answer was made; in a race, by both sides.",
    "quantization": "Storing weights in fewer bits (int8: 8, NF4: 4, beside 16 of bfloat16): a model takes less "
    "memory and may answer a little worse.",
    "int8": "Weights as whole numbers of 8 bits with a scale a row: half of the memory of bfloat16.",
    "nf4": "Weights in 4 bits each, at levels that suit normally distributed values (NormalFloat4): about a quarter of "
    "the memory of bfloat16.",
    # tokens
    "log-probability": "The natural logarithm of the probability that the model gave to a token: 0 is certain, -0.7 is "
    "one in two, -2.3 one in ten.",
    "prompt order": "Whether the picture or the instruction comes first in the prompt; the published models were "
    "trained with the picture first.",
    # metrics
    "accuracy": "The share of samples that were answered right.",
    "accuracy_lenient": "The share of samples answered right, where an option's text counts as its letter.",
    "acc@0.3": "The share of samples whose first box overlaps the true one with an IoU of 0.3 or more.",
    "acc@0.5": "The share of samples whose first box overlaps the true one with an IoU of 0.5 or more: the usual "
    "figure for finding things.",
    "acc@0.7": "The share of samples whose first box overlaps the true one with an IoU of 0.7 or more.",
    "acc@0.9": "The share of samples whose first box overlaps the true one with an IoU of 0.9 or more.",
    "mean_iou": "The mean overlap of the first box with the true one; an answer without a box counts as 0.",
    "center": "The share of samples whose first box has its centre inside of the true one.",
    "parse_rate": "The share of answers that could be read as their task asks: as a box, an option's letter, or true "
    "or false.",
    "box_f1": "How many of a caption's phrases come with their right box (IoU of 0.5 or more), and how many of the "
    "true ones are among them, in one figure (F1).",
    "accuracy_normalised": "Accuracy with the answer and the right ones cleaned of case, punctuation and articles "
    "before they are compared.",
    "accuracy_exact": "The share of yes-or-no questions that were answered with the right word and nothing else.",
    "f1": "Of yes-or-no questions: how many that were answered with yes are yes, and how many that are yes were "
    "found, in one figure.",
    "yes_rate": "The share of yes-or-no questions that were answered with yes: far from 0.5 is a bias where half are.",
    "anls": "Average normalized Levenshtein similarity: how near the answer is to a right one letter by letter, 0 "
    "where less than half agrees.",
    "anls_strict": "As ANLS, but 0 where just half agrees, too: as the paper defines it, other than the benchmark's "
    "own script.",
    "exact": "The share of answers that equal a right one letter by letter, case aside.",
    "cider_d": "CIDEr-D: how much a caption's phrases agree with those of the references, rare phrases counting more; "
    "published scores are 100 times this value.",
    "bleu4": "BLEU-4: how many of the caption's runs of one to four words stand in a reference as well, less for a "
    "caption that is too short.",
    "rouge_l": "ROUGE-L: the longest sequence of words that the caption shares with a reference, as an F-measure.",
    "objects_right": "The share of captions of rendered scenes that name something, and nothing that is not there with "
    "that size, colour and text.",
    # statistics
    "interval": "The 95 % confidence interval: the values that agree with what was seen, allowing for the chance in "
    "which samples were drawn.",
    "paired difference": "Left minus right over the same samples; where its interval leaves out 0, the two sides "
    "differ by more than chance.",
    "clear of chance": "With 95 % probability no slice called clear is a chance find: where many are tested, one "
    "in twenty has an interval that leaves out 0 by luck alone, so a slice's own interval is not enough.",
    "confidence gap": "How far apart the two sides' mean log-probabilities of a token are: how differently sure of "
    "their answers the two models were.",
    "confidence": "The probability that the model gave to a token of its answer, the geometric mean over all tokens.",
    "corrected": "Among many comparisons some look large by chance: the value is corrected for how many were made.",
}


def term(name: str, label: object = None) -> Safe:
    """A label that explains the term `name`, or the name itself as its label. Raises KeyError for an unknown term.

    It is a button: it must not be inside another one.
    """
    sentence = TERMS[name]
    return el("button", name if label is None else label, type="button", class_="vl-term", data_explain=sentence)


def abbreviation(name: str, label: object = None) -> object:
    """As `known_term` for a page without scripts: the browser shows the sentence where the pointer rests."""
    shown = name if label is None else label
    return el("abbr", shown, title=TERMS[name], tabindex="0") if name in TERMS else shown


def known_term(name: str, label: object = None) -> object:
    """As `term` where the name is among the terms, else the label (or the name) as it is: for names out of data."""
    return term(name, label) if name in TERMS else (name if label is None else label)
