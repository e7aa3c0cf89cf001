"""The study tab's regions as markup: what is claimed and seen, the lab's controls, the published table, what is not
known."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vlcompare.evaluate.published_gaps import GROUPS, BenchmarkGap, Gaps, sentences
from vlcompare.render.markup import Safe, el
from vlcompare.render.panels import key
from vlcompare.study.figures import NAMES
from vlcompare.study.opened import Study
from vlcompare.study.seen import summary
from vlcompare.ui.study.figures import unfold

PAPER = "https://arxiv.org/abs/2409.05395"
GROUP_TITLES = {
    "retrieval": "Retrieval: find one thing",
    "reading": "Reading text",
    "summary": "Summary of the picture",
}
MEANS = (
    "To find a thing in a picture is this task with patches for tiles: attention can look at every tile again when it "
    "answers, a state-space model answers from what its state has kept of them."
)
READS = "Bars: each model’s probability for a position; marks: the one it points to."
UNKNOWN = (
    "What the paper's body says: its abstract, README and code were read. Vocabulary, sizes, budget, optimiser and the "
    "stop at .95 are ours.",
    "Whether larger models do the same: these have about a hundred thousand parameters, the paper's have billions.",
    "Whether another rate than the four tried does better: state-space models learn recall in a narrow range of rates.",
    "What asking first does to grounding: the released “instruction first” announces the task, and the thing to find "
    "still comes after the picture. Here “query first” puts the query itself first.",
    "How the published pairs would do at equal sizes: the smallest pair is unequal, and one of its cells is doubtful.",
)


def opened(name: str, *, on_pictures: bool = False) -> Safe:
    """Beside an uploaded file's figures: which file it is, and the way back."""
    button = el("button", "Close it", type="button", data_pick="back:", class_="vi-chip")
    where = el("a", "On pictures", href="#vs-pictures") if on_pictures else None
    shown = [" is shown below under ", where, ", to you alone. "] if where else [" is shown, to you alone. "]
    return el("p", name, *shown, button, class_="vl-message vl-message-info", role="status")


def intro(study: Study | None, gaps: str) -> Safe:
    """One paragraph: what the paper claims, and what is seen here, of both kinds of trainings.

    study: the trainings on text, where they can be read; gaps: those on pictures, as `in_short` tells them.
    """
    claims = (
        "Mamba is ahead in captions, question answering and reading, the Transformer in visual grounding, by a gap "
        "that widens with scale. Asking before the picture is read gains little there; in retrieving things "
        "from the context the Transformer is far ahead."
    )
    link = el("a", "The paper", href=PAPER, rel="noreferrer", target="_blank")
    return el(
        "p",
        link,
        " claims: ",
        claims,
        " Below is such retrieval in miniature: small models that learnt from nothing to say where in a sequence of "
        "symbols one stands. ",
        *([el("b", "Seen here so far: " if study.unfinished else "Seen here: "), summary(study)] if study else []),
        f" On pictures, {gaps}" if gaps else None,
        class_="vs-lead",
    )


# ---- the lab ---------------------------------------------------------------------------------------------------------


def lab(count: int) -> Safe:
    """The lab's frame for a sequence of `count`; `study.js` puts tiles and answers into it, as text alone."""
    orders = [
        el("button", title, type="button", role="radio", data_order=name, aria_checked="false", tabindex="-1")
        for name, title in (("query_last", "Query last"), ("query_first", "Query first"))
    ]
    length = el(
        "label",
        el("span", "Length"),
        el("input", type="range", min="2", max="80", value=str(count), id="vs-length"),
        el("output", str(count), for_="vs-length"),
        class_="vs-length",
    )
    trained = el(
        "div",
        el("span", "Trained at", id="vs-trained"),
        el("div", role="radiogroup", aria_labelledby="vs-trained", class_="vs-switch"),
        class_="vs-trained",
        hidden=True,
    )
    controls = el(
        "div",
        el("div", *orders, role="radiogroup", aria_label="Where the query stands", class_="vs-switch"),
        trained,
        length,
        el("button", "Shuffle", type="button", data_do="shuffle", class_="vi-chip"),
        el("button", "Another tile here", type="button", data_do="change", class_="vi-chip"),
        el("button", "Edit", type="button", data_do="edit", class_="vi-chip", aria_expanded="false"),
        class_="vs-controls",
    )
    editor = el(
        "form",
        el("label", "The sequence, each tile once", for_="vs-text"),
        el("input", type="text", id="vs-text", autocomplete="off", spellcheck="false", aria_describedby="vs-wrong"),
        el("button", "Set", type="submit", class_="vi-chip"),
        el("p", id="vs-wrong", role="alert", class_="vs-wrong"),
        class_="vs-editor",
        hidden=True,
    )
    return el(
        "div",
        controls,
        editor,
        el("div", class_="vs-text-row", role="radiogroup", aria_label="The sequence: choose the tile to ask for"),
        el("div", *[_answer(family, name) for family, name in NAMES.items()], class_="vs-answers"),
        el(
            "p",
            el("span", "Loading the models …", role="status"),
            el("span", f" {READS}", class_="vs-reads"),
            class_="vl-note vs-state",
        ),
        el("p", class_="vl-note vs-whose", hidden=True),
        el("p", MEANS, class_="vs-meaning"),
        round_place(),
        class_="vs-lab",
        data_names=json.dumps(NAMES),
    )


def _answer(family: str, name: str) -> Safe:
    return el("div", key(family, name), el("span", "…", class_="vs-said"), class_="vs-answer", data_family=family)


def round_place() -> Safe:
    return el(
        "div",
        el("button", "Run 200 of these", type="button", data_do="round", class_="vi-chip vs-run"),
        el("span", " random sequences of this length, each asked for one position", class_="vl-muted"),
    )


# ---- the published table ---------------------------------------------------------------------------------------------


def published(gaps: Gaps) -> Safe:
    """The published gaps by group, the means with and without the doubtful cell, and what follows from either."""
    sizes = [f"{left.size} − {right.size}" for left, right in gaps.pairs]
    columns = ["Transformer − Mamba, points", *sizes]
    head = el("tr", *[el("th", name, scope="col") for name in columns])
    lines, said = [], []
    for group in GROUPS:
        title = el("th", GROUP_TITLES[group], scope="rowgroup", colspan=str(1 + len(sizes)))
        lines.append(el("tr", title, class_="vs-group"))
        lines += [_benchmark(one) for one in gaps.of(group)]
        whole, careful = gaps.means(group), gaps.means(group, doubtful=False)
        lines.append(_line("Mean", whole))
        if whole != careful:
            names = " and ".join(one.name for one in gaps.of(group) if one.doubtful)
            lines.append(_line(f"Mean without {names}", careful))
        said += [el("p", el("b", f"{GROUP_TITLES[group].partition(':')[0]}. "), " ".join(sentences(gaps, group)))]
    doubts = sorted({why for one in gaps.benchmarks for why in one.doubtful.values()})
    source = el(
        "p",
        "As published: ",
        el("a", gaps.source, href=gaps.url, rel="noreferrer", target="_blank"),
        ". Means are over benchmarks that count right answers; COCO, NoCaps and TextCaps are scored by CIDEr-D, "
        "another scale. The groups are this project's reading of the abstract.",
        *[el("span", " ", el("abbr", "?", class_="vl-doubt", title=why), f" {why}.") for why in doubts],
        class_="vl-note",
    )
    whole_table = el("table", el("thead", head), el("tbody", *lines), class_="vl-table vs-gaps")
    all_lines = el(
        "div",
        unfold("Every benchmark", True),
        el("div", whole_table, class_="vl-scroll", tabindex="0", role="group", aria_label="Published gaps"),
        class_="vs-gaps-place",
        data_folded="true",
    )
    return el("div", all_lines, el("div", *said, source, class_="vs-said-of"), class_="vs-published")


def _benchmark(one: BenchmarkGap) -> Safe:
    cells = []
    for index, gap in enumerate(one.gaps):
        why = one.doubtful.get(index)
        mark = el("abbr", "?", title=why, class_="vl-doubt") if why else None
        cells.append(el("td", _gap(gap), mark, data_side="left" if gap > 0 else "right" if gap < 0 else None))
    scale = None if one.counted else el("small", " CIDEr-D", class_="vl-muted")
    return el("tr", el("th", one.name, scale, scope="row"), *cells)


def _line(name: str, values: Sequence[float]) -> Safe:
    cells = [el("td", _gap(value), data_side="left" if value > 0 else "right") for value in values]
    return el("tr", el("th", name, scope="row"), *cells, class_="vs-mean")


def _gap(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


# ---- the rest --------------------------------------------------------------------------------------------------------


def unknown() -> Safe:
    listed = el("ul", *[el("li", each) for each in UNKNOWN], class_="vs-unknown")
    return el("div", unfold("What these figures leave open", True), listed, data_folded="true")
