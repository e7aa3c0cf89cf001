"""A run as a file: the project's own JSON (and back), LLM Comparator's JSON, and the result card.

Reading is strict about version and shape, and raises RequestError with one sentence for any other file.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.evaluate import schema
from vlcompare.evaluate.fields import FieldError, listed, optional, record, whole
from vlcompare.evaluate.readers.json_lines import exactly
from vlcompare.evaluate.results import llm_comparator
from vlcompare.repeats import MAX_ROUNDS, Repeats
from vlcompare.types import SIDES, Answer, Box, Request, Side, Timings
from vlcompare.ui.compare.belonging import settings_line
from vlcompare.ui.compare.cards import side_name
from vlcompare.ui.compare.forms import read_mode
from vlcompare.ui.compare.session import Picture, Run, SideRun
from vlcompare.ui.compare.verdict import verdict
from vlcompare.ui.server.rate_limit import free_space
from vlcompare.ui.settings import Limits

KIND = "vlcompare-run"
VERSION = 1
DISK_SHARE = 8  # a download's sizes that must be free: it is copied once, and others are written at the same time
KEPT_SECONDS = 300  # of a download before gradio has copied it
_REPEATS = optional(  # of a comparison that was repeated: the times of both sides in each round
    record(
        {
            "asked": whole(1, MAX_ROUNDS),
            "rounds": listed(record(dict.fromkeys(SIDES, schema.TIMINGS), SIDES), MAX_ROUNDS),
        },
        ("asked", "rounds"),
    )
)
VOTES = {"left": 1.0, "right": -1.0, "tie": 0.0, "both_bad": 0.0}


def run_to_json(run: Run) -> dict[str, Any]:
    """Everything of a run: the question, the settings, both answers with every token, and the picture."""
    return {
        "kind": KIND,
        "version": VERSION,
        "created": run.created,
        "mode": run.mode,
        "request": _plain(asdict(run.request)),
        "settings": {side: asdict(part.settings) for side, part in run.sides.items()},
        "sides": {side: part.answer.to_json() for side, part in run.sides.items() if part.answer},
        "notices": {side: list(part.notices) for side, part in run.sides.items() if part.notices},
        "truth": [list(box) for box in run.truth],
        "references": list(run.references),
        "objects": [_plain(thing) for thing in run.objects],
        "example": run.example,
        "follow_up": run.follow_up,
        "voted": run.voted,
        "repeats": _repeats_to_json(run.repeats),
        "picture": {
            "width": run.picture.width,
            "height": run.picture.height,
            "reduced": run.picture.reduced,
            "sha256": hashlib.sha256(run.picture.data).hexdigest(),
            "base64": base64.b64encode(run.picture.data).decode(),
        },
    }


def run_from_json(data: bytes, limits: Limits, open_image: Any = None) -> Run:
    """A run from what `run_to_json` wrote. Raises RequestError with one sentence for any other file."""
    if len(data) > limits.import_bytes:
        raise RequestError(
            f"This file is larger than {limits.import_bytes // 2**20} MiB, more than an exported run can be."
        )
    try:
        found = exactly(data)
    except (ValueError, RecursionError) as error:
        raise RequestError("This file is not JSON, or it was cut off: export the run again.") from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise RequestError("This JSON file is not an exported run of vlcompare.")
    if found.get("version") != VERSION or isinstance(found["version"], bool):
        version = ascii(found.get("version"))[:40]
        raise RequestError(f"This run has version {version}; this page reads version {VERSION}.")
    try:
        run = _read_run(schema.EXPORTED(found, ""), open_image)
        run.repeats = _read_repeats(_REPEATS(found.get("repeats"), "repeats"))
        return run
    except (VLCompareError, FieldError) as error:
        raise RequestError(f"This run is damaged: {str(error).rstrip('.')}.") from error


def _read_run(found: dict[str, Any], open_image: Any) -> Run:
    """The run of typed values; what remains to be checked is whether they go together."""
    from vlcompare.tasks.prompts import validate

    if open_image is None:
        from vlcompare.runtime.image import open_image
    kept = found["picture"]
    try:
        data = base64.b64decode(kept["base64"], validate=True)
    except ValueError:
        raise RequestError("its picture is not base64.") from None
    if hashlib.sha256(data).hexdigest() != kept["sha256"]:
        raise RequestError("its picture does not match its checksum.")
    picture = Picture.of(open_image(data), data)
    if kept["reduced"]:
        width, height = kept.get("width") or picture.width, kept.get("height") or picture.height
        if abs(width * picture.height - height * picture.width) > 2 * max(width, height):
            raise RequestError("its picture has another shape than the file says.")
        picture = replace(picture, reduced=True, width=width, height=height)
    sides = {}
    for side in SIDES:
        answer = Answer.from_json(found["sides"][side])
        notices = tuple((found.get("notices") or {}).get(side) or ())
        settings = Side(**found["settings"][side])
        sides[side] = SideRun(settings, status="", prompt=answer.prompt, answer=answer, notices=notices)
    follow_up, voted = found.get("follow_up"), found.get("voted")
    return Run(
        request=validate(_request(found["request"])),
        picture=picture,
        sides=sides,
        mode=read_mode(found["mode"]),
        truth=tuple(Box(*box) for box in found["truth"]),
        references=tuple(found["references"]),
        objects=tuple(found.get("objects") or ()),
        example=found.get("example") or None,
        follow_up=follow_up if follow_up in ("continue", "anew") else None,
        voted=voted if voted in VOTES else None,
        created=float(found["created"]),
        imported=True,
    )


def _repeats_to_json(repeats: Repeats | None) -> dict[str, Any] | None:
    """The rounds, each with the times of both sides; None where the run was not repeated."""
    if repeats is None or not repeats.rounds:
        return None
    rounds = [{side: asdict(timings) for side, timings in one.items()} for one in repeats.rounds]
    return {"asked": repeats.asked, "rounds": rounds}


def _read_repeats(found: dict[str, Any] | None) -> Repeats | None:
    if not found or not found["rounds"]:
        return None

    def timings(values: dict[str, Any]) -> Timings:
        return Timings(**{**values, "token_ms": tuple(values.get("token_ms", ()))})

    return Repeats(tuple({side: timings(one[side]) for side in SIDES} for one in found["rounds"]), found["asked"])


def _request(found: dict[str, Any]) -> Request:
    values = dict(found)
    if values.get("box") is not None:
        values["box"] = Box(*values["box"])
    if values.get("choices") is not None:
        values["choices"] = tuple(Box(*c) if isinstance(c, list) else c for c in values["choices"])
    values["history"] = tuple(tuple(pair) for pair in values.get("history") or ())
    return Request(**values)


COMPARATOR_FIELDS = {
    "id": "string",
    "task": "category",
    "expected": "text",
    "mode": "category",
    "checkpoint": "per_model_category",
    "tokens_per_second": "per_model_number",
    "first_token_ms": "per_model_number",
    "tokens": "per_model_number",
    "parsed": "per_model_boolean",
}


def to_llm_comparator(runs: Sequence[Run]) -> dict[str, Any]:
    """Several runs in LLM Comparator's format. The score is the user's own vote (1, 0, -1), and 0 without one; a tag
    says which it was. Where all runs are of the same two models, each has its own column, whichever side it was on."""
    done = [run for run in runs if run.done]
    if not done:
        raise RequestError("There is no finished run to export yet.")
    pairs = [tuple(run.sides[side].settings for side in SIDES) for run in done]
    first, exchanged = pairs[0], tuple(reversed(pairs[0]))
    alike = all(pair in (first, exchanged) for pair in pairs)
    names = _column_names(done[:1] if alike else done)
    return llm_comparator.comparison(
        time.strftime("vlcompare %Y-%m-%d %H:%M", time.localtime()),
        names,
        COMPARATOR_FIELDS,
        [
            _comparator_example(run, SIDES if pair == first or not alike else tuple(reversed(SIDES)), names)
            for run, pair in zip(done, pairs, strict=True)
        ],
    )


def _column_names(runs: Sequence[Run]) -> list[str]:
    """What each side is called: its model, where that is one; what sets two of one model apart; else the side."""
    for name in (_model_name, lambda run, side: settings_line(run.sides[side].settings)):
        known = [{name(run, side) for run in runs} for side in SIDES]
        names = [found.pop() if len(found) == 1 else side for side, found in zip(SIDES, known, strict=True)]
        if len(set(names)) == len(SIDES):
            return names
    return list(SIDES)


def _comparator_example(run: Run, columns: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """columns: the sides in the order in which the file has them; names: what it calls them."""
    vote = dict(zip(columns, SIDES, strict=True)).get(run.voted or "", run.voted)
    said = {**dict(zip(SIDES, names, strict=True)), "tie": "both good", "both_bad": "both bad"}
    answers = [run.sides[side].answer or Answer() for side in columns]
    asked = " ".join(part for part in (run.request.text, *map(str, run.request.choices or ())) if part)
    return llm_comparator.example(
        f"[{run.request.task}] {asked}".strip(),
        [run.request.task, f"vote: {said[vote]}" if vote else "no vote"],
        [answer.error or answer.text for answer in answers],
        VOTES.get(vote or "", 0.0),
        {
            "id": run.id,
            "task": run.request.task,
            "expected": " / ".join(run.references),
            "mode": run.mode,
            "checkpoint": [_model_name(run, side) for side in columns],
            "tokens_per_second": [round(answer.timings.tokens_per_s, 2) for answer in answers],
            "first_token_ms": [round(answer.timings.ttft_ms, 1) for answer in answers],
            "tokens": [len(answer.tokens) for answer in answers],
            "parsed": [answer.parse != "unparseable" for answer in answers],
        },
    )


def _model_name(run: Run, side: str) -> str:
    settings: Side = run.sides[side].settings
    return settings.checkpoint + (f" ({settings.quantization})" if settings.quantization != "none" else "")


def picture_file(picture: Picture) -> str:
    """The picture as a file in a folder of its own, for the page to show again."""
    suffix = {b"\x89PN": ".png", b"\xff\xd8\xff": ".jpg"}.get(picture.data[:3], ".webp")
    return write_file(f"picture{suffix}", picture.data)


def write_file(name: str, data: bytes, size: int = 0) -> str:
    """A download: a file of this name in a fresh temporary folder, which gradio copies into its cache.

    size: bytes that the file will have, if it is written later. Older folders are removed on the way, and the last ones
    when the server ends. Raises RequestError if the disk must not take the file, which no quota of uploads bounds.
    """
    root = Path(_downloads().name)
    root.mkdir(mode=0o700, exist_ok=True)  # the system may have removed it
    for old in root.iterdir():
        with suppress(OSError):  # another request removes it at the same time
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    if free_space(root) < DISK_SHARE * max(size, len(data)):
        raise RequestError("The server's disk is too full to write a file: try later.")
    path = Path(tempfile.mkdtemp(dir=root)) / re.sub(r"[^\w.-]+", "-", name)[-80:]  # the end says what kind it is
    path.write_bytes(data)
    return str(path)


@functools.cache
def _downloads() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vlcompare-downloads-", ignore_cleanup_errors=True)


def card_picture(run: Run) -> bytes:
    """The result card of a run as PNG: picture, question, answers, boxes, truth, verdicts, times."""
    from PIL import Image

    from vlcompare.render.result_card import CardSide, result_card

    with Image.open(io.BytesIO(run.picture.shown)) as picture:
        shown = picture.convert("RGB")
    sides = {
        side: CardSide(
            part.answer or Answer(part.text), side_name(run, side)[0], verdict(run, side), anonymous=run.hidden
        )
        for side, part in run.sides.items()
    }
    known: dict[str, Any] = {} if run.hidden else {"truth": run.truth, "references": run.references}
    buffer = io.BytesIO()
    card = result_card(shown, run.request, sides, **known, created=run.created)
    card.save(buffer, "PNG")
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
