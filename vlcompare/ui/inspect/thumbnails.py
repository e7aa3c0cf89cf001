"""Small pictures of samples, made when they are asked for and kept within a bound.

Samples on the same picture share one; the page draws the boxes over it. Shared by all users of a server: callers check
that the user may see the run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from vlcompare.errors import VLCompareError
from vlcompare.ui import webp

if TYPE_CHECKING:
    from vlcompare.ui.inspect.selection import Opened

SIDE = 288  # pixels: a card of the gallery on a screen of double density
QUALITY = 74
MAX_BYTES = 32 * 2**20
OVERHEAD = 200  # bytes of an entry besides its picture
AT_ONCE = 2  # pictures that are decoded at the same time


class Thumbnails:
    """The last small pictures, as data URIs; "" for a picture that cannot be shown."""

    def __init__(self, most_bytes: int = MAX_BYTES) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[tuple[int, int], str] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._making = threading.Semaphore(AT_ONCE)

    def get(self, opened: Opened, picture: int) -> str:
        """A picture of the run, by its number in `table.clusters`."""
        key = opened.key, picture
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._making:
            made = _made(opened, picture)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made) + OVERHEAD
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1]) + OVERHEAD
        return made


def _made(opened: Opened, picture: int) -> str:
    from vlcompare.runtime.image import open_image

    try:
        return webp.data_uri(webp.encode(open_image(opened.run.picture(int(opened.pictures[picture]))), SIDE, QUALITY))
    except VLCompareError:
        return ""
