"""The study's figures as SVG, from groups of rows. The same rows and the same matplotlib give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlcompare.render.plots import COLORS, chance_line, panels
from vlcompare.study.tables import Group, accuracy_at, extrapolation, of_several_state_sizes, spread

LABELS = {"pythia": "Transformer (Pythia)", "mamba": "Mamba", "hybrid": "Hybrid"}
MARKERS = {"pythia": "o", "mamba": "s", "hybrid": "^"}
ORDER_NAMES = {"query_first": "query first", "query_last": "query last", None: ""}


def draw_all(groups: Sequence[Group], out: Path) -> list[str]:
    """Write every figure that there are rows for to `out`; returns the names of the files."""
    import matplotlib

    position = [group for group in groups if group.key["task"] == "position" and _plain(group)]
    drawn = {
        "examples_to_95.svg": _by_length(position),
        "accuracy_by_length.svg": _at_equal_examples(position),
        "curves.svg": _curves([group for group in groups if _plain(group)]),
        "accuracy_by_position.svg": _heat(position),
        "extrapolation.svg": _longer(position),
        "state_size.svg": _states(groups),
    }
    names = []
    for name, figure in drawn.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)
            continue
        with matplotlib.rc_context({"svg.hashsalt": "study", "svg.fonttype": "none"}):
            figure.savefig(out / name, metadata={"Date": None})
        names.append(name)
    return names


def _plain(group: Group) -> bool:
    """Whether the state size is the usual one: others have a figure of their own."""
    return group.key["state_size"] in (None, 16)


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        known = dict(zip(labels, handles, strict=True))
        axes.legend(known.values(), known.keys(), fontsize=8, framealpha=0.9)


def _against_length(
    groups: Sequence[Group], draw: Callable[[Any, str, list[Group]], None], title: str, name: str, **axis: Any
) -> Any:
    """A panel for each order, over length; `draw(axes, family, groups)` draws a family."""
    orders = [order for order in ("query_last", "query_first") if any(g.key["order"] == order for g in groups)]
    if not orders:
        return None
    figure, axes_list = panels(len(orders), 2, (5.0, 3.8))
    for axes, order in zip(axes_list, orders, strict=True):
        for family in LABELS:
            draw(axes, family, [g for g in groups if g.key["order"] == order and g.key["family"] == family])
        axes.set(title=f"{title}, {ORDER_NAMES[order]}", xlabel="length", ylabel=name, **axis)
        axes.set_xticks(sorted({g.key["length"] for g in groups}))
        axes.grid(alpha=0.3)
        _legend(axes)
    return figure


def _line(axes: Any, family: str, points: Sequence[tuple[float, float, float, float]]) -> None:
    """Medians joined by a line, each with its range: (x, median, least, most)."""
    if points:
        x, middle, low, high = zip(*points, strict=True)
        axes.plot(x, middle, color=COLORS[family], marker=MARKERS[family], label=LABELS[family])
        axes.vlines(x, low, high, color=COLORS[family])


def _by_length(groups: Sequence[Group]) -> Any:
    """Examples to .95 by length; a hollow mark at the budget: the median seed did not reach it."""

    def draw(axes: Any, family: str, members: list[Group]) -> None:
        known = []
        for group in members:
            middle, low, high = spread(row["reached"] for row in group.rows)
            length, budget = group.key["length"], group.key["budget"]
            if middle is None or low is None:
                axes.plot(length, budget, marker=MARKERS[family], color=COLORS[family], markerfacecolor="none",
                          linestyle="", markersize=9 if family == "mamba" else 5,
                          label=f"{LABELS[family]}: not reached")  # fmt: skip
            else:
                known.append((length, middle, low, budget if high is None else high))
        _line(axes, family, known)

    return _against_length(groups, draw, "examples to .95", "examples", yscale="log")


def _at_equal_examples(groups: Sequence[Group]) -> Any:
    """Accuracy by length after a quarter of the budget; a training that stopped before keeps its last accuracy."""

    def draw(axes: Any, family: str, members: list[Group]) -> None:
        points = []
        for group in members:
            middle, low, high = spread(accuracy_at(row, row["budget"] / 4) for row in group.rows)
            if middle is not None and low is not None and high is not None:
                points.append((group.key["length"], middle, low, high))
        _line(axes, family, points)

    budgets = " or ".join(f"{budget // 4:,}" for budget in sorted({g.key["budget"] for g in groups}))
    return _against_length(groups, draw, f"accuracy after {budgets} examples", "accuracy", ylim=(0, 1))


def _curves(groups: Sequence[Group]) -> Any:
    """Accuracy while training, a panel for each task, order and length; every seed at the best rate."""
    names = ("task", "order", "length", "vocabulary")
    keys = list(dict.fromkeys(tuple(group.key[name] for name in names) for group in groups))
    if not keys:
        return None
    figure, axes_list = panels(len(keys), 3, (4.2, 3.0))
    for axes, key in zip(axes_list, keys, strict=True):
        members = [group for group in groups if tuple(group.key[name] for name in names) == key]
        for group in members:
            family = group.key["family"]
            for row in group.rows:
                if row["curve"]:
                    points = zip(*row["curve"], strict=True)
                    axes.plot(*points, color=COLORS[family], label=LABELS[family], linewidth=1.2)
        chance_line(axes, members[0].chance)
        order = f", {ORDER_NAMES[key[1]]}" if key[1] else ""
        axes.set_title(f"{key[0]} {key[2]}{order} (dashed: chance)", fontsize=9)
        axes.set(xlabel="thousand examples", ylabel="accuracy", ylim=(0, 1))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}")
        axes.grid(alpha=0.3)
        _legend(axes)
    return figure


def _heat(groups: Sequence[Group]) -> Any:
    """Accuracy by place: a panel a length, a line for each order and family; medians over seeds."""
    lengths = sorted({group.key["length"] for group in groups})
    if not lengths:
        return None
    figure, axes_list = panels(len(lengths), 1, (8.0, 2.6))
    for axes, length in zip(axes_list, lengths, strict=True):
        members = [group for group in groups if group.key["length"] == length]
        table = [
            [spread(row["by_position"][place] for row in group.rows)[0] or 0.0 for place in range(length)]
            for group in members
        ]
        image = axes.imshow(table, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        labels = [f"{LABELS[g.key['family']]}, {ORDER_NAMES[g.key['order']]}" for g in members]
        axes.set_yticks(range(len(members)), labels, fontsize=8)
        axes.set_xticks(range(0, length, max(1, length // 10)))
        axes.set(title=f"accuracy by place, length {length}", xlabel="place asked about (0 = first)")
        figure.colorbar(image, ax=axes)
    return figure


def _longer(groups: Sequence[Group]) -> Any:
    """Accuracy at once, twice and four times the trained length."""
    keys = list(dict.fromkeys((g.key["order"], g.key["length"]) for g in groups if g.rows[0]["extrapolation"]))
    if not keys:
        return None
    figure, axes_list = panels(len(keys), 3, (4.2, 3.2))
    for axes, (order, length) in zip(axes_list, keys, strict=True):
        for group in (g for g in groups if (g.key["order"], g.key["length"]) == (order, length)):
            tested = [(record["tested_length"], record["median"]) for record in extrapolation([group])]
            known = [point for point in tested if point[1] is not None]
            family = group.key["family"]
            points = zip(*known, strict=True)
            axes.plot(*points, color=COLORS[family], marker=MARKERS[family], label=LABELS[family])
        axes.set(xlabel="tested length", ylabel="accuracy", ylim=(0, 1))
        axes.set_title(f"trained at length {length}, {ORDER_NAMES[order]}", fontsize=10)
        axes.grid(alpha=0.3)
        _legend(axes)
    return figure


def _states(groups: Sequence[Group]) -> Any:
    """Mamba's accuracy at half the budget by its state size."""
    groups = of_several_state_sizes(groups)
    if not groups:
        return None
    figure, (axes,) = panels(1, 1, (5.0, 3.6))
    for group in groups:
        half = group.key["budget"] / 2
        values = [accuracy_at(row, half) for row in group.rows]
        sizes = [group.key["state_size"]] * len(values)
        axes.plot(sizes, values, linestyle="", marker=MARKERS["mamba"], color=COLORS["mamba"])
    axes.set(title="Mamba after half of the budget", xlabel="states a channel", ylabel="accuracy", ylim=(0, 1))
    axes.set_xscale("log", base=2)
    sizes = sorted({group.key["state_size"] for group in groups})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.grid(alpha=0.3)
    return figure
