"""`compare` on the command line: answers, a table, JSON in the agreed form, the picture, and one side's failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tiny import write_pair

from vlcompare.cli import main
from vlcompare.types import Answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("cli"))


def compare(folder: Path, *options: str) -> int:
    return main(["compare", str(folder / "picture.png"), "--max-new-tokens", "6", "--device", "cpu", *options])


def sides(folder: Path, left: str = "pythia", right: str = "mamba") -> list[str]:
    return ["--left", str(folder / left), "--right", str(folder / right)]


@pytest.mark.parametrize("race", [[], ["--race"]])
def test_both_answers_a_table_json_and_a_picture(folder: Path, capsys: pytest.CaptureFixture, race: list[str]) -> None:
    files = ["--json", str(folder / "run.json"), "--save", str(folder / "out.png")]
    assert compare(folder, "--task", "grounding", "--text", "the red car", *sides(folder), *files, *race) == 0
    printed, said = capsys.readouterr()
    assert "first token" in printed and f"The card is in {folder / 'out.png'}." in said
    assert ("contended" in printed) == bool(race)
    run = json.loads((folder / "run.json").read_text())
    answers = {name: Answer.from_json(data) for name, data in run["sides"].items()}
    assert list(answers) == ["left", "right"]
    assert answers["left"].timings.mode == ("race" if race else "measure")
    assert answers["left"].text[:20] in printed.replace("\n", " ") or answers["left"].parse == "unparseable"
    assert Image.open(folder / "out.png").width >= 90


def test_json_on_standard_output_is_json_alone(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert compare(folder, *sides(folder), "--json", "-") == 0
    assert set(json.loads(capsys.readouterr().out)["sides"]) == {"left", "right"}


def test_a_side_that_fails_leaves_the_other(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert compare(folder, *sides(folder, right="nothing-here"), "--json", str(folder / "f.json")) == 1
    run = json.loads((folder / "f.json").read_text())["sides"]
    assert run["left"]["error"] is None
    assert "nothing-here" in run["right"]["error"]
    assert "nothing-here" in capsys.readouterr().out


def test_own_settings_of_a_side(folder: Path) -> None:
    own = ["--prompt-order-right", "instruction_first", "--json", str(folder / "o.json")]
    assert compare(folder, *sides(folder), *own) == 0
    run = json.loads((folder / "o.json").read_text())["sides"]
    assert [run[side]["prompt"]["order"] for side in ("left", "right")] == ["image_first", "instruction_first"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--task", "vqa"], "question"),
        (["--save", "nowhere/x.png"], "cannot be written"),
        (["--repeat", "1"], "--repeat is 2 to 50, not 1"),
        (["--repeat", "51"], "--repeat is 2 to 50, not 51"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture, options: list[str], sentence: str
) -> None:
    assert compare(folder, *sides(folder), *options) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--quantization-left", "int2"], "invalid choice"),
        (["--prompt-order-right", "sideways"], "invalid choice"),
        (["--repeat", "0"], "argument --repeat: 0 is not above 0"),
        (["--image-size-left", "large"], "--image-size-left: invalid int value: 'large'"),
    ],
)
def test_settings_of_a_side_that_there_are_not(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "picture.png", *options])
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_a_side_that_fails_while_it_speaks_is_said_on_a_line_of_its_own(capsys: pytest.CaptureFixture) -> None:
    from vlcompare.cli.compare import _print_events
    from vlcompare.comparison import Event
    from vlcompare.types import Side, Step

    events = [
        Event("left", "step", Step(0, 5, "a red", -0.1, (), 0.1)),
        Event("left", "answer", Answer(error="The device ran out of memory.", stop_reason="error")),
    ]
    _print_events(events, {"left": Side("x")}, quiet=False, live=True)
    assert capsys.readouterr().out.splitlines() == ["left   x: a red", "left   x: The device ran out of memory."]
