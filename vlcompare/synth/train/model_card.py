"""A model card from the scores and from training.json: text only, every figure taken from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GOALS: dict[str, tuple[str, str, float, float]] = {
    # task: (what is counted, metric, the project's goal for Pythia, for Mamba)
    "vqa": ("questions", "accuracy", 0.90, 0.85),
    "grounding": ("grounding, IoU above 0.5", "acc@0.5", 0.80, 0.60),
    "region_description": ("region descriptions, exact", "accuracy", 0.85, 0.75),
    "captioning": ("captions, objects right", "objects_right", 0.85, 0.80),
    "document_vqa": ("document answers, exact", "exact", 0.70, 0.60),
    "image_text_match": ("image-text match", "accuracy", 0.85, 0.80),
}
OTHERS: dict[str, tuple[str, str]] = {
    "grounded_captioning": ("grounded captions, phrases with their boxes (F1)", "box_f1"),
    "multiple_choice": ("multiple choice (chance .25)", "accuracy"),
    "pointing": ("pointing (chance .25)", "accuracy"),
}
TITLES = {"pythia": "tiny-pythia-vl", "mamba": "tiny-mamba-vl"}
KINDS = {"pythia": "GPT-NeoX (Transformer)", "mamba": "Mamba-1 (state space)"}


def _figure(tasks: Mapping[str, Any], task: str, metric: str, interval: bool = True) -> str:
    found = tasks.get(task)
    if not found or metric not in found or found[metric] is None:
        return "-"
    text = f"{found[metric]:.2f}"
    low_high = found.get("ci95", {}).get(metric)
    return f"{text} [{low_high[0]:.2f}, {low_high[1]:.2f}]" if interval and low_high else text


def score_table(report: Mapping[str, Any]) -> str:
    """Both models, their goals, and the floors."""
    sides = report["sides"]
    lines = [
        "| | n | tiny-pythia-vl | goal | tiny-mamba-vl | goal | grey picture: Pythia, Mamba | most frequent answer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [(task, *row) for task, row in GOALS.items()] + [(task, *row, None, None) for task, row in OTHERS.items()]
    for task, title, metric, for_pythia, for_mamba in rows:
        count = sides["pythia"].get(task, {}).get("n", 0)
        blanks = ", ".join(_figure(sides[f"blank-{family}"], task, metric, False) for family in TITLES)
        goals = [f"{goal:.2f}" if goal else "" for goal in (for_pythia, for_mamba)]
        scores = [_figure(sides[family], task, metric) for family in TITLES]
        prior = _figure(sides["prior"], task, metric, False)
        cells = (title, str(count), scores[0], goals[0], scores[1], goals[1], blanks, prior)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def slice_table(report: Mapping[str, Any]) -> str:
    """Per slice the main metric of both, with the floor beside it."""
    lines = ["| task | slice | n | tiny-pythia-vl | tiny-mamba-vl | most frequent answer |", "|" + "---|" * 6]
    for task, slices in report["slices"].items():
        metric = GOALS[task][1] if task in GOALS else OTHERS[task][1]
        for value, sides in slices.items():
            wrapped = {side: {task: found} if found else {} for side, found in sides.items()}
            scores = [_figure(wrapped[family], task, metric) for family in TITLES]
            count = (sides["pythia"] or {}).get("n", 0)
            prior = _figure(wrapped["prior"], task, metric, False)
            lines.append(f"| {task} | {value} | {count} | {scores[0]} | {scores[1]} | {prior} |")
    return "\n".join(lines)


def _of_the_first(scenes: Mapping[str, Any]) -> str:
    """The grey pictures are fewer than the scenes, where the report says how many."""
    blanks = scenes.get("blanks", scenes["count"])
    return "" if blanks >= scenes["count"] else f" of the first {blanks}"


def write_card(folder: Path, family: str, report: Mapping[str, Any]) -> None:
    """Write README.md into a checkpoint folder; training.json there says what was run."""
    path = folder / "training.json"
    training = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    scenes, numbers = report["scenes"], training.get("parameters", {})
    other = next(name for name in TITLES if name != family)
    own, encoder, theirs = (f"{numbers.get(key, 0):,}" for key in (family, "encoder", other))
    text = f"""# {TITLES[family]}

{KINDS[family]}, {own} parameters with its connector, on a frozen vision encoder of {encoder}. One of a matched pair
with [{TITLES[other]}](../{TITLES[other]}) ({theirs} parameters): the same encoder, the same pictures and questions in
the same order, the same number of steps, so that what differs between the two is the architecture. Made for this
project, so that two models answer at once on any computer. **It knows only rendered scenes** (`python -m vlcompare
scenes`): twelve kinds of things in eight colours and three sizes, signs, and small documents. Photographs mean nothing
to it.

## Files

The published layout: `config.json`, `model.safetensors` (bfloat16, the published key names), and a `tokenizer.json` of
its own, whole words and one token for each coordinate of a box. Licence: MIT, as the project.

## Training

{training.get("about", "Not recorded.")}

The whole recipe is `recipe` in [training.json](training.json); learning curves are in [curves.jsonl](curves.jsonl),
those of the encoder in [encoder.jsonl](encoder.jsonl), both models' in the picture.

![Learning curves of both models](curves.png)

## Held-out scores

{scenes["count"]} pictures of the evaluation stream, seed {scenes["seed"]}, which training cannot reach; 95 % intervals
over pictures. The floors: the same model with every picture{_of_the_first(scenes)} replaced by plain grey (what its
language alone can guess), and the most frequent answer to each type of question.

{score_table(report)}

By type of question, with each task's main figure:

{slice_table(report)}

All of it again, by one command (it writes this card):

    python -m vlcompare train --stage report --out OUT --checkpoints checkpoints

or the scores alone:

    python -m vlcompare scenes SCENES --count {scenes["count"]} --seed {scenes["seed"]}
    python -m vlcompare evaluate SCENES/samples.jsonl --left tiny-pythia-vl --right tiny-mamba-vl --out RUN

{_noted(training)}"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _noted(training: Mapping[str, Any]) -> str:
    """The card's end: what was noted of the models beside their scores."""
    return f"""## What answers rest on

{training.get("rests_on", "Not measured.")}

## Limits

{training.get("limits", "Not recorded.")}

Trained with the image first and at {training.get("image_size", "one size of")} pixels only. Instruction first and
other image sizes run, but were not trained. It has no knowledge of anything but its scenes, and answers with
confidence whatever it is shown.
"""
