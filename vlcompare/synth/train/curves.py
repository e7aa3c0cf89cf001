"""Learning curves of both families in one picture, from their logs."""

from __future__ import annotations

from pathlib import Path

from vlcompare.render.plots import COLORS, chance_line, panels
from vlcompare.training.progress import read_log

SHOWN: dict[str, tuple[str, float | None]] = {  # title and what guessing scores, where that is far from 0
    "held_vqa": ("questions", None),
    "held_grounding": ("grounding, IoU > 0.5", None),
    "held_region_description": ("region descriptions", None),
    "held_captioning": ("captions, word for word", None),
    "held_document_vqa": ("documents", None),
    "held_image_text_match": ("image-text match", 0.5),
    "held_multiple_choice": ("multiple choice", 0.25),
    "held_pointing": ("pointing", 0.25),
}
LABELS = {"pythia": "Pythia", "mamba": "Mamba"}


def plot_curves(out: Path, folders: list[Path], name: str = "curves.png") -> None:
    """Draw the logs in `out` and save the picture there and into each of the pair's folders below `folders`."""
    figure, axes = panels(1 + len(SHOWN), 3, (13 / 3, 3.2))
    for family, label in LABELS.items():
        rows = read_log(out / f"{family}.jsonl")
        losses = [(row["step"], row["answer"]) for row in rows if "answer" in row]
        if losses:
            axes[0].plot(*zip(*losses, strict=True), color=COLORS[family], label=label, linewidth=1)
        for panel, key in zip(axes[1:], SHOWN, strict=True):
            scores = [(row["step"], row[key]) for row in rows if key in row]
            if scores:
                panel.plot(*zip(*scores, strict=True), color=COLORS[family], label=label, marker="o", markersize=3)
    axes[0].set(title="loss on answers (training)", xlabel="step", yscale="log")
    if axes[0].lines:
        axes[0].legend()
    for panel, (title, chance) in zip(axes[1:], SHOWN.values(), strict=True):
        panel.set(title=f"{title} (dashed: chance)" if chance else title, xlabel="step", ylim=(0, 1))
        panel.grid(alpha=0.3)
        if chance:
            chance_line(panel, chance)
    for folder in [out, *(path for base in folders for path in base.glob("tiny-*-vl"))]:
        figure.savefig(folder / name, dpi=80)
