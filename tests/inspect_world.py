"""Run folders for the inspect page's tests: real files of the real runner, answers from a fake. Nothing here is a test."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageDraw

from vlcompare.evaluate.run import Engine, run
from vlcompare.evaluate.run_settings import RunSettings, SideSettings
from vlcompare.tasks.reading import read_answer
from vlcompare.types import Alternative, Answer, Box, Memory, Prompt, Request, Timings, Token

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


def fake_engine(truth: dict[tuple[str, str], dict[str, Any]]) -> Engine:
    """Answers that are right about as often as SKILL says. truth: (picture's file name, text) -> the sample's row."""

    def load(checkpoint: str, **options: Any) -> Any:
        config = SimpleNamespace(image_size=112)
        return SimpleNamespace(
            checkpoint=checkpoint, revision=None, config=config, dtype="float32", device="cpu", notices=(),
            quantization=options.get("quantization", "none"), weights_sha256=lambda: "0" * 64,
        )  # fmt: skip

    def generate(model: Any, asked: Sequence[tuple[Any, Request]], alternatives: int = 0) -> list[Answer]:
        return [
            answer_of(model.checkpoint, request, truth.get((Path(str(image)).name, request.text), {}))
            for image, request in asked
        ]

    return Engine(load, generate)


def answer_of(checkpoint: str, request: Request, row: dict[str, Any]) -> Answer:
    """One made-up answer: the truth, bent by chance; its tokens, times and prompt."""
    dice = random.Random(f"{checkpoint}|{row.get('id')}")
    hard = random.Random(str(row.get("id"))).random()
    right = dice.random() < SKILL.get(checkpoint, 0.6) + 0.3 * (0.5 - hard)
    text = _said(request, row, right, dice)
    reading = read_answer(request, text)
    sure = 0.9 if right else 0.55
    pieces = _pieces(text)
    chances = [min(0.999, max(0.05, dice.gauss(sure, 0.12))) for _ in pieces]
    tokens = tuple(
        Token(100 + i, piece, math.log(chance), (Alternative(100 + i, piece, math.log(chance)),))
        for i, (piece, chance) in enumerate(zip(pieces, chances, strict=True))
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


def _pieces(text: str) -> list[str]:
    out: list[str] = []
    for char in text:
        if out and (char.isalnum() == out[-1][-1].isalnum()) and char not in " ,[]":
            out[-1] += char
        else:
            out.append(char)
    return out


def write_run(
    folder: Path, data: Path | None = None, *, sides: dict[str, str] | None = None, copy_images: bool = False
) -> Path:
    """A finished run in `folder` over `data` (a samples.jsonl; painted pictures where none is given)."""
    data = data or write_samples(folder.with_name(folder.name + "-data"))
    truth = {}
    for line in data.read_text().splitlines():
        row = json.loads(line)
        truth[(Path(row["image"]).name, row.get("text", ""))] = row
    chosen = {side: SideSettings(name) for side, name in (sides or CHECKPOINTS).items()}
    settings = RunSettings(str(data), folder, chosen, batch_size=64, copy_images=copy_images, progress=False)
    run(replace(settings, alternatives=1), fake_engine(truth))
    return folder


def write_many_samples(folder: Path, count: int, pictures: int = 40) -> Path:
    """`count` rows about few pictures, for what must not slow down."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(pictures):
        Image.new("RGB", (64, 64), (index * 6 % 255, 120, 200)).save(folder / f"p{index}.png")
    with (folder / "samples.jsonl").open("w") as file:
        for row in _many(count, pictures):
            file.write(json.dumps(row) + "\n")
    return folder / "samples.jsonl"


def _many(count: int, pictures: int) -> Iterator[dict[str, Any]]:
    dice = random.Random(7)
    colors, kinds = ("red", "blue", "green", "orange"), ("cat", "car", "disc", "fish", "house")
    for index in range(count):
        x, y, side = dice.uniform(0, 0.6), dice.uniform(0, 0.6), dice.choice((0.08, 0.2, 0.38))
        what = f"the {dice.choice(colors)} {dice.choice(kinds)} number {index}"
        row = {"id": f"r{index}", "image": f"p{index % pictures}.png", "source": "many", "split": f"part{index % 3}"}
        tags = {"type": dice.choice(("attribute", "relation", "ordinal")), "distractors": dice.randrange(5)}
        if index % 3:
            yield {**row, "task": "grounding", "text": what, "boxes": [[x, y, x + side, y + side]], "tags": tags}
        else:
            yield {**row, "task": "vqa", "text": f"What is {what}?", "references": [dice.choice(colors)], "tags": tags}
