"""What a study's rows say, in sentences made from them alone: no finding is called one before its seeds are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from vlcompare.study.figures import (
    NAMES,
    ORDER_NAMES,
    TASK_NAMES,
    TASK_WORDS,
    seeds_text,
    share_text,
    task_text,
    training_text,
)
from vlcompare.study.opened import Study
from vlcompare.study.tables import TRAINING, Group, Row, for_lab, of_several_state_sizes, spread
from vlcompare.types import FAMILIES
from vlcompare.units import listed

ENOUGH_SEEDS = 3
_PAIR = FAMILIES  # the two whose difference is the question
_NEVER = 10**18  # examples of a training that did not reach .95
_ORDERS = ("query_last", "query_first", None)
_FEW = 2  # settings whose figures stand in the paragraph; those of all stand below


def summary(study: Study) -> str:
    """What the settings with enough seeds show, in a few sentences."""
    settings = _settings(study, tuple(TASK_NAMES))
    known = [setting for setting in settings if _order_of(setting.members) is not None]
    if not known:
        return f"nothing yet. A finding takes {ENOUGH_SEEDS} seeds of both families, and no setting has them."
    verdicts: dict[str, list[_Setting]] = {}
    for setting in known:
        verdicts.setdefault(_verdict(setting.members) or "", []).append(setting)
    few = len(known) <= _FEW
    text = "; ".join(f"{said} {', '.join(_places(alike, few))}" for said, alike in verdicts.items()) + "."
    counted = f" In brackets: {NAMES['pythia']} against {NAMES['mamba']}, examples until .95 in the median."
    text += counted if few else " Examples are counted until .95 are right."
    text += _twice([setting for setting in known if setting.task == "position"])
    rest = len(settings) - len(known)
    more = f" {rest} more {'setting has' if rest == 1 else 'settings have'} too few seeds yet." if rest else ""
    unfinished = f" {len(study.rows)} of {study.planned} trainings are finished." if study.unfinished else ""
    return f"{text}{more}{unfinished}"


def _twice(settings: Sequence[_Setting]) -> str:
    """Which family is right more often where sequences are twice as long as trained, and all seeds agree; a sentence
    that begins with a space."""
    parts: list[str] = []
    for ahead, words in _AHEAD.items():
        orders: dict[str, list[str]] = {}  # by length
        for one in settings:
            found = _beyond(one.members)
            if found is None or found.length != 2 * one.length or one.order is None:
                continue
            if found.ahead == ahead:
                orders.setdefault(f"{one.length}{one.apart}", []).append(ORDER_NAMES[one.order])
        places = [
            f"length {length} {'in both orders' if len(own) > 1 else f'with the {own[0]}'}"
            for length, own in orders.items()
        ]
        if places:
            said = words.partition(" is right")[0] if parts else words
            parts.append(f"{said} after {listed(places)}")
    return f" Asked at twice the trained length, {', '.join(parts)}." if parts else ""


def _places(settings: Sequence[_Setting], few: bool) -> Iterator[str]:
    """Where something is seen, an order at a time, then in which other tasks; few: with what the families needed in the
    median."""
    for order in _ORDERS:
        lengths = [
            f"{setting.length}{setting.apart}{_notes(setting.members) if few else ''}"
            for setting in settings
            if setting.task == "position" and setting.order == order
        ]
        if lengths:
            yield f"with the {ORDER_NAMES[order]} at length {listed(lengths)}"
    for task, words in TASK_WORDS.items():
        notes = [_notes(setting.members) for setting in settings if setting.task == task != "position"]
        if notes:
            yield f"in {words}{''.join(notes) if few else ''}"


def _notes(members: dict[str, Group]) -> str:
    """In brackets: medians, and how many trainings never left chance."""
    middles = " against ".join(dict.fromkeys(_middle(members[family]) for family in _PAIR))
    return f" ({', '.join([middles, *(note for family in _PAIR for note in _at_chance(members[family]))])})"


class Needed(NamedTuple):
    """What the trainings of one setting needed to reach .95."""

    where: str
    amounts: dict[str, str]  # by family: examples, the least to the most of its seeds
    fewer: str  # which of Transformer and Mamba needs fewer


def needed(study: Study) -> list[Needed]:
    """A line for each task, length and order at which both a Transformer and a Mamba were trained."""
    out = []
    for task, length, order, apart, members in _settings(study, tuple(TASK_NAMES)):
        amounts = {family: _brief_amount(members[family]) for family in NAMES if family in members}
        out.append(Needed(f"{_where(task, length, order)}{apart}", amounts, _fewer(members)))
    return out


def _fewer(members: dict[str, Group]) -> str:
    order = _order_of(members)
    if order is None:
        return "too few seeds"
    if _none_reached(members[family] for family in _PAIR):
        return "neither reaches .95"
    return {-1: NAMES["pythia"], 1: NAMES["mamba"], 0: "no difference shown"}[order]


def seen(study: Study) -> list[str]:
    """A few sentences for each task, length and order at which both a Transformer and a Mamba were trained, and for
    each of which Mambas with states of several sizes were."""
    out = []
    for task, length, order, apart, members in _settings(study, tuple(TASK_NAMES)):
        known = [f"{NAMES[family]} {_amount(members[family])}" for family in NAMES if family in members]
        verdict = _verdict(members)
        said = f"Fewer than {ENOUGH_SEEDS} seeds: no finding yet"
        said = said if verdict is None else verdict[0].upper() + verdict[1:]
        longer = _longer(length, members) if task == "position" else ""
        said += "." if verdict is None else f".{_hybrid(members)}{longer}"
        out.append(f"{_where(task, length, order)}{apart}, examples until .95: {', '.join(known)}. {said}")
    return [*out, *_by_state(study)]


def _where(task: str, length: int, order: str | None) -> str:
    text = task_text(task, order, length)
    return text if task != "position" else text.partition(", ")[2].capitalize()


def _by_state(study: Study) -> list[str]:
    """What Mamba needed with states of several sizes, a sentence for each setting of which there are some."""
    sizes: dict[tuple[Any, ...], list[Group]] = {}
    for group in of_several_state_sizes(study.groups):
        sizes.setdefault(tuple(value for name, value in group.key.items() if name != "state_size"), []).append(group)
    out = []
    for alike in sizes.values():
        alike.sort(key=lambda group: group.key["state_size"])
        key = alike[0].key
        where = _where(key["task"], key["length"], key["order"])
        parts = [f"{group.key['state_size']} states {_amount(group)}" for group in alike]
        out.append(f"{where}, Mamba by states a channel, examples until .95: {', '.join(parts)}.")
    return out


def practice(study: Study) -> str:
    """Why the lab's models differ so little at lengths that all have learnt; "" where there are none."""
    chosen = for_lab(study.groups)
    missed = {row["length"] for row in chosen if row["reached"] is None}
    learnt = [str(length) for length in sorted({row["length"] for row in chosen} - missed)]
    if not learnt or len({row["family"] for row in chosen}) < 2:
        return ""
    return (
        f"The lab's models of length {listed(learnt)} were trained until .95 of their answers were right. So they "
        "mostly point alike there: what differs is how much practice that took, and what becomes of longer sequences."
    )


def unlearnt(study: Study) -> dict[tuple[str, int], str]:
    """By order and trained length, which of the lab's models used their budget up before .95, in a sentence."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(for_lab(study.groups), key=_rank):
        if row["reached"] is None:
            found.setdefault((row["order"], row["length"]), []).append(row)
    return {
        (order, length): f"Not learnt at length {length} within {rows[0]['budget']:,} examples: "
        + ", ".join(f"{NAMES[row['family']]} ({share_text(row['accuracy'])} right)" for row in rows)
        + "."
        for (order, length), rows in found.items()
    }


def _rank(row: Row) -> int:
    return list(NAMES).index(row["family"])


class _Setting(NamedTuple):
    """One task, order and length of which both families were trained."""

    task: str
    length: int
    order: str | None
    apart: str  # what tells it from others of this task, order and length, behind these; "" where there are none
    members: dict[str, Group]  # by family


def _settings(study: Study, tasks: Sequence[str] = ("position",)) -> list[_Setting]:
    """Only families that were trained alike (`tables.TRAINING`) are set beside each other."""
    usual = [g for g in study.groups if g.key["task"] in tasks and g.key["state_size"] in (None, 16)]
    out = []
    for task, length, order in product(tasks, sorted({group.key["length"] for group in usual}), _ORDERS):
        by_training: dict[tuple[Any, ...], dict[str, Group]] = {}
        for group in usual:
            if (group.key["task"], group.key["length"], group.key["order"]) == (task, length, order):
                by_training.setdefault(group.training, {}).setdefault(group.key["family"], group)
        both = {training: members for training, members in by_training.items() if set(_PAIR) <= set(members)}
        differing = [i for i in range(len(TRAINING)) if len({training[i] for training in both}) > 1]
        for training, members in both.items():
            apart = training_text({TRAINING[i]: training[i] for i in differing})
            out.append(_Setting(task, length, order, f" ({apart})" if apart else "", members))
    return out


def _range(group: Group) -> str:
    """Examples that trainings needed, the least and the most of those that reached .95."""
    known = sorted(row["reached"] for row in group.rows if row["reached"] is not None)
    ends = dict.fromkeys(f"{count:,}" for count in (known[:1] + known[-1:]))
    return " to ".join(ends) if known else f"not in {group.key['budget']:,}"


def _brief_amount(group: Group) -> str:
    """What trainings needed; seeds are counted only where they are few, or some of them did not reach .95."""
    reached, count = sum(row["reached"] is not None for row in group.rows), len(group.rows)
    if 0 < reached < count:
        return f"{_range(group)} ({reached} of {count} seeds)"
    return f"{_range(group)} ({seeds_text(count)})" if count < ENOUGH_SEEDS else _range(group)


def _amount(group: Group) -> str:
    """What trainings needed, and how those ended that needed more than their budget."""
    failed, seeds = [row for row in group.rows if row["reached"] is None], seeds_text(len(group.rows))
    if len(failed) == len(group.rows):
        shares = sorted(row["accuracy"] for row in failed)
        ends = " to ".join(dict.fromkeys(map(share_text, (shares[0], shares[-1]))))
        return f"{_range(group)} ({seeds}: {ends} right)"
    return f"{_range(group)} ({', '.join([seeds, *_failures(failed, group)])})"


def _failures(rows: Sequence[Row], group: Group) -> Iterator[str]:
    """How those trainings ended that did not reach .95."""
    for words, kept in (("never left chance:", True), ("got to", False)):
        shares = sorted(row["accuracy"] for row in rows if _never_left(row, group) is kept)
        if shares:
            count = "one" if len(shares) == 1 else len(shares)
            found = " and ".join(dict.fromkeys(map(share_text, shares)))
            yield f"{count} of which {words} {found} after all {group.key['budget']:,}"


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


def _none_reached(groups: Iterable[Group]) -> bool:
    return all(row["reached"] is None for group in groups for row in group.rows)


def _verdict(members: dict[str, Group]) -> str | None:
    """What the seeds of a setting show; None where there are too few of them."""
    if _none_reached(members[family] for family in _PAIR):
        return None if _order_of(members) is None else "no Transformer and no Mamba reaches .95 within the budget"
    words = {
        -1: "every Transformer needs fewer examples than every Mamba",
        1: "every Mamba needs fewer examples than every Transformer",
        0: "the seeds overlap, so no difference is shown",
    }
    order = _order_of(members)
    return None if order is None else words[order]


class _Beyond(NamedTuple):
    """Answers at the shortest length that no training saw."""

    length: int
    shares: dict[str, list[float]]  # family -> its trainings' shares of right answers
    ahead: int  # -1 where every Transformer is right more often than every Mamba, 1 the other way, else 0


_AHEAD = {
    -1: "every Transformer is right more often than every Mamba",
    1: "every Mamba is right more often than every Transformer",
}


def _beyond(members: dict[str, Group]) -> _Beyond | None:
    """None where a training was not asked there."""
    tested = min((int(name) for row in members["pythia"].rows for name in row["extrapolation"]), default=0)
    shares = {
        family: [row["extrapolation"].get(str(tested)) for row in group.rows] for family, group in members.items()
    }
    if not tested or any(share is None for found in shares.values() for share in found):
        return None
    ours, theirs = (shares[family] for family in _PAIR)
    return _Beyond(tested, shares, -1 if min(ours) > max(theirs) else 1 if min(theirs) > max(ours) else 0)


def _longer(length: int, members: dict[str, Group]) -> str:
    """How the shortest length is answered that no training saw, in sentences that begin with a space."""
    found = _beyond(members)
    if found is None:
        return ""
    parts = []
    for family in NAMES:
        if family in found.shares:
            middle, low, high = map(share_text, spread(found.shares[family]))
            parts.append(f"{NAMES[family]} {middle} ({low} to {high})")
    verdict = _AHEAD.get(found.ahead, "the seeds of the Transformer and Mamba overlap")
    asked = f"At length {found.length}, untrained"
    return f" {asked}: {', '.join(parts)} right, guessing {share_text(1 / length)}; {verdict}."


def _hybrid(members: dict[str, Group]) -> str:
    """Where the hybrid stands, in a sentence that begins with a space; "" where it has too few seeds."""
    against = {family: _order_of(members, "hybrid", family) for family in _PAIR}
    if None in against.values():
        return ""
    if _none_reached(members.values()):
        return " No hybrid does, either."
    if not any(against.values()):
        return " The hybrid overlaps with both."
    words = {-1: "needs fewer than every", 1: "needs more than every", 0: "overlaps with"}
    return " The hybrid " + ", and ".join(f"{words[order or 0]} {NAMES[name]}" for name, order in against.items()) + "."
