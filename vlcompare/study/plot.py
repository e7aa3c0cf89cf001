"""The study's figures as SVG, from groups of rows. The same rows and the same matplotlib give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
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


def _by_length(found: Sequence[Group]) -> Any:
    """Examples to .95 by length; hollow marks stand at the budget: not reached by the median seed."""
    orders = [order for order in ("query_last", "query_first") if any(g.key["order"] == order for g in found)]
    if not orders:
        return None
    figure, panels = _panels(len(orders), 2, (5.0, 3.8))
    for axes, order in zip(panels, orders, strict=True):
        for family, (label, color, marker) in STYLES.items():
            members = [g for g in found if g.key["order"] == order and g.key["family"] == family]
            points = [(g.key["length"], *g.spread(lambda row: row["reached"]), g.key["budget"]) for g in members]
            known = [point for point in points if point[1] is not None]
            if known:
                axes.plot([p[0] for p in known], [p[1] for p in known], color=color, marker=marker, label=label)
                axes.vlines([p[0] for p in known], [p[2] for p in known], [p[3] or p[4] for p in known], color=color)
            for length, middle, _, _, budget in points:
                if middle is None:
                    axes.plot(length, budget, marker=marker, color=color, markerfacecolor="none", linestyle="",
                              label=f"{label}: not reached")  # fmt: skip
        axes.set(title=f"examples to .95, {ORDER_NAMES[order]}", xlabel="length", ylabel="examples", yscale="log")
        axes.set_xticks(sorted({g.key["length"] for g in found}))
        axes.grid(alpha=0.3)
        _legend(axes)
    return figure


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
        axes.set(xlabel="examples", ylabel="accuracy", ylim=(0, 1))
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
        axes.set(title=f"accuracy by place, length {length}", xlabel="place asked about (0 = first)")
        figure.colorbar(image, ax=axes)
    return figure


def _longer(found: Sequence[Group]) -> Any:
    """Accuracy at once, twice and four times the trained length."""
    lengths = sorted({group.key["length"] for group in found if group.rows[0]["extrapolation"]})
    if not lengths:
        return None
    figure, panels = _panels(len(lengths), 3, (4.4, 3.4))
    for axes, length in zip(panels, lengths, strict=True):
        for group in (g for g in found if g.key["length"] == length):
            points = [(record["tested_length"], record["median"]) for record in extrapolation([group])]
            known = [point for point in points if point[1] is not None]
            label, color, marker = STYLES[group.key["family"]]
            line = "-" if group.key["order"] == "query_last" else "--"
            axes.plot(*zip(*known, strict=True), line, color=color, marker=marker,
                      label=f"{label}, {ORDER_NAMES[group.key['order']]}")  # fmt: skip
        axes.set(title=f"trained at length {length}", xlabel="tested length", ylabel="accuracy", ylim=(0, 1))
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
        sizes = [group.key["state_size"]] * len(values)
        axes.plot(sizes, values, linestyle="", marker="s", color=STYLES["mamba"][1])
    axes.set(title="Mamba after half of the budget", xlabel="states a channel", ylabel="accuracy", ylim=(0, 1))
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    return figure
