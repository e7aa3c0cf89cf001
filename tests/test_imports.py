"""The house keeps its floors: imports point downward only, heavy packages have one home, and the door opens quickly."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vlcompare

PACKAGE = Path(vlcompare.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [  # the first entry that matches a module's name gives its floor; a module imports its own floor and below
    ("vlcompare.errors", 0),
    ("vlcompare.machine", 1),
    ("vlcompare.paths", 1),
    ("vlcompare.types", 1),
    ("vlcompare.tasks", 2),
    ("vlcompare.render", 2),
    ("vlcompare.models", 2),
    ("vlcompare.runtime", 3),
    ("vlcompare.comparison", 4),
    ("vlcompare.training", 4),
    ("vlcompare.synth", 5),
    ("vlcompare.evaluate", 5),
    ("vlcompare.study", 5),
    ("vlcompare.ui", 6),
    ("vlcompare.bench", 7),
    ("vlcompare.cli", 8),
    ("vlcompare.__main__", 9),
]
HOMES = {
    "timm": {"vlcompare.models.vision"},
    "huggingface_hub": {"vlcompare.runtime.loading.hub"},
    "bitsandbytes": {"vlcompare.runtime.loading.quantize"},
    "gradio": {"vlcompare.ui"},
    "datasets": {"vlcompare.evaluate.readers"},
    "triton": {"vlcompare.models.kernels", "vlcompare.bench"},
    "numba": {"vlcompare.models.kernels"},
    "mamba_ssm": {"vlcompare.models.kernels", "vlcompare.bench"},
}


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def floor(name: str) -> int | None:
    return next((level for prefix, level in FLOORS if name == prefix or name.startswith(prefix + ".")), None)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "vlcompare"}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_downward(path: Path) -> None:
    own = module_name(path)
    if own == "vlcompare":
        return
    assert floor(own) is not None, f"{own} stands on no floor"
    above = {name for name in imported(path) if (floor(name) or 0) > floor(own)}
    assert not above, f"{own} imports from above: {sorted(above)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_packages_have_one_home(path: Path) -> None:
    own = module_name(path)
    for name in imported(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or any(own == home or own.startswith(home + ".") for home in homes), (
            f"{own} imports {name}; its home is {homes}"
        )


def test_all_names_are_there() -> None:
    assert sorted(vlcompare.__all__) == list(vlcompare.__all__)
    missing = [name for name in vlcompare.__all__ if getattr(vlcompare, name, None) is None]
    assert not missing


@pytest.mark.parametrize(
    "before",
    ["", "import vlcompare.comparison", "from vlcompare import comparison", "import vlcompare.cli.compare", "first()"],
)
def test_compare_is_the_function_whatever_was_imported_before(before: str) -> None:
    code = f"import vlcompare\nfirst = lambda: vlcompare.compare\n{before}\nassert callable(vlcompare.compare)\n"
    code += "from vlcompare.comparison import compare\nassert vlcompare.compare is compare is vlcompare.compare"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("statement", ["import vlcompare", "from vlcompare.cli import build_parser; build_parser()"])
def test_the_door_is_light(statement: str) -> None:
    """Neither the package nor `--help` waits for torch or gradio."""
    heavy = ("torch", "gradio", "transformers", "timm", "numba", "datasets", "matplotlib")
    code = f"{statement}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
