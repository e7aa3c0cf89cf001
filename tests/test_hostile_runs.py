"""Runs from strangers: whatever one field holds, the page says one sentence or shows the row, and goes on as it was."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import hostile_runs as hostile
import pytest
from inspect_world import write_run, write_samples
from ui_fakes import uploaded

from vlcompare.errors import SampleError, VLCompareError
from vlcompare.evaluate import fields, schema
from vlcompare.evaluate.results.archive import ArchiveLimits, open_archive
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evaluate.score_files import score_files
from vlcompare.ui.inspect import files as inspect_files
from vlcompare.ui.inspect import handlers as actions
from vlcompare.ui.inspect.library import Library
from vlcompare.ui.inspect.session import Inspection

INTERNAL = re.compile(r"Traceback|object is not|unhashable|codec|<class|NoneType|Expecting value|/tmp|/home|Error\b")
SHOWN = 400_000  # characters of markup of a sample, at most


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    return write_run(root / "run", write_samples(root / "data", 1), copy_images=True)


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Any]:
    return hostile.read(folder)


def plain(page: dict[str, Any]) -> str:
    """What the page says."""
    return re.sub(r"<[^>]*>", "", str(page.get("message", "")))


def state(inspection: Inspection) -> dict[str, Any]:
    """The session's values, by identity: nothing may have been replaced or added to."""
    return {
        name: list(value) if isinstance(value, (dict, list)) else value
        for name, value in inspection.__dict__.items()
        if name not in ("lock", "library", "rows")
    }


def looked_at(path: Path, tmp_path: Path, good: Path) -> str:
    """Upload an archive and use every part of the page; "refused" or "shown"."""
    inspection = Inspection(Library(shipped=tmp_path))
    actions.start(inspection)
    before = state(inspection)
    page = inspect_files.upload(inspection, uploaded(path))
    if "controls" not in page:
        said = plain(page)
        assert said and not INTERNAL.search(said) and len(said) < 600, said
        assert state(inspection) == before
        assert "controls" in inspect_files.upload(inspection, uploaded(good))
        assert inspection.data is not None and inspection.data.table.count == 4
        inspection.close()
        return "refused"
    assert inspection.data is not None
    pages = [page, *(actions.click(inspection, f"row:{row}") for row in range(inspection.data.table.count))]
    assert all("sample" in shown for shown in pages[1:])
    pages += [actions.click(inspection, pick) for pick in ("figures:", "quadrant:both", "drop:all", "sort:gap")]
    pages += [actions.draw(inspection, measure) for measure in ("iou", "score", "confidence", "words")]
    pages += [actions.slice_by(inspection, name) for name in inspection.data.table.aspects]
    pages.append(actions.fill(inspection, "red", False, True, 0.1, "", ""))
    actions.click(inspection, "drop:all")
    for shown in pages:
        assert not plain(shown), plain(shown)
        assert all(len(str(value)) < SHOWN for value in shown.values())
        assert "<script" not in str({name: value for name, value in shown.items() if name not in ("note", "form")})
    for kind in ("csv", "json", "comparator", "report", "archive"):
        made = inspect_files.export_file(inspection, kind, only=False)
        assert Path(made).stat().st_size
        if kind == "archive":
            again = open_archive(Path(made), tmp_path / "again")
            assert len(again.samples) == inspection.data.table.count
            hostile_remove(tmp_path / "again")
    inspection.close()
    return "shown"


def hostile_remove(place: Path) -> None:
    import shutil

    shutil.rmtree(place)


def check(chosen: list[hostile.Case], folder: Path, files: dict[str, Any], tmp_path: Path) -> dict[str, int]:
    good = hostile.write_zip(tmp_path / "good.zip", folder, files)
    counts = {"refused": 0, "shown": 0}
    failed = []
    for case in chosen:
        path = hostile.write_zip(tmp_path / "case.zip", folder, files, case)
        try:
            counts[looked_at(path, tmp_path, good)] += 1
        except Exception as error:  # the list of all of them says more than the first
            failed.append(f"{case}: {type(error).__name__}: {str(error)[:300]}")
    assert not failed, f"{len(failed)} of {len(chosen)}:\n" + "\n".join(failed[:40])
    return counts


def test_some_wrong_values_in_every_file(
    folder: Path, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of the whole, the same one every time."""
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    everything = list(hostile.cases(files))
    counts = check(random.Random(5).sample(everything, 40), folder, files, tmp_path)
    assert counts["refused"] and counts["shown"]


def test_what_was_refused_or_failed_before(
    folder: Path, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    box: tuple[str | int, ...] = (0, "boxes", 0, 0)
    chosen = [hostile.Case("samples.jsonl", box, value) for value in ("huge", "NaN", "long text", "long list")]
    chosen += [
        hostile.Case("run.json", ("identity", "data"), "null"),
        hostile.Case("samples.jsonl", (0, "id"), "markup"),
    ]
    counts = check(chosen, folder, files, tmp_path)
    assert counts == {"refused": 4, "shown": 2}


@pytest.mark.slow
def test_every_wrong_value_in_every_field(
    folder: Path, files: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    everything = list(hostile.cases(files))
    counts = check(everything, folder, files, tmp_path)
    print(f"{len(everything)} archives: {counts}")


@pytest.mark.parametrize(
    ("file", "path", "value", "said"),
    [
        ("run.json", ("identity", "sides", "left"), 5, "run.json is damaged: `identity.sides.left` is the number 5"),
        ("run.json", ("sides", "left", "image_size"), True, "`sides.left.image_size` is true; expected a whole number"),
        ("samples.jsonl", (0, "text"), 7, "samples.jsonl line 1 is damaged: `text` is the number 7; expected a text"),
        ("samples.jsonl", (0, "tags"), {"a" * 200: 1}, "`tags` is a text of 200 characters; expected at most 100"),
        ("samples.jsonl", (1, "id"), "g0", "samples.jsonl line 2 is damaged: `id` is the text 'g0', as in an earlier"),
        ("summary.json", ("warnings",), 5, "summary.json is damaged: `warnings` is the number 5; expected a list"),
        ("notes.json", (0, "tags"), "x", "notes.json is damaged: `[0].tags` is the text 'x'; expected a list"),
    ],
)
def test_a_refusal_names_file_line_field_and_what_was_expected(
    folder: Path, files: dict[str, Any], tmp_path: Path, file: str, path: tuple[Any, ...], value: Any, said: str
) -> None:
    copied = json.loads(json.dumps(files))
    place = copied[file]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    archive = hostile.write_zip(tmp_path / "x.zip", folder, copied)
    with pytest.raises(SampleError) as refusal:
        open_archive(archive, tmp_path / "into")
    assert said in str(refusal.value)
    assert not (tmp_path / "into").exists()


def test_damaged_predictions_are_named_and_the_rest_is_shown(
    folder: Path, files: dict[str, Any], tmp_path: Path
) -> None:
    rows = json.loads(json.dumps(files["predictions.jsonl"]))
    rows[0]["text"] = ["x"]
    rows[1]["tokens"][0]["logprob"] = "low"
    rows[2]["tokens"] = [rows[2]["tokens"][0]] * (schema.MAX_TOKENS + 1)
    archive = hostile.write_zip(tmp_path / "x.zip", folder, {**files, "predictions.jsonl": rows})
    run = open_archive(archive, tmp_path / "into", ArchiveLimits(ratio=10_000))
    assert run.problems == [
        "predictions.jsonl line 1 is damaged: `text` is a list of 1; expected a text",
        f"predictions.jsonl line 3 is damaged: `tokens` is a list of {schema.MAX_TOKENS + 1:,}; expected at most "
        f"{schema.MAX_TOKENS:,}",
    ]
    index = run.index[rows[1]["id"]]
    answer, damage = run.answer_and_problem("left", index)
    assert answer is not None and answer.text == rows[1]["text"] and not answer.tokens
    assert "`tokens[0].logprob` is the text 'low'; expected a number" in damage


def test_the_same_reading_serves_score(files: dict[str, Any], tmp_path: Path) -> None:
    samples = [{**row, "image": "p.png"} for row in files["samples.jsonl"]]
    (tmp_path / "samples.jsonl").write_text(
        "\n".join(map(json.dumps, [*samples, {**samples[0], "id": "n", "text": 3}]))
    )
    rows = [row for row in files["predictions.jsonl"] if row["side"] == "left"]
    rows[0] = {**rows[0], "boxes": [[0, 0, 1, 1]] * (schema.MAX_BOXES + 1)}
    (tmp_path / "predictions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = score_files(tmp_path / "samples.jsonl", tmp_path / "predictions.jsonl")
    assert summary["samples"]["issues"] == ["line 5: `text` is the number 3; expected a text"]
    assert summary["predictions"]["problems"] == ["line 1: `boxes` is a list of 501; expected at most 500"]


def test_bounds_on_rows_sides_and_lines(folder: Path, files: dict[str, Any], tmp_path: Path) -> None:
    archive = hostile.write_zip(tmp_path / "x.zip", folder, files)
    with pytest.raises(SampleError, match="more than 3 rows"):
        open_archive(archive, tmp_path / "into", ArchiveLimits(samples=3))
    rows = [{**files["predictions.jsonl"][0], "side": f"s{i}"} for i in range(schema.MAX_SIDES + 1)]
    archive = hostile.write_zip(tmp_path / "y.zip", folder, {**files, "predictions.jsonl": rows})
    with pytest.raises(SampleError, match="more than 16 sides"):
        open_archive(archive, tmp_path / "into")
    rows = files["predictions.jsonl"]
    long = json.dumps({**rows[0], "padding": random.Random(0).randbytes(schema.MAX_LINE // 2).hex()})
    run_folder = tmp_path / "long"
    run_folder.mkdir()
    (run_folder / "samples.jsonl").write_text("\n".join(map(json.dumps, files["samples.jsonl"])))
    (run_folder / "predictions.jsonl").write_text("\n".join([long, *map(json.dumps, rows[1:])]))
    run = RunFolder.open(run_folder)
    assert "line 1 is damaged: it is a line of more than" in run.problems[0]
    assert sum(row is not None for side in run.sides.values() for row in side.rows) == len(rows) - 1


def test_pictures_outside_are_followed_for_the_users_own_runs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "mine"))
    folder = write_run(tmp_path / "run", write_samples(tmp_path / "data", 1))
    key = tmp_path / "mine" / "run-key"
    assert key.stat().st_mode & 0o077 == 0
    own = RunFolder.open(folder)
    assert own.picture(0) == (tmp_path / "data" / "p0.png").resolve() and not own.problems

    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "images_root": "/"}))
    assert refused_pictures(folder)  # another folder than the one that was proven
    (folder / "run.json").write_text(json.dumps(record))
    samples = (folder / "samples.jsonl").read_text()
    (folder / "samples.jsonl").write_text(samples.replace("p0.png", "secret.png"))
    assert refused_pictures(folder)  # other samples
    (folder / "samples.jsonl").write_text(samples)
    assert RunFolder.open(folder).picture(0)
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path / "another"))
    assert refused_pictures(folder)  # another user's
    assert RunFolder.open(folder, pictures=[tmp_path / "data"]).picture(0)


def refused_pictures(folder: Path) -> bool:
    run = RunFolder.open(folder)
    assert any("--images" in problem for problem in run.problems)
    for row in range(len(run.samples)):
        with pytest.raises(VLCompareError, match="outside"):
            run.picture(row)
    return True


@pytest.mark.parametrize("name", ["samples.jsonl", "predictions.jsonl", "summary.json", "run.json"])
def test_a_run_folders_files_are_no_links_out_of_it(folder: Path, tmp_path: Path, name: str) -> None:
    import shutil

    copied = Path(shutil.copytree(folder, tmp_path / "run"))
    (copied / name).rename(tmp_path / name)
    (copied / name).symlink_to(tmp_path / name)
    with pytest.raises(SampleError, match=f"{name} is damaged: it is not a file of this folder"):
        RunFolder.open(copied)


@pytest.mark.parametrize("image", ["images/" + "x" * 300, "images/..", "/etc/passwd", "C:\\boot.ini", "../p.png"])
def test_pictures_that_no_file_can_be_are_said(files: dict[str, Any], tmp_path: Path, image: str) -> None:
    (tmp_path / "samples.jsonl").write_text(json.dumps({**files["samples.jsonl"][0], "image": image}))
    (tmp_path / "predictions.jsonl").write_text(json.dumps(files["predictions.jsonl"][0]))
    with pytest.raises(VLCompareError, match=r"outside|no longer there|no file can have"):
        RunFolder.open(tmp_path).picture(0)


def test_a_check_names_the_place_in_a_long_list() -> None:
    numbers = fields.listed(fields.number(), 100_000)
    assert numbers([0.5] * 10, "x") == [0.5] * 10
    for wrong in (True, "1", None, float("nan"), float("inf"), 10**400, [1]):
        with pytest.raises(fields.FieldError, match=r"`x\[3\]` is .*; expected a number"):
            numbers([0, 1, 2, wrong], "x")
