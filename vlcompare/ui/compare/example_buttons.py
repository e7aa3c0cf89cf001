"""The shipped examples as buttons."""

from __future__ import annotations

from vlcompare.render.markup import Safe, el
from vlcompare.ui.examples import example_thumbnail, load_examples


def examples_view(chosen: str | None) -> Safe:
    """One button an example: a single tab stop, with arrow keys between them."""
    examples = load_examples()
    if not examples:
        return el("div")
    first = chosen if any(example.id == chosen for example in examples) else examples[0].id
    items = [
        el(
            "button",
            el("img", src=example_thumbnail(example.image), alt=""),
            el("span", example.title),
            type="button",
            class_="vl-example",
            data_pick=example.id,
            tabindex="0" if example.id == first else "-1",
            title=example.title,
            aria_pressed="true" if example.id == chosen else "false",
            aria_label=f"Example: {example.title}",
        )
        for example in examples
    ]
    return el("div", *items, class_="vl-examples", role="group", aria_label="Examples: arrow keys move between them")
