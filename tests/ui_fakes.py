"""Fakes for the page's tests: a comparison without models, pictures, examples. Nothing here is a test."""

from __future__ import annotations

import io
import json
import math
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vlcompare.comparison import Event
from vlcompare.tasks.reading import read_answer
from vlcompare.types import Alternative, Answer, Memory, Prompt, Request, Side, Step, Timings, Token
from vlcompare.ui.compare.page_update import REGIONS

WORDS = {
    "grounding": ["[", "0.10", ",", "0.20", ",", "0.55", ",", "0.70", "]", "."],
    "grounded_captioning": [
        *("||", "a red square ", "[0.10,0.20,0.50,0.70]", "|| near ||", "a disc ", "[0.60,0.55,0.90,0.85]", "||.")
    ],
    "multiple_choice": ["B"],
    "pointing": ["A"],
    "image_text_match": ["True", "."],
}  # fmt: skip


class FakeCompare:
    """Answers without models; `gap` seconds a token. A checkpoint called "broken/..." fails, one "slow/..." is slow."""

    def __init__(self, gap: float = 0.0, words: Mapping[str, list[str]] | None = None) -> None:
        self.gap = gap
        self.words = dict(words or {})
        self.sure: Sequence[float] = (0.7,)  # the probability of each token, from the first again after the last
        self.asked: list[tuple[bytes, Request, dict[str, Side]]] = []
        self.running = 0
        self._turns: threading.Semaphore | None = None

    @contextmanager
    def word_by_word(self) -> Iterator[Callable[[], None]]:
        """Hands out a function that lets one more word out: however slow the page is, it can be seen with each one."""
        turns = self._turns = threading.Semaphore(0)
        try:
            yield turns.release
        finally:
            self._turns = None
            turns.release(1000)  # whatever still waits goes on

    def _wait(self, gap: float, cancel: threading.Event) -> Iterator[None]:
        """Ticks until the next word's time or turn, or until Stop was pressed."""
        turns, end = self._turns, time.monotonic() + gap
        while not cancel.is_set():
            left = end - time.monotonic()
            if turns.acquire(timeout=0.02) if turns else left <= 0:
                return
            if not turns:
                cancel.wait(min(left, 0.02))
            yield None

    def __call__(
        self, image: Any, request: Request, sides: Mapping[str, Side], *, cancel: threading.Event, mode: str, **_: Any
    ) -> Iterator[Event | None]:
        self.asked.append((image, request, dict(sides)))
        self.running += 1
        try:
            for name, side in sides.items():
                yield Event(name, "status", f"Loading {side.checkpoint}")
                if side.checkpoint.startswith("broken/"):
                    said = "The file model.safetensors is cut off: download it again."
                    yield Event(name, "answer", Answer(stop_reason="error", error=said, checkpoint=side.checkpoint))
                    continue
                yield from self._side(name, side, request, cancel, mode)
        finally:
            self.running -= 1

    def _side(
        self, name: str, side: Side, request: Request, cancel: threading.Event, mode: str
    ) -> Iterator[Event | None]:
        own = side.request(request)
        prompt = Prompt(("<image>", f"{request.text}\n"), (4118, *[-200] * 49, 10494, 1, 2, 3), own.prompt_order)
        yield Event(name, "prompt", prompt)
        words = self.words.get(request.task) or WORDS.get(request.task) or self._echo(side, request)
        words = words[: own.max_new_tokens or 512]
        tokens: list[Token] = []
        for index, word in enumerate(words):
            yield from self._wait(self.gap * (4 if side.checkpoint.startswith("slow/") else 1), cancel)
            if cancel.is_set():
                break
            logprob = math.log(self.sure[index % len(self.sure)])
            top = (Alternative(index, word, logprob), Alternative(900 + index, "0.80", math.log(0.2)))
            tokens.append(Token(index, word, logprob, top))
            yield Event(name, "step", Step(index, index, word, logprob, top, 0.004))
        reading = read_answer(request, "".join(token.text for token in tokens))
        seen = range(len(prompt.ids), len(prompt.ids) + max(1, len(tokens)))
        trace = tuple(240_000 if "mamba" in side.checkpoint else 4096 * count for count in seen)
        gaps = tuple(4.0 for _ in tokens[1:])
        answer = Answer(
            text=reading.text,
            boxes=reading.boxes,
            phrases=reading.phrases,
            parse=reading.parse,
            tokens=tuple(tokens),
            prompt=prompt,
            stop_reason="cancelled" if cancel.is_set() else "end",
            timings=Timings(1.0, 2.0, 3.0, 7.0, gaps, 7.0 + sum(gaps), 250.0 if gaps else 0.0, mode),
            memory=Memory(6_000_000, trace[-1], trace[-1], 0, trace),
            checkpoint=side.checkpoint,
            quantization=side.quantization,
            dtype="float32",
            device="cpu",
            image_size=112,
            seed=own.seed,
        )
        yield Event(name, "answer", answer)

    @staticmethod
    def _echo(side: Side, request: Request) -> list[str]:
        return [
            word + " " for word in f"{request.text or 'a red square and a blue disc'} said {side.checkpoint}".split()
        ]


def words(markup: str) -> str:
    """What of the markup is text."""
    return re.sub(r"<[^>]*>", "", markup)


def png(color: tuple[int, int, int] = (200, 40, 40), size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def uploaded(path: Path | str) -> str:
    """The path of a copy in the folder of uploads, as an upload through the page leaves one."""
    from vlcompare.ui.server.upload_folder import upload_folder

    folder = upload_folder() / secrets.token_hex(8)
    folder.mkdir(parents=True)
    return shutil.copy(path, folder)


def write_examples(folder: Path) -> Path:
    """Three examples: one with a true box, one with reference phrases, one with a reference word."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (240, 180), (244, 238, 220))
    draw = ImageDraw.Draw(picture)
    draw.rectangle([24, 36, 120, 126], fill=(200, 40, 40))
    draw.ellipse([144, 99, 216, 153], fill=(40, 80, 200))
    picture.save(folder / "scene.png")
    box, disc = [0.10, 0.20, 0.50, 0.70], [0.60, 0.55, 0.90, 0.85]
    rows: list[dict[str, Any]] = [
        {"id": "find", "title": "Find the square", "task": "grounding", "text": "the large red square", "boxes": [box]},
        {"id": "caption", "title": "Caption", "task": "grounded_captioning", "boxes": [box, disc]},
        {"id": "word", "title": "Colour", "task": "vqa", "text": "What color is the disc?", "references": ["blue"]},
        {"id": "region", "title": "Region", "task": "region_description", "boxes": [box], "references": ["a square"]},
        {
            "id": "letters",
            "title": "Boxes",
            "task": "pointing",
            "text": "Which one is red?",
            "choices": [box, disc],
            "references": ["A"],
        },
    ]
    (folder / "examples.json").write_text(json.dumps([{**row, "image": "scene.png"} for row in rows]))
    return folder


def last(pages: Any) -> dict[str, Any]:
    """All that an action has shown, the newest of each region."""
    merged: dict[str, Any] = {}
    for page in pages:
        assert set(page) <= {*REGIONS, "asks"}
        merged |= page
    return merged


def until(condition: Any, seconds: float = 60.0) -> bool:
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
