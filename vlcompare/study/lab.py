"""The retrieval lab: trained models asked for the position of one symbol in a sequence that a user puts together.

All models of a lab know the same symbols. Each was trained for one order and one length, and has one token for each
position of that length: it can name no position beyond, whatever the length of a sequence. Those that are asked
together were trained at the same length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.kernels.cpu.openmp import at_most
from vlcompare.study.models import scores
from vlcompare.study.recipe import STUDY_FAMILIES
from vlcompare.study.rows import Setting, setting_of, weights_path
from vlcompare.study.streams import Integers, Stream
from vlcompare.study.tables import Row, for_lab, groups
from vlcompare.study.tasks import ORDERS, SYMBOLS, ItemDraft, Items, ItemSource
from vlcompare.study.weights import Trained, load_weights

SHORTEST = 2
LONGEST = 400  # symbols of a sequence
MAX_MODEL_BYTES = 64 * 2**20  # of a file: a click is to be answered at once
ROUND = 200  # sequences of `Lab.round`
MAX_SEEDS = 2**31
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Pointing:
    """One model's answer: shares (P,) of the positions that it can name here, and the one it points to.

    position: of the likeliest token of all; None where that token is no position of this sequence.
    """

    position: int | None
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """One model's answers to a round: how often each position was asked for, and how often that was answered right."""

    asked: tuple[int, ...]
    right: tuple[int, ...]


class Lab:
    """Models by order, trained length and family. Raises CheckpointError where they do not know the same symbols."""

    def __init__(self, models: Iterable[Trained]) -> None:
        self._models: dict[tuple[str, int, str], Trained] = {
            (str(model.source.order), model.source.length, model.family): model
            for model in models
            if model.source.task == "position"
        }
        vocabularies = {model.source.vocabulary for model in self._models.values()}
        if len(vocabularies) != 1:
            raise CheckpointError("A lab takes models that know the same symbols, and at least one.")
        self.vocabulary = vocabularies.pop()

    @classmethod
    def open(cls, folder: Path) -> Lab:
        """The models of a folder. Raises CheckpointError for a damaged file, and where there is none."""
        return cls(load_weights(path) for path in sorted(folder.glob("*.safetensors")))

    @classmethod
    def of_rows(cls, folder: Path, rows: Sequence[Row]) -> Lab:
        """The models that a folder of `study run` holds of these rows, as `tables.for_lab` chooses them.

        Raises CheckpointError where there is none, and for a file that is too large, lies elsewhere, is damaged, or
        holds another model than its row says.
        """
        chosen = for_lab(groups(rows))
        if not chosen:
            raise CheckpointError("at no length is position retrieval finished with every family")
        return cls(_weights_of(folder, setting_of(row)) for row in chosen)

    @property
    def longest(self) -> int:
        """The longest sequence that can be asked about."""
        return min(self.vocabulary, LONGEST)

    def lengths(self, order: str) -> tuple[int, ...]:
        """The lengths at which models were trained for this order, the shortest first."""
        return tuple(sorted({length for own, length, _ in self._models if own == order}))

    def families(self, order: str, trained: int) -> tuple[str, ...]:
        """The families that were trained for this order at this length."""
        return tuple(family for family in STUDY_FAMILIES if (order, trained, family) in self._models)

    def ask(self, sequence: Sequence[int], query: int, order: str, trained: int | None = None) -> dict[str, Pointing]:
        """Every family's answer: at which position of `sequence` does `query` stand?

        sequence: different symbols 0 .. vocabulary - 1; query: one of them; trained: the length at which the models
        were trained that are asked, by default the longest. Raises RequestError for anything else.
        """
        trained = self.checked(len(sequence), order, trained)
        if len(set(sequence)) < len(sequence):
            raise RequestError("Every symbol stands once in a sequence; the models learnt no others.")
        if not all(0 <= symbol < self.vocabulary for symbol in sequence):
            raise RequestError(f"The models know the symbols 0 to {self.vocabulary - 1}.")
        if query not in sequence:
            raise RequestError("The query is one of the sequence's symbols.")
        place = np.array([[list(sequence).index(query)]])
        rows = np.array([sequence])
        draft = ItemDraft(rows, np.take_along_axis(rows, place, 1), place, place, np.ones(1, dtype=bool))
        items = ItemSource("position", order, len(sequence), self.vocabulary).lay_out(draft)
        found = {}
        for family in self.families(order, trained):
            shares, tokens = self._answers(self._models[order, trained, family], items)
            named = min(trained, len(sequence))
            first = SYMBOLS + self.vocabulary
            position = int(tokens[0]) - first
            found[family] = Pointing(
                position if 0 <= position < named else None, tuple(shares[0, first : first + named].tolist())
            )
        return found

    def round(
        self, length: int, order: str, seed: int, count: int = ROUND, trained: int | None = None
    ) -> dict[str, Tally]:
        """Every family on the same `count` random sequences, which no training held; asked for is what all can name.

        trained: as of `ask`. Raises RequestError for a length or a seed out of range.
        """
        trained = self.checked(length, order, trained)
        if not 0 <= seed < MAX_SEEDS or not 0 < count <= ROUND:
            raise RequestError(f"A round has 1 to {ROUND} sequences, and a seed below {MAX_SEEDS}.")
        within = min(length, trained)
        items = ItemSource("position", order, length, self.vocabulary, within).items(seed, Stream.EVALUATION, 0, count)
        asked = items.places[:, 0]
        out = {}
        for family in self.families(order, trained):
            _, tokens = self._answers(self._models[order, trained, family], items)
            right = asked[tokens == items.answers[:, 0]]
            out[family] = Tally(*(tuple(np.bincount(x, minlength=within).tolist()) for x in (asked, right)))
        return out

    def checked(self, length: int, order: str, trained: int | None) -> int:
        """The trained length of the models that are asked. Raises RequestError for what cannot be asked."""
        if order not in ORDERS:
            raise RequestError(f"The order is {' or '.join(ORDERS)}.")
        lengths = self.lengths(order)
        if not lengths:
            raise RequestError(f"None of these models was trained with the {order.replace('_', ' ')}: try the other.")
        if trained is not None and trained not in lengths:
            raise RequestError(f"These models were trained at length {' or '.join(map(str, lengths))}.")
        if not SHORTEST <= length <= self.longest:
            raise RequestError(f"A sequence has {SHORTEST} to {self.longest} different symbols; this one has {length}.")
        return lengths[-1] if trained is None else trained

    @staticmethod
    def _answers(trained: Trained, items: Items) -> tuple[np.ndarray, Integers]:
        """Each item's distribution over all tokens (B, V), and the likeliest token (B,)."""
        with torch.inference_mode(), at_most(1):
            logits, _ = scores(trained.model, items, _CPU)
            return logits[:, 0].softmax(-1).numpy(), logits[:, 0].argmax(-1).numpy()


def _weights_of(folder: Path, setting: Setting) -> Trained:
    """The finished model of one row of a folder. Raises CheckpointError as `Lab.of_rows` says."""
    path = weights_path(folder, setting)
    if not path.is_file():
        raise CheckpointError(f"the weights of {setting} are not there")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"the weights of {setting} are a link to another folder")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise CheckpointError(f"a model is larger than the {MAX_MODEL_BYTES // 2**20} MiB that a lab loads")
    model = load_weights(path)
    if (model.family, model.source) != (setting.family, setting.source):
        raise CheckpointError(f"the weights of {setting} are of another training")
    return model
