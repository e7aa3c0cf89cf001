"""The checkpoints that the page offers, and their titles: the registry with the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlcompare.errors import VLCompareError
from vlcompare.render.answer_charts import positions_of
from vlcompare.runtime.loading.registry import Checkpoint, find, registry
from vlcompare.types import Answer
from vlcompare.ui.settings import AppSettings

ARCHITECTURES = {"pythia": "Transformer (Pythia)", "mamba": "State-space (Mamba)"}
QUANTIZATION_NAMES = {"none": "none", "int8": "int8", "nf4": "NF4"}
STAGES = {"embedded": "Embedded", "finetuned": "Published", "pretrained": "Connector stage"}


@dataclass(frozen=True, slots=True)
class Name:
    """A checkpoint's title and family on the page."""

    title: str
    architecture: str  # "" if not known before loading
    family: str
    embedded: bool


def name_of(checkpoint: str) -> Name:
    """From the registry; an unknown Hub id or a folder keeps its own name, and its architecture is not guessed."""
    known = lookup(checkpoint)
    if known is None:
        return Name(Path(checkpoint).name if checkpoint.startswith("/") else checkpoint, "", "", False)
    return Name(known.title, ARCHITECTURES[known.family], known.family, known.embedded)


def lookup(checkpoint: str) -> Checkpoint | None:
    """The registry's row, or None."""
    try:
        return find(checkpoint)
    except VLCompareError:
        return None


def choices(settings: AppSettings) -> list[tuple[str, str]]:
    """(label, name) for the dropdown: the embedded pair, the published pairs from small to large, allowed folders."""
    if settings.offered:
        return [(_label(name), name) for name in settings.offered]
    rows: list[tuple[str, str]] = []
    try:
        known = registry()
    except VLCompareError:
        return rows
    for stage in ("embedded", "finetuned", "pretrained"):
        for pair in known.pairs(stage):  # type: ignore[arg-type]
            rows.extend((_label(checkpoint.name), checkpoint.name) for checkpoint in pair)
    if settings.allow_path is not None:
        folders = sorted(path.parent for path in settings.allow_path.glob("*/config.json"))
        rows.extend((f"Folder · {folder.name}", folder.name) for folder in folders[:100])
    return rows


def _label(name: str) -> str:
    known = lookup(name)
    if known is None:
        return name
    kind = "Transformer" if known.family == "pythia" else "State-space"
    return f"{STAGES[known.stage]} · {known.title} · {kind}"


def memory_curves(answers: Mapping[str, Answer | None]) -> dict[str, Sequence[tuple[float, float]]]:
    """Side -> the formula's curve over the positions: a cache grows with them, a state does not.

    Both families' formulas are known at the end of the answer; a cache is proportional to its positions (2 x layers x
    width x bytes each), a state is the same at every length.
    """
    curves: dict[str, Sequence[tuple[float, float]]] = {}
    for side, answer in answers.items():
        family = name_of(answer.checkpoint).family if answer else ""
        if answer is None or not family or not answer.memory.state_bytes_formula:
            continue
        end, count = float(positions_of(answer)), float(answer.memory.state_bytes_formula)
        curves[side] = [(0.0, 0.0 if family == "pythia" else count), (end, count)]
    return curves
