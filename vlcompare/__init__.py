"""vlcompare: a Transformer and a state-space vision-language model, side by side, on one engine.

    import vlcompare
    model = vlcompare.load("tiny-mamba-vl")
    answer = vlcompare.generate(model, "picture.png", task="grounding", text="the red car")
    pair = vlcompare.compare_models("tiny-pythia-vl", model, "picture.png", task="grounding", text="the red car")

Importing this package is light: torch and the other heavy libraries are imported at the first use of a name that
needs them. All errors raised on purpose derive from `VLCompareError` (see `vlcompare.errors` for the tree).
"""

import importlib
import sys
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036  a checkout may be started by any; this file is all that an old one reads
    OLD = "vlcompare: Python 3.11 or 3.12 is needed, and {} is {}.{}. Set up with another: {}".format(
        sys.executable,
        *sys.version_info[:2],
        "python3.12 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python app.py --open",
    )
    raise SystemExit(OLD) if sys.argv[:1] == ["-m"] else ImportError(OLD)  # no traceback of `python -m vlcompare`

from vlcompare.errors import (
    CheckpointError,
    DeviceMemoryError,
    HubError,
    ImageError,
    RequestError,
    SampleError,
    VLCompareError,
)
from vlcompare.machine import threads
from vlcompare.types import Answer, Box, Request, Sample, Side, Step

threads.prepare()  # the OpenMP library reads the environment when torch is imported, which is later

__version__ = "0.1.0"

_LAZY = {
    "load": "vlcompare.runtime.loading.load",
    "Model": "vlcompare.runtime.loading.model",
    "stream": "vlcompare.runtime.engine",
    "generate": "vlcompare.runtime.engine",
    "generate_batch": "vlcompare.runtime.batch",
    "Session": "vlcompare.runtime.session",
    "compare": "vlcompare.comparison",
    "compare_models": "vlcompare.answer_pair",
    "AnswerPair": "vlcompare.answer_pair",
    "repeat": "vlcompare.repeats",
    "explain": "vlcompare.runtime.blanking",
    "EvidenceMap": "vlcompare.evidence",
}

__all__ = [
    "Answer",
    "AnswerPair",
    "Box",
    "CheckpointError",
    "DeviceMemoryError",
    "EvidenceMap",
    "HubError",
    "ImageError",
    "Model",
    "Request",
    "RequestError",
    "Sample",
    "SampleError",
    "Session",
    "Side",
    "Step",
    "VLCompareError",
    "compare",
    "compare_models",
    "explain",
    "generate",
    "generate_batch",
    "load",
    "repeat",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
