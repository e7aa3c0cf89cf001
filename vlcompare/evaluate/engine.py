"""What the runner asks of the rest: how to load a model, to answer many questions with it, and to explain an answer."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlcompare.errors import DeviceMemoryError
from vlcompare.evaluate.evidence import Explain
from vlcompare.types import Answer

Load = Callable[..., Any]
Generate = Callable[..., list[Answer]]


@dataclass(frozen=True, slots=True)
class Engine:
    """`load` and `generate_batch` as the package has them.

    `keep(prefixes)` makes what one model's batches share, as keywords of `generate_batch` and `explain`; prefixes:
    whether pictures have several questions.
    """

    load: Load
    generate_batch: Generate
    keep: Callable[[bool], dict[str, Any]] = lambda prefixes: {}
    explain: Explain | None = None

    @classmethod
    def real(cls, *, several: bool = False) -> Engine:
        """The package's own. several: models follow one another, and share features where their encoders are equal."""
        from vlcompare.runtime.batch import generate_batch
        from vlcompare.runtime.blanking import explain_request
        from vlcompare.runtime.loading.load import load
        from vlcompare.runtime.picture_cache import PictureCache, SharedFeatures

        shared = SharedFeatures() if several else None

        def keep(prefixes: bool) -> dict[str, Any]:
            return {"pictures": PictureCache(prefixes=prefixes, shared=shared)}

        def load_in_room(*given: Any, **options: Any) -> Any:
            try:
                return load(*given, **options)
            except DeviceMemoryError:
                if shared is None or not shared.clear():
                    raise
            release()  # what was kept for this model took its room
            return load(*given, **options)

        return cls(load_in_room, generate_batch, keep, explain_request)


def release() -> None:
    """Return unused cached memory to the device."""
    gc.collect()
    if "torch" in sys.modules:  # a run with another engine needs none
        from vlcompare.models.kernels.cuda.graph_capture import release_cached_memory

        release_cached_memory()
