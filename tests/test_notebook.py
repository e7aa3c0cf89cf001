"""The notebook in examples/: its cells run in order, and their last values are what a notebook can show."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from vlcompare.types import Answer

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "notebook.ipynb"


def run_cell(source: str, scope: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last expression, which a notebook shows."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), scope)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), scope) if last else None


def test_the_notebook_runs_and_holds_no_outputs(capsys) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    assert notebook["nbformat"] == 4 and len(cells) <= 10
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    scope: dict[str, Any] = {}
    shown = [run_cell(source, scope) for source in code]
    kinds = [type(value).__name__ for value in shown]
    assert kinds == ["Model", "Answer", "AnswerPair", "Image", "NoneType", "dict"]
    assert isinstance(shown[1], Answer) and "data:image/webp" in shown[1]._repr_html_()
    assert shown[2].verdict("left").text.startswith("✓ IoU")
    assert capsys.readouterr().out.count(" ms\n") > 3
