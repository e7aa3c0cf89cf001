"""The layout: imports point downward and never in a circle, heavy packages have one home, files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import vlcompare

PACKAGE = Path(vlcompare.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS = [  # the first entry that matches a module's name gives its level; a module imports its own level and below
    ("vlcompare.errors", 0),
    ("vlcompare.evidence", 1),
    ("vlcompare.machine", 1),
    ("vlcompare.paths", 1),
    ("vlcompare.terminal", 1),
    ("vlcompare.types", 1),
    ("vlcompare.units", 1),
    ("vlcompare.whole_files", 0),
    ("vlcompare.tasks", 2),
    ("vlcompare.render", 2),
    ("vlcompare.models", 2),
    ("vlcompare.runtime", 3),
    ("vlcompare.comparison", 4),
    ("vlcompare.repeats", 4),
    ("vlcompare.training", 4),
    ("vlcompare.synth", 5),
    ("vlcompare.study", 5),
    ("vlcompare.evaluate", 5),
    ("vlcompare.answer_pair", 5),
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
# what a first paragraph may say that a module knows nothing of -> the modules that it then must not import
CLAIMS = {
    "tensors": ("torch", "numpy"),
    "gradio": ("gradio",),
    "files": ("pathlib", "tempfile", "shutil"),
    "pages": ("gradio", "vlcompare.ui"),
}
SCHEMAS = {"compare"}  # the endpoint, whose signature is its schema
MAX_LINES, MAX_FUNCTION_LINES, MAX_MODULES, MAX_PARAMETERS = 350, 60, 24, 8


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def level(name: str) -> int | None:
    return next((number for prefix, number in LEVELS if name == prefix or name.startswith(prefix + ".")), None)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path, types: bool = True) -> frozenset[str]:
    """Names of all modules that a file imports, at its top and inside functions; `types`: for type checkers, too."""
    tree = tree_of(path)
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if not types and id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside
            if len(inside) < len(node.names):
                found.add(node.module)
    return frozenset(found)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_downward(path: Path) -> None:
    own = module_name(path)
    if own == "vlcompare":
        return
    assert level(own) is not None, f"{own} has no level"
    above = {name for name in imported(path) if (level(name) or 0) > level(own)}
    assert not above, f"{own} imports from above: {sorted(above)}"


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The nodes left after removing those without imports, then those without importers, until none is removed."""
    graph = {node: set(targets) for node, targets in graph.items()}
    for targets in list(graph.values()):
        for target in targets:
            graph.setdefault(target, set())
    while free := {node for node, targets in graph.items() if not targets}:
        graph = {node: targets - free for node, targets in graph.items() if node not in free}
    while unused := {node for node in graph if not any(node in targets for targets in graph.values())}:
        graph = {node: targets for node, targets in graph.items() if node not in unused}
    return [[node, *sorted(targets)] for node, targets in sorted(graph.items())]


@pytest.mark.parametrize("package", sorted(name for name, path in MODULES.items() if path.name == "__init__.py"))
def test_no_circle_among_the_children_of_a_package(package: str) -> None:
    """Files and folders of one folder import each other in one direction, counted with all that is below them."""
    depth = package.count(".") + 2
    graph: dict[str, set[str]] = defaultdict(set)
    for own, path in MODULES.items():
        if not own.startswith(package + "."):
            continue
        for name in imported(path, types=False) & MODULES.keys():
            ends = [".".join(end.split(".")[:depth]) for end in (own, name)]
            if name.startswith(package + ".") and ends[0] != ends[1]:
                graph[ends[0]].add(ends[1])
    assert not circles(graph)


def imports_in_order(path: Path) -> list[tuple[str, bool]]:
    """(what a file imports, whether that is a module which its statement reaches through no other) in their order."""
    found = []
    nodes = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom) and node.module]
    for node in sorted(nodes, key=lambda node: node.lineno):
        found += [(str(node.module), True), *((f"{node.module}.{alias.name}", False) for alias in node.names)]
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_no_thread_begins_with_a_part_of_a_package_that_imports_its_parts(path: Path) -> None:
    """A thread that imports package.part holds the part and waits for the package; another, in the package's own file,
    waits for the part: Python ends that with an error in one of them. Several threads import what is heavy."""
    waiting = {
        name
        for name, file in MODULES.items()
        if file.name == "__init__.py" and any(each.startswith(f"{name}.") for each in at_top(file))
        and name.startswith(("vlcompare.models.", "vlcompare.runtime."))
    }  # fmt: skip
    seen: set[str] = set()
    for name, directly in imports_in_order(path):
        for package in waiting:
            inside = module_name(path) == package or module_name(path).startswith(f"{package}.")
            if directly and name.startswith(f"{package}.") and not inside:
                assert package in seen, f"import {package} before {name}"
        seen.add(name)


def at_top(path: Path) -> set[str]:
    """What a file imports as it is imported itself."""
    return {
        name
        for node in tree_of(path).body
        if isinstance(node, ast.ImportFrom) and node.module
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        if name in MODULES
    }


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert [names[0] for names in circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"c"}})] == ["b", "c"]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_packages_have_one_home(path: Path) -> None:
    own = module_name(path)
    for name in imported(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or any(own == home or own.startswith(home + ".") for home in homes), (
            f"{own} imports {name}; its home is {homes}"
        )


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_what_a_file_says_it_knows_nothing_of(path: Path) -> None:
    text = " ".join((ast.get_docstring(tree_of(path)) or "").split())
    for claim in re.findall(r"[Kk]nows nothing of ([^.;:]+)", text):
        for word in re.split(r", | or | and ", claim):
            assert word in CLAIMS, (
                f"{path.name} claims to know nothing of {word!r}: add to CLAIMS what it then must not import"
            )
            wrong = {
                name for name in imported(path) for bad in CLAIMS[word] if name == bad or name.startswith(bad + ".")
            }
            assert not wrong, f"{path.name} claims to know nothing of {word!r} and imports {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            compiled = any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)
            assert compiled or node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} is too long"
            given = [*node.args.posonlyargs, *node.args.args]  # keyword-only ones are named at the call
            private = node.name.startswith("_") or node.name in SCHEMAS
            assert "kernels" in path.parts or private or len(given) <= MAX_PARAMETERS, f"{node.name} takes too much"


FAULTS = {
    "a long module": "x = 1\n" * (MAX_LINES + 1),
    "a long function": "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES,
    "many parameters": "def f(a, b, c, d, e, f, g, h, i): ...\n",
    "a false claim": '"""Draws. Knows nothing of tensors or gradio."""\nimport torch\n',
    "an unknown claim": '"""Draws. Knows nothing of weather."""\n',
    "timm elsewhere": "def f():\n    import timm\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checks_of_a_file_can_fail(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vlcompare" / "fault.py"
    path.parent.mkdir()
    path.write_text(FAULTS[fault], encoding="utf-8")
    monkeypatch.setitem(globals(), "PACKAGE", path.parent)
    checks = [test_files_and_functions_stay_small, test_what_a_file_says_it_knows_nothing_of]
    failed = 0
    for check in [*checks, test_heavy_packages_have_one_home]:
        try:
            check(path)
        except AssertionError:
            failed += 1
    assert failed == 1


def test_an_import_from_above_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vlcompare" / "units.py"
    path.parent.mkdir()
    path.write_text("def f():\n    from vlcompare.ui import page\n", encoding="utf-8")
    monkeypatch.setitem(globals(), "PACKAGE", path.parent)
    with pytest.raises(AssertionError, match="imports from above"):
        test_imports_point_downward(path)


def test_folders_stay_small() -> None:
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= MAX_MODULES, folder.name


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


@pytest.mark.parametrize(
    "statement",
    [
        "import vlcompare",
        "from vlcompare.cli import build_parser; build_parser()",
        "from vlcompare.runtime.loading.model_pool import ModelPool; ModelPool()",  # made before the page is served
    ],
)
def test_importing_is_light(statement: str) -> None:
    """Neither the package, `--help` nor a page that opens waits for torch."""
    heavy = ("torch", "gradio", "transformers", "timm", "numba", "datasets", "matplotlib")
    code = f"{statement}; import sys; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
