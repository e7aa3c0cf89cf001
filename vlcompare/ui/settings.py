"""The operator's settings: where the page is served, which models it offers, and the limits of a request.

Frozen values, read once from the environment and the command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.machine.zerogpu import on_zerogpu
from vlcompare.paths import EMBEDDED, data_folder
from vlcompare.tasks.forms import MAX_CHOICES
from vlcompare.types import QUANTIZATIONS, SIDES, ModelSpec, Quantization


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that every handler and the API check, whatever the page sends."""

    file_bytes: int = 20 * 2**20  # of a picture
    upload_bytes: int = 0  # of any upload, where that is more: run archives bring many pictures
    text_characters: int = 4000
    choices: int = MAX_CHOICES
    new_tokens: int = 512
    seconds: float = 300.0  # of work for one answer
    history_runs: int = 20
    history_bytes: int = 64 * 2**20
    kept_caches: int = 8  # sessions whose last picture's cache or state stays on the device for follow-ups
    import_bytes: int = 16 * 2**20  # of a saved run, whose picture takes 6 MiB at most
    note_characters: int = 1000
    queue: int = 24


@dataclass(frozen=True, slots=True)
class AppSettings:
    """One operator's choices. `from_environment` fills them from VLCOMPARE_* variables; the command line goes first."""

    host: str = "127.0.0.1"
    port: int | None = None  # None: the first free one from 7860
    left: str = EMBEDDED[0]
    right: str = EMBEDDED[1]
    offered: tuple[str, ...] = ()  # empty: everything the registry knows, and any Hub id
    preload: tuple[str, ...] = ()
    quantization: Quantization = "none"
    quantization_given: bool = False  # else a checkpoint that is chosen brings the one that suits its size
    device: str = "auto"
    allow_path: Path | None = None
    pictures: tuple[Path, ...] = ()  # folders outside of run folders whose pictures the inspect tab may show
    data: Path = field(default_factory=data_folder)
    budget_bytes: int | None = None
    votes_dataset: str | None = None  # a dataset repository to which votes are committed
    limits: Limits = Limits()
    concurrency: int = 2

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> AppSettings:
        """Defaults, overlaid by the environment, overlaid by `given` values that are not None."""
        env = os.environ if environment is None else environment
        values: dict[str, Any] = {"host": "0.0.0.0"} if env.get("SPACE_ID") else {}  # a Space is reached from outside
        values |= read_variables(env, VARIABLES)
        values.update({name: value for name, value in given.items() if value is not None})
        if not 0 < values.get("port", 1) < 1 << 16:
            raise RequestError(f"The port is {values['port']}; give one from 1 to 65535.")
        if offered := values.get("offered"):  # the page opens with what may be chosen
            values = {"left": offered[0], "right": offered[min(1, len(offered) - 1)]} | values
            for side in SIDES:
                if values[side] not in offered:
                    raise RequestError(f"The {side} checkpoint {values[side]} is not among those that are offered.")
        settings = replace(cls(), limits=replace(Limits(), **read_variables(env, LIMIT_VARIABLES)), **values)
        if "quantization" in values:
            return replace(settings, quantization_given=True)
        return replace(settings, quantization=_first_choice(settings))


def _first_choice(settings: AppSettings) -> Quantization:
    """The quantization with which a page opens whose operator has chosen none: for a pair of published sizes the first
    that is offered on the device; "none" for others, for which no library is imported.
    """
    from vlcompare.runtime.loading import registry

    pair = [settings.left, settings.right]
    if on_zerogpu() or any(known is None or known.embedded for known in map(registry.find, pair)):
        return "none"
    from vlcompare.runtime.loading.precision import first_choices

    try:
        first = [first_choices(ModelSpec(name, device=settings.device))[0] for name in pair]
    except VLCompareError:  # an unknown device is reported with the first answer
        return "none"
    return first[0] if first[0] == first[1] else "none"


def parse_bytes(value: str) -> int:
    """ "6GB", "800 MB", "5e9" as bytes (decimal units). Raises RequestError for anything else."""
    folded = value.strip().upper().removesuffix("B").strip()
    scale = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(folded[-1:], 1.0)
    try:
        count = float(folded[:-1] if scale > 1 else folded) * scale
    except ValueError:
        count = -1.0
    if not 0 < count < 1e16:
        raise RequestError(f"{value!r} is not an amount of memory: write it as 6GB or 800MB.")
    return int(count)


def names(value: str) -> tuple[str, ...]:
    """A list of checkpoints, separated by commas or spaces."""
    return tuple(part for part in value.replace(",", " ").split() if part)


def read_variables(env: Mapping[str, str], variables: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Field -> value of the variables that are set. Raises RequestError with the name of one that cannot be read."""
    values = {}
    for key, (name, read) in variables.items():
        if not env.get(key):
            continue
        try:
            values[name] = read(env[key])
        except RequestError as error:
            raise RequestError(f"The variable {key} is {env[key]!r}: {str(error).rstrip('.')}.") from error
    return values


def whole(value: str) -> int:
    """A whole number. Raises RequestError."""
    try:
        return int(value)
    except ValueError:
        raise RequestError("it must be a whole number") from None


def positive(value: str) -> int:
    """A whole number from 1 on. Raises RequestError."""
    count = whole(value)
    if count < 1:
        raise RequestError("it must be at least 1")
    return count


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        raise RequestError("it must be a number") from None
    if not seconds > 0:  # nor is nan
        raise RequestError("it must be above 0")
    return seconds


def _quantization(value: str) -> str:
    if value not in QUANTIZATIONS:
        raise RequestError("it must be none, int8 or nf4")
    return value


VARIABLES: dict[str, tuple[str, Any]] = {  # the later ones go first
    "GRADIO_SERVER_NAME": ("host", str),
    "GRADIO_SERVER_PORT": ("port", whole),
    "VLCOMPARE_HOST": ("host", str),
    "VLCOMPARE_PORT": ("port", whole),
    "VLCOMPARE_LEFT": ("left", str),
    "VLCOMPARE_RIGHT": ("right", str),
    "VLCOMPARE_OFFERED": ("offered", names),  # an earlier name
    "VLCOMPARE_OFFER": ("offered", names),
    "VLCOMPARE_PRELOAD": ("preload", names),
    "VLCOMPARE_QUANTIZATION": ("quantization", _quantization),
    "VLCOMPARE_DEVICE": ("device", str),
    "VLCOMPARE_ALLOW_PATH": ("allow_path", lambda value: Path(value).expanduser()),
    "VLCOMPARE_DATA": ("data", lambda value: Path(value).expanduser()),
    "VLCOMPARE_MEMORY": ("budget_bytes", parse_bytes),
    "VLCOMPARE_VOTES_DATASET": ("votes_dataset", str),
    "VLCOMPARE_CONCURRENCY": ("concurrency", positive),
}
LIMIT_VARIABLES: dict[str, tuple[str, Any]] = {
    "VLCOMPARE_QUEUE": ("queue", positive),
    "VLCOMPARE_MAX_SECONDS": ("seconds", _seconds),
    "VLCOMPARE_MAX_NEW_TOKENS": ("new_tokens", positive),
    "VLCOMPARE_MAX_MEGABYTES": ("file_bytes", lambda value: positive(value) * 2**20),
}
