"""Batches of questions for the language models: which samples a step asks, and at which positions what is taught.

Beside the answers' tokens, some positions point at a patch of the picture and some judge a listed option.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlcompare.synth.scenes.phrases import NUMBER_WORDS, plural
from vlcompare.synth.train import dense_targets, encoded_questions, word_tokenizer
from vlcompare.synth.train.corpus import TrainingSet
from vlcompare.synth.train.recipe import LanguageRecipe
from vlcompare.types import TASKS, Box

DESCRIBING = ("captioning", "chat")  # tasks whose answer is a caption without boxes
LIMITS = (10, 12, 14, 17, 22, 30)  # lengths at which questions are grouped: little padding, few calls


class QuestionBlock(NamedTuple):
    """Questions of similar length about a batch's pictures, and what is taught at which of their positions."""

    ids: Tensor  # (n, L) without what is shared
    prefix: Tensor  # (n,) place among the prefixes of its group
    asking: Tensor  # (m, 2) row and column of positions that should point ..
    target: Tensor  # (m,) .. at this patch
    rows: Tensor  # (N,) row of a taught token ..
    columns: Tensor  # (N,) .. and the column that predicts it
    wanted: Tensor  # (N,) the token
    weights: Tensor  # (N,)


class Group(NamedTuple):
    """Questions that begin with one of a few prefixes of equal length, which are computed once, or with none."""

    prefixes: Tensor  # (S, P) ids with an IMAGE_SLOT for each patch; P is 0 where nothing is shared
    picture: Tensor  # (S,) place of each prefix's picture among the batch's
    blocks: list[QuestionBlock]


class Batch(NamedTuple):
    """Pictures (indices in the corpus), and the questions about them."""

    pictures: np.ndarray
    groups: list[Group]

    @property
    def blocks(self) -> list[QuestionBlock]:
        """The questions of all groups."""
        return [block for group in self.groups for block in group.blocks]


class Lesson(NamedTuple):
    """A question as it is taught."""

    sample: int
    place: int  # of its picture, among the batch's
    shared: np.ndarray  # ids that other questions may share
    row: np.ndarray  # ids behind them, with the answer
    begin: int  # where in `row` the answer begins


def make_batch(corpus: TrainingSet, step: int, options: LanguageRecipe, seed: int) -> Batch:
    """The batch of a step: a function of the step and the seed alone, so both families see the same."""
    dice = np.random.default_rng([seed, step])
    pictures = corpus.order(step, options.pictures)
    lessons = corpus.lessons
    asked = options.asked.by_task()
    groups: dict[int, list[Lesson]] = {}  # by how much is shared
    for place, picture in enumerate(pictures):
        for sample in encoded_questions.choose(lessons, int(picture), options.questions, asked, dice).tolist():
            row, begin, cut = corpus.lesson(sample)
            groups.setdefault(cut, []).append(Lesson(sample, place, row[:cut], row[cut:], begin - cut))
    return Batch(pictures, [_group(corpus, pictures, groups[cut], step, options) for cut in sorted(groups)])


def _group(
    corpus: TrainingSet, pictures: np.ndarray, members: list[Lesson], step: int, options: LanguageRecipe
) -> Group:
    keys = [(one.place, one.shared.tobytes()) for one in members]
    prefixes = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    firsts = [members[keys.index(key)] for key in prefixes]
    owner = np.array([prefixes[key] for key in keys])
    lengths = np.array([len(one.row) for one in members])
    beside = 0 if len(members[0].shared) else corpus.beside
    blocks = [
        _block(corpus, pictures, [members[i] for i in chosen], owner[chosen], step, options)
        for chosen in encoded_questions.blocks_of(lengths, [limit + beside for limit in LIMITS])
    ]
    ids = np.stack([one.shared for one in firsts]).astype(np.int64)
    return Group(torch.from_numpy(ids), torch.tensor([one.place for one in firsts]), blocks)


def _block(
    corpus: TrainingSet,
    pictures: np.ndarray,
    members: list[Lesson],
    owner: np.ndarray,
    step: int,
    options: LanguageRecipe,
) -> QuestionBlock:
    lessons, token_weights = corpus.lessons, options.token_weights.by_task()
    taught: list[tuple[int, int, int, float]] = []  # row, column, token, weight
    pointing: list[tuple[int, int, int]] = []
    for index, (sample, place, _, row, begin) in enumerate(members):
        weight = float(token_weights[lessons.tasks[sample]])
        taught += [(index, column, int(row[column + 1]), weight) for column in range(begin - 1, len(row) - 1)]
        if step >= options.option_marks_from:
            taught += [(index, column, token, 1.0) for column, token in option_marks(row, begin)]
        written: list[tuple[int, int, int]] = []
        if step >= options.box_pointer_from:
            written = [(index, *at) for at in pointing_positions(row, begin, corpus.grid)]
        if step >= options.mention_pointer_from and TASKS[lessons.tasks[sample]] in DESCRIBING:
            attributes, boxes = (corpus.arrays[name][pictures[place]] for name in ("attributes", "boxes"))
            written += [(index, *at) for at in mention_positions(row, begin, attributes, boxes, corpus.grid)]
        pointing += written
        if lessons.targets[sample] >= 0 and not any(column == begin - 1 for _, column, _ in written):
            pointing.append((index, begin - 1, int(lessons.targets[sample])))
    table = torch.tensor(pointing, dtype=torch.long).view(-1, 3)
    taught_columns = (torch.tensor(values) for values in zip(*taught, strict=True))
    ids = torch.from_numpy(encoded_questions.pad([one.row for one in members]))
    return QuestionBlock(ids, torch.from_numpy(owner), table[:, :2], table[:, 2], *taught_columns)


@cache
def _first_coordinates() -> dict[int, int]:
    return {token: bin for bin, token in enumerate(word_tokenizer.coordinate_ids()[0])}


@cache
def _bins() -> dict[int, int]:
    return {token: bin for ids in word_tokenizer.coordinate_ids() for bin, token in enumerate(ids)}


def pointing_positions(row: np.ndarray, begin: int, grid: int) -> list[tuple[int, int]]:
    """(column, patch) for each position of an answer that writes a coordinate: the patch of the box's centre."""
    found: list[tuple[int, int]] = []
    for first in range(begin, len(row) - 3):
        if int(row[first]) in _first_coordinates():
            box = Box(*(_bins()[int(token)] / 100 for token in row[first : first + 4]))
            patch = encoded_questions.patch_of(box, grid)
            found += [(first - 1 + corner, patch) for corner in range(4)]
    return found


@cache
def _kinds_and_colors() -> tuple[dict[int, int], dict[int, int]]:
    """Token -> index in KINDS (singular or plural), token -> index in COLORS."""
    kinds = {
        token: index
        for index, kind in enumerate(dense_targets.KINDS)
        for word in (kind, plural(kind))
        for token in word_tokenizer.word_ids(word)
    }
    colors = enumerate(dense_targets.COLORS)
    return kinds, {token: index for index, color in colors for token in word_tokenizer.word_ids(color)}


@cache
def _between_mentions() -> frozenset[int]:
    return frozenset(word_tokenizer.token_id(text) for text in (",", " and", ".", ".\n"))


def mention_positions(
    row: np.ndarray, begin: int, attributes: np.ndarray, boxes: np.ndarray, grid: int
) -> list[tuple[int, int]]:
    """(column, patch) for each position of a caption that writes a mention: the centres of the things it mentions.

    "two blue hearts" points at both hearts from each of its three positions, so that the number is read from the
    picture. `attributes` (things, columns of dense_targets.COLUMNS) and `boxes` (things, 4) are in the caption's order.
    """
    kinds, colors = _kinds_and_colors()
    things = [(int(thing[0]), int(thing[1])) for thing in attributes]
    taken: set[int] = set()
    found: list[tuple[int, int]] = []
    first = begin
    for end in range(begin, len(row)):
        if int(row[end]) not in _between_mentions():
            continue
        named = [kinds[token] for token in row[first:end].tolist() if token in kinds]
        shown = [colors[token] for token in row[first:end].tolist() if token in colors]
        if named and shown:
            alike = [i for i, thing in enumerate(things) if thing == (named[0], shown[0]) and i not in taken]
            members = alike if int(row[first]) in _numbers() else alike[:1]
            taken.update(members)
            patches = [encoded_questions.patch_of(Box(*boxes[member]), grid) for member in members]
            found += [(column - 1, patch) for column in range(first, end) for patch in patches]
        first = end + 1
    return found


@cache
def _numbers() -> frozenset[int]:
    return frozenset(token for word in NUMBER_WORDS[2:] for token in word_tokenizer.word_ids(word))


@cache
def _option_ids() -> dict[str, int]:
    return {text: word_tokenizer.token_id(text) for text in ("A: ", "B: ", "C: ", "D: ", "A", "B", "C", "D", "No")}


def option_marks(row: np.ndarray, begin: int) -> list[tuple[int, int]]:
    """(column, token) that a prompt with four listed options is taught beside its letter, [] for every other prompt.

    Where the question ends, the first token of the right option; where an option ends, its letter if it is the right
    one, "No" if not. The letter at the answer alone (one of four, no hint of how it comes about) was not learnt from.
    """
    ids = _option_ids()
    tokens = row[:begin].tolist()
    starts = [tokens.index(ids[f"{letter}: "]) for letter in "ABCD" if ids[f"{letter}: "] in tokens]
    letters = [ids[letter] for letter in "ABCD"]
    if len(starts) != 4 or int(row[begin]) not in letters:
        return []
    right = letters.index(int(row[begin]))
    ends = [start - 2 for start in starts[1:]] + [begin - 2]  # before the line's end, before the answer's frame
    marks = [(end, letters[right] if option == right else ids["No"]) for option, end in enumerate(ends)]
    return [(starts[0] - 1, tokens[starts[right] + 1]), *marks]
