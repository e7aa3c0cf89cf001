"""XML from elsewhere, event by event, without what could grow or reach outside: entities of its own, external parts,
elements in elements without end, endless tags.

Nothing is kept; the caller's functions take the elements as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from xml.parsers import expat

from vlcompare.evaluate.readers.opening import RowError

MAX_DEPTH = 100  # elements in one another; spreadsheets and annotations have ten at most
MAX_SILENT = 4 << 20  # bytes of one tag: the parser holds it whole until it ends


def parse(
    pieces: Iterable[bytes],
    what: str,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], Any],
) -> None:
    """Call `start(tag, attributes)`, `end(tag)` and `text(characters)` as elements come. Raises RowError with `what`
    where it is not XML, declares entities, or is deeper or has longer tags than data have."""
    depth = 0

    def refused(*ignored: Any) -> None:
        raise RowError(f"{what} declares entities of its own, which are not read")

    def opened(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise RowError(f"{what} has over {MAX_DEPTH} elements in one another")
        start(tag, attributes)

    def closed(tag: str) -> None:
        nonlocal depth
        depth -= 1
        end(tag)

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = opened, closed, text
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refused  # type: ignore[assignment]
    try:
        count = 0
        for piece in pieces:
            parser.Parse(piece, False)
            count += len(piece)
            if count - parser.CurrentByteIndex > MAX_SILENT:
                raise RowError(f"{what} has a tag of over {MAX_SILENT:,} bytes")
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise RowError(f"{what} is not XML ({error})") from error
