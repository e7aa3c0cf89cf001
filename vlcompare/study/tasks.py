"""In-context retrieval tasks as a table of rows, and the items that they are made of.

An item is a row of token ids, the columns at which an answer is predicted, the answers, and the place asked about. All
items of a task have one shape. The same (task, seed, index) gives the same item for every family.

    position      L different symbols and one of them again: at which position is it? The paper's task
                  (github.com/gpantaz/vl_mamba, commit 45a39f8) in the layout of its follow-up (arXiv 2603.02874).
    mqar          L pairs of a key and a value, then all keys in another order: the value of each (multi-query
                  associative recall, arXiv 2312.04927; here the keys follow each other without filling).
    ngram_suffix  L symbols and two neighbours of them that occur once: which three follow? ("Repeat After Me",
    ngram_prefix  arXiv 2402.01032: copying by a key; sizes of key and answer are ours.) And: which three come before?

Tokens: 0 begins the sequence, 1 announces the query, then the symbols, then (position) one token a place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlcompare.errors import RequestError
from vlcompare.study.streams import Integers, RandomWords, Stream, below, stream_of, words

BEGIN, QUERY, SYMBOLS = 0, 1, 2
KEY, COPIED = 2, 3  # symbols of an n-gram key, and of what is to be written
MAX_POSITIONS = 2048  # of a text: what the Transformer is built for
ORDERS = ("query_first", "query_last")
_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class Items:
    """A batch: ids (B, T), answers (B, A) predicted at `columns` (A), and the place asked about (B, A)."""

    ids: Integers
    columns: Integers
    answers: Integers
    places: Integers


@dataclass(frozen=True, slots=True)
class ItemDraft:
    """Symbols before they are laid out: sequence (B, L), query (B, Q), answers (B, A), place (B, A), usable (B,)."""

    sequence: Integers
    query: Integers
    answers: Integers
    places: Integers
    usable: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the table; `draft(words, length, vocabulary, within)` draws, the rest says how it is read."""

    name: str
    orders: tuple[str | None, ...]
    places: Callable[[int], int]  # how many places can be asked about at a length
    text: Callable[[int], int]  # tokens of an item at a length
    words: Callable[[int, int], int]  # random words an item takes, from length and vocabulary
    symbols: Callable[[int], int]  # the smallest vocabulary for a length
    draft: Callable[[RandomWords, int, int, int], ItemDraft]
    answers_are_places: bool = False
    whole: bool = False  # an item counts as right when all of its answers are; else each answer counts


def _distinct(word: RandomWords, bound: int, count: int) -> Integers:
    """(B, bound) words -> (B, count) different numbers of 0 .. bound - 1, every order equally likely."""
    # the number rides in a word's low bits, so that one sort does; ties are impossible
    bits = np.uint64(max(1, int(bound - 1).bit_length()))
    ranked = ((word >> bits) << bits) | np.arange(bound, dtype=np.uint64)
    ranked.sort(axis=1)
    return (ranked[:, :count] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _all_usable(rows: int) -> NDArray[np.bool_]:
    return np.ones(rows, dtype=bool)


def _position(word: RandomWords, length: int, vocabulary: int, within: int) -> ItemDraft:
    sequence = _distinct(word[:, 1:], vocabulary, length)
    place = below(word[:, :1], within)
    return ItemDraft(sequence, np.take_along_axis(sequence, place, 1), place, place, _all_usable(len(word)))


def _mqar(word: RandomWords, length: int, vocabulary: int, within: int) -> ItemDraft:
    half = vocabulary // 2
    keys = _distinct(word[:, :half], half, length)
    values = _distinct(word[:, half : 2 * half], half, length) + half
    places = _distinct(word[:, 2 * half :], length, length)
    sequence = np.stack((keys, values), axis=2).reshape(len(word), 2 * length)
    queries, answers = (np.take_along_axis(x, places, 1) for x in (keys, values))
    return ItemDraft(sequence, queries, answers, places, _all_usable(len(word)))


def _ngram(word: RandomWords, length: int, vocabulary: int, within: int, *, before: bool) -> ItemDraft:
    sequence = below(word[:, 1 : 1 + length], vocabulary)
    place = below(word[:, :1], within - KEY - COPIED + 1)  # of the first symbol of key and answer together
    at, asked = (place, place + COPIED) if before else (place + KEY, place)
    key = np.take_along_axis(sequence, asked + np.arange(KEY), 1)
    answers = np.take_along_axis(sequence, at + np.arange(COPIED), 1)
    pairs = sequence[:, :-1] * vocabulary + sequence[:, 1:]
    once = (pairs == (key[:, :1] * vocabulary + key[:, 1:])).sum(1) == 1
    return ItemDraft(sequence, key, answers, np.repeat(place, COPIED, axis=1), once)


RETRIEVAL_TASKS = {
    task.name: task
    for task in (
        Task(
            "position",
            ORDERS,
            places=lambda length: length,
            text=lambda length: length + 3,
            words=lambda length, vocabulary: 1 + vocabulary,
            symbols=lambda length: length,
            draft=_position,
            answers_are_places=True,
        ),
        Task(
            "mqar",
            (None,),
            places=lambda length: length,
            text=lambda length: 3 * length + 2,
            words=lambda length, vocabulary: vocabulary // 2 * 2 + length,
            symbols=lambda length: 2 * length,
            draft=_mqar,
        ),
        *(
            Task(
                name,
                ORDERS,
                places=lambda length: length - KEY - COPIED + 1,
                text=lambda length: length + 1 + KEY + COPIED,
                words=lambda length, vocabulary: 1 + length,
                symbols=lambda length: 2,
                draft=functools.partial(_ngram, before=before),
                whole=True,
            )
            for name, before in (("ngram_suffix", False), ("ngram_prefix", True))
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ItemSource:
    """Where items come from: a task at one order, length and vocabulary; for a seed, two endless streams.

    `within` bounds the places asked about to those of a shorter length: what a model trained at that length can name.
    Raises RequestError for values that the task does not have.
    """

    task: str
    order: str | None
    length: int
    vocabulary: int
    within: int = 0  # 0: the length itself

    def __post_init__(self) -> None:
        row = RETRIEVAL_TASKS.get(self.task)
        if row is None:
            raise RequestError(f"Unknown task '{self.task}'; the tasks are {', '.join(RETRIEVAL_TASKS)}.")
        if self.order not in row.orders:
            allowed = " or ".join("null" if order is None else order for order in row.orders)
            raise RequestError(f"The order of {self.task} is {allowed}, not {self.order or 'null'}.")
        if self.places < 1:
            least = self.length - self.places + 1
            raise RequestError(f"{self.task} takes a length of at least {least}, not {self.length}.")
        if self.text > MAX_POSITIONS:
            raise RequestError(
                f"{self.task} at length {self.length} is a text of {self.text} tokens, but the models know only "
                f"{MAX_POSITIONS} positions."
            )
        if self.vocabulary < row.symbols(self.length):
            raise RequestError(
                f"{self.task} at length {self.length} takes at least {row.symbols(self.length)} symbols, "
                f"not {self.vocabulary}."
            )

    @property
    def row(self) -> Task:
        return RETRIEVAL_TASKS[self.task]

    @property
    def places(self) -> int:
        """Places that are asked about."""
        return self.row.places(self.within or self.length)

    @property
    def text(self) -> int:
        """Tokens of an item."""
        return self.row.text(self.length)

    @property
    def tokens(self) -> int:
        """Token ids that occur; those of a longer text than `within` are the same."""
        return SYMBOLS + self.vocabulary + (self.places if self.row.answers_are_places else 0)

    @property
    def chance(self) -> float:
        """What is right on average when one of the places is guessed and read out."""
        return 1 / self.places

    def items(self, seed: int, stream: Stream, start: int, count: int) -> Items:
        """Items start .. start + count - 1 of a stream. Raises RequestError where hardly any item can be had."""
        drafts: list[ItemDraft] = []
        open_rows = np.arange(count)
        rows: list[Integers] = []
        for attempt in range(_ATTEMPTS):
            size = self.row.words(self.length, self.vocabulary)
            drawn = words(self.key, seed, stream, attempt, start, count, size)[open_rows]
            draft = self.row.draft(drawn, self.length, self.vocabulary, self.within or self.length)
            good = draft.usable & (stream_of(draft.sequence) == stream)
            drafts.append(draft)
            rows.append(np.where(good, open_rows, -1))
            open_rows = open_rows[~good]
            if not len(open_rows):
                return self.lay_out(_gathered(drafts, rows, count))
        raise RequestError(f"{self.task} with {self.vocabulary} symbols at length {self.length} has too few items.")

    @property
    def key(self) -> str:
        """What random numbers depend on beside seed and index: not on the order, so that both orders ask the same."""
        return f"{self.task}/{self.length}/{self.vocabulary}/{self.within or self.length}"

    def lay_out(self, draft: ItemDraft) -> Items:
        """The items that drafts become, all of them: text in this source's order, and where it is answered."""
        count = len(draft.sequence)
        sequence, query, answers = (x + SYMBOLS for x in (draft.sequence, draft.query, draft.answers))
        if self.row.answers_are_places:
            answers = answers + self.vocabulary
        begin, asks = (np.full((count, 1), token) for token in (BEGIN, QUERY))
        parts = [asks, query, begin, sequence] if self.order == "query_first" else [begin, sequence, asks, query]
        if self.task == "mqar":
            columns = np.arange(2 + sequence.shape[1], 2 + sequence.shape[1] + query.shape[1])
        else:  # the first answer is predicted where the text ends, the next where the one before it stands
            parts.append(answers[:, :-1])
            last = 1 + sequence.shape[1] + query.shape[1]
            columns = np.arange(last, last + answers.shape[1])
        return Items(np.concatenate(parts, axis=1), columns, answers, draft.places)


def _gathered(drafts: list[ItemDraft], rows: list[Integers], count: int) -> ItemDraft:
    """One draft of `count` items from those of several attempts; rows: where each one's items belong, or -1."""

    def field(name: str) -> Integers:
        parts = [getattr(draft, name) for draft in drafts]
        out = np.empty((count, parts[0].shape[1]), np.int64)
        for part, row in zip(parts, rows, strict=True):
            out[row[row >= 0]] = part[row >= 0]
        return out

    return ItemDraft(field("sequence"), field("query"), field("answers"), field("places"), _all_usable(count))
