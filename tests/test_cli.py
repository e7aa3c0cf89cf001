"""The command line as a whole: suggestions, help, what is imported, and that what it prints fits the terminal."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlcompare import terminal
from vlcompare.cli import COMMANDS, incomplete, main
from vlcompare.cli.evaluate import headline
from vlcompare.evaluate.summary_text import figures_as_text
from vlcompare.paths import EXAMPLES, PACKAGE

RUN = EXAMPLES / "tiny-pair-on-scenes"


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["chekpoints"], "did you mean checkpoints?"),
        (["checkpoints", "lst"], "did you mean list?"),
        (["ask", "x.png", "--task", "groundin"], "did you mean grounding?"),
        (["ask", "x.png", "--txt", "x"], "did you mean --text?"),
        (["ask", str(next(EXAMPLES.glob("pictures/*.png"))), "--checkpoint", "tiny-mamba"], "mean tiny-mamba-vl?"),
        (["compare", str(next(EXAMPLES.glob("pictures/*.png"))), "--right", "tiny-pythia"], "mean tiny-pythia-vl?"),
        (["evaluate", "x.jsonl", "--left", "finetuned_mambavl_2.7b", "--out", "o"], "mean finetuned_mambavl_2.8b?"),
        (["quantize", "Tiny-Mamba-VL2", "o", "--nf4"], "mean tiny-mamba-vl?"),
        (["checkpoints", "info", "tiny-mamba"], "mean tiny-mamba-vl?"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(
    arguments: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = said(arguments, capsys)
    assert status == 2 and meant in err and not out
    assert err.count("\n") <= 2 and "usage" not in err


@pytest.mark.parametrize(
    "arguments", [["quantize", "tiny-mamba-vl", "", "--nf4"], ["train", "--out", ""], ["inspect", ""]]
)
def test_an_empty_path_is_not_the_working_directory(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(arguments, capsys)
    assert status == 2 and "a path is empty" in err and not out


@pytest.mark.parametrize(
    "arguments", [["inspect", "LONG"], ["study", "open", "LONG"], ["ask", "PICTURE", "--save", "LONG/x.png"]]
)
def test_a_path_that_the_system_refuses_is_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As a folder that may not be searched; the tests' user may search any, but a name has a largest length."""
    picture, name = str(EXAMPLES / "pictures" / "2026000004-vqa-0.png"), "x" * 300
    given = [part.replace("PICTURE", picture).replace("LONG", name) for part in arguments]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("vlcompare: x") and said.endswith("cannot be used (File name too long).\n")


def test_a_library_that_is_missing_is_named_with_what_installs_it() -> None:
    for command in (["app.py"], ["-m", "vlcompare", "checkpoints", "list"]):
        found = subprocess.run(  # -S: without installed packages
            [sys.executable, "-S", *command], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60
        )
        assert found.returncode == 2 and "pip install -r" in found.stderr and found.stderr.count("\n") == 1
        assert "Traceback" not in found.stderr and "is missing" in found.stderr


def test_a_module_of_the_programs_own_that_is_missing_is_a_fault() -> None:
    assert incomplete.missing(ModuleNotFoundError(name="vlcompare.nothing")) is None
    assert incomplete.missing(ModuleNotFoundError(name="torch.nothing")) == "torch"


def test_a_page_without_a_library_that_answers_need_is_not_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    incomplete.require(incomplete.FOR_THE_PAGE)
    monkeypatch.setitem(sys.modules, "timm", None)
    status, _, err = said(["serve"], capsys)
    assert status == 2 and "the library timm is missing" in err


def test_an_older_python_is_told_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = (PACKAGE / "__init__.py").read_text()
    for text in (package, (PACKAGE.parent / "app.py").read_text()):
        ast.parse(text, feature_version=(3, 7))
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    for argv, kind in ((["-m"], SystemExit), (["app.py"], ImportError)):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(kind, match=r"3\.11 or 3\.12 is needed.* is 3\.8\."):
            exec(package, {})


@pytest.mark.parametrize("arguments", [[], ["checkpoints"], ["study"]])
def test_a_bare_call_shows_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(arguments, capsys)
    assert status == 0 and "--help" in out and not err


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["study", "run"], ["checkpoints", "list"]])
def test_help_fits_the_terminal(
    columns: int, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = said([*command, "--help"], capsys)
    assert max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize("columns", [80, 60])
def test_lists_and_figures_fit_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, listed, _ = said(["checkpoints", "list"], capsys)
    _, info, _ = said(["checkpoints", "info", "tiny-mamba-vl"], capsys)
    figures = figures_as_text(json.loads((RUN / "summary.json").read_text()))
    for text in (listed, figures, headline(RUN)):
        assert max(map(len, text.splitlines())) <= columns
    assert "tiny-mamba-vl" in listed and "GB" not in info
    if columns == 80:  # one line a figure
        assert any(line.startswith("acc@0.5") and line.count("[") == 3 for line in figures.splitlines())


def test_the_headline_is_that_of_inspect() -> None:
    from vlcompare.evaluate.results.run_folder import RunFolder
    from vlcompare.evaluate.results.slices import overall
    from vlcompare.evaluate.results.table import RunTable
    from vlcompare.units import fraction

    whole = overall(RunTable(RunFolder.open(RUN)))
    assert whole is not None and whole.paired is not None
    assert headline(RUN).startswith(f"{fraction(whole.left)} against {fraction(whole.right)}, ")
    assert fraction(whole.paired.difference, signed=True) in headline(RUN)


@pytest.mark.parametrize(
    "arguments",
    [
        ["checkpoints", "list"],
        ["checkpoints", "list", "--json"],
        ["--help"],
        ["ask", "x.png", "--checkpoint", "tiny-mamba"],
        ["compare", "x.png", "--left", "tiny-mamba"],
        ["chekpoints"],
        ["study", "--help"],
    ],
)
def test_what_needs_no_model_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom vlcompare.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'gradio', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("action", [["list"], ["info", "tiny-mamba-vl"]])
def test_json_goes_to_a_file_or_to_standard_output(
    action: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.json"
    status, text, _ = said(["checkpoints", *action, "--json", str(file)], capsys)
    assert status == 0 and "tiny-mamba-vl" in text and not text.startswith(("[", "{"))
    for spelling in (["--json"], ["--json", "-"]):
        status, out, _ = said(["checkpoints", *action, *spelling], capsys)
        assert status == 0 and json.loads(out) == json.loads(file.read_text())
    status, out, _ = said(["checkpoints", action[0], "--json", *action[1:]], capsys)
    assert status == 0 and json.loads(out) == json.loads(file.read_text())
    status, _, err = said(["checkpoints", *action, "--json", str(tmp_path / "nowhere" / "x")], capsys)
    assert status == 2 and "--json" in err and "cannot be written" in err


def test_info_needs_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["--json"]):
        status, out, err = said(["checkpoints", "info", *given], capsys)
        assert status == 2 and "required: NAME" in err and "checkpoints info --help" in err and not out


@pytest.mark.parametrize("most", [200, 60, 40, 25])
def test_a_table_keeps_every_word_within_its_width(most: int) -> None:
    rows = [["", "left", "right"], ["name", "one two three four", "five"], ["x", "1", f"a{terminal.NO_BREAK}b c"]]
    text = terminal.table(rows, most)
    assert max(map(len, text.splitlines())) <= most
    assert sorted(text.replace("a b", "ab").split()) == sorted(
        ["left", "right", "name", "one", "two", "three", "four", "five", "x", "1", "ab", "c"]
    )


def test_progress_without_a_terminal_says_each_sentence_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = terminal.Progress()
    for done in (0, 5, 10):
        progress("Fetching a file", done, 10)
    progress("Checking", 0, 0)
    assert capsys.readouterr().err.splitlines() == ["Fetching a file", "Checking"]
