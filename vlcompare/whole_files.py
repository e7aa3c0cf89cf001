"""Files that replace each other as a whole: a reader never finds half of one, even after a kill.

Standard library only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path, suffix: str = "partial") -> Iterator[Path]:
    """A block that writes the file whose path is given, beside `path`; at the end it takes the place of `path`.

    Where the block fails, as on a full disk, the file that `path` was before stays, and nothing else. Processes that
    may write `path` at once give suffixes of their own.
    """
    partial = path.with_name(f"{path.name}.{suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # what failed first is told
            partial.unlink()
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text as a `whole_file`; several processes and threads may do so at once."""
    with whole_file(path, f"{os.getpid()}.{threading.get_ident()}.partial") as partial:
        partial.write_text(text, encoding="utf-8")
