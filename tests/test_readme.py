"""What the READMEs promise: their commands exist and run, their Python runs, their tree and their links are true."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from vlcompare.cli import COMMANDS, build_parser, main
from vlcompare.study.grid import grid_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("checkpoints", "examples", "vlcompare/bench", "vlcompare/evaluate", "vlcompare/ui")
BESIDE = [ROOT / folder / "README.md" for folder in FOLDERS]


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)


def shell(text: str) -> list[str]:
    return [line.strip() for kind, block in blocks(text) if kind == "bash" for line in block.splitlines() if line]


BLOCKS, SHELL = blocks(README), shell(README)
COMMAND_LINES = [line for line in SHELL if line.startswith("python -m vlcompare ")]
FURTHER = [line for path in BESIDE for line in shell(path.read_text(encoding="utf-8")) if "-m vlcompare " in line]
# what takes more than a moment, a network, or a window; these are parsed alone
COSTLY = ("quantize", "evaluate", "inspect", "bench", "train", "study", "score", "doctor")


@pytest.mark.parametrize("line", [*COMMAND_LINES, *FURTHER])
def test_commands_parse(line: str) -> None:
    args = build_parser().parse_args(shlex.split(line)[3:])
    assert args.command in COMMANDS


def test_every_command_is_shown() -> None:
    shown = {shlex.split(line)[3] for line in COMMAND_LINES}
    assert set(COMMANDS) - shown == {"serve"}, "app.py stands for serve"


def test_cheap_commands_run_as_pasted_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`examples/` is found wherever the program is called."""
    monkeypatch.chdir(tmp_path)
    cheap = [line for line in COMMAND_LINES if not shlex.join(shlex.split(line)[3:]).startswith(COSTLY)]
    assert {shlex.split(line)[3] for line in cheap} >= {"ask", "compare", "checkpoints", "scenes"}
    for line in cheap:
        assert main(shlex.split(line)[3:]) == 0, line
    assert (tmp_path / "card.png").is_file() and (tmp_path / "out" / "samples.jsonl").is_file()


def test_named_pictures_and_folders_are_shipped() -> None:
    for word in {word for line in [*COMMAND_LINES, *FURTHER] for word in shlex.split(line)}:
        assert not word.startswith("examples/") or (ROOT / word).exists(), word


def test_grids_of_ones_own_can_be_trained() -> None:
    found = [
        text for kind, text in blocks((ROOT / "examples" / "README.md").read_text(encoding="utf-8")) if kind == "json"
    ]
    assert [len(grid_of(json.loads(text)).entries) for text in found] == [12, 2]


def test_setup_lines_name_files_that_exist() -> None:
    setups = [line for line in SHELL if line.startswith("python3 -m venv")]
    assert len(setups) == 2
    for line in setups:
        for name in re.findall(r"[\w-]+\.(?:txt|py)", line):
            assert (ROOT / name).is_file(), name


def test_ci_runs_the_readmes_test_command() -> None:
    asked = next(line for line in SHELL if "requirements-test.txt" in line)
    pytest_part = asked.split("&&")[-1].split("-m pytest")[1].strip()
    assert f"-m pytest {pytest_part}" in (ROOT / ".ci" / "run").read_text()


def test_the_tree_is_true() -> None:
    tree = next(block for kind, block in BLOCKS if not kind)
    folders: list[str] = []
    named: set[Path] = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.match(
            r"\s*((?:[\w./]+ )*[\w./]+)", line.split("   ")[0] if not depth else line.lstrip().split("   ")[0]
        )
        assert names, line
        for name in names.group(1).split():
            path = ROOT.joinpath(*folders[:depth], name)
            assert path.exists(), f"{path} is in the README's tree and not there"
            named.add(path)
            if name.endswith("/"):
                folders = [*folders[:depth], name]
    packages = {path for path in (ROOT / "vlcompare").iterdir() if (path / "__init__.py").exists()}
    assert packages <= named


@pytest.mark.parametrize("path", [ROOT / "README.md", *BESIDE], ids=lambda path: path.parent.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_each_subject_is_named_from_the_top() -> None:
    for path in BESIDE:
        assert f"]({path.relative_to(ROOT)})" in README


def test_the_grids_on_pictures_have_the_rows_that_are_told() -> None:
    from vlcompare.study.pictures.grids import PICTURE_GRIDS
    from vlcompare.study.pictures.settings import V1

    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    told = {
        name: int(count) for name, count in re.findall(r"^\| `(pictures-\w+)` \|.*\| (\d+) \|$", text, re.MULTILINE)
    }
    assert told == {name: len(PICTURE_GRIDS[name].entries) for name in told} and len(told) == 7
    assert f"is {V1.steps:,} steps of {V1.pictures * V1.questions} questions" in " ".join(text.split())


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vlcompare.synth.scenes.scene import draw_scene

    monkeypatch.chdir(tmp_path)
    draw_scene(1).image.save("picture.png")
    code = next(block for kind, block in BLOCKS if kind == "python")
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["answer"].error is None
    assert scope["item"].text is not None
    assert (tmp_path / "card.png").is_file()


def test_front_matter_is_what_spaces_read() -> None:
    matter = README.split("---\n")[1]
    keys = dict(line.split(": ", 1) for line in matter.splitlines() if re.match(r"\w+: ", line))
    assert keys["sdk"] == "gradio"
    assert (ROOT / keys["app_file"]).is_file()
    assert len(keys["short_description"]) <= 60
    assert keys["python_version"].strip('"') in ("3.11", "3.12")
