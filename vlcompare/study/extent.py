"""How much of a study's grid is there, which of it stands in no figure or table, and what keeps the families alike."""

from __future__ import annotations

from typing import Any

from vlcompare.study.figures import NAMES, TASK_NAMES, TASK_WORDS
from vlcompare.study.opened import Study
from vlcompare.study.tables import of_several_state_sizes
from vlcompare.units import listed


def state(study: Study) -> str:
    """How much of the grid is there."""
    lengths = sorted({row["length"] for row in study.rows if row["task"] == "position"})
    of = ""
    if study.planned is not None and study.planned >= len(study.rows):  # a smaller grid may have been asked for last
        of = f" of {study.planned}"
    are = "training is" if len(study.rows) == 1 and not of else "trainings are"
    trained = f"{len(study.rows)}{of} {are} finished"
    what = []
    if lengths:
        several = f"lengths {listed(list(map(str, lengths)))}" if len(lengths) > 1 else f"length {lengths[0]}"
        what.append(f"position retrieval at {several}")
    there = {row["task"] for row in study.rows if row["task"] != "position"}
    what += [TASK_WORDS[task] for task in TASK_NAMES if task in there]
    trained = ", ".join([trained, *what])
    return (
        (f"{trained}: the grid is unfinished." if study.unfinished else f"{trained}.")
        + _undrawn(study)
        + _depths(study)
    )


def _undrawn(study: Study) -> str:
    """Which models are in no figure, in a sentence that begins with a space: sizes of the state that stand alone."""
    drawn = of_several_state_sizes(study.groups)
    sizes = {group.key["state_size"] for group in study.groups if group not in drawn} - {None, 16}
    if not sizes:
        return ""
    shown = listed(list(map(str, sorted(sizes))))
    return f" Models with {shown} states a channel are in no figure: those with 16 are compared."


def _depths(study: Study) -> str:
    """Which models of one setting differ in their layers alone, in a sentence that begins with a space."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for group in study.groups:
        if group.key["state_size"] in (None, 16):
            key = (group.key["family"], *(group.key[name] for name in ("task", "order", "length")), group.training)
            found.setdefault(key, []).append(group.key["layers"])
    several = {key[0]: layers for key, layers in found.items() if len(layers) > 1}
    if not several:
        return ""
    models = [f"{NAMES[family]} with {listed(list(map(str, layers)))} layers" for family, layers in several.items()]
    return f" {listed(models)}: the figures draw all, the sentences and the table tell the first."


def fairness(study: Study) -> str:
    """How the families are kept comparable, from the rows; "" where there is one family alone."""
    sides: dict[tuple[Any, ...], list[int]] = {}
    for group in study.groups:
        if group.key["state_size"] in (None, 16):
            key = tuple(group.key[name] for name in ("task", "order", "length")) + group.training
            sides.setdefault(key, []).append(group.rows[0]["parameters"])
    unequal = max((max(sizes) / min(sizes) - 1 for sizes in sides.values() if len(sizes) > 1), default=None)
    if unequal is None:
        return ""
    tried = max(group.rates_tried for group in study.groups)
    rates = (
        "one learning rate" if tried == 1 else f"{tried} learning rates with one seed, then the best with more seeds"
    )
    return (
        f"In a setting all families have one recipe, the same items and budget, and parameters within "
        f"{max(unequal, 0.001):.1%} of each other; {rates}. The report's rows.csv holds every training."
    )
