"""Run folders for the inspect page: files of the real runner, answers from a fake. Nothing here is a test."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageDraw

from vlcompare.bench.inspect import pieces
from vlcompare.evaluate.engine import Engine
from vlcompare.evaluate.run import run
from vlcompare.evaluate.settings import RunSettings
from vlcompare.tasks.reading import read_answer
from vlcompare.types import Alternative, Answer, Box, Memory, Prompt, Request, Side, Timings, Token

CHECKPOINTS = {"left": "tiny-pythia-vl", "right": "tiny-mamba-vl"}
SKILL = {"tiny-pythia-vl": 0.72, "tiny-mamba-vl": 0.58}


def write_samples(folder: Path, pictures: int = 6) -> Path:
    """Rows of four tasks about painted pictures; the text of one row tries to be markup."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for index in range(pictures):
        dice = random.Random(index)
        box = [round(v, 2) for v in (0.1 + 0.05 * (index % 5), 0.15, 0.45 + 0.05 * (index % 5), 0.6)]
        other = [0.6, 0.65, 0.8, 0.92]
        picture = Image.new("RGB", (160, 120), (244, 238, 220))
        draw = ImageDraw.Draw(picture)
        for corners, fill in ((box, (200, 40, 40)), (other, (40, 80, 200))):
            draw.rectangle([corners[0] * 160, corners[1] * 120, corners[2] * 160, corners[3] * 120], fill=fill)
        picture.save(folder / f"p{index}.png")
        common = {"image": f"p{index}.png", "source": "painted", "split": ("seen", "new")[index % 2]}
        rows += [
            {
                **common,
                "id": f"g{index}",
                "task": "grounding",
                "text": "the red <b>square</b>" if index == 0 else f"the red square {index}",
                "boxes": [box],
                "tags": {"size": "large", "distractors": dice.randrange(4), "relation": None},
            },
            {
                **common,
                "id": f"s{index}",
                "task": "grounding",
                "text": f"the blue thing {index}",
                "boxes": [other],
                "tags": {"size": "small", "distractors": dice.randrange(4)},
            },
            {
                **common,
                "id": f"v{index}",
                "task": "vqa",
                "text": f"What color is the square {index}?",
                "references": ["red"],
                "tags": {"type": "color"},
            },
            {**common, "id": f"c{index}", "task": "captioning", "references": ["a red square and a blue square."]},
        ]
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fake_engine(rows: Sequence[dict[str, Any]]) -> Engine:
    """Answers that are right about as often as SKILL says. rows: the samples, whose truth is bent."""
    truth: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = row["task"], row.get("text", "")
        truth[key] = truth[(*key, Path(row["image"]).name)] = row

    def load(checkpoint: str, **options: Any) -> Any:
        config = SimpleNamespace(image_size=112)
        return SimpleNamespace(
            checkpoint=checkpoint, revision=None, config=config, dtype="float32", device="cpu", notices=(),
            quantization=options.get("quantization", "none"), weights_sha256=lambda: "0" * 64,
        )  # fmt: skip

    def generate(model: Any, asked: Sequence[tuple[Any, Request]], alternatives: int = 0) -> list[Answer]:
        answers = []
        for image, request in asked:
            key = request.task, request.text
            row = truth.get((*key, Path(str(image)).name)) or truth[key]  # a copied picture has another name
            answers.append(answer_of(model.checkpoint, request, row))
        return answers

    return Engine(load, generate)


def answer_of(checkpoint: str, request: Request, row: dict[str, Any]) -> Answer:
    """One made-up answer: the truth, bent by chance; its tokens, times and prompt."""
    dice = random.Random(f"{checkpoint}|{row.get('id')}")
    hard = random.Random(str(row.get("id"))).random()
    right = dice.random() < SKILL.get(checkpoint, 0.6) + 0.3 * (0.5 - hard)
    text = _said(request, row, right, dice)
    reading = read_answer(request, text)
    sure = 0.9 if right else 0.55
    parts = pieces(text)
    chances = [min(0.999, max(0.05, dice.gauss(sure, 0.12))) for _ in parts]
    tokens = tuple(
        Token(100 + i, piece, math.log(chance), (Alternative(100 + i, piece, math.log(chance)),))
        for i, (piece, chance) in enumerate(zip(parts, chances, strict=True))
    )
    prompt = Prompt(("<image>", f"{request.text}\n"), (4118, *[-200] * 49, 10494, 1, 2, 3), request.prompt_order)
    gap = 3.0 if "mamba" in checkpoint else 2.0
    gaps = tuple(gap + dice.random() for _ in tokens[1:])
    return Answer(
        text=reading.text, boxes=reading.boxes, phrases=reading.phrases, parse=reading.parse, tokens=tokens,
        prompt=prompt, stop_reason="end",
        timings=Timings(1.0, 4.0, 6.0, 12.0, gaps, 12.0 + sum(gaps), 250.0 if gaps else 0.0, "batch"),
        memory=Memory(6_000_000, 400_000, 400_000, 0), checkpoint=checkpoint, dtype="float32", device="cpu",
        image_size=112,
    )  # fmt: skip


def _said(request: Request, row: dict[str, Any], right: bool, dice: random.Random) -> str:
    if request.task == "grounding":
        if dice.random() < 0.02:
            return "I cannot see it."
        box = Box(*row["boxes"][0])
        spread = 0.03 if right else 0.25
        bent = sorted(min(1.0, max(0.0, v + dice.gauss(0, spread))) for v in (box.x0, box.x1))
        tall = sorted(min(1.0, max(0.0, v + dice.gauss(0, spread))) for v in (box.y0, box.y1))
        return f"[{bent[0]:.2f},{tall[0]:.2f},{bent[1]:.2f},{tall[1]:.2f}]."
    references = row.get("references") or ["red"]
    if right:
        return references[0]
    if request.task in ("multiple_choice", "pointing"):
        return dice.choice("ABCD")
    if request.task == "image_text_match":
        return "False" if references[0] == "True" else "True"
    return dice.choice(["blue", "a green disc", "no", "7", "<img src=x onerror=alert(1)>"])


def write_run(
    folder: Path, data: Path | None = None, *, sides: dict[str, str] | None = None, copy_images: bool = False
) -> Path:
    """A finished run in `folder` over `data` (a samples.jsonl; painted pictures where none is given)."""
    data = data or write_samples(folder.with_name(folder.name + "-data"))
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    chosen = {side: Side(name) for side, name in (sides or CHECKPOINTS).items()}
    settings = RunSettings(str(data), folder, chosen, batch_size=64, copy_images=copy_images, progress=False)
    run(replace(settings, alternatives=1), fake_engine(rows))
    return folder
