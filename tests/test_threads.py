"""How many threads: affinity, control groups of both versions, what the user asks; and what torch then makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vlcompare.machine import threads

V1 = "31 23 0:28 {root} /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY = "32 23 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "41 23 0:38 {root} {at} rw,relatime - cgroup2 cgroup2 rw\n"


ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


CASES = {
    "v2, own group": ("0::/a/b\n", V2, {"sys/fs/cgroup/a/b/cpu.max": "200000 100000"}, 2),
    "v2, a group around it": (
        "0::/a/b\n",
        V2,
        {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"},
        3,
    ),
    "v2, the smallest counts": (
        "0::/a/b\n",
        V2,
        {"sys/fs/cgroup/a/cpu.max": "100000 100000", "sys/fs/cgroup/a/b/cpu.max": "400000 100000"},
        1,
    ),
    "v2, a container's own namespace": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
    "v2, another namespace's group": ("0::/../x\n", V2, {"sys/fs/cgroup/cpu.max": "140000 100000"}, 1),
    "v2, half a processor": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
    "v2, damaged": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "lots"}, 8),
    "v2, no quota": ("0::/a\n", V2, {"sys/fs/cgroup/a/cpu.max": "max 100000"}, 8),
    "v1": (
        "3:memory:/m\n1:cpu,cpuacct:/a/b\n",
        V1_MEMORY + V1,
        {
            "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "50000",
        },
        5,
    ),
    "v1, the host's path in a container": (
        "1:cpu,cpuacct:/docker/abc\n",
        V1.replace("{root}", "/docker/abc"),
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
        2,
    ),
    "v1, a path that is not mounted": (
        "1:cpu,cpuacct:/docker/abc\n",
        V1,
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
        2,
    ),
    "both versions": (
        "1:cpu,cpuacct:/a\n0::/b\n",
        V1 + V2.replace("{at}", "/sys/fs/cgroup/unified"),
        {
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/unified/b/cpu.max": "max 100000",
        },
        3,
    ),
    "nothing to read": ("", "", {}, 8),
    "lines of another kind": ("???\n", "nonsense\n - \n1 2 3 - cgroup2\n", {}, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_quota(case: str, tmp_path: Path) -> None:
    groups, mounts, files, expected = CASES[case]
    mounts = mounts.replace("{root}", "/").replace("{at}", "/sys/fs/cgroup")
    assert threads.budget(machine(tmp_path, groups, mounts, files)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3), ("2,1", 2), (" 4 ", 4), ("64", 8), ("", 8), ("0", 8), ("-2", 8), ("2,0", 8), ("all", 8), ("2;1", 8),
     ("9" * 30, 8), ("٣", 8)],
)  # fmt: skip
def test_what_the_user_asks_for(value: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.budget(tmp_path) == expected


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    files = {
        f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": f"{number % 4},{number % 4 + 4}"
        for number in range(8)
    }
    assert threads.budget(machine(tmp_path, "", "", files)) == 4


def test_processes_of_one_launcher_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("4", 2), ("100", 1), ("0", 8), ("x", 8)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", given)
        assert threads.budget(tmp_path) == expected


PROGRAM = (
    "import os, vlcompare, torch\n"
    "from vlcompare.models.kernels.cpu import openmp\n"
    "print(os.environ['OMP_NUM_THREADS'], torch.get_num_threads(), openmp.threads(), os.environ.get('GOMP_SPINCOUNT'))"
)


@pytest.mark.skipif(sys.platform != "linux", reason="the affinity is Linux's")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1 1 1 1000"),
        pytest.param({"OMP_NUM_THREADS": "garbage", "GOMP_SPINCOUNT": "7"}, "1 1 1 7", marks=pytest.mark.slow),
        ({"OMP_NUM_THREADS": "2,3", "OMP_WAIT_POLICY": "active"}, "1,3 1 1 None"),
    ],
)
def test_torch_follows(given: dict[str, str], expected: str) -> None:
    """In a process that may run on one processor only; nothing is said on the terminal about what was wrong."""
    environment = {**os.environ, **given}
    program = f"import os; os.sched_setaffinity(0, {{{ALLOWED[0]}}})\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
    assert "libgomp" not in done.stderr


PICTURE = Path(__file__).parents[1] / "examples/pictures/2026000004-vqa-0.png"
ASKED: dict[str, Any] = {"task": "vqa", "text": "How many?", "max_new_tokens": 3, "stop_at_end": False}


@pytest.fixture
def two_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_small_model_uses_one_thread_and_a_large_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one after the other in one thread; the caller's own number is back whenever the caller computes."""
    import torch

    import vlcompare
    from vlcompare.models.vlm import VisionLanguageModel

    used = []
    encode = VisionLanguageModel.vision_features

    def noted(self: Any, pixels: Any) -> Any:
        used.append((torch.get_num_threads(), _mkl()))
        return encode(self, pixels)

    monkeypatch.setattr(VisionLanguageModel, "vision_features", noted)
    model = vlcompare.load("tiny-mamba-vl", device="cpu")
    for bytes_held, expected in ((model.weights_bytes, 1), (1 << 30, 2), (model.weights_bytes, 1)):
        model.weights_bytes = bytes_held
        assert model.threads == expected and torch.get_num_threads() == 2
        outside = [(item, torch.get_num_threads(), _mkl()) for item in vlcompare.stream(model, PICTURE, **ASKED)]
        assert {(count, mkl or 2) for _, count, mkl in outside} == {(2, 2)}
        answer = outside[-1][0]
        assert isinstance(answer, vlcompare.Answer) and answer.timings.threads == expected
        assert vlcompare.Answer.from_json(answer.to_json()).timings.threads == expected
        (batched,) = vlcompare.generate_batch(model, [(PICTURE, vlcompare.Request(**ASKED))])
        assert batched.timings.threads == expected and torch.get_num_threads() == 2
        assert [(count, mkl or expected) for count, mkl in used] == [(expected, expected)] * 2
        used.clear()


@pytest.mark.usefixtures("two_threads")
def test_the_number_is_the_calling_threads_alone() -> None:
    """While one side's thread computes with one, another's, begun meanwhile, has all; an error restores the number."""
    import torch

    from vlcompare.models.kernels.cpu.openmp import at_most, each_at_most, library

    if library() is None:
        pytest.skip("torch's OpenMP library cannot be called here")

    with ThreadPoolExecutor(1) as other, pytest.raises(ZeroDivisionError), at_most(1):
        assert torch.get_num_threads() == 1 and _mkl() in (1, None)
        assert other.submit(torch.get_num_threads).result() == 2
        with at_most(8):
            assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2 and _mkl() in (2, None)

    def failing() -> Generator[int, None, None]:
        try:
            yield torch.get_num_threads()
            raise ZeroDivisionError
        finally:
            closed.append(torch.get_num_threads())

    closed: list[int] = []
    items = each_at_most(failing(), 1)
    assert next(items) == 1 and torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        next(items)
    left = each_at_most(failing(), 1)
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert closed == [1, 1] and torch.get_num_threads() == 2


def _mkl() -> int | None:
    """How many threads MKL would use for the calling thread; None in a torch without MKL."""
    import torch

    (line,) = [line for line in torch.__config__.parallel_info().splitlines() if "mkl_get_max_threads" in line] or [""]
    return int(line.rpartition(":")[2]) if line else None


def test_a_program_that_has_torch_already_keeps_its_lower_number(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from vlcompare.runtime.loading.load import _limit_threads

    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "budget", lambda: 2)
    threads.prepare()
    assert "OMP_NUM_THREADS" not in os.environ  # too late: torch has read it
    try:
        for number, expected in ((1, 1), (2, 2), (5, 2)):
            torch.set_num_threads(number)
            _limit_threads()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
