"""The page's Study tab in the browser: the lab by pointer and keyboard, own rows; and what its endpoint refuses."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import said, settled, visits
from page_world import serving
from ui_fakes import FakeCompare, words

from vlcompare.evaluate.published_gaps import published_gaps, sentences
from vlcompare.study.extent import state
from vlcompare.study.figures import NAMES, share_text
from vlcompare.study.lab import Lab
from vlcompare.study.opened import SHIPPED, PictureStudy, Study, open_any, open_study, picture_study_of, study_of
from vlcompare.study.pictures.figures import in_short, label
from vlcompare.study.pictures.grids import COMPARISONS, PictureEntry, PictureGrid
from vlcompare.study.pictures.settings import ALL_TASKS, SMOKE, V1, PictureSetting
from vlcompare.study.rows import setting_of, weights_path
from vlcompare.study.seen import needed, practice, seen, summary
from vlcompare.study.tables import for_lab
from vlcompare.tasks.prompts import task_title
from vlcompare.types import FAMILIES
from vlcompare.ui.study import figures, handlers, pictures, views
from vlcompare.ui.study.lab import MODELS, LabRequests
from vlcompare.ui.study.session import Shelf, StudySession

ROWS = (SHIPPED / "cpu" / "rows.jsonl").read_text()
PLAIN = {"sequence": [5, 7, 9], "query": 7, "order": "query_last"}
LENGTHS = sorted({row["length"] for row in for_lab(open_study(SHIPPED / "cpu").groups)})
NAMED = LENGTHS[-1]


@pytest.fixture(scope="module")
def lab() -> LabRequests:
    return LabRequests()


def test_a_request_is_answered_for_itself_alone(lab: LabRequests) -> None:
    first, second = lab.ask(PLAIN), lab.ask({**PLAIN, "query": 9, "order": "query_first"})
    assert first["named"] == NAMED == lab.length() and first["lengths"]["query_last"] == tuple(LENGTHS)
    assert first["known"] == 80 and set(first["sides"]) == {"pythia", "mamba", "hybrid"}
    assert all(len(side["shares"]) == 3 for side in second["sides"].values())
    assert lab.ask(PLAIN) == first


def test_visitors_who_ask_at_once_never_mix(lab: LabRequests) -> None:
    """Each has sequences, a query and an order of their own; what is answered is what each alone is answered."""
    asked = [
        {"sequence": [(7 * visitor + place) % 80 for place in range(4 + visitor)], "order": order}
        for visitor in range(8)
        for order in ("query_last", "query_first")
    ]
    asked = [{**request, "query": request["sequence"][-1]} for request in asked]
    rounds = [{"length": 4 + n, "order": "query_last", "seed": n} for n in range(2)]
    alone = [*map(lab.ask, asked), *map(lab.round_of, rounds)]
    with ThreadPoolExecutor(8) as pool:
        together = [*pool.map(lab.ask, asked), *pool.map(lab.round_of, rounds)]
    assert together == alone and len({str(answer) for answer in alone}) == len(alone)


def test_a_click_does_not_wait_for_a_round(lab: LabRequests, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()
    whole = Lab.round

    def slow(*given: Any, **more: Any) -> Any:
        begun.set()
        assert ended.wait(60)
        return whole(*given, **more)

    monkeypatch.setattr(Lab, "round", slow)
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(lab.round_of, {"length": 4, "order": "query_last", "seed": 1})
        assert begun.wait(60)
        assert "sides" in lab.ask(PLAIN) and not drawn.done()
        ended.set()
        assert "of 200" in drawn.result()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, "list of symbols"),
        ("x", "list of symbols"),
        ({**PLAIN, "sequence": [5, "7"]}, "list of symbols"),
        ({**PLAIN, "sequence": [5, True, 7]}, "list of symbols"),
        ({**PLAIN, "sequence": list(range(5000))}, "2 to 80"),
        ({**PLAIN, "sequence": [5, 7, 10**30]}, "0 to 79"),
        ({**PLAIN, "query": 6}, "one of the sequence"),
        ({**PLAIN, "query": "7"}, "one of the sequence"),
        ({**PLAIN, "order": ["query_last"]}, "query_first or query_last"),
    ],
)
def test_requests_that_are_refused(lab: LabRequests, request_: Any, message: str) -> None:
    assert message in lab.ask(request_)["error"]


def test_a_round_is_bounded(lab: LabRequests) -> None:
    for request in (None, {"length": 10**9, "order": "query_last", "seed": 1}, {"length": 10, "order": "query_last"}):
        assert "vl-warn" in lab.round_of(request)
    request = {"length": 2 * NAMED, "order": "query_last", "seed": 3}
    drawn = lab.round_of(request)
    assert "of 200" in drawn and f"first {NAMED} positions" in drawn and drawn == lab.round_of(request)


def test_rows_that_are_damaged_become_a_sentence_each() -> None:
    lines = ROWS.splitlines()[:3]
    row = json.loads(lines[0])
    broken = [*lines, "{", json.dumps({**row, "accuracy": 7}), json.dumps({**row, "version": 9})]
    study = study_of("\n".join([*broken, ""]).encode(), "mine.jsonl")
    assert len(study.rows) == 3 and len(study.problems) == 3
    assert all(f"line {number}" in problem for number, problem in zip((4, 5, 6), study.problems, strict=True))
    shown = figures.figures(study)
    assert "accuracy is out of range" in shown and "version 9" in shown
    alone = words(figures.figures(study_of(f"{lines[0]}\n".encode(), "mine.jsonl")))
    assert [name for name in NAMES.values() if name in alone] == [NAMES[row["family"]]], "what there is no row of"


def own_folder(path: Path) -> Path:
    """A folder as `study run` leaves it: some shipped rows, and the lab's shipped models as their weights."""
    rows = for_lab(open_study(SHIPPED / "cpu").groups)
    (path / "weights").mkdir(parents=True)
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        model = MODELS / f"{row['order']}-{row['length']}-{row['family']}.safetensors"
        weights_path(path, setting_of(row)).write_bytes(model.read_bytes())
    return path


def test_the_lab_asks_the_models_of_a_folder_that_the_operator_opens(lab: LabRequests, tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "mine")
    rows = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(row for row in rows if '"query_last"' in row))
    own = LabRequests(folder)
    found = own.ask(PLAIN)
    assert found["whose"] == "These are the models of mine." and found["sides"] == lab.ask(PLAIN)["sides"]
    refused = own.ask({**PLAIN, "order": "query_first"})
    assert "None of these models was trained with the query first" in refused["error"]
    assert refused["known"] == found["known"], "the page learns of the symbols from any reply"
    assert LabRequests(folder / "rows.jsonl").ask(PLAIN)["whose"] == "These are the models of mine."


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda file, other: file.unlink(), "are not there"),
        (lambda file, other: file.write_bytes(file.read_bytes()[:900]), "holds no model of the study"),
        (lambda file, other: file.write_bytes(other.read_bytes()), "are of another training"),
        (
            lambda file, other: (file.unlink(), file.symlink_to(MODELS / "query_last-10-mamba.safetensors")),
            "are a link",
        ),
        (lambda file, other: file.open("ab").truncate(65 * 2**20), "is larger than the 64 MiB"),
    ],
)
def test_models_that_do_not_fit_leave_the_shipped_ones(
    lab: LabRequests, tmp_path: Path, break_it: Any, why: str
) -> None:
    folder = own_folder(tmp_path / "mine")
    mamba = next((folder / "weights").glob("position-query_last*mamba*"))
    break_it(mamba, next((folder / "weights").glob("position-query_last*pythia*")))
    found = LabRequests(folder).ask(PLAIN)
    assert found["whose"].startswith("These models come with the program; those of mine are not asked: ")
    assert why in found["whose"] and str(tmp_path) not in found["whose"]
    assert found["sides"] == lab.ask(PLAIN)["sides"]


def test_a_folder_that_has_changed_is_asked_anew(tmp_path: Path) -> None:
    """A grid is trained while the page is open: its models are asked once they are there."""
    folder = own_folder(tmp_path / "mine")
    rows = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text("")
    own = LabRequests(folder)
    assert "holds no finished rows" in own.ask(PLAIN)["whose"]
    mqar = text_row(None, "mamba", 0, None, task="mqar", length=8, vocabulary=128)
    (folder / "rows.jsonl").write_text(json.dumps(mqar) + "\n")
    assert "at no length is position retrieval finished" in own.ask(PLAIN)["whose"]
    (folder / "rows.jsonl").write_text(rows)
    assert own.ask(PLAIN)["whose"] == "These are the models of mine."
    model = next((folder / "weights").glob("*mamba*"))
    model.rename(folder / "elsewhere")
    assert "are not there" in own.ask(PLAIN)["whose"]


def test_models_that_have_not_learnt_their_length_are_named(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "mine")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        missed = row["order"] == "query_last" and row["family"] != "pythia"
        row |= {"reached": None, "accuracy": 0.45} if missed else {"reached": 512_000}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = f"Not learnt at length {NAMED} within 512,000 examples: Mamba (.45 right), Hybrid (.45 right)."
    assert LabRequests(folder).ask(PLAIN)["unlearnt"] == said
    assert LabRequests(folder).ask({**PLAIN, "order": "query_first"})["unlearnt"] == ""


def test_the_models_are_loaded_once_and_before_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.study.lab import Lab

    opened, real = list[Path](), Lab.open

    def counting(path: Path) -> Lab:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(Lab, "open", counting)
    requests, started = LabRequests(), list[threading.Thread]()
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    requests.warm_up()
    requests.warm_up()
    assert len(started) == 1 and started[0].daemon and not opened
    started[0].run()
    assert opened == [MODELS]
    requests.ask(PLAIN)
    assert opened == [MODELS]


# ---- rows on pictures


def picture_row(family: str, **fields: Any) -> dict[str, Any]:
    """A row as a training on pictures leaves it, of eight questions about four pictures."""
    right = "11110110" if family == "pythia" else "10100110"
    asked = {"per_picture": "2222", "types": "aabbaabb", "names": ["color", "shape"], "floor": "10000001"}
    tasks = {"vqa": {"group": "summary", "metric": "accuracy", "right": right, **asked}}
    results = {"parameters": 300_000, "steps": 1500, "questions": 120_000, "curve": [[50, 1.5]], "seconds": 900.5}
    return {"kind": "pictures", "family": family, **fields, **results, "tasks": tasks, "device": "cpu", "version": 1}


def picture_lines(*layouts: str) -> bytes:
    rows = [picture_row(family, layout=layout) for layout in layouts for family in ("pythia", "mamba")]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_each_comparison_on_pictures_is_a_figure_or_a_command() -> None:
    study = picture_study_of(picture_lines("image_first", "query_first"), "mine.jsonl")
    shown = words(pictures.section(study))
    assert "Order 4 of 12" in shown and "study run pictures-order --out DIR" in shown
    assert task_title("vqa") in shown
    for comparison in COMPARISONS:
        assert comparison.title in shown and f"study run {comparison.name} --out DIR" in shown
    empty = words(pictures.section(PictureStudy()))
    assert empty.count("not trained yet") == len(COMPARISONS) and "CSV" not in empty
    assert len(study.behind(COMPARISONS[0], V1.name)) == 4 and "120,000" in shown


def test_another_recipe_stands_apart_and_a_pilot_says_which_tasks_it_adds() -> None:
    again = [
        picture_row(family, layout=layout, recipe=ALL_TASKS.name, seed=seed)
        for seed in (0, 1)
        for layout in ("image_first", "query_first")
        for family in FAMILIES
    ]
    for row in again:
        about = row["tasks"]["vqa"] | {"per_picture": "2" * 40, "types": "a" * 80, "names": ["x"]}
        learnt, chance = "1" * 80, "0" * 80
        row["tasks"] |= {
            "pointing": about | {"right": learnt, "floor": chance},
            "multiple_choice": about | {"right": chance, "floor": chance},
        }
    rows = picture_lines("image_first", "query_first") + "".join(json.dumps(row) + "\n" for row in again).encode()
    study = picture_study_of(rows, "mine.jsonl")
    shown = pictures.section(study)
    first, _, apart = shown.partition("By another recipe")
    assert "csv:pictures-order&#34;" not in apart and f"pictures-order-{ALL_TASKS.name}" in apart
    assert f"pictures-order-{ALL_TASKS.name}" not in first and pictures.APART in words(apart)
    said = words(shown)
    assert f"the pilot of {ALL_TASKS.name}" in said and "The rule: a task is reported where" in said
    assert f"{task_title('pointing')}: reported." in said
    assert f"{task_title('multiple_choice')}: not reported: neither family leaves the floor." in said
    assert f"{task_title('captioning')}: not known yet, seeds are missing." in said
    assert "4 trainings." in words(first) and "8 trainings." in words(apart)


def test_the_baseline_alone_is_told_until_there_is_something_to_compare_it_with() -> None:
    alone = picture_study_of(picture_lines("image_first"), "mine.jsonl")
    said = words(pictures.section(alone))
    assert pictures.BASELINE in said and f"{task_title('vqa')} (summary): Transformer .75, Mamba .50, floor .25" in said
    assert "Transformer minus Mamba +.250 [" in said and "one seed." in said and "2 trainings are finished" in said
    both = picture_study_of(picture_lines("image_first", "query_first"), "mine.jsonl")
    assert pictures.BASELINE not in words(pictures.section(both))
    first = picture_study_of(picture_lines("image_first").partition(b"\n")[0] + b"\n", "mine.jsonl")
    assert "1 training is finished" in words(pictures.section(first))


def test_what_counts_in_several_comparisons_and_who_is_ahead_elsewhere_is_said() -> None:
    rows = (SHIPPED / "pictures" / "rows.jsonl").read_bytes()
    study = picture_study_of(rows, "mine.jsonl")
    said = words(pictures.section(study))
    elsewhere = in_short(study.figures, study.rows).partition("]. The Transformer is ahead elsewhere, too: ")[2]
    assert elsewhere == "Document question, Question and Describe a region."  # at every order, by intervals and seeds
    tests = rows.count(b'"tested_size": 160') + rows.count(b'"tested_sampling": "')
    trained = rows.count(bytes([10])) - tests
    known = rf"mine\.jsonl: {trained} trainings are finished, and {tests} tests of these on other pictures; the "
    known += r"baseline's count in each comparison\. Every comparison is whole\."
    assert re.search(known, html.unescape(said))
    part = picture_study_of(b"\n".join(rows.splitlines()[:20]) + b"\n", "mine.jsonl")
    assert re.search(r"comparison\. Order \d+ of 12, ", html.unescape(words(pictures.section(part))))


def test_who_is_ahead_on_pictures_is_said_from_the_records() -> None:
    many = {"per_picture": "2" * 40, "types": "a" * 80, "names": ["x"], "floor": "0" * 80, "group": "retrieval"}
    rights = {
        "image_first": ("1" * 80, "10" * 40),
        "template_first": ("10" * 40, "10" * 40),
        "query_first": ("0" * 80, "1" * 80),
    }
    rows = []
    for layout, sides in rights.items():
        for family, right in zip(FAMILIES, sides, strict=True):
            row = picture_row(family, layout=layout)
            rows.append(row | {"tasks": {"grounding": {"metric": "acc", "right": right, **many}}})
    study = picture_study_of("".join(json.dumps(row) + "\n" for row in rows).encode(), "mine.jsonl")
    (sentence,) = study.figures[0].says
    assert sentence.startswith(
        f"{task_title('grounding')} (retrieval), Transformer minus Mamba. The Transformer is ahead"
    )
    assert (
        "The Transformer is ahead: image first +.500 [" in sentence and "Mamba is ahead: query first −1.000" in sentence
    )
    assert "No difference is shown: template first +.000" in sentence
    shown = pictures.section(study)
    (table,) = re.findall(r"<table[^>]*vs-gaps.*?</table>", shown)
    cells = re.findall(r'<td(?: data-side="(\w+)")? title="by seed: [^"]+"><b>(.*?)</b>', table)
    assert cells == [("left", "+.500"), ("", "+.000"), ("right", "−1.000")] and "+.500 [" in re.sub("<.*?>", "", table)
    assert [words(name).strip() for name in re.findall("<th[^>]*>.*?</th>", table)][1:4] == [
        "image first", "template first", "query first",
    ]  # fmt: skip
    lead = words(views.intro(open_study(SHIPPED / "cpu"), in_short(study.figures, study.rows)))
    assert "On pictures, the share of things located, Transformer minus Mamba: image first +.500 [" in lead
    assert "one seed so far" in lead
    alone = picture_study_of("".join(json.dumps(row) + "\n" for row in rows[:2]).encode(), "mine.jsonl")
    lead = words(views.intro(open_study(SHIPPED / "cpu"), in_short(alone.figures, alone.rows)))
    assert (
        f"On pictures, at the baseline alone: {task_title('grounding')} (retrieval): Transformer 1.00, Mamba .50"
        in lead
    )
    assert "On pictures" not in words(views.intro(open_study(SHIPPED / "cpu"), in_short([], [])))


def test_what_the_larger_encoder_had_more_is_said() -> None:
    rows = [picture_row(family, image_size=size) for size in (112, 160) for family in FAMILIES]
    study = picture_study_of("".join(json.dumps(row) + "\n" for row in rows).encode(), "mine.jsonl")
    assert f"it has had {V1.encoder.steps:,} training steps more" in words(pictures.section(study))


def test_the_rows_of_a_tiny_grid_are_drawn(tmp_path: Path) -> None:
    from vlcompare.study.run import run_grid

    settings = [
        PictureSetting(family, layout, scale="smoke", recipe=SMOKE.name)
        for layout in ("image_first", "query_around")
        for family in FAMILIES
    ]
    grid = PictureGrid("tiny", tuple(map(PictureEntry, settings)))
    assert run_grid(grid, tmp_path, say=lambda line: None) == 4
    study = open_any(tmp_path)
    assert isinstance(study, PictureStudy) and [figure.name for figure in study.figures] == ["pictures-twice"]
    shown = pictures.section(study)
    assert "Encoding again 4 of 12" in words(shown) and "4 trainings." in words(shown)
    assert "study run pictures-twice --out DIR" in shown and "csv:pictures-twice" in shown
    for row in study.rows:
        for task, found in row["tasks"].items():
            share = found["right"].count("1") / len(found["right"])
            assert f"{task_title(task)} (" in shown and f": {share_text(share)} (" in shown


def test_rows_about_other_questions_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    row = picture_row("mamba", layout="query_first")
    row["tasks"] = {"vqa": {**row["tasks"]["vqa"], "right": "10", "per_picture": "2", "types": "ab", "floor": "00"}}
    data = picture_lines("image_first") + picture_lines("query_first").partition(b"\n")[0] + b"\n"
    path = tmp_path / "odd.jsonl"
    path.write_bytes(data + json.dumps(row).encode() + b"\n")
    session = StudySession(Shelf())
    shown = handlers.upload(session, str(path))
    assert set(shown) == {"message"} and "were not asked the same questions" in shown["message"]
    assert session.uploaded_pictures is None
    path.write_bytes(data.partition(b"\n")[0] + b"\n{\n")
    shown = handlers.upload(session, str(path))
    assert "line 2" in shown["pictures"] and session.uploaded_pictures is not None


def test_a_folder_may_hold_rows_of_either_kind(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(picture_lines("image_first", "query_first"))
    shelf = Shelf(tmp_path)
    assert shelf.study().name == "cpu" and len(shelf.pictures().rows) == 4
    assert isinstance(open_any(tmp_path), PictureStudy)
    both = tmp_path / "both"
    (both / "order").mkdir(parents=True)
    (both / "rows.jsonl").write_text(ROWS)
    (both / "order" / "rows.jsonl").write_bytes(picture_lines("image_first"))
    shelf = Shelf(both)
    assert shelf.study().name == "both" and len(shelf.pictures().rows) == 2
    (both / "order" / "rows.jsonl").write_bytes(picture_lines("image_first", "template_first"))
    assert len(shelf.pictures().rows) == 4, "they are read again once they have changed"
    assert "the models of" not in LabRequests(tmp_path).ask(PLAIN)["whose"]


def test_the_tables_of_rows_on_pictures_are_saved_like_the_others() -> None:
    session = StudySession(Shelf())
    session.uploaded_pictures = picture_study_of(picture_lines("image_first", "query_first"), "mine.jsonl")
    saved = Path(handlers.csv(session, "pictures-order")).read_text().splitlines()
    assert saved[0].startswith("comparison,value") and len(saved) == 1 + 2 * 3
    assert "pictures" in handlers.back(session) and session.uploaded_pictures is None


def test_rows_that_are_added_while_a_grid_trains_are_seen(tmp_path: Path) -> None:
    path, lines = tmp_path / "rows.jsonl", ROWS.splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    shelf = Shelf(tmp_path)
    assert len(shelf.study().rows) == 2 and shelf.study() is shelf.study()
    path.write_text("".join(lines[:3]))
    assert len(shelf.study().rows) == 3


def text_row(
    order: str | None, family: str, seed: int, reached: int | None, accuracy: float = 0.95, **fields: Any
) -> dict[str, Any]:
    """A row of a training on text, of length 10; its accuracy at length 20 is .25."""
    states = None if family == "pythia" else 16
    shape = {"width": 64, "layers": 2, "state_size": states, "parameters": 100_000}
    return {"task": "position", "order": order, "length": 10, "vocabulary": 80, "family": family, **shape,
            "recipe": "v1", "learning_rate": 0.001, "seed": seed, "budget": 512_000, "examples": reached or 512_000,
            "reached": reached, "accuracy": accuracy, "by_position": None, "extrapolation": {"20": 0.25}, "curve": [],
            "seconds": 9.0, "device": "cpu", "version": 1, **fields}  # fmt: skip


def text_study(rows: list[dict[str, Any]], **fields: Any) -> Study:
    return study_of("".join(json.dumps(row) + "\n" for row in rows).encode(), "x", **fields)


def test_nothing_is_a_finding_before_its_seeds_are_there() -> None:
    study = open_study(SHIPPED / "cpu")
    assert ("unfinished" in state(study)) == study.unfinished

    def made(family: str, seed: int, reached: int | None) -> dict:
        return text_row("query_last", family, seed, reached)

    def verdict(ours: list[int | None], theirs: list[int | None]) -> str:
        rows = [made("pythia", seed, value) for seed, value in enumerate(ours)]
        rows += [made("mamba", seed, value) for seed, value in enumerate(theirs)]
        return seen(text_study(rows))[0]

    assert "no finding yet" in verdict([1000, 2000], [3000, 4000, 5000])
    assert "Every Transformer needs fewer" in verdict([1000, 2000, 2500], [3000, 4000, None])
    assert "Every Mamba needs fewer" in verdict([None, 9000, 8000], [3000, 4000, 5000])
    assert "overlap" in verdict([1000, 2000, 3500], [3000, 4000, 5000])


def test_what_is_seen_is_said_from_the_rows_alone() -> None:
    made = text_row
    lasts = {"pythia": (1000, 2000, 2500), "mamba": (5000, 6000, 7000), "hybrid": (3000, 4000, 6500)}
    rows = [made("query_last", family, seed, value) for family, values in lasts.items() for seed, value in
            enumerate(values)]  # fmt: skip
    rows += [made("query_first", "pythia", seed, value) for seed, value in enumerate((800, 900, 1000))]
    rows += [made("query_first", "mamba", 0, 850), made("query_first", "mamba", 1, 950)]
    rows += [made("query_first", "mamba", 2, None, 0.1)]
    study = text_study(rows, planned=156)
    said = summary(study)
    needs = (
        "every Transformer needs fewer examples than every Mamba with the query last at length 10 (2,000 against 6,000)"
    )
    assert said.startswith(f"{needs};") and "(900 against 950, 1 of 3 Mambas never left chance)" in said
    assert "examples until .95 in the median" in said and f"{len(rows)} of 156 trainings" in said
    last, first = seen(study)
    assert "Transformer 1,000 to 2,500 (3 seeds), Mamba 5,000 to 7,000" in last
    assert "The hybrid needs more than every Transformer, and overlaps with Mamba." in last
    assert "At length 20, untrained: Transformer .25 (.25 to .25), Mamba .25" in last
    assert "right, guessing .10; the seeds of the Transformer and Mamba overlap." in last
    assert "Mamba 850 to 950 (3 seeds, one of which never left chance: .10 after all 512,000)" in first
    assert needed(study) == [
        (
            "Length 10, query last",
            {"pythia": "1,000 to 2,500", "mamba": "5,000 to 7,000", "hybrid": "3,000 to 6,500"},
            "Transformer",
        ),
        (
            "Length 10, query first",
            {"pythia": "800 to 1,000", "mamba": "850 to 950 (2 of 3 seeds)"},
            "no difference shown",
        ),
    ]
    few = needed(text_study([made("query_last", "pythia", 0, 500), made("query_last", "mamba", 0, None)]))
    assert few[0].amounts == {"pythia": "500 (one seed)", "mamba": "not in 512,000 (one seed)"}
    assert few[0].fewer == "too few seeds"
    some = practice(text_study(rows[:9]))
    assert some.startswith("The lab's models of length 10 were trained") and "mostly point alike there" in some
    assert practice(text_study(rows[:1])) == "" and practice(study)
    whole = summary(text_study(rows[:9], planned=9))
    assert "trainings are finished" not in whole


def test_rows_that_stand_in_no_figure_are_named() -> None:
    """A Mamba with a state of another size than 16 is drawn beside other Mambas alone."""
    rows = [text_row("query_last", "pythia", 0, 1000), text_row("query_last", "mamba", 0, 2000, state_size=64)]
    alone = words(figures.figures(text_study(rows)))
    assert "Models with 64 states a channel are in no figure" in alone and NAMES["mamba"] not in alone
    rows.append(text_row("query_last", "mamba", 0, 2000, state_size=4))
    both = words(figures.figures(text_study(rows)))
    assert "in no figure" not in both and NAMES["mamba"] in both
    one = words(figures.figures(text_study(rows[:1])))
    assert "1 training is finished, " in one and "1 training: " in one and "1 trainings" not in one


def test_models_of_one_setting_that_differ_in_layers_alone_are_named() -> None:
    rows = [text_row("query_last", "pythia", 0, 1000, layers=layers) for layers in (2, 4)]
    rows.append(text_row("query_last", "mamba", 0, 2000, layers=3))
    assert state(text_study(rows)).endswith(
        f"{NAMES['pythia']} with 2 and 4 layers: the figures draw all, the sentences and the table tell the first."
    )
    assert "layers" not in state(text_study(rows[1:]))


def test_values_are_listed_without_commas_of_their_own() -> None:
    shown = words(pictures.section(PictureStudy()))
    assert "(112, 160 finetuned, 160 extrapolated)" in shown
    assert "(balanced → balanced, balanced → natural, natural → natural, natural → balanced)" in shown
    assert "(no distractors, " in shown
    assert all("," not in label(value) for one in COMPARISONS for value in one.values)


def test_what_nobody_learnt_shows_no_lead() -> None:
    """Six trainings that all used their budget up overlap, which says nothing about who is ahead."""
    rows = [text_row("query_last", "pythia", seed, 1000 + seed) for seed in range(3)]
    rows += [text_row("query_last", "mamba", seed, 5000) for seed in range(3)]
    for family in ("pythia", "mamba", "hybrid"):
        rows += [text_row("query_first", family, seed, None, 0.1 * (seed + 1)) for seed in range(3)]
    said, (_, first) = summary(text_study(rows)), seen(text_study(rows))
    assert "no Transformer and no Mamba reaches .95 within the budget with the query first at length 10 (more" in said
    assert "overlap" not in said
    assert "No Transformer and no Mamba reaches .95 within the budget. No hybrid does, either. At length" in first
    assert "Transformer not in 512,000 (3 seeds: .10 to .30 right)" in first
    assert practice(text_study(rows)) == ""
    assert [line.fewer for line in needed(text_study(rows))] == ["Transformer", "neither reaches .95"]


def test_many_settings_are_told_without_their_figures() -> None:
    """Those stand in the list below; a paragraph of them would be read by nobody."""
    rows = [
        text_row(order, family, seed, base + seed, length=length, extrapolation={})
        for length in (10, 20, 40)
        for order in ("query_last", "query_first")
        for family, base in (("pythia", 1000), ("mamba", 1000 if (length, order) == (10, "query_first") else 5000))
        for seed in range(3)
    ]
    assert summary(text_study(rows)) == (
        "every Transformer needs fewer examples than every Mamba with the query last at length 10, 20 and 40, with "
        "the query first at length 20 and 40; the seeds overlap, so no difference is shown with the query "
        "first at length 10. Examples are counted until .95 are right."
    )


def test_who_is_right_at_twice_the_length_is_told_where_all_seeds_agree() -> None:
    better = {("query_last", 10): "mamba", ("query_last", 20): "pythia", ("query_first", 10): "mamba"}
    rows = [
        text_row(order, family, seed, 1000, length=length, extrapolation={str(2 * length): share, str(4 * length): 0.5})
        for order in ("query_last", "query_first")
        for length in (10, 20)
        for family in FAMILIES
        for seed in range(3)
        for share in [0.3 + 0.1 * (better.get((order, length)) == family)]
    ]
    said = " Asked at twice the trained length, every Transformer is right more often than every Mamba after length 20 "
    assert f"{said}with the query last, every Mamba after length 10 in both orders." in summary(text_study(rows))
    rows[0]["extrapolation"] = {"20": 0.9}  # one Transformer of three, asked last
    assert ", every Mamba after length 10 with the query first." in summary(text_study(rows))


def test_the_other_tasks_and_state_sizes_are_told_too() -> None:
    mqar = {"task": "mqar", "length": 8, "vocabulary": 128}
    rows = [text_row(None, family, seed, 2000, **mqar) for family in ("pythia", "mamba") for seed in range(3)]
    after = {"task": "ngram_suffix", "length": 20, "vocabulary": 30}
    rows += [text_row("query_last", family, 0, 2000, **after) for family in ("pythia", "mamba")]
    for size, values in ((4, (None, None, 400_000)), (16, (7000, 5000, 6000)), (64, (4000,))):
        rows += [text_row("query_last", "mamba", seed, value, 0.4 + seed / 10, state_size=size)
                 for seed, value in enumerate(values)]  # fmt: skip
    assert state(text_study(rows)).endswith("position retrieval at length 10, MQAR, what follows an n-gram.")
    said = summary(text_study(rows))
    assert "no difference is shown in MQAR (2,000)." in said and "1 more setting has too few" in said
    told = seen(text_study(rows))
    assert told[0].startswith("MQAR, length 8, examples until .95: Transformer 2,000 (3 seeds), Mamba 2,000 (3 seeds).")
    assert told[1].startswith("What follows an n-gram, length 20, query last, examples until .95: Transformer 2,000")
    alone = text_study([row for row in rows if row["task"] == "position"])
    assert needed(alone) == [] and seen(alone)[0] in words(figures.figures(alone)), "without a Transformer, too"
    assert told[2] == (
        "Length 10, query last, Mamba by states a channel, examples until .95: 4 states 400,000 (3 seeds, 2 of which "
        "got to .40 and .50 after all 512,000), 16 states 5,000 to 7,000 (3 seeds), 64 states 4,000 (one seed)."
    )


def test_what_cannot_be_read_leaves_the_rest_of_the_tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary"))
    (tmp_path / "rows.jsonl").write_bytes(picture_lines("image_first", "query_first"))
    row = picture_row("mamba", layout="query_first")
    row["tasks"] = {"vqa": {**row["tasks"]["vqa"], "right": "10", "per_picture": "2", "types": "ab", "floor": "00"}}
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    session = StudySession(Shelf(tmp_path))
    shown = handlers.fill(session)
    assert set(shown) == {"published", "intro", "figures", "message"} and "On pictures, " not in words(shown["intro"])
    assert "were not asked the same questions" in shown["message"] and "trainings are finished" in shown["figures"]
    assert Path(handlers.csv(session, "examples_to_95")).is_file()
    (tmp_path / "rows.jsonl").write_text(ROWS)
    assert handlers.fill(session)["figures"] and handlers.fill(session) == {}, "read again, once it can be"
    session = StudySession(Shelf(tmp_path))
    (tmp_path / "rows.jsonl").unlink()
    shown = handlers.fill(session)
    assert "so no finished rows" in shown["message"] and str(tmp_path) not in shown["message"]
    assert {"intro", "published", "pictures"} < set(shown) and "Seen here" not in words(shown["intro"])


def test_the_published_gap_with_and_without_the_doubtful_cell() -> None:
    gaps = published_gaps()
    for doubtful, means in ((True, [4.31, 4.57, 4.91]), (False, [7.70, 4.70, 5.14])):
        assert [round(gap, 2) for gap in gaps.means("retrieval", doubtful=doubtful)] == means
    with_it, without = sentences(gaps, "retrieval")
    assert "widens with every step" in with_it
    assert "largest at 1B, and widens from 1.4B to 2.8B alone" in without and "1.32 and 1.10 billion" in without
    textvqa = next(one for one in gaps.benchmarks if one.name == "TextVQA")
    assert [round(gap, 2) for gap in textvqa.gaps] == [-5.50, -3.76, -3.00]


# ---- in the browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with serving(tmp_path_factory.mktemp("study")) as app:
        yield app


@pytest.fixture
def visit(app: SimpleNamespace, browser: Any) -> Iterator[Any]:
    with visits(browser, app.address) as open_page:
        yield open_page


def answered(page: Any) -> None:
    """Every model has answered what is chosen now."""
    page.wait_for_function("""() => {
      const all = [...document.querySelectorAll('.vs-answer:not([hidden])')];
      return all.length && all.every((node) => node.dataset.right && !node.classList.contains('vs-old'));
    }""")


# tiles whose text is wider than they are
WIDER = """() => [...document.querySelectorAll('.vs-text-row .vs-tile')].filter((tile) =>
  tile.scrollWidth > tile.clientWidth).map((tile) => tile.innerText)"""


def study(page: Any) -> Any:
    page.get_by_role("tab", name="Study").click()
    answered(page)
    return page


def pointed(page: Any, family: str) -> str:
    return page.locator(f".vs-answer[data-family={family}] .vs-said").inner_text()


@pytest.mark.browser
def test_the_lab_answers_a_click_in_both_orders_and_at_length_50(visit: Any) -> None:
    page = study(visit())
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.locator("#vs-length").fill("10")
        answered(page)
        points_in_both_orders(page)
        says_what_it_cannot_name(page)
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


def points_in_both_orders(page: Any) -> None:
    for order in ("query_first", "query_last"):
        page.locator(f"[data-order={order}]").click()
        tile = page.locator(".vs-tile[data-place='6']")
        tile.click()
        answered(page)
        assert tile.get_attribute("aria-checked") == "true"
        for family, name in (("pythia", "Transformer"), ("mamba", "Mamba"), ("hybrid", "Hybrid")):
            answer = page.locator(f".vs-answer[data-family={family}]")
            assert name in answer.inner_text() and "position" in pointed(page, family)
            at = pointed(page, family).split("position ")[1].split()[0]
            assert (answer.get_attribute("data-right") == "true") == (at == "7")
    rights = page.locator(".vs-answer[data-right=true]").count()
    said(page, ".vs-state", {0: "^None of them points", 3: "^All of them point"}.get(rights, "asked for, .* elsewhere"))
    assert page.locator(".vs-bars i").count() == 30


def says_what_it_cannot_name(page: Any) -> None:
    page.locator("#vs-length").fill("50")
    answered(page)
    assert page.locator(".vs-tile[data-place]").count() == 50 and page.locator(".vs-unnamed").count() == 50 - NAMED
    said(page, ".vs-state", f"trained: at length {NAMED}")
    page.locator(f".vs-tile[data-place='{NAMED + 5}']").click()
    said(page, ".vs-state", f"cannot name position {NAMED + 6}")
    said(page, ".vs-state", "^None of them points")
    assert page.locator(".vs-answer[data-right=false]").count() == 3
    page.locator("[data-do=round]").click()
    page.wait_for_selector("[data-do=round]:not([aria-busy])")
    said(page, "#vs-round", f"of 200[^]*first {NAMED} positions")


@pytest.mark.browser
def test_a_tile_holds_its_name_and_its_number_at_every_width(visit: Any) -> None:
    page = study(visit())
    page.locator("[data-do=edit]").click()
    for count in (10, 14, 15):
        page.locator("#vs-text").fill(" ".join(consonant + "u" for consonant in "bdfghjklmnprstv"[15 - count :]))
        page.locator("#vs-text").press("Enter")
        answered(page)
        for width in (1440, 1101, 1100, 720, 390):
            page.set_viewport_size({"width": width, "height": 900})
            settled(page)
            assert page.evaluate(WIDER) == [], (count, width)


@pytest.mark.browser
def test_the_lab_by_keyboard_alone(visit: Any) -> None:
    page = study(visit())
    page.locator("[data-order=query_last]").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.order") == "query_first"
    for _ in range(5 + (len(LENGTHS) > 1)):  # models, length, shuffle, another tile, edit, and the tiles: one stop
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    answered(page)
    assert page.evaluate("document.activeElement.dataset.place") == "1"
    page.locator("[data-do=edit]").press("Enter")
    text = page.locator("#vs-text")
    for wrong, message in (("ba be xx", "no tile “xx”"), ("ba be ba", "stands twice"), ("ba", "2 to 80")):
        text.fill(wrong)
        text.press("Enter")
        said(page, "#vs-wrong", message)
    text.fill("ba be bi bo")
    text.press("Enter")
    answered(page)
    assert page.locator(".vs-tile[data-place]").count() == 4 and page.locator("#vs-wrong").inner_text() == ""
    assert page.locator(".vs-tile[data-place='3']").get_attribute("aria-label") == "bo, position 4"


@pytest.mark.browser
def test_own_rows_are_shown_to_one_visitor_alone(visit: Any, tmp_path: Path) -> None:
    page, other = study(visit()), study(visit())
    page.wait_for_selector("#vs-figures .vs-figure")
    said(page, "#vs-published", "Mean without RefCOCO. A")
    own = "\n".join([*ROWS.splitlines()[:2], "{", ""])
    file = {"name": "mine.jsonl", "mimeType": "application/json", "buffer": own.encode()}
    page.locator("input[type=file][accept*='jsonl']").set_input_files(file)
    said(page, "#vs-message", "mine.jsonl is shown")
    said(page, "#vs-figures", "2 trainings are finished[^]*line 3, is not a whole row")
    with page.expect_download() as download:
        page.locator("[data-pick='csv:examples_to_95']").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("task,order,length") and len(lines) >= 2
    page.locator("[data-pick='back:']").click()
    said(page, "#vs-figures", f"{len(ROWS.splitlines())} of")
    assert "mine" not in other.locator("#vs-figures").inner_text() + other.locator("#vs-message").inner_text()


@pytest.mark.browser
def test_own_rows_on_pictures_are_shown_beside_those_on_text(visit: Any) -> None:
    page = study(visit(width=390))
    page.wait_for_selector("#vs-figures .vs-figure")
    said(page, "#vs-pictures", "not trained yet|trainings are finished")
    data = picture_lines("image_first", "template_first", "query_first")
    file = {"name": "grid.jsonl", "mimeType": "application/json", "buffer": data}
    page.locator("input[type=file][accept*='jsonl']").set_input_files(file)
    said(page, "#vs-message", "grid.jsonl is shown below under On pictures")
    said(page, "#vs-pictures", "grid.jsonl: 6 trainings are finished[^.]*\\. Order 6 of 12")
    with page.expect_download() as download:
        page.locator("[data-pick='csv:pictures-order']").click()
    assert Path(download.value.path()).read_text().startswith("comparison,value")
    page.locator("[data-pick='back:']").click()
    page.wait_for_function("!document.querySelector('#vs-pictures').innerText.includes('grid.jsonl')")


@pytest.mark.browser
def test_on_the_phone_figures_are_folded_and_each_can_be_opened(visit: Any) -> None:
    page = study(visit(width=390))
    page.wait_for_selector("#vs-figures .vs-figure")
    settled(page)
    assert page.evaluate("document.documentElement.scrollHeight") < 4800
    shut = page.locator("#vs-figures .vs-figure[data-folded='true']")
    count = shut.count()
    assert count and not shut.first.locator(".vs-body").is_visible()
    for _ in range(count):
        button = page.locator("#vs-figures .vs-figure .vs-unfold[aria-expanded='false']").first
        button.focus()
        page.keyboard.press("Enter")
    page.wait_for_function("!document.querySelector('#vs-figures .vs-figure[data-folded=true]')")
    for listed in page.locator("[data-folded='true'] > :is(.vs-untrained, .vs-settings)").element_handles():
        assert not listed.is_visible()
        listed.evaluate("node => node.previousElementSibling.click()")
        listed.wait_for_element_state("visible")
    assert all(body.is_visible() for body in page.locator("#vs-figures .vs-body").all())
    page.locator(".vs-gaps-place .vs-unfold").click()
    page.locator(".vs-gaps-place .vs-gaps").wait_for(state="visible")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    wide = study(visit(width=1280))
    wide.wait_for_selector("#vs-figures .vs-figure")
    assert all(body.is_visible() for body in wide.locator("#vs-figures .vs-body").all())
    assert not wide.locator(".vs-unfold").first.is_visible() and wide.locator(".vs-gaps-place .vs-gaps").is_visible()
    tables = wide.locator(".vl-scroll > table:visible")
    widths = tables.evaluate_all("all => all.map((one) => [one.offsetWidth, one.parentElement.clientWidth])")
    assert len(widths) >= 8 and all(table <= room for table, room in widths), widths  # none has to be scrolled


def few_symbols(path: Path) -> Path:
    """A folder whose models know 30 symbols, were made for lengths 4 and 6, and have learnt nothing, whatever is said
    of the shorter length."""
    import torch

    from vlcompare.study.models import begin, build
    from vlcompare.study.recipe import RECIPES
    from vlcompare.study.weights import save_weights

    (path / "weights").mkdir(parents=True)
    rows = []
    position = [row for row in map(json.loads, ROWS.splitlines()) if row["task"] == "position"]
    for row in (row for row in position if row["state_size"] in (None, 16)):
        if row["family"] not in {known["family"] for known in rows} and row["order"] == "query_last":
            made = {**row, "vocabulary": 30, "extrapolation": {}}
            rows.append({**made, "length": 4, "by_position": [0.5] * 4})
            rows.append({**made, "length": 6, "by_position": [0.5] * 6, "reached": None})
    for row in rows:
        setting, recipe = setting_of(row), RECIPES[row["recipe"]]
        torch.manual_seed(1)
        shape = setting.width, setting.layers, setting.state_size or 1
        model = build(setting.family, setting.source.tokens, *shape, recipe)
        begin(model, 1, recipe)
        save_weights(model, weights_path(path, setting), row)
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.browser
def test_a_page_over_an_own_folder_asks_its_models(browser: Any, tmp_path: Path) -> None:
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    settings = AppSettings(data=tmp_path / "data-folder")
    handlers = Handlers(settings, FakeCompare(), None)
    served = build_page(settings, handlers, study=few_symbols(tmp_path / "mine"))
    _, address, _ = launch(served, settings, prevent_thread_lock=True)
    try:
        with visits(browser, address, lambda page, _: answered(page)) as visit:
            page = visit()
            said(page, ".vs-whose", "These are the models of mine")
            assert page.locator("#vs-length").get_attribute("max") == "30"
            assert page.locator(".vs-tile[data-place]").count() == 6
            assert page.locator("[data-trained]").all_inner_texts() == ["4", "6"]
            page.locator("[data-trained='6'][aria-checked='true']").press("ArrowLeft")
            answered(page)
            assert page.locator("[data-trained='4']").get_attribute("aria-checked") == "true"
            assert page.locator(".vs-tile[data-place]").count() == 4
            page.locator("#vs-length").fill("10")
            page.locator("[data-do=shuffle]").click()
            answered(page)
            assert page.locator(".vs-unnamed").count() == 6
            page.locator("[data-do=round]").click()
            said(page, "#vs-round", "Length 10, query last, trained at 4")
            page.locator("[data-do=edit]").click()
            page.locator("#vs-text").fill("ba zu")
            page.locator("#vs-text").press("Enter")
            said(page, "#vs-wrong", "they are called ba to ju")
            page.locator("[data-do=shuffle]").click()
            answered(page)
            assert page.locator("#vs-wrong").inner_text() == "", "the sequence is another one"
            page.locator("[data-order=query_first]").click()
            said(page, ".vs-state", "None of these models was trained with the query first")
            assert page.locator(".vs-answer[data-right]").count() == 0, "no answer is left that is about another order"
    finally:
        served.close()


class OtherModels:
    """Replies to the lab as a server would that has other models; those named are at position 1 in every answer."""

    def __init__(self, known: int, **trained: list[int]) -> None:
        self.known, self.trained, self.asked = known, trained, list[Any]()
        self.families = ["pythia", "mamba"]

    def __call__(self, route: Any) -> None:
        (request,) = route.request.post_data_json["data"]
        self.asked.append(request)
        reply: dict[str, Any] = {"known": self.known, "lengths": self.trained, "whose": ""}
        lengths = self.trained[request["order"]]
        named = lengths[-1] if request["trained"] is None and lengths else request["trained"]
        if named not in lengths or len(request["sequence"]) > 400:
            reply["error"] = "This cannot be asked."
        else:
            shares = [1.0] + [0.0] * (min(named, len(request["sequence"])) - 1)
            sides = {family: {"position": 0, "shares": shares} for family in self.families}
            reply |= {"named": named, "sides": sides, "unlearnt": "Not learnt: Mamba." if named == 600 else ""}
        route.fulfill(json={"data": [reply]})


@pytest.mark.browser
def test_the_lab_follows_the_models_that_the_server_has(visit: Any) -> None:
    """Lengths beyond the longest sequence, orders of other lengths, and models that change while the page is open."""
    page, models = visit(), OtherModels(1200, query_first=[300, 600], query_last=[])
    page.route("**/run/study_ask", models)
    study(page)
    assert page.locator("[data-order=query_first]").get_attribute("aria-checked") == "true"
    assert page.locator(".vs-tile[data-place]").count() == 400
    said(page, ".vs-whose", "^Not learnt: Mamba.$")
    page.locator("[data-trained='600']").press("ArrowLeft")
    said(page, ".vs-tile[data-place='299']", "300")
    page.locator("[data-trained='300']").press("End")
    answered(page)
    assert page.locator(".vs-tile[data-place]").count() == 400 and models.asked[-1]["trained"] == 600

    models.trained, models.families = {"query_first": [10], "query_last": [10, 20]}, ["mamba"]
    page.locator(".vs-tile[data-place='4']").click()
    said(page, ".vs-state", "^Mamba points elsewhere. Longer than trained: at length 10.")
    assert models.asked[-1]["trained"] is None and page.locator(".vs-trained").is_hidden()
    page.locator("[data-order=query_last]").click()
    page.locator("[data-trained='10'][aria-checked='true']").press("ArrowRight")
    said(page, ".vs-state", "^Mamba points elsewhere. Bars")
    assert "Bars" not in page.locator(".vs-state [role=status]").inner_text(), "what never changes is not read out"
    page.locator(".vs-tile[data-place='0']").click()
    said(page, ".vs-state", "^Mamba points to the tile asked for.")
    assert page.locator(".vs-trained").is_visible() and page.locator(".vs-tile[data-place]").count() == 20
    page.locator("[data-order=query_first]").click()
    page.locator(".vs-trained").wait_for(state="hidden")
    answered(page)

    page.unroute("**/run/study_ask", models)
    page.route("**/run/study_ask", lambda route: route.abort())
    page.locator("[data-order=query_last]").click()
    said(page, ".vs-state", "The server does not answer")
    assert page.locator(".vs-answer[data-right]").count() == 0
    assert page.locator("[data-trained][tabindex='0']").count() == 1, "the keyboard reaches one of them"
