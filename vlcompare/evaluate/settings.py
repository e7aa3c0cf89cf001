"""What a run was asked for, and the check that a resumed run is the same one."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlcompare import __version__
from vlcompare.errors import SampleError
from vlcompare.types import Side

RUN_VERSION = 1
_PACKAGES = ("torch", "timm", "transformers", "tokenizers", "bitsandbytes", "numpy", "pillow", "triton", "accelerate")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """A whole run. `sides` holds "left" and, if wanted, "right"."""

    data: str
    out: Path
    sides: dict[str, Side]
    declared: dict[str, Any] = field(default_factory=dict)  # for `open_samples`
    resume: bool = False
    device: str = "auto"  # like the batch size, it decides how fast, not what: not compared on --resume
    batch_size: int = 8
    alternatives: int = 0  # of each token, kept in the predictions
    copy_images: bool = False
    progress: bool = True
    evidence: int = 0  # samples with a true box whose answers get a map of what they rest on
    evidence_seed: int | None = None  # takes these at random; None takes the first ones

    def identity(self) -> dict[str, Any]:
        """Everything that the answers depend on, as plain values; the keys and their order are run.json's."""
        declared = {key: str(value) if isinstance(value, Path) else value for key, value in self.declared.items()}
        declared.pop("load_dataset", None)
        data = self.data if self.data.startswith("hub:") else str(Path(self.data).resolve())
        sides = {name: {**asdict(side.model), **asdict(side.decoding)} for name, side in self.sides.items()}
        for side in sides.values():
            del side["device"]
        evidence = {"evidence": {"count": self.evidence, "seed": self.evidence_seed}} if self.evidence else {}
        return {"data": {"from": data, **declared}, "sides": sides, **evidence}


def check_same(recorded: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raise SampleError where a run folder was made with other settings, naming the first that differs."""
    for path, before, now in _differences(recorded, wanted):
        raise SampleError(
            f"{folder} was made with {path} = {before!r}, and now {path} = {now!r}: resume with the same settings, or "
            "give another --out."
        )


def _differences(recorded: Any, wanted: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(recorded, Mapping) and isinstance(wanted, Mapping):
        keys = {key: f"{path}.{key}" if path else str(key) for key in {**recorded, **wanted}}
        return [row for key, at in keys.items() for row in _differences(recorded.get(key), wanted.get(key), at)]
    return [] if recorded == wanted else [(path, recorded, wanted)]


def versions() -> dict[str, str]:
    """Versions of this program, of Python and of the libraries that answers depend on."""
    installed = {"vlcompare": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
