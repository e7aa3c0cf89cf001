"""Pictures by id, stored apart from their questions, as GQA has them: a parquet file, or another config on the Hub.

Only ids and places are kept; a picture is read when it is wanted. Pictures of a Hub config are written to a temporary
folder as they come, until the one that is wanted is there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.opening import RowError, kind_of
from vlcompare.evaluate.readers.pictures import hashed
from vlcompare.evaluate.readers.source import DatasetSource

MAX_STREAMED = 40 << 30  # bytes of pictures that are taken from one config
_IDS = ("id", "imageId", "image_id")


@dataclass(frozen=True, slots=True)
class ParquetPicture:
    """A picture of a parquet file, by its place."""

    path: Path
    group: int
    row: int

    def __call__(self) -> bytes:
        return bytes(_group(self.path, self.group)[self.row]["bytes"])


@lru_cache(maxsize=2)  # questions about one picture follow one another
def _group(path: Path, group: int) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read_row_group(group, columns=["image"]).column("image").to_pylist()


class ParquetPictures:
    """The pictures of a parquet file with an id and an image a row."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self._places: dict[str, ParquetPicture] = {}
        try:
            file = pyarrow.parquet.ParquetFile(path)
            names = file.schema_arrow.names
            name = next((name for name in _IDS if name in names), None)
            if name is None or "image" not in names:
                raise SampleError(f"{path} is not a file of pictures by id: its columns are {', '.join(names)[:200]}.")
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=[name]).column(name).to_pylist()
                for row, key in enumerate(ids):
                    self._places.setdefault(str(key), ParquetPicture(path, group, row))
        except (pyarrow.ArrowException, OSError) as error:
            raise SampleError(f"{path} is not a parquet file that can be read ({error}).") from error

    def picture(self, name: str) -> Callable[[], bytes]:
        """The picture of this id. Raises RowError for an unknown id."""
        if name not in self._places:
            raise RowError(f"there is no picture of the id {name[:40]!r} among the pictures given")
        return self._places[name]


class StreamedPictures:
    """The pictures of a stream of rows {id, image}, kept in a temporary folder."""

    def __init__(self, rows: Iterator[dict[str, Any]], what: str) -> None:
        self._rows, self._what, self._bytes = rows, what, 0
        self._folder = tempfile.TemporaryDirectory(prefix="vlcompare-pictures-")
        self._paths: dict[str, Path] = {}

    def picture(self, name: str) -> Callable[[], bytes]:
        """The picture of this id, as a function that reads it: the folder does not outlive the process.

        Raises RowError where the stream ends without it.
        """
        while name not in self._paths and (row := next(self._rows, None)) is not None:
            value = row.get("image")
            data = value.get("bytes") if isinstance(value, dict) else value
            key = next((str(row[each]) for each in _IDS if row.get(each) is not None), None)
            if key is None or not isinstance(data, bytes):
                continue
            self._bytes += len(data)
            if self._bytes > MAX_STREAMED:
                raise SampleError(f"The pictures of {self._what} have more than {MAX_STREAMED:,} bytes.")
            path = Path(self._folder.name) / hashed(key)
            path.write_bytes(data)
            self._paths[key] = path
        if name not in self._paths:
            raise RowError(f"there is no picture of the id {name[:40]!r} in {self._what}")
        return self._paths[name].read_bytes


_found: dict[Any, Any] = {}  # of the source that was read last


def pictures_by_id(source: DatasetSource) -> ParquetPictures | StreamedPictures | None:
    """The pictures that were given beside the questions; None where they are files in a folder, or nowhere."""
    if not source.need_pictures:
        return None
    if source.hub_id:
        return _kept((source.hub_id, source.config, source.split, id(source.load_dataset)), lambda: _of_hub(source))
    if source.images is not None and source.images.is_file() and kind_of(source.images).name == "parquet":
        status = source.images.stat()
        path = source.images
        return _kept((str(path.resolve()), status.st_mtime_ns), lambda: ParquetPictures(path))
    return None


def _kept(key: Any, make: Callable[[], Any]) -> Any:
    if key not in _found:
        _found.clear()
        _found[key] = make()
    return _found[key]


def _of_hub(source: DatasetSource) -> StreamedPictures | None:
    """GQA's questions are in configs `.._instructions`, and their pictures in `.._images`."""
    from vlcompare.evaluate.readers.hub_stream import stream

    if not (source.config or "").endswith("_instructions"):
        return None
    config = (source.config or "").removesuffix("_instructions") + "_images"
    return StreamedPictures(stream(source, config), f"the config {config} of {source.hub_id}")
