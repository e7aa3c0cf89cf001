"""What follows when a setting of the compare tab changes: whether the answers still belong to it, the sides' lines, the
link; and the buttons that move settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from vlcompare.errors import VLCompareError
from vlcompare.render.markup import Safe, el
from vlcompare.synth.scenes.phrases import unknown_words
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES, Side
from vlcompare.ui.checkpoint_names import name_of
from vlcompare.ui.compare import cards, permalink, views
from vlcompare.ui.compare.belonging import banner, differences, settings_line
from vlcompare.ui.compare.form_values import form_values, read_form
from vlcompare.ui.compare.forms import SIDE_FIELDS, AskForm
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.ask import NOTICE, UNKNOWN_WORDS
from vlcompare.ui.compare.layout.tab import Parts, outputs_of
from vlcompare.ui.compare.session import CompareSession
from vlcompare.ui.events import QUIET, TO_TOP, on_changes
from vlcompare.ui.examples import load_examples
from vlcompare.ui.score_tables import scores_table
from vlcompare.ui.server.uploads import read_file
from vlcompare.units import listed


def wire_settings(parts: Parts, handlers: Handlers) -> None:
    """Connect the settings with what depends on them."""
    _wire_check(parts, handlers)
    _wire_way_back(parts)
    _wire_sides(parts, handlers)


def _wire_check(parts: Parts, handlers: Handlers) -> None:
    """One listener for all settings, and for what is shown: the last change is always checked.

    A field in a fold that is closed reports no change: what the server writes into one comes with another state.
    """

    def check(
        request: gr.Request, session: CompareSession, image: str | None, example: str | None, *values: Any
    ) -> list[Any]:
        ask, sides = read_form(values)
        picture, refusal = check_picture(session, image, handlers.settings.limits.file_bytes)
        run = session.shown
        differing = differences(run, picture, ask, sides, handlers.settings) if run else ()
        base = str(request.request.base_url) if request and request.request else "/"
        link = permalink.write(permalink.Link(ask, sides, example), handlers.settings)
        lines = [gr.update(label=settings_line(sides[side])) for side in SIDES]
        scores = scores_table(*(sides[side].checkpoint for side in SIDES))
        said = cards.message(refusal, "error") if refusal else notice(picture, sides)
        unknown = words_notice(picture, ask, sides, handlers.settings.limits.text_characters)
        about = [banner(run, differing), said, unknown, scores]
        return [session, *about, *lines, base.rstrip("/") + "/" + link]

    watched = [*parts.form, parts.picture, parts.example, parts.regions["state"]]
    regions = [parts.regions["belongs"], parts.asking.notice, parts.asking.words_notice, parts.regions["scores"]]
    lines = [parts.side_parts[side].line for side in SIDES]
    inputs = [parts.session, parts.picture, parts.example, *parts.form]
    on_changes("check", watched, check, inputs, [parts.session, *regions, *lines, parts.panels["link"]])


def check_picture(session: CompareSession, image: str | None, most_bytes: int) -> tuple[str | None, str]:
    """The SHA-256 of the chosen file, None if none is chosen; and why it is refused, "" for a picture.

    Its pixels are not decoded: a file that is damaged further on is refused when it is asked about. The last file's
    results are cached.
    """
    if not image:
        return None, ""
    if session.checked is None or session.checked[0] != image:
        from vlcompare.runtime.image import ImageLimits, check_image

        found, refusal = None, ""
        try:
            data = read_file(image, most_bytes, "picture")
            found = hashlib.sha256(data).hexdigest()
            check_image(data, ImageLimits(max_bytes=most_bytes))
        except VLCompareError as error:
            refusal = str(error)
        session.checked = image, found, refusal
    return session.checked[1:]


def notice(picture: str | None, sides: Mapping[str, Side]) -> Safe:
    """What is to be said of a picture that the chosen models were not made for; empty for any other."""
    return el("p", NOTICE, class_="vl-warn") if _foreign(picture) and _embedded(sides) else el("div")


def words_notice(picture: str | None, ask: AskForm, sides: Mapping[str, Side], most: int) -> Safe:
    """Names the words in the first `most` characters of the question that the chosen models have never read.

    Empty where there are none, and for a picture of which `notice` says more.
    """
    takes_text = isinstance(ask.text, str) and isinstance(ask.task, str) and ask.task in SPECS and SPECS[ask.task].text
    if not takes_text or _foreign(picture) or not _embedded(sides):
        return el("div")
    words = [f"“{word[:40]}”" for word in unknown_words(ask.text[:most])[:3]]
    return el("p", UNKNOWN_WORDS.format(words=listed(words)), class_="vl-note") if words else el("div")


def _foreign(picture: str | None) -> bool:
    return picture is not None and picture not in example_hashes()


def _embedded(sides: Mapping[str, Side]) -> bool:
    return any(name_of(side.checkpoint).embedded for side in sides.values())


def example_hashes() -> frozenset[str]:
    """The SHA-256 of each shipped example's picture."""
    return frozenset(_hash(example.image) for example in load_examples())


@lru_cache(maxsize=64)
def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _wire_way_back(parts: Parts) -> None:
    def back(session: CompareSession) -> list[Any]:
        session.changes += 1
        return [*outputs_of(session, {"state": views.state(session)}), *form_values(session.shown)]

    returned = parts.regions["belongs"].click(  # type: ignore[attr-defined]
        back, [parts.session], [*parts.outputs, *parts.settings], **QUIET
    )
    returned.then(None, js=TO_TOP)


def _wire_sides(parts: Parts, handlers: Handlers) -> None:
    left, right = ([parts.sides[side][name] for name in SIDE_FIELDS] for side in SIDES)

    def swap(session: CompareSession, *values: Any) -> list[Any]:
        half = len(values) // 2
        return [*outputs_of(session, handlers.swap(session)), *values[half:], *values[:half]]

    sides = [*left, *right]
    parts.buttons["swap"].click(swap, [parts.session, *sides], [*parts.outputs, *sides], **QUIET)

    def copy(*values: Any) -> list[Any]:
        return list(values)

    for side, own, other in (("left", left, right), ("right", right, left)):
        parts.side_parts[side].copy.click(copy, own[1:], other[1:], **QUIET)
