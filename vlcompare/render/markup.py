"""HTML and SVG, built in one place, so that no text of a model or a user is ever read as markup.

`el("b", text, class_="x")` escapes every plain string, in content and in attributes; only a `Safe` value is not.

The page shows these strings with gradio's HTML component, whose default template puts the value in as it is. A template
of our own would be evaluated over the value a second time, so no component is given one.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

VOID = frozenset({"img", "br", "hr", "input"})  # elements of SVG are closed: HTML knows no void ones there
CONTROLS = {code: "\ufffd" for code in (*range(0, 9), 11, 12, *range(14, 32), 127)}  # not allowed in HTML text


class Safe(str):
    """Markup that needs no escaping any more."""

    __slots__ = ()


def text(value: Any) -> Safe:
    """`value` as text: every character of markup escaped, control characters replaced."""
    if isinstance(value, Safe):
        return value
    return Safe(escape(str(value).translate(CONTROLS), quote=True))


def el(tag: str, *children: Any, **attributes: Any) -> Safe:
    """One element. Children: strings (escaped), Safe values, lists of those, None (left out).

    Attributes: a trailing underscore is dropped (`class_`), other underscores become hyphens; None and False leave an
    attribute out, True gives it without a value. Event handlers and javascript addresses are refused.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if name.startswith("on"):
            raise ValueError(f"The attribute {name!r} would run a script: listen from page.js instead.")
        if name in ("href", "src") and not str(value).startswith(("data:image/", "https://", "#", "?")):
            raise ValueError(f"The address in {name!r} is of a kind that is not used here.")
        parts.append(f" {name}" if value is True else f' {name}="{text(str(value))}"')
    parts.append(">")
    if tag in VOID:
        return Safe("".join(parts))
    parts.append(join(children))
    parts.append(f"</{tag}>")
    return Safe("".join(parts))


def join(children: Iterable[Any], between: str = "") -> Safe:
    """Children one after the other, escaped where they are not Safe."""
    out: list[str] = []
    for child in children:
        if child is None or child is False:
            continue
        out.append(text(child) if isinstance(child, str) or not isinstance(child, Iterable) else join(child))
    return Safe(text(between).join(out))


def shorten(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    line = " ".join(text[: 50 * most].split())
    return line if len(line) <= most else line[: most - 1] + "…"
