"""The known checkpoints: which exist, which belong together, and what their authors published about them.

Reads `checkpoints/registry.json`; standard library only. A value that is not known is None, never guessed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from vlcompare.errors import CheckpointError
from vlcompare.paths import CHECKPOINTS
from vlcompare.types import Family

Stage = Literal["embedded", "finetuned", "pretrained"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One known checkpoint. `pair` is the name of the checkpoint of the other family that it is compared with."""

    name: str
    title: str
    family: Family
    size: str
    stage: Stage
    pair: str
    embedded: bool
    repository: str | None  # on the Hub
    revision: str | None
    license: str | None
    parameters: int | None
    image_size: int | None
    vision_encoder: str | None
    download_gb: tuple[float, ...] | None  # file sizes as shown on the Hub, where somebody has looked
    preset: str | None  # its shape in `vlcompare.models.config.PRESETS`
    scores: Mapping[str, float] | None  # as published, in the source's own scale
    doubtful: Mapping[str, str] = field(default_factory=dict)  # benchmark -> why its published score is doubted

    @property
    def folder(self) -> Path | None:
        """Where an embedded checkpoint lies; None for those on the Hub."""
        return CHECKPOINTS / self.name if self.embedded else None

    @property
    def available(self) -> bool:
        """Whether it can be used without any download."""
        return self.folder is not None and (self.folder / "config.json").is_file()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How a published score relates to this project's: `published = times * ours`; metric None: not known."""

    name: str
    task: str
    metric: str | None
    times: float


@dataclass(frozen=True, slots=True)
class Registry:
    checkpoints: tuple[Checkpoint, ...]
    benchmarks: tuple[Benchmark, ...]
    score_source: str
    score_url: str
    tokenizer_repository: str
    tokenizer_file: str

    def find(self, name: str) -> Checkpoint | None:
        """The checkpoint of this name, or of this Hub repository; None where it is not a known one."""
        for checkpoint in self.checkpoints:
            if name in (checkpoint.name, checkpoint.repository):
                return checkpoint
        return None

    def pairs(self, stage: Stage) -> tuple[tuple[Checkpoint, Checkpoint], ...]:
        """Matched pairs of a stage, the Transformer first, from small to large."""
        by_name = {checkpoint.name: checkpoint for checkpoint in self.checkpoints}
        chosen = (c for c in self.checkpoints if c.stage == stage and c.family == "pythia")
        return tuple((checkpoint, by_name[checkpoint.pair]) for checkpoint in chosen)


@lru_cache(maxsize=4)
def registry(path: Path = CHECKPOINTS / "registry.json") -> Registry:
    """Everything in the registry file. Raises CheckpointError where the file is missing or damaged."""
    try:
        return _read(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"The list of known checkpoints is missing at {path}; install the project again."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"The list of known checkpoints at {path} cannot be read ({error!r}).") from error


def find(name: str) -> Checkpoint | None:
    """The known checkpoint of this name or Hub repository, or None."""
    return registry().find(name)


def repository_of(name: str) -> str:
    """The Hub repository of a known checkpoint; else the name, as it may be one itself."""
    known = find(name)
    return known.repository if known and known.repository else name


def names() -> tuple[str, ...]:
    """Names of all known checkpoints, the embedded ones first."""
    return tuple(checkpoint.name for checkpoint in registry().checkpoints)


def unknown(name: str) -> str:
    """The message for an unknown name, with the closest known one."""
    near = difflib.get_close_matches(name.lower(), names(), 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names())}."
    return f"{name!r} is neither a known checkpoint, nor a folder, nor a Hub id; {hint}"


def _read(data: dict[str, Any]) -> Registry:
    if data["schema_version"] != 1:
        raise ValueError(f"schema_version {data['schema_version']!r} is not 1")
    scores = data["scores"]
    doubts = scores["doubtful"]
    checkpoints = []
    for row in data["checkpoints"]:
        sizes = row["download_gb"]
        values = {**row, "download_gb": tuple(sizes) if sizes else None, "doubtful": doubts.get(row["name"], {})}
        checkpoints.append(Checkpoint(**values))
    known = {checkpoint.name for checkpoint in checkpoints}
    for checkpoint in checkpoints:
        if checkpoint.pair not in known:
            raise ValueError(f"{checkpoint.name} is paired with {checkpoint.pair}, which is not listed")
    return Registry(
        checkpoints=tuple(checkpoints),
        benchmarks=tuple(Benchmark(name, **row) for name, row in scores["benchmarks"].items()),
        score_source=scores["source"],
        score_url=scores["url"],
        tokenizer_repository=data["tokenizer"]["repository"],
        tokenizer_file=data["tokenizer"]["file"],
    )
