"""What a study's rows say, in sentences made from them alone: no finding is called one before its seeds are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vlcompare.study.figures import NAMES, ORDER_NAMES, seeds_text, share_text
from vlcompare.study.opened import Study
from vlcompare.study.tables import Group, Row, for_lab, spread
from vlcompare.types import FAMILIES

ENOUGH_SEEDS = 3
_PAIR = FAMILIES  # the two whose difference is the question
_NEVER = 10**18  # examples of a training that did not reach .95


def state(study: Study) -> str:
    """How much of the grid is there."""
    lengths = sorted({row["length"] for row in study.rows if row["task"] == "position"})
    of = ""
    if study.planned is not None and study.planned >= len(study.rows):  # a smaller grid may have been asked for last
        of = f" of {study.planned}"
    trained = f"{len(study.rows)}{of} trainings are finished"
    if lengths:
        several = f"lengths {', '.join(map(str, lengths))}" if len(lengths) > 1 else f"length {lengths[0]}"
        trained += f", position retrieval at {several}"
    return f"{trained}: the grid is unfinished." if study.unfinished else f"{trained}."


def summary(study: Study) -> str:
    """What the settings with enough seeds show, in a few sentences."""
    settings = _settings(study)
    known = [setting for setting in settings if _order_of(setting.members) is not None]
    if not known:
        return f"nothing yet. A finding takes {ENOUGH_SEEDS} seeds of both families, and no setting has them."
    parts = []
    for setting in known:
        members = setting.members
        middles = f"{' against '.join(_middle(members[family]) for family in _PAIR)} examples in the median"
        notes = ", ".join([middles, *(note for family in _PAIR for note in _at_chance(members[family]))])
        where = f"at length {setting.length} with the {ORDER_NAMES[setting.order]}{setting.apart}"
        parts.append(f"{where}, {_verdict(members)} ({notes})")
    text = "; ".join(parts) + "."
    closed = [length for (length, _), orders in _by_length(known).items() if _closes(orders)]
    if closed:
        where = " and ".join(map(str, dict.fromkeys(closed)))
        text += f" So no lead is shown where the query is known before the sequence is read (length {where})."
    rest = len(settings) - len(known)
    more = f" {rest} more {'setting has' if rest == 1 else 'settings have'} too few seeds yet." if rest else ""
    unfinished = f" {len(study.rows)} of {study.planned} trainings are finished." if study.unfinished else ""
    return f"{text}{more}{unfinished}"


def seen(study: Study) -> list[str]:
    """A few sentences for each length and order at which both a Transformer and a Mamba were trained."""
    out = []
    for length, order, apart, members in _settings(study):
        known = [members[family] for family in NAMES if family in members]
        verdict = _verdict(members)
        said = f"With fewer than {ENOUGH_SEEDS} seeds each this is no finding yet"
        said = said if verdict is None else verdict[0].upper() + verdict[1:]
        said += "." if verdict is None else f".{_hybrid(members)}{_longer(length, members)}"
        out.append(f"Length {length}, {ORDER_NAMES[order]}{apart}, examples until .95: {_needed(known)}. {said}")
    return out


def practice(study: Study) -> str:
    """What the trainings took that the lab's models come from; "" where the lab would take none of these rows."""
    parts, chosen = [], for_lab(study.groups)
    for order in ("query_last", "query_first"):
        rows = [row for row in chosen if row["order"] == order]
        amounts = [f"{NAMES[row['family']]} {_until(row)}" for row in sorted(rows, key=_rank)]
        if amounts:
            parts.append(f"{ORDER_NAMES[order]}, length {rows[0]['length']}: {', '.join(amounts)}")
    if len({row["family"] for row in chosen}) < 2:
        return ""
    text = f"The lab's models were trained until .95 of their answers were right (examples: {'; '.join(parts)})."
    if any(row["reached"] is None for row in chosen):
        return text
    return (
        f"{text} So at the trained length they mostly point alike: what differs is how much practice that took, and "
        "what becomes of longer sequences."
    )


def _until(row: Row) -> str:
    return f"{row['reached']:,}" if row["reached"] is not None else f"not within {row['budget']:,}"


def _rank(row: Row) -> int:
    return list(NAMES).index(row["family"])


class _Setting(NamedTuple):
    """Position retrieval of which both families were trained."""

    length: int
    order: str
    apart: str  # what tells it from others of this length and order, to be read behind these; "" where there are none
    members: dict[str, Group]  # by family


def _settings(study: Study) -> list[_Setting]:
    """Only families that were trained by one recipe, with one budget and vocabulary, are set beside each other."""
    usual = [g for g in study.groups if g.key["task"] == "position" and g.key["state_size"] in (None, 16)]
    out = []
    for length in sorted({group.key["length"] for group in usual}):
        for order in ("query_last", "query_first"):
            by_training: dict[tuple[str, int, int], dict[str, Group]] = {}
            for group in usual:
                if (group.key["length"], group.key["order"]) == (length, order):
                    by_training.setdefault(group.training, {}).setdefault(group.key["family"], group)
            both = {training: members for training, members in by_training.items() if set(_PAIR) <= set(members)}
            for (recipe, budget, vocabulary), members in both.items():
                apart = f" (recipe {recipe}, at most {budget:,} examples, vocabulary {vocabulary})"
                out.append(_Setting(length, order, apart if len(both) > 1 else "", members))
    return out


def _by_length(settings: Sequence[_Setting]) -> dict[tuple[int, str], dict[str, dict[str, Group]]]:
    out: dict[tuple[int, str], dict[str, dict[str, Group]]] = {}
    for length, order, apart, members in settings:
        out.setdefault((length, apart), {})[order] = members
    return out


def _closes(orders: dict[str, dict[str, Group]]) -> bool:
    """Whether the Transformer is ahead with the query last, and not with the query first."""
    return len(orders) == 2 and _order_of(orders["query_last"]) == -1 and _order_of(orders["query_first"]) == 0


def _needed(groups: Sequence[Group]) -> str:
    """Examples that each family's trainings needed, the least and the most, and how those ended that needed more."""
    parts = []
    for group in groups:
        known = sorted(row["reached"] for row in group.rows if row["reached"] is not None)
        failed = [row for row in group.rows if row["reached"] is None]
        ends = dict.fromkeys(f"{count:,}" for count in (known[:1] + known[-1:]))
        amount = " to ".join(ends) if known else f"not in {group.key['budget']:,}"
        notes = [seeds_text(len(group.rows)), *(_failure(row, group) for row in failed if known)]
        parts.append(f"{NAMES[group.key['family']]} {amount} ({', '.join(notes)})")
    return ", ".join(parts)


def _failure(row: Row, group: Group) -> str:
    """How a training ended that did not reach .95."""
    at = f"{share_text(row['accuracy'])} after all {row['budget']:,}"
    return f"one of which {'never left chance:' if _never_left(row, group) else 'got to'} {at}"


def _never_left(row: Row, group: Group) -> bool:
    """Whether a training is still about as good as guessing at its end."""
    return bool(row["reached"] is None and row["accuracy"] < 1.5 * group.chance)


def _at_chance(group: Group) -> list[str]:
    """How many of a setting's trainings never left chance, where there are any."""
    count = sum(_never_left(row, group) for row in group.rows)
    return [f"{count} of {len(group.rows)} {NAMES[group.key['family']]}s never left chance"] if count else []


def _middle(group: Group) -> str:
    middle = spread(row["reached"] for row in group.rows)[0]
    return f"more than {group.key['budget']:,}" if middle is None else f"{middle:,.0f}"


def _order_of(members: dict[str, Group], first: str = "pythia", second: str = "mamba") -> int | None:
    """-1 where every training of the first family needs fewer examples than every one of the second, 1 where more, 0
    where they overlap; None where there are too few seeds."""
    if not {first, second} <= set(members) or min(len(members[name].rows) for name in (first, second)) < ENOUGH_SEEDS:
        return None
    ours, theirs = ([row["reached"] or _NEVER for row in members[name].rows] for name in (first, second))
    return -1 if max(ours) < min(theirs) else 1 if max(theirs) < min(ours) else 0


def _verdict(members: dict[str, Group]) -> str | None:
    """What the seeds of a setting show; None where there are too few of them."""
    words = {
        -1: "every Transformer needs fewer examples than every Mamba",
        1: "every Mamba needs fewer examples than every Transformer",
        0: "the seeds of the two overlap, so no difference is shown",
    }
    order = _order_of(members)
    return None if order is None else words[order]


def _longer(length: int, members: dict[str, Group]) -> str:
    """How the shortest length is answered that no training saw, in sentences that begin with a space."""
    tested = min((int(name) for row in members["pythia"].rows for name in row["extrapolation"]), default=0)
    shares = {
        family: [row["extrapolation"].get(str(tested)) for row in group.rows] for family, group in members.items()
    }
    if not tested or any(share is None for found in shares.values() for share in found):
        return ""
    parts = []
    for family in NAMES:
        if family in shares:
            middle, low, high = map(share_text, spread(shares[family]))
            parts.append(f"{NAMES[family]} {middle} ({low} to {high})")
    ours, theirs = (shares[family] for family in _PAIR)
    verdict = "the seeds of the Transformer and Mamba overlap"
    if min(ours) > max(theirs):
        verdict = "every Transformer is right more often than every Mamba"
    if min(theirs) > max(ours):
        verdict = "every Mamba is right more often than every Transformer"
    asked = f"Asked at length {tested}, on which none was trained"
    return f" {asked}: {', '.join(parts)} right, guessing {share_text(1 / length)}; {verdict}."


def _hybrid(members: dict[str, Group]) -> str:
    """Where the hybrid stands, in a sentence that begins with a space; "" where it has too few seeds."""
    against = {family: _order_of(members, "hybrid", family) for family in _PAIR}
    if None in against.values():
        return ""
    if not any(against.values()):
        return " The hybrid overlaps with both."
    words = {-1: "needs fewer than every", 1: "needs more than every", 0: "overlaps with"}
    return " The hybrid " + ", and ".join(f"{words[order or 0]} {NAMES[name]}" for name, order in against.items()) + "."
