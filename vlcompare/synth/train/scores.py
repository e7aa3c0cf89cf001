"""Held-out scores of the pair, and the model cards that state them.

Both models are compared with two baselines: the most frequent answer to each type of question (counted on training
scenes), and both models with every picture replaced by plain grey, which shows what their language alone can guess.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlcompare.evaluate import run_files
from vlcompare.evaluate.prediction_log import write_json
from vlcompare.evaluate.predictions import read_predictions
from vlcompare.evaluate.run import run
from vlcompare.evaluate.settings import RunSettings
from vlcompare.evaluate.summary import evaluate, summarise
from vlcompare.synth.scenes.dataset import SAMPLES, write_scenes
from vlcompare.synth.train.export import FOLDERS
from vlcompare.synth.train.model_card import write_card
from vlcompare.synth.train.priors import prior_answers
from vlcompare.types import Sample, Side

SEED, COUNT = 2026, 300
BLANKS = 120  # pictures; a floor needs no narrow interval
GREY = (128, 128, 128)
# the tag whose values are the slices of a task in the card
SLICES: dict[str, str] = {
    "vqa": "type",
    "document_vqa": "type",
    "grounding": "type",
    "region_description": "size",
    "multiple_choice": "type",
    "pointing": "type",
    "image_text_match": "type",
}


def write_scores(checkpoints: Path, work: Path, *, count: int = COUNT, seed: int = SEED) -> dict[str, Any]:
    """Evaluate both folders of `checkpoints` on `count` scenes of `seed` and write scores.json and README.md to each.

    `work` keeps the scenes and the runs, and goes on with them where the same weights are asked again.
    """
    scenes, blank = draw(work, count, seed)
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for data, prefix in ((scenes, ""), (blank, "blank-")):
        rows |= {f"{prefix}{family}": ask_one(family, checkpoints, data, work) for family in FOLDERS}
    samples = list(run_files.read_samples(run_folder("pythia", checkpoints, scenes, work)))
    rows["prior"] = prior_answers(samples)
    whole = {side: found for side, found in rows.items() if not side.startswith("blank-")}
    drawn = {"seed": seed, "count": count, "blanks": min(count, BLANKS), "size": 224}
    report = {"scenes": drawn, **figures(samples, whole)}
    grey = {side: found for side, found in rows.items() if side.startswith("blank-")}
    known = next(iter(grey.values()))
    report["sides"] |= figures([sample for sample in samples if sample.id in known], grey)["sides"]
    for family, folder in FOLDERS.items():
        write_json(checkpoints / folder / "scores.json", report)
        write_card(checkpoints / folder, family, report)
    return report


def draw(work: Path, count: int = COUNT, seed: int = SEED) -> tuple[Path, Path]:
    """The scenes, and the questions about the first of them with plain grey pictures; drawn where they are missing."""
    scenes, blank = work / f"scenes-{seed}-{count}", work / f"blank-{seed}-{min(count, BLANKS)}"
    if not (scenes / SAMPLES).exists():
        write_scenes(scenes, count, seed)
    if not (blank / SAMPLES).exists():
        _blank_copy(scenes, blank, BLANKS)
    return scenes, blank


def ask_one(family: str, checkpoints: Path, data: Path, work: Path) -> dict[str, dict[str, Any]]:
    """One model's answers to one set of samples, by id; a run that was begun with these weights is resumed."""
    out = run_folder(family, checkpoints, data, work)
    sides = {"left": Side(str((checkpoints / FOLDERS[family]).resolve()))}
    run(RunSettings(str(data / SAMPLES), out, sides, resume=out.exists(), progress=False, batch_size=32))
    return next(iter(read_predictions(out / run_files.PREDICTIONS).sides.values()))


def run_folder(family: str, checkpoints: Path, data: Path, work: Path) -> Path:
    """Where a model's answers are kept: other weights, or the same ones elsewhere, have a folder of their own.

    A run that holds every answer is not asked again, so its name has to identify the weights.
    """
    folder = (checkpoints / FOLDERS[family]).resolve()
    digest = hashlib.sha256(str(folder).encode())
    for path in sorted(folder.glob("*")):
        if path.name in ("config.json", "model.safetensors", "tokenizer.json"):
            digest.update(path.read_bytes())
    return work / f"run-{family}-{digest.hexdigest()[:12]}-{data.name}"


def figures(samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Per side and task all metrics with intervals; per slice the main one."""
    results = evaluate(samples, rows)
    summary = summarise(results, list(rows))
    slices: dict[str, dict[str, dict[str, Any]]] = {}
    for task, tag in SLICES.items():
        groups: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            if sample.task == task and sample.tags.get(tag) is not None:
                groups[str(sample.tags[tag])].append(sample)
        for value, group in sorted(groups.items()):
            part = summarise(evaluate(group, rows), list(rows))
            found = {side: part["sides"][side]["tasks"].get(task) for side in rows}
            slices.setdefault(task, {})[value] = found
    return {
        "sides": {side: summary["sides"][side]["tasks"] for side in rows},
        "main": summary["main"],
        "slices": slices,
    }


def _blank_copy(scenes: Path, blank: Path, count: int) -> None:
    """The same questions about plain grey pictures, for the first `count` pictures."""
    blank.mkdir(parents=True, exist_ok=True)
    lines, pictures = [], set()
    for line in (scenes / SAMPLES).read_text(encoding="utf-8").splitlines():
        name = json.loads(line)["image"]
        pictures.add(name)
        if len(pictures) > count:
            break
        target = blank / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (224, 224), GREY).save(target)
        lines.append(line)
    (blank / SAMPLES).write_text("\n".join(lines) + "\n", encoding="utf-8")
