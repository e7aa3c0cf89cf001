"""XML from elsewhere, event by event, without what could grow or reach outside: entities of its own, external parts.

Nothing is kept; the caller's functions take the elements as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from xml.parsers import expat

from vlcompare.evaluate.readers.opening import RowError


def parse(
    pieces: Iterable[bytes],
    what: str,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    text: Callable[[str], Any],
) -> None:
    """Call `start(tag, attributes)`, `end(tag)` and `text(characters)` as elements come. Raises RowError with `what`
    where it is not XML, or declares entities."""

    def refused(*ignored: Any) -> None:
        raise RowError(f"{what} declares entities of its own, which are not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refused  # type: ignore[assignment]
    try:
        for piece in pieces:
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise RowError(f"{what} is not XML ({error})") from error
