"""Whether the answers that are shown belong to the settings: the one place where both are compared.

A run carries all that it was made with: both sides' settings, the picture, the question. Where one of these differs
from what the form holds, the page greys the answers and says where they are from, with a way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from vlcompare.errors import VLCompareError
from vlcompare.render.markup import Safe, el, shorten
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import Request, Side
from vlcompare.ui.checkpoint_names import QUANTIZATION_NAMES, name_of
from vlcompare.ui.compare.cards import run_thumbnail, side_name
from vlcompare.ui.compare.forms import SIDE_FIELDS, AskForm, question_of, read_request, read_side, shown_side
from vlcompare.ui.compare.session import Run
from vlcompare.ui.settings import AppSettings

PARTS = ("models", "picture", "question")
WAY_BACK = "back"  # what the banner's button sends


def differences(
    run: Run, picture: str | None, ask: AskForm, sides: Mapping[str, Side], settings: AppSettings
) -> tuple[str, ...]:
    """Those of PARTS in which the run differs from the form. picture: the SHA-256 of the file that is chosen."""
    made = [_side_values(side, settings) for side in run.settings.values()]
    chosen = [_side_values(side, settings) for side in sides.values()]
    if run.hidden:  # shuffled, and the order must not be told
        made, chosen = sorted(made, key=repr), sorted(chosen, key=repr)
    same = {
        "models": made == chosen,
        "picture": picture in run.picture.hashes,
        "question": question_of(run.request) == _form_question(ask, settings),
    }
    return tuple(part for part in PARTS if not same[part])


def banner(run: Run | None, differing: tuple[str, ...]) -> Safe:
    """Where the answers are from, with a way back to their settings; empty where they belong to what is set."""
    if run is None or not differing:
        return el("div")
    marked = {part: "vl-differs" if part in differing else None for part in PARTS}
    picture = "another picture" if "picture" in differing else "this picture"
    return el(
        "div",
        el("img", src=run_thumbnail(run), alt=picture, title=picture, class_=marked["picture"]),
        el(
            "p",
            "From: ",
            el("span", _models(run), class_=marked["models"]),
            ", ",
            el("span", picture, class_=marked["picture"]),
            ", ",
            el("span", _asked(run.request), class_=marked["question"]),
        ),
        el("button", "Back to these settings", type="button", data_pick=WAY_BACK, class_="vl-way-back"),
        class_="vl-from",
        role="status",
    )


def settings_line(side: Side) -> str:
    """One side's settings in a line: the model, and what is not as usual."""
    side, usual = shown_side(side), shown_side(Side(side.checkpoint))
    others = {
        "prompt_order": "instruction first",
        "image_size": f"{side.image_size} pixels",
        "device": side.device,
        "max_new_tokens": f"{side.max_new_tokens} tokens at most",
        "temperature": f"temperature {side.temperature}",
        "top_p": f"top-p {side.top_p}",
        "top_k": f"top-k {side.top_k}",
        "seed": f"seed {side.seed}",
    }
    differing = [words for name, words in others.items() if _plain(getattr(side, name)) != _plain(getattr(usual, name))]
    name = name_of(side.checkpoint).title if side.checkpoint else "No model"
    quantized = [QUANTIZATION_NAMES.get(side.quantization, side.quantization)] if side.quantization != "none" else []
    return " · ".join([shorten(name, 60), *quantized, *differing])


def _models(run: Run) -> str:
    if run.hidden:
        return "two models without names"
    names = []
    for side, part in run.sides.items():
        quantization = part.settings.quantization
        kind = f" ({QUANTIZATION_NAMES[quantization]})" if quantization in ("int8", "nf4") else ""
        names.append(side_name(run, side)[0] + kind)
    return " and ".join(names)


def _asked(request: Request) -> str:
    title = SPECS[request.task].title
    return f"{title}: {shorten(request.text, 80)}" if request.text else title


def _side_values(side: Side, settings: AppSettings) -> tuple[Any, ...]:
    """A side as the form's fields would show it after it was run."""
    with suppress(VLCompareError):  # what cannot be run here may still be what was run elsewhere
        side = read_side(side, settings)
    shown = shown_side(side)
    return tuple(_plain(getattr(shown, name)) for name in SIDE_FIELDS)


def _plain(value: Any) -> Any:
    return None if value in ("", 0) else value


def _form_question(ask: AskForm, settings: AppSettings) -> tuple[Any, ...] | None:
    try:
        return question_of(read_request(ask, settings.limits))
    except VLCompareError:
        return None
