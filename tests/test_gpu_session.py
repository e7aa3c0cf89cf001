"""The first GPU run's script: steps that crash, hang or leave processes behind end nothing but themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_session
import pytest
from gpu_session import Step, run_steps
from ui_fakes import until

WRITES = "import json, sys; json.dump({'headline': 'three of three'}, open(sys.argv[1], 'w'))"
LEAVES_ONE_BEHIND = """
import os, sys, time
child = os.fork()
if not child: time.sleep(600)
print("left", child, flush=True)
if sys.argv[1] == "hang": os.wait()
"""


def own(name: str, code: str, *more: str, limit: float = 120.0) -> Step:
    """A step that starts within milliseconds: nothing but built-in modules."""
    return Step(name, (sys.executable, "-I", "-S", "-c", code, *more), limit)


def test_it_goes_on_after_a_crash_and_a_hang(tmp_path: Path) -> None:
    said: list[str] = []
    steps = [
        own("fine", WRITES, "{out}"),
        own("crash", "import os; print('before', flush=True); os.abort()"),
        own("raises", "raise ValueError('the reason')"),
        own("hangs", LEAVES_ONE_BEHIND, "hang", limit=3.0),
        own("leaves", LEAVES_ONE_BEHIND, "go"),
        own("last", "print('the end')"),
    ]
    assert run_steps(steps, tmp_path / "out", say=said.append) == 3
    summary = {one["name"]: one for one in json.loads((tmp_path / "out/summary.json").read_text())}
    verdicts = {name: one["verdict"] for name, one in summary.items()}
    assert verdicts == {"fine": "ok", "crash": "failed", "raises": "failed", "hangs": "killed", "leaves": "ok",
                        "last": "ok"}  # fmt: skip
    assert summary["fine"]["headline"] == "three of three" and summary["last"]["headline"] == "the end"
    assert summary["crash"]["status"] < 0 and "before" in summary["crash"]["headline"]
    assert "the reason" in summary["raises"]["headline"] and summary["hangs"]["seconds"] < 300
    assert len(said) == 6 and (tmp_path / "out/summary.txt").read_text().splitlines() == said
    for name in ("hangs", "leaves"):  # what they started is gone as well
        child = int((tmp_path / f"out/{name}.log").read_text().split()[1])
        assert until(lambda: not alive(child))  # noqa: B023


def alive(process: int) -> bool:
    """A process that nobody has waited for yet counts as ended."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_what_there_is_no_time_for_is_left_out(tmp_path: Path) -> None:
    steps = [own("slow", "import time; time.sleep(60)"), own("next", "pass")]
    assert run_steps(steps, tmp_path, seconds=2.0, say=lambda line: None) == 2
    assert [one["verdict"] for one in json.loads((tmp_path / "summary.json").read_text())] == ["killed", "left out"]


def test_too_many_wheels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_session, "MAX_WHEELS", 10)
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(bytes(11))
    with pytest.raises(SystemExit, match="of wheels are more than"):
        gpu_session.main([str(tmp_path / "o.json"), "--child", "wheels", "--wheels", str(tmp_path)])


def test_without_the_device_the_first_step_says_so_and_is_the_last(tmp_path: Path) -> None:
    if __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_session.main([str(tmp_path)]) == 1
    (only,) = json.loads((tmp_path / "summary.json").read_text())
    assert (only["name"], only["verdict"]) == ("versions", "failed") and "has no cuda" in only["headline"]


@pytest.mark.slow
def test_all_steps_on_a_cpu(tmp_path: Path) -> None:
    """Every step but the GPU's own tests, with tiny models."""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, gpu_session.__file__, str(out), "--device", "cpu", "--small", "--seconds", "400"],
        capture_output=True, text=True, timeout=450, check=False,
    )  # fmt: skip
    summary = {one["name"]: one for one in json.loads((out / "summary.json").read_text())}
    wrong = {name: one["headline"] for name, one in summary.items() if one["verdict"] != "ok"}
    assert not wrong, done.stdout
    assert done.returncode == 0
    assert "launches" in summary["profile"]["headline"] and summary["race-nf4"]["headline"] == "both answered"
    assert "mambavl_2.8b vlcompare" in summary["bench-bf16"]["headline"]
