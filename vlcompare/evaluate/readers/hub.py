"""A data set on the Hub as samples: its streamed rows, in the format declared or the one that its first row shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers import formats, referring, rows
from vlcompare.evaluate.readers.base import Item, each
from vlcompare.evaluate.readers.hub_stream import stream
from vlcompare.evaluate.readers.source import DatasetSource


def read(source: DatasetSource) -> Iterator[Item]:
    """Samples of a data set's split, in its order."""
    found: Iterator[tuple[str, Any]] = (
        (f"row {number}", row) for number, row in enumerate(stream(source, source.config), 1)
    )
    if source.format == formats.AUTO:
        first = next(found, None)
        if first is None:
            return
        found = itertools.chain([first], found)
        source = replace(source, format=formats.of_keys(first[1], f"hub:{source.hub_id}").name)
    format = formats.FORMATS[source.format]
    if format.module == "referring" and format.rows:
        referring.need_declared(source)
        yield from each(source, found, referring.samples_of)
    elif format.module == "rows":
        yield from rows.samples(source, found)
    else:
        known = ", ".join(name for name, each in formats.FORMATS.items() if each.module == "rows")
        raise SampleError(f"Rows of a Hub data set are read as one of refcoco, {known}: say which with --format.")
