"""`pytest -m gpu` starts on a plain CUDA image: torch, transformers, timm, triton, bitsandbytes, and little else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ABSENT = (
    "gradio", "gradio_client", "datasets", "matplotlib", "numba", "playwright", "pycocoevalcap", "psutil", "accelerate",
    "pandas", "pyarrow",
)  # fmt: skip
OTHERS = (Path(__file__), ROOT / "tests/test_gpu_session.py")  # need no GPU
COLLECT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
import pytest
raise SystemExit(pytest.main(["-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]))
"""


def test_gpu_tests_are_collected_without_what_such_an_image_lacks() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECT, *ABSENT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("tests/")}
    named = {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_gpu_*.py") if path not in OTHERS}
    assert found >= named
