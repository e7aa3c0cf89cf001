"""A comparison whose answers tell what they were made with, and how the page is read back. Nothing here is a test."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from vlcompare.comparison import Event
from vlcompare.types import Answer, Memory, Prompt, Request, Side, Step, Timings, Token
from vlcompare.ui.checkpoint_names import name_of


class Telling:
    """Each answer is "checkpoint|question|picture"; `gap` seconds before each of its tokens."""

    def __init__(self, gap: float = 0.0) -> None:
        self.gap = gap

    def __call__(
        self, image: Any, request: Request, sides: Mapping[str, Side], *, cancel: threading.Event, **_: Any
    ) -> Iterator[Event | None]:
        for name, side in sides.items():
            said = f"{side.checkpoint}|{request.text}|{hashlib.sha256(image).hexdigest()[:8]}"
            pieces = [said[start : start + 6] for start in range(0, len(said), 6)]
            tokens: list[Token] = []
            for index, piece in enumerate(pieces):
                end = time.monotonic() + self.gap
                while time.monotonic() < end and not cancel.is_set():
                    cancel.wait(0.01)
                    yield None
                if cancel.is_set():
                    break
                tokens.append(Token(index, piece, -0.1))
                yield Event(name, "step", Step(index, index, piece, -0.1, (), 0.01))
            yield Event(
                name,
                "answer",
                Answer(
                    text="".join(token.text for token in tokens),
                    parse="unparseable" if request.task == "grounding" else "none",
                    tokens=tuple(tokens),
                    prompt=Prompt(("<image>", request.text), (1, -200, 2), "image_first"),
                    stop_reason="cancelled" if cancel.is_set() else "end",
                    timings=Timings(1.0, 2.0, 3.0, 7.0, tuple(4.0 for _ in tokens[1:]), 30.0, 250.0, "measure"),
                    memory=Memory(6_000_000, 4096, 4096, 0, ()),
                    checkpoint=side.checkpoint,
                    quantization=side.quantization,
                ),
            )


READ = """async () => {
  const text = (selector) => document.querySelector(selector)?.textContent ?? null;
  const seen = (selector) => [document.querySelector(selector)].find((node) => node?.checkVisibility()) ?? null;
  const image = seen('#vl-picture img');
  let picture = null;
  if (image) {
    const reply = await fetch(image.src);
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await reply.arrayBuffer()));
    picture = [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('').slice(0, 8);
    if (!reply.ok) picture = `status ${reply.status}`;
  }
  const state = document.querySelector('#vl-state i')?.dataset ?? {};
  const side = (name) => ({
    set: text(`#vl-${name}-settings > button > span`),
    named: text(`#vl-${name}-card .vl-name`),
    caption: text(`#vl-${name}-picture figcaption`),
    answer: text(`#vl-${name}-card .vl-answer`),
    status: text(`#vl-${name}-card .vl-status`),
    verdict: text(`#vl-${name}-card .vl-verdict`),
  });
  const names = '.vl-side, #vl-asked, #vl-belongs, #vl-board, .vl-pictures, #vl-charts, .vl-token-section, #vl-scores';
  return {
    picture, text: seen('#vl-text textarea')?.value.trim() ?? '',
    run: state.run ?? null, running: state.running ?? null, hidden: 'hidden' in state,
    pending: 'pending' in document.querySelector('.vl-main').dataset,
    from: seen('#vl-belongs .vl-from')?.innerText ?? null,
    grey: getComputedStyle(document.querySelector('#vl-left-card .vl-card')).filter !== 'none',
    left: side('left'), right: side('right'),
    visible: [...document.querySelectorAll(names)].map((node) => node.innerText).join(' '),
  };
}"""


def broken_rules(page: Any) -> list[str]:
    """Which rules the page breaks now: what is shown belongs to what is set, or is greyed and says where it is from."""
    now = page.evaluate(READ)
    broken = []
    told = {side: now[side]["answer"].partition("|") for side in ("left", "right") if now[side]["named"]}
    differs = set()
    for side, (checkpoint, _, rest) in told.items():
        whole = rest.count("|") == 1 and len(rest.rpartition("|")[2]) == 8  # not stopped in the middle
        if not whole:
            continue
        question, _, picture = rest.partition("|")
        title = name_of(checkpoint).title
        own = now[side]
        if not now["hidden"] and own["named"] != title:
            broken.append(f"{side}: an answer of {title} stands under {own['named']}")
        if own["caption"] and not now["hidden"] and own["caption"] != title:
            broken.append(f"{side}: a picture of {title} stands under {own['caption']}")
        if not now["hidden"] and not own["set"].startswith(title):
            differs.add(f"{side} model")
        if question.strip() != now["text"]:
            differs.add("question")
        if picture != now["picture"]:
            differs.add(f"picture ({now['picture']})")
    if differs and not now["from"]:
        broken.append(f"shown as if it belonged, but for: {sorted(differs)}")
    if bool(now["from"]) != now["grey"]:
        broken.append("greyed and labelled do not go together")
    if now["hidden"]:
        broken += [
            f"{title} is named in a blind run" for title in ("Tiny", "Pythia", "Mamba") if title in now["visible"]
        ]
    for side in told:
        if "Stopped" in now[side]["status"] and now[side]["verdict"]:
            broken.append(f"{side}: a stopped answer is judged")
    if not now["running"] and not now["pending"] and not page.locator("#vl-run").is_visible():
        broken.append("nothing runs, and there is no Compare")
    return broken


def holds(page: Any, seconds: float = 120.0) -> None:
    """Wait until all rules hold, three looks in a row; fails with those that are broken at the end."""
    end, good, broken = time.monotonic() + seconds, 0, [""]
    while good < 3:
        broken = broken_rules(page)
        good = good + 1 if not broken else 0
        assert time.monotonic() < end or not broken, broken
        page.wait_for_timeout(80)
