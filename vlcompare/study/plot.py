"""The study's figures as SVG, from groups of rows. The same rows and the same matplotlib give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlcompare.study.tables import Group, accuracy_at, by_state_size, extrapolation

STYLES = {"pythia": ("Transformer (Pythia)", "#0072b2", "o"), "mamba": ("Mamba", "#c25e00", "s"),
          "hybrid": ("Hybrid", "#2e7d5b", "^")}  # fmt: skip
ORDER_NAMES = {"query_first": "query first", "query_last": "query last", None: ""}


def draw_all(found: Sequence[Group], out: Path) -> list[str]:
    """Draw what there are rows for; returns the names of the files."""
    import matplotlib

    matplotlib.use("Agg")
    position = [group for group in found if group.key["task"] == "position" and _plain(group)]
    drawn = {
        "examples_to_95.svg": _by_length(position),
        "accuracy_by_length.svg": _at_equal_examples(position),
        "curves.svg": _curves([group for group in found if _plain(group)]),
        "accuracy_by_position.svg": _heat(position),
        "extrapolation.svg": _longer(position),
        "state_size.svg": _states(found),
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
    """Of the usual state size: others have a figure of their own."""
    return group.key["state_size"] in (None, 16)


def _panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        known = dict(zip(labels, handles, strict=True))
        axes.legend(known.values(), known.keys(), fontsize=8, framealpha=0.9)


def _against_length(
    found: Sequence[Group], draw: Callable[[Any, str, list[Group]], None], title: str, name: str, **axis: Any
) -> Any:
    """A panel an order with length along it; `draw(axes, family, groups)` puts in a family."""
    orders = [order for order in ("query_last", "query_first") if any(g.key["order"] == order for g in found)]
    if not orders:
        return None
    figure, panels = _panels(len(orders), 2, (5.0, 3.8))
    for axes, order in zip(panels, orders, strict=True):
        for family in STYLES:
            draw(axes, family, [g for g in found if g.key["order"] == order and g.key["family"] == family])
        axes.set(title=f"{title}, {ORDER_NAMES[order]}", xlabel="length", ylabel=name, **axis)
        axes.set_xticks(sorted({g.key["length"] for g in found}))
        axes.grid(alpha=0.3)
        _legend(axes)
    return figure


def _line(axes: Any, family: str, points: Sequence[tuple[float, float, float, float]]) -> None:
    """Medians joined by a line, each with its range: (x, median, least, most)."""
    label, color, marker = STYLES[family]
    if points:
        axes.plot([p[0] for p in points], [p[1] for p in points], color=color, marker=marker, label=label)
        axes.vlines([p[0] for p in points], [p[2] for p in points], [p[3] for p in points], color=color)


def _by_length(found: Sequence[Group]) -> Any:
    """Examples to .95 by length; hollow marks stand at the budget: not reached by the median seed."""

    def draw(axes: Any, family: str, members: list[Group]) -> None:
        label, color, marker = STYLES[family]
        known = []
        for group in members:
            middle, low, high = group.spread(lambda row: row["reached"])
            length, budget = group.key["length"], group.key["budget"]
            if middle is None or low is None:
                axes.plot(length, budget, marker=marker, color=color, markerfacecolor="none", linestyle="",
                          markersize=9 if family == "mamba" else 5, label=f"{label}: not reached")  # fmt: skip
            else:
                known.append((length, middle, low, budget if high is None else high))
        _line(axes, family, known)

    return _against_length(found, draw, "examples to .95", "examples", yscale="log")


def _at_equal_examples(found: Sequence[Group]) -> Any:
    """Accuracy by length when every training has seen a quarter of its budget; whatever stopped keeps its last."""

    def draw(axes: Any, family: str, members: list[Group]) -> None:
        spreads = [(group.key["length"], *group.spread(_at_a_quarter)) for group in members]
        _line(axes, family, [(x, a, b, c) for x, a, b, c in spreads if None not in (a, b, c)])  # type: ignore[misc]

    budgets = " or ".join(f"{budget // 4:,}" for budget in sorted({g.key["budget"] for g in found}))
    return _against_length(found, draw, f"accuracy after {budgets} examples", "accuracy", ylim=(0, 1))


def _at_a_quarter(row: dict[str, Any]) -> float | None:
    return accuracy_at(row, row["budget"] / 4)


def _curves(found: Sequence[Group]) -> Any:
    """Accuracy while training, a panel for each task, order and length; every seed at the best rate."""
    names = ("task", "order", "length", "vocabulary")
    keys = list(dict.fromkeys(tuple(group.key[name] for name in names) for group in found))
    if not keys:
        return None
    figure, panels = _panels(len(keys), 3, (4.2, 3.0))
    for axes, key in zip(panels, keys, strict=True):
        members = [group for group in found if tuple(group.key[name] for name in names) == key]
        for group in members:
            label, color, _ = STYLES[group.key["family"]]
            for row in group.rows:
                if row["curve"]:
                    axes.plot(*zip(*row["curve"], strict=True), color=color, label=label, linewidth=1.2)
        axes.axhline(members[0].chance, color="#6b7280", linestyle="--", linewidth=1)
        order = f", {ORDER_NAMES[key[1]]}" if key[1] else ""
        axes.set_title(f"{key[0]} {key[2]}{order} (dashed: chance)", fontsize=9)
        axes.set(xlabel="thousand examples", ylabel="accuracy", ylim=(0, 1))
        axes.xaxis.set_major_formatter(lambda value, place: f"{value / 1000:g}")
        axes.grid(alpha=0.3)
        _legend(axes)
    return figure


def _heat(found: Sequence[Group]) -> Any:
    """Accuracy by place: a panel a length, a line for each order and family; medians over seeds."""
    lengths = sorted({group.key["length"] for group in found})
    if not lengths:
        return None
    figure, panels = _panels(len(lengths), 1, (8.0, 2.6))
    for axes, length in zip(panels, lengths, strict=True):
        members = [group for group in found if group.key["length"] == length]
        table = [
            [g.spread(lambda row, place=place: row["by_position"][place])[0] or 0.0 for place in range(length)]  # type: ignore[misc]
            for g in members
        ]
        image = axes.imshow(table, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        labels = [f"{STYLES[g.key['family']][0]}, {ORDER_NAMES[g.key['order']]}" for g in members]
        axes.set_yticks(range(len(members)), labels, fontsize=8)
        axes.set_xticks(range(0, length, max(1, length // 10)))
        axes.set(title=f"accuracy by place, length {length}", xlabel="place asked about (0 = first)")
        figure.colorbar(image, ax=axes)
    return figure


def _longer(found: Sequence[Group]) -> Any:
    """Accuracy at once, twice and four times the trained length."""
    keys = list(dict.fromkeys((g.key["order"], g.key["length"]) for g in found if g.rows[0]["extrapolation"]))
    if not keys:
        return None
    figure, panels = _panels(len(keys), 3, (4.2, 3.2))
    for axes, (order, length) in zip(panels, keys, strict=True):
        for group in (g for g in found if (g.key["order"], g.key["length"]) == (order, length)):
            points = [(record["tested_length"], record["median"]) for record in extrapolation([group])]
            known = [point for point in points if point[1] is not None]
            label, color, marker = STYLES[group.key["family"]]
            axes.plot(*zip(*known, strict=True), color=color, marker=marker, label=label)
        axes.set(xlabel="tested length", ylabel="accuracy", ylim=(0, 1))
        axes.set_title(f"trained at length {length}, {ORDER_NAMES[order]}", fontsize=10)
        axes.grid(alpha=0.3)
        _legend(axes)
    return figure


def _states(found: Sequence[Group]) -> Any:
    """Mamba's accuracy at half the budget by its state size."""
    records = by_state_size(found)
    if not records:
        return None
    figure, (axes,) = _panels(1, 1, (5.0, 3.6))
    wanted = [group for group in found if any(all(record[k] == v for k, v in group.key.items()) for record in records)]
    for group in wanted:
        half = group.key["budget"] / 2
        values = [accuracy_at(row, half) for row in group.rows]
        axes.plot([group.key["state_size"]] * len(values), values, linestyle="", marker="s", color=STYLES["mamba"][1])
    axes.set(title="Mamba after half of the budget", xlabel="states a channel", ylabel="accuracy", ylim=(0, 1))
    axes.set_xscale("log", base=2)
    sizes = sorted({group.key["state_size"] for group in wanted})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.grid(alpha=0.3)
    return figure
