"""What the files of a run may hold: run.json, rows of samples and of predictions, summary.json, notes, exported runs.

The values of a file from elsewhere get their types here. Each check gives typed values or raises FieldError (`refused`
makes a SampleError with file, line, field, value and what was expected). The bounds are far above what the models can
write, and low enough that any row can be shown at once.
"""

from __future__ import annotations

from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.evidence_field import evidence_map
from vlcompare.evaluate.fields import (
    MAX_NUMBER,
    MAX_TEXT,
    MAX_WHOLE,
    Check,
    FieldError,
    bounded,
    flag,
    free,
    joined,
    listed,
    mapping,
    name,
    number,
    one_of,
    optional,
    record,
    text,
    whole,
    wrong,
)
from vlcompare.types import DTYPES, PROMPT_ORDERS, QUANTIZATIONS, SIDES, Answer

MAX_LINE = 3 << 20  # bytes of a prediction row
MAX_FILE = 32 << 20  # bytes of run.json, summary.json or notes.json
MAX_SIDES = 16
NO_SIDE = ""  # of a row that names no side
MAX_TOKENS = 16_384  # of an answer: as many as can be asked for
MAX_POSITIONS = 65_536  # of a prompt, the picture's among them
MAX_ALTERNATIVES = 1000  # of a token
MAX_BOXES = 500
MAX_REFERENCES = 100
MAX_REFERENCE = 10_000  # characters
MAX_CHOICES = 64
MAX_OBJECTS = 500
MAX_TAGS = 64
MAX_NOTES = 200_000
MAX_DIGITS = 25  # of a whole number that names a row
LATEST = 1e11  # seconds: a time that every system can write down


def refused(file: str, error: FieldError | str, line: int | None = None) -> SampleError:
    """The sentence for a file that is not as it should be."""
    place = f"{file} line {line}" if line else file
    return SampleError(f"{place} is damaged: {error}.")


def typed(check: Check, value: Any, file: str) -> Any:
    """A whole file's value by its shape. Raises SampleError."""
    try:
        return check(value, "")
    except FieldError as error:
        raise refused(file, error) from error


# ---- names -----------------------------------------------------------------------------------------------------------

_short = text(MAX_TEXT // 100)
_name = name()
_TEXTS = listed(text(), 10_000)


def row_id(value: Any, path: str = "id") -> str:
    """A row's name: a text, or a whole number that is written as one."""
    if type(value) is int and abs(value) < 10**MAX_DIGITS:
        return str(value)
    if type(value) is not str:
        raise wrong(path, value, "a text or a whole number")
    return str(_name(value, path))


# ---- prediction rows -------------------------------------------------------------------------------------------------

_text, _side, _tag, _figure = text(), name(64), name(100), number()
_PHRASES = listed(text(), MAX_BOXES)


def prediction(row: Any) -> tuple[str, str, dict[str, Any]]:
    """(sample id, side or NO_SIDE, the row) of a prediction, as far as scoring and the table use it; see `answer`.

    An answer that is a number, as in others' files, is read as its digits. What is not a box is left to `read_boxes`.
    """
    if type(row) is not dict:
        raise wrong("", row, "an object")
    if "id" not in row:
        raise FieldError("id", "missing", "a text or a whole number")
    side, reply = row.get("side"), row.get("text")
    if side not in (None, NO_SIDE):
        side = row_id(side, "side") if type(side) is int else _side(side, "side")
    if reply is not None and (type(reply) is not str or len(reply) > MAX_TEXT):
        row = {**row, "text": str(_figure(reply, "text")) if type(reply) in (int, float) else _text(reply, "text")}
    if row.get("error") is not None:
        _text(row["error"], "error")
    for field, most in (("boxes", MAX_BOXES), ("tokens", MAX_TOKENS)):
        if row.get(field):
            bounded(row[field], field, most)
    if row.get("phrases"):
        _PHRASES(row["phrases"], "phrases")
    if row.get("evidence_map") is not None:
        evidence_map(row["evidence_map"], "evidence_map")
    return row_id(row["id"]), side or NO_SIDE, row


def _box(value: Any, path: str) -> list[float]:
    if type(value) is not list or len(value) != 4:
        raise wrong(path, value, "four numbers")
    if not all(type(item) in (float, int) and -MAX_NUMBER < item < MAX_NUMBER for item in value):
        raise FieldError(path, "a list that holds something else", "four finite numbers")
    return value


_named_token = record({"id": whole(-MAX_WHOLE), "text": text(1000), "logprob": number()}, ("id", "text", "logprob"))


def _alternative(value: Any, path: str) -> dict[str, Any]:
    """One of very many: a quick test first; `_named_token` then names what is wrong."""
    if type(value) is dict and type(value.get("id")) is int and type(value.get("text")) is str:
        logprob: Any = value.get("logprob")
        if type(logprob) in (float, int) and -MAX_NUMBER < logprob < MAX_NUMBER and len(value["text"]) <= 1000:
            return value
    return _named_token(value, path)  # type: ignore[no-any-return]


_alternatives = listed(_alternative, MAX_ALTERNATIVES)


def _token(value: Any, path: str) -> dict[str, Any]:
    token = _alternative(value, path)
    if value.get("top"):
        return {**token, "top": _alternatives(value["top"], joined(path, "top"))}
    return {name: token[name] for name in ("id", "text", "logprob")}


_count, _measured = whole(), number(0)
_PROMPT = record(
    {
        "turns": listed(text(), 200),
        "ids": listed(whole(-MAX_WHOLE), MAX_POSITIONS),
        "order": one_of(*PROMPT_ORDERS),
    },
    ("turns", "ids", "order"),
)
_TIMES = ("image_ms", "vision_ms", "prefill_ms", "ttft_ms", "total_ms", "tokens_per_s", "shared_ms", "cpu_ms")
TIMINGS = record(
    {
        **dict.fromkeys((*_TIMES, "threads", "known_positions"), _measured),
        "token_ms": listed(_measured, MAX_TOKENS),
        "mode": text(40),
        "graphed": flag,
    }
)
_MEMORY = record(
    {
        **dict.fromkeys(("weights_bytes", "state_bytes", "state_bytes_formula", "peak_bytes"), _measured),
        "state_trace": listed(_measured, MAX_TOKENS),
    }
)
ANSWER = record(
    {
        "schema_version": whole(),
        "text": text(),
        "boxes": listed(_box, MAX_BOXES),
        "phrases": _PHRASES,
        "parse": one_of("ok", "none", "unparseable"),
        "tokens": listed(_token, MAX_TOKENS),
        "prompt": optional(_PROMPT),
        "stop_reason": text(40),
        "error": optional(text()),
        "timings": optional(TIMINGS),
        "memory": optional(_MEMORY),
        "checkpoint": _short,
        "revision": optional(_short),
        "quantization": text(40),
        "dtype": text(40),
        "device": _short,
        "image_size": whole(0, 100_000),
        "seed": whole(-MAX_WHOLE),
        "evidence_map": optional(evidence_map),
    }
)


def answer(value: Any, path: str = "") -> Answer:
    """A whole answer, every value of its own kind. Raises FieldError, or RequestError for another schema version."""
    return Answer.from_json(ANSWER(value, path))


# ---- samples ---------------------------------------------------------------------------------------------------------

_REFERENCES = listed(text(MAX_REFERENCE), MAX_REFERENCES)
_PLAIN = (str, int, float, bool, type(None))


def reference_texts(value: Any, path: str = "references") -> list[str]:
    """Right answers, or texts to choose from."""
    texts: list[str] = _REFERENCES(value, path)
    if (count := sum(map(len, texts))) > 2 * MAX_REFERENCE:
        raise FieldError(path, f"a list of {count:,} characters", f"at most {2 * MAX_REFERENCE:,}")
    return texts


def tags(value: Any, path: str = "tags") -> dict[str, Any]:
    """A sample's tags: an object of short values, or a list of names that are all true."""
    if type(value) is list:
        value = {str(each): True for each in listed(free, MAX_TAGS)(value, path)}
    if type(value) is not dict:
        raise wrong(path, value, "an object")
    if len(value) > MAX_TAGS:
        raise FieldError(path, f"an object of {len(value):,} names", f"at most {MAX_TAGS}")
    for key, item in value.items():
        _tag(key, path)
        if type(item) is str and len(item) > 1000:
            raise FieldError(joined(path, key), f"a text of {len(item):,} characters", "at most 1,000")
        if type(item) not in _PLAIN:
            free(item, joined(path, key))
    return value


scene_object = record(
    {"kind": text(100), **dict.fromkeys(("color", "size", "text"), optional(text(300))), "box": _box},
    ("kind",),
    rest=free,
)


# ---- run.json --------------------------------------------------------------------------------------------------------

_SETTINGS = {
    **dict.fromkeys(("quantization", "dtype", "device", "norm", "prompt_order"), optional(text(100))),
    **dict.fromkeys(("checkpoint", "revision", "tokenizer", "weights_sha256"), optional(_short)),
    "image_size": optional(whole(0, 100_000)),
    **dict.fromkeys(("max_new_tokens", "top_k", "seed"), optional(whole(-MAX_WHOLE))),
    **dict.fromkeys(("temperature", "top_p"), optional(_figure)),
    "notices": optional(_TEXTS),
}
_RECORDED_SIDES = mapping(optional(record(_SETTINGS, rest=free)), MAX_SIDES, name(64))
RUN = record(
    {
        "schema_version": whole(1, 1),
        "identity": optional(
            record(
                {
                    "data": optional(record({"from": optional(_short), "limit": optional(whole())}, rest=free)),
                    "sides": optional(_RECORDED_SIDES),
                },
                rest=free,
            )
        ),
        "samples": optional(
            record({"count": _count, "skipped": _count, "sha256": text(100), "issues": _TEXTS}, rest=free)
        ),
        "images_root": optional(_short),
        "images_proof": optional(text(100)),
        "sides": optional(_RECORDED_SIDES),
        "sessions": optional(
            listed(record({"started": text(40), "ended": text(40), "versions": mapping(free, 100)}, rest=free), 10_000)
        ),
        "complete": flag,
    },
    rest=free,
)

# ---- summary.json ----------------------------------------------------------------------------------------------------

_value = optional(_figure)
_interval = optional(listed(_value, 2, 2))
_TASK = record({"n": _count, "ci95": optional(mapping(_interval, 100))}, rest=_value)
_PAIR = record({"difference": _value, "ci95": _interval}, ("difference", "ci95"), rest=_value)
SUMMARY = record(
    {
        "schema_version": whole(),
        "sides": mapping(
            record({"checkpoint": optional(_short), "tasks": mapping(_TASK, 100)}, ("tasks",), rest=free),
            MAX_SIDES,
            text(64),
        ),
        "paired": optional(mapping(mapping(_PAIR, 100), 100)),
        "n_images": optional(mapping(_count, 100)),
        "main": optional(mapping(text(100), 100)),
        "ci95_notes": optional(mapping(mapping(text(500), 100), 100)),
        "warnings": optional(listed(text(2000), 1000)),
    },
    rest=free,
)

# ---- notes and exported runs -----------------------------------------------------------------------------------------

NOTES = listed(
    record({"sample": _name, "text": optional(text()), "tags": optional(listed(text(), 1000))}, ("sample",)), MAX_NOTES
)
_BOXES = listed(_box, MAX_BOXES)
_SIDE_SETTINGS = record(
    {
        **{key: _SETTINGS[key] for key in ("image_size", "max_new_tokens", "temperature", "top_p", "top_k", "seed")},
        **dict.fromkeys(("checkpoint", "device"), _short),
        **{"quantization": one_of(*QUANTIZATIONS), "dtype": one_of(*DTYPES)},
        "prompt_order": optional(one_of(*PROMPT_ORDERS)),
    },
    ("checkpoint", "device", "quantization"),
)
_REQUEST = record(
    {
        "task": text(40),
        "text": text(),
        "choices": optional(listed(lambda value, path: (_box if type(value) is list else text())(value, path), 64)),
        "box": optional(_box),
        "ocr_text": optional(text()),
        "history": optional(listed(listed(text(), 2, 2), 1000)),
        "source": optional(text(100)),
        "prompt_order": one_of(*PROMPT_ORDERS),
        "max_new_tokens": _SETTINGS["max_new_tokens"],
        "stop_at_end": flag,
        **dict.fromkeys(("temperature", "top_p"), _figure),
        **dict.fromkeys(("top_k", "seed"), whole(-MAX_WHOLE)),
    },
    ("task",),
)
_PICTURE = record(
    {"width": _count, "height": _count, "reduced": flag, "sha256": text(100), "base64": text(100 << 20)},
    ("reduced", "sha256", "base64"),
)
EXPORTED = record(  # a run that the compare tab exported
    {
        "created": number(0, LATEST),
        "mode": text(40),
        "request": _REQUEST,
        "settings": record(dict.fromkeys(SIDES, _SIDE_SETTINGS), SIDES),
        "sides": record(dict.fromkeys(SIDES, ANSWER), SIDES),
        "notices": optional(mapping(listed(text(2000), 100), MAX_SIDES)),
        "truth": _BOXES,
        "references": _TEXTS,
        "objects": optional(listed(scene_object, MAX_OBJECTS)),
        **dict.fromkeys(("example", "follow_up", "voted"), optional(_short)),
        "picture": _PICTURE,
    },
    ("created", "mode", "request", "settings", "sides", "truth", "references", "picture"),
)
