"""What the README promises: its commands exist with those options, its Python runs, its tree and its links are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vlcompare.cli import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
SHELL = [
    line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line
]
COMMAND_LINES = [line for line in SHELL if line.startswith("python -m vlcompare ")]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_parse(line: str) -> None:
    args = build_parser().parse_args(shlex.split(line)[3:])
    assert args.command in COMMANDS


def test_every_command_is_shown() -> None:
    shown = {shlex.split(line)[3] for line in COMMAND_LINES}
    assert set(COMMANDS) - shown == {"serve"}, "app.py stands for serve"


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


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from vlcompare.synth.scenes.scene import draw_scene

    monkeypatch.chdir(tmp_path)
    draw_scene(1).image.save("picture.png")
    code = next(block for kind, block in BLOCKS if kind == "python")
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["answer"].error is None
    assert scope["item"].text is not None
    assert capsys.readouterr().out.strip()


def test_front_matter_is_what_spaces_read() -> None:
    matter = README.split("---\n")[1]
    keys = dict(line.split(": ", 1) for line in matter.splitlines() if re.match(r"\w+: ", line))
    assert keys["sdk"] == "gradio"
    assert (ROOT / keys["app_file"]).is_file()
    assert len(keys["short_description"]) <= 60
    assert keys["python_version"].strip('"') in ("3.11", "3.12")
