"""The command inspect: what it opens, and what it refuses before anything is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlcompare.bench.inspect import write_many
from vlcompare.cli import inspect, main
from vlcompare.errors import SampleError
from vlcompare.ui.inspect.library import Library


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_many(tmp_path / "runs" / "one", 4, pictures=2)


def test_it_serves_the_page_with_the_runs_open(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = []
    page = SimpleNamespace(serve=lambda settings, **more: served.append((settings, more)))
    monkeypatch.setitem(sys.modules, "vlcompare.ui.page", page)
    monkeypatch.setattr("vlcompare.ui.fast_import.import_gradio", lambda: None)
    assert main(["inspect", str(run), "--host", "0.0.0.0", "--port", "7999"]) == 0
    ((settings, more),) = served
    assert settings.limits.upload_bytes > 2**30 > settings.limits.file_bytes  # archives may be large, pictures not
    assert (settings.host, settings.port, more["runs"]) == ("0.0.0.0", 7999, [run])
    assert capsys.readouterr().out.startswith("vlcompare: starting")
    for name, file in (("a", "samples.jsonl"), ("b", "predictions.jsonl")):
        (run.parent / name).mkdir()
        (run.parent / name / file).write_text("")
    assert main(["inspect", str(run.parent)]) == 0
    said = "Not listed: a has no predictions.jsonl and b has no samples.jsonl."
    assert said in capsys.readouterr().out
    assert Library(given=[run.parent]).not_listed() == [said] == Library(run.parents[1], [run.parent]).not_listed()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no run"),
        ("file.json", "is a file"),
        ("notes/a", "does not exist"),
    ],
)
def test_what_is_no_run_is_refused_in_a_sentence(
    tmp_path: Path, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.json").write_text(json.dumps({}))
    assert main(["inspect", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_of_runs_and_an_archive_are_taken(run: Path, tmp_path: Path) -> None:
    inspect.checked([run, run.parent])
    (tmp_path / "run.zip").write_bytes(b"PK")
    inspect.checked([tmp_path / "run.zip"])  # what is in it is looked at when it is opened
    with pytest.raises(SampleError, match="holds no run"):
        inspect.checked([run, tmp_path / "runs" / "one" / "images"])
