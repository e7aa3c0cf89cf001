"""Rows of a data set on the Hub, streamed through `datasets`; no code from the Hub is ever run, pictures stay encoded.

The only module that imports `datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlcompare.errors import HubError, SampleError
from vlcompare.evaluate.readers.source import DatasetSource


def stream(source: DatasetSource, config: str | None) -> Iterator[dict[str, Any]]:
    """The rows of one config and of the declared split, in their order. Raises HubError where they cannot be had."""
    if not source.split:
        raise SampleError(f"Say which split of {source.hub_id} to read with --split.")
    try:
        load = source.load_dataset or _library()
        rows = load(source.hub_id, config, split=source.split, streaming=True, revision=source.revision)
        yield from undecoded(rows)
    except (OSError, ValueError, RuntimeError) as error:
        sentence = str(error).strip().split("\n")[0].rstrip(".")
        raise HubError(f"The data set {source.hub_id} ({source.split}) could not be streamed: {sentence}.") from error


def _library() -> Any:
    from datasets import load_dataset

    return load_dataset


def undecoded(rows: Any) -> Any:
    """The same rows with encoded pictures, so that `runtime.image` decodes them within its limits, not the library."""
    features = getattr(rows, "features", None) or {}
    for name, kind in features.items():
        inner: Any = getattr(kind, "feature", None)
        if type(kind).__name__ == "Image":
            rows = rows.cast_column(name, type(kind)(decode=False))
        elif type(inner).__name__ == "Image":  # a list of pictures
            rows = rows.cast_column(name, type(kind)(type(inner)(decode=False)))
    return rows
