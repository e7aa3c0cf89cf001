"""What `pip install .` puts on a machine: the program with its checkpoints and examples, which runs from any folder."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import vlcompare
from vlcompare.paths import CHECKPOINTS, EXAMPLES, shipped
from vlcompare.runtime.loading.registry import registry
from vlcompare.ui.examples import load_examples
from vlcompare.ui.inspect.library import Library

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta as b; out = sys.argv[1]; b.build_wheel(out); b.build_sdist(out)"


def shipped_files() -> dict[str, Path]:
    """Name inside the package -> file of the checkout, of all that has to be in the wheel."""
    folders = ((ROOT / "checkpoints", ROOT), (ROOT / "examples", ROOT), (ROOT / "vlcompare", ROOT / "vlcompare"))
    return {
        f"vlcompare/{path.relative_to(base).as_posix()}": path
        for folder, base in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, made without network."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed here, and the network is not asked for it")
    out = tmp_path_factory.mktemp("built")
    before = set(os.listdir(ROOT))
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode and "bdist_wheel" in done.stderr:
        pytest.skip("this setuptools builds no wheels by itself: it is older than 70.1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(os.listdir(ROOT)) == before, "building leaves nothing in the checkout"
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it out: a folder for the module path."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return site


def run(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_as_it_is(installed: Path) -> None:
    files = shipped_files()
    assert len(files) > 150
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    there = {name for name in found if ".dist-info/" not in name}
    assert there == set(files), "nothing is missing, nothing is there twice or beside the package"
    changed = [name for name, path in files.items() if (installed / name).read_bytes() != path.read_bytes()]
    assert not changed


def test_the_source_distribution_makes_the_same_wheel(built: Path) -> None:
    needed = {str(path.relative_to(ROOT)) for path in shipped_files().values()}
    needed |= {"setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "app.py", "tests/conftest.py"}
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        there = {name.partition("/")[2] for name in source.getnames()}
    assert needed <= there


def test_it_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "import vlcompare, json; from vlcompare.paths import CHECKPOINTS, EXAMPLES;"
        "from vlcompare.runtime.loading.registry import registry; from vlcompare.ui.examples import load_examples;"
        "from vlcompare.evaluate.results.run_folder import find_runs;"
        "print(json.dumps([str(CHECKPOINTS), str(EXAMPLES), len(registry().checkpoints), len(load_examples()),"
        " len(find_runs(EXAMPLES, 1))]))"
    )
    checkpoints, examples, known, pictures, runs = json.loads(run(installed, tmp_path, "-c", code))
    assert checkpoints == str(installed / "vlcompare" / "checkpoints")
    assert examples == str(installed / "vlcompare" / "examples")
    assert (known, pictures) == (len(registry().checkpoints), len(load_examples(EXAMPLES)))
    assert runs >= 1


def test_compiled_kernels_are_kept_in_the_users_cache(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uninstalling would leave what lies beside the sources."""
    for name in ("NUMBA_CACHE_DIR", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code = (
        "from vlcompare.models.kernels.cpu import step_loops;"
        "from vlcompare.models.kernels.cpu.disk_cache import DiskCache;"
        "print(DiskCache(step_loops.product.py_func).cache_path)"
    )
    folder = run(installed, tmp_path, "-c", code).strip()
    assert not folder.startswith(str(installed))
    if sys.platform == "linux":
        assert folder == str(tmp_path / "cache" / "vlcompare" / "kernels")


def test_the_command_is_the_command_line(installed: Path, tmp_path: Path) -> None:
    points = configparser.ConfigParser()
    points.read(next(installed.glob("*.dist-info")) / "entry_points.txt")
    module, _, function = points["console_scripts"]["vlcompare"].partition(":")
    start = f"import sys; from {module} import {function}; sys.argv[0] = 'vlcompare'; sys.exit({function}())"
    assert run(installed, tmp_path, "-c", start, "--version").strip() == f"vlcompare {vlcompare.__version__}"
    assert run(installed, tmp_path, "-c", start, "--help").startswith("usage: vlcompare ")
    assert run(installed, tmp_path, "-m", "vlcompare", "--help").startswith("usage: python -m vlcompare ")
    listed = run(installed, tmp_path, "-m", "vlcompare", "checkpoints", "list")
    assert "tiny-mamba-vl" in listed


def test_its_own_folder_goes_before_another_packages(tmp_path: Path) -> None:
    package = tmp_path / "vlcompare"
    (tmp_path / "examples").mkdir()  # beside it, of somebody else
    package.mkdir()
    assert shipped("examples", package) == tmp_path / "examples"
    (package / "examples").mkdir()
    assert shipped("examples", package) == package / "examples"
    assert (CHECKPOINTS, EXAMPLES) == (ROOT / "checkpoints", ROOT / "examples")


def test_notes_on_a_shipped_run_do_not_stay_in_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path))
    before = set(EXAMPLES.rglob("*"))
    library = Library()
    name = library.first()
    assert name is not None
    run = library.open(name)
    run.notes.put(run.samples[0].id, "seen")
    assert library.open(name).notes.get(run.samples[0].id).text == "seen"
    assert set(EXAMPLES.rglob("*")) == before
    assert list(tmp_path.rglob("*.sqlite"))


def test_one_version_everywhere() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {vlcompare.__version__}\n" in cited
