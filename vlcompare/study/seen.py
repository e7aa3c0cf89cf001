"""What a study's rows say, in sentences made from them alone: no finding is called one before its seeds are there."""

from __future__ import annotations

from collections.abc import Sequence

from vlcompare.study.figures import NAMES, ORDER_NAMES, seeds_text
from vlcompare.study.opened import Study
from vlcompare.study.tables import Group, spread

ENOUGH_SEEDS = 3


def state(study: Study) -> str:
    """How much of the grid is there."""
    lengths = sorted({row["length"] for row in study.rows if row["task"] == "position"})
    of = f" of {study.planned}" if study.planned is not None else ""
    trained = f"{len(study.rows)}{of} trainings are finished"
    if lengths:
        several = f"lengths {', '.join(map(str, lengths))}" if len(lengths) > 1 else f"length {lengths[0]}"
        trained += f", position retrieval at {several}"
    return f"{trained}: the grid is unfinished." if study.unfinished else f"{trained}."


def summary(study: Study) -> str:
    """What the settings with enough seeds show, in one sentence."""
    settings = _settings(study)
    known = [(length, order, _verdict(members)) for length, order, members in settings]
    found = [(length, order, verdict) for length, order, verdict in known if verdict is not None]
    if not found:
        return f"nothing yet. A finding takes {ENOUGH_SEEDS} seeds of both families, and no setting has them."
    parts = [f"at length {length}, {ORDER_NAMES[order]}, {verdict}" for length, order, verdict in found]
    rest = len(known) - len(found)
    more = f" {rest} more {'setting has' if rest == 1 else 'settings have'} too few seeds." if rest else ""
    return f"{'; '.join(parts)}.{more}"


def seen(study: Study) -> list[str]:
    """One sentence for each length and order at which both a Transformer and a Mamba were trained."""
    out = []
    for length, order, members in _settings(study):
        known = [members[family] for family in NAMES if family in members]
        verdict = _verdict(members)
        said = f"With fewer than {ENOUGH_SEEDS} seeds each this is no finding yet"
        said = said if verdict is None else verdict[0].upper() + verdict[1:]
        out.append(f"Length {length}, {ORDER_NAMES[order]}, examples until .95: {_needed(known)}. {said}.")
    return out


def _settings(study: Study) -> list[tuple[int, str, dict[str, Group]]]:
    """(length, order, group by family) of position retrieval, where both families were trained."""
    usual = [g for g in study.groups if g.key["task"] == "position" and g.key["state_size"] in (None, 16)]
    out = []
    for length in sorted({group.key["length"] for group in usual}):
        for order in ("query_last", "query_first"):
            members = {g.key["family"]: g for g in usual if (g.key["length"], g.key["order"]) == (length, order)}
            if {"pythia", "mamba"} <= set(members):
                out.append((length, order, members))
    return out


def _needed(groups: Sequence[Group]) -> str:
    parts = []
    for group in groups:
        middle = spread(row["reached"] for row in group.rows)[0]
        done = sum(row["reached"] is not None for row in group.rows)
        amount = f"{middle:,.0f}" if middle is not None else f"not in {group.key['budget']:,}"
        seeds = seeds_text(len(group.rows))
        of = f", {done} of which reached it" if 0 < done < len(group.rows) else ""
        parts.append(f"{NAMES[group.key['family']]} {amount} ({seeds}{of})")
    return ", ".join(parts)


def _verdict(members: dict[str, Group]) -> str | None:
    """What the seeds of a setting show; None where there are too few of them."""
    first, second = members["pythia"], members["mamba"]
    if min(len(first.rows), len(second.rows)) < ENOUGH_SEEDS:
        return None
    ours, theirs = ([row["reached"] or 10**18 for row in group.rows] for group in (first, second))
    if max(ours) < min(theirs):
        return "every Transformer needs fewer examples than every Mamba"
    if max(theirs) < min(ours):
        return "every Mamba needs fewer examples than every Transformer"
    return "the seeds of the two overlap, so no difference is shown"
