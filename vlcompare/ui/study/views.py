"""The study tab's regions as markup: what is claimed and seen, the lab's controls, figures, tables."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vlcompare.evaluate.published_gaps import GROUPS, BenchmarkGap, Gaps, sentences
from vlcompare.render.markup import Safe, el
from vlcompare.render.panels import drawn, key
from vlcompare.study.figures import NAMES, Figure
from vlcompare.study.opened import Study
from vlcompare.study.rates import RULE
from vlcompare.study.seen import seen, state
from vlcompare.study.tables import Row

PAPER = "https://arxiv.org/abs/2409.05395"
MOST_PANELS = 12  # of a figure in the page; the report draws all
MOST_LISTED = 40  # rows of a table in the page; the CSV has all
MOST_PROBLEMS = 10
GROUP_TITLES = {
    "retrieval": "Retrieval: find one thing",
    "reading": "Reading text",
    "summary": "Summary of the picture",
}
MEANS = (
    "To find a thing in a picture is this task with patches for tiles: attention can look at every tile again when it "
    "answers, a state-space model answers from what its state has kept of them."
)
UNKNOWN = (
    "What the paper's body says: its abstract, README and code were read. The sizes, the training and the numbers of "
    "its synthetic task are not known here; vocabulary, sizes, budget, optimiser and the stop at .95 are ours.",
    "What these trainings say of larger models: they have some 105,000 parameters, and the paper's have billions.",
    "Whether a better rate lies between those tried. State-space models learn recall in a narrow range of rates: four "
    "were tried for each family, and all rows are published.",
    "What asking first does to grounding. The released code's “instruction first” announces the task before the "
    "picture, and the thing to find still comes after; here “query first” puts the query itself before the sequence.",
    "How the published pairs would do at equal sizes: the smallest pair is unequal, and one of its cells is doubtful.",
)


def opened(name: str) -> Safe:
    """Beside an uploaded file's figures: which file it is, and the way back."""
    button = el("button", "Back to the shipped rows", type="button", data_pick="back:", class_="vi-chip")
    return el("p", f"{name} is shown, to you alone. ", button, class_="vl-message vl-message-info", role="status")


def intro(study: Study) -> Safe:
    """One paragraph: what the paper claims, and what is seen here."""
    claims = (
        "Mamba is ahead in captions, question answering and reading, the Transformer in visual grounding, by a gap "
        "that widens with scale. Encoding the picture with the task in mind gains little there; in retrieving things "
        "from the context the Transformer is far ahead."
    )
    link = el("a", "The paper", href=PAPER, rel="noreferrer", target="_blank")
    return el(
        "p",
        link,
        " claims: ",
        claims,
        " Below is such retrieval in miniature: a sequence of symbols, one of them asked for, and small models that "
        "learnt from nothing to say where it stands. ",
        el("b", "Seen here so far: "),
        state(study),
        class_="vs-lead",
    )


# ---- the lab ---------------------------------------------------------------------------------------------------------


def lab() -> Safe:
    """The lab's frame; `study.js` puts tiles and answers into it, as text alone."""
    orders = [
        el("button", title, type="button", role="radio", data_order=name, aria_checked="false", tabindex="-1")
        for name, title in (("query_last", "Query last"), ("query_first", "Query first"))
    ]
    length = el(
        "label",
        el("span", "Length"),
        el("input", type="range", min="2", max="80", value="10", id="vs-length"),
        el("output", "10", for_="vs-length"),
        class_="vs-length",
    )
    controls = el(
        "div",
        el("div", *orders, role="radiogroup", aria_label="Where the query stands", class_="vs-switch"),
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
        el("p", "Loading the models …", class_="vl-note vs-state", role="status"),
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


# ---- figures ---------------------------------------------------------------------------------------------------------


def figures(study: Study) -> Safe:
    """Every figure, with its numbers, the rows behind it, and the command that makes it again."""
    legend = el("div", *[key(family, name) for family, name in NAMES.items()], class_="vs-legend")
    verdicts = el("ul", *[el("li", sentence) for sentence in seen(study)], class_="vs-seen")
    notes = [
        el("p", f"{study.name}: {state(study)}", class_="vl-warn") if study.unfinished else el("p", state(study)),
        *[el("p", problem, class_="vl-warn") for problem in study.problems[:MOST_PROBLEMS]],
    ]
    if len(study.problems) > MOST_PROBLEMS:
        notes.append(el("p", f"{len(study.problems) - MOST_PROBLEMS:,} more lines are damaged.", class_="vl-warn"))
    drawn_ones = el("div", *[_figure(figure, study) for figure in study.figures], class_="vs-figures")
    return el("div", *notes, verdicts, legend, drawn_ones)


def _figure(figure: Figure, study: Study) -> Safe:
    shown = figure.panels[:MOST_PANELS]
    more = len(figure.panels) - len(shown)
    rest = f" {more} more panels are in the report." if more else ""
    csv = el("button", "CSV", type="button", data_pick=f"csv:{figure.name}", class_="vi-chip",
             aria_label=f"{figure.title}: data as CSV")  # fmt: skip
    return el(
        "figure",
        el("figcaption", el("h3", figure.title), el("p", figure.reads, rest, class_="vl-note")),
        el("div", *[drawn(panel) for panel in shown], class_="vs-panels"),
        el("div", _numbers(figure), _behind(figure, study), csv, class_="vs-under"),
        class_="vs-figure",
    )


def _numbers(figure: Figure) -> Safe:
    """The figure's table, without what all its lines share."""
    records = figure.records
    varying = [name for name in records[0] if len({str(record[name]) for record in records}) > 1] or list(records[0])
    listed = table(varying, [[_cell(record[name]) for name in varying] for record in records[:MOST_LISTED]])
    more = len(records) - MOST_LISTED
    rest = el("p", f"{more:,} more lines are in the CSV file.", class_="vl-note") if more > 0 else None
    return el("details", el("summary", "Numbers"), listed, rest, class_="vs-fold")


def _behind(figure: Figure, study: Study) -> Safe:
    """The trainings that a figure was made of, and the commands that make them and it again."""
    names = ("task", "order", "length", "family", "learning_rate", "seed", "parameters", "examples", "accuracy",
             "seconds", "device")  # fmt: skip
    rows = [row for group in figure.groups for row in group.rows]
    listed = table(names, [[_cell(row[name]) for name in names] for row in rows[:MOST_LISTED]])
    commands = "python -m vlcompare study run cpu --out DIR\npython -m vlcompare study report DIR --out figures"
    if study.planned is None:
        commands = commands.replace("run cpu", "run GRID")
    return el(
        "details",
        el("summary", "The runs behind this"),
        el("p", f"{len(rows)} trainings: {RULE}; with all of its seeds.", class_="vl-note"),
        listed,
        el("pre", el("code", commands)),
        class_="vs-fold",
    )


def table(names: Sequence[str], cells: Sequence[Sequence[str]]) -> Safe:
    head = el("tr", *[el("th", name.replace("_", " "), scope="col") for name in names])
    body = [el("tr", *[el("td", cell) for cell in line]) for line in cells]
    whole = el("table", el("thead", head), el("tbody", *body), class_="vl-table")
    return el("div", whole, class_="vl-scroll", tabindex="0", role="group", aria_label="Table")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:g}"
    return f"{int(value):,}" if isinstance(value, (int, float)) else str(value).replace("_", " ")


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
    about = el("div", *said, source, class_="vs-said-of")
    return el("div", el("div", whole_table, class_="vl-scroll"), about, class_="vs-published")


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


def pictures(records: Sequence[Row]) -> Safe:
    """The rows of the grids on pictures, where they are there."""
    if not records:
        return Safe("")
    names = [name for name, value in records[0].items() if not isinstance(value, (list, dict))]
    listed = [[_cell(record.get(name)) for name in names] for record in records[:MOST_LISTED]]
    more = len(records) - MOST_LISTED
    rest = el("p", f"{more:,} more are in the file.", class_="vl-note") if more > 0 else None
    return el("section", el("h2", "On pictures", class_="vl-section"), table(names, listed), rest, class_="vs-pictures")


def unknown() -> Safe:
    return el("ul", *[el("li", each) for each in UNKNOWN], class_="vs-unknown")
