"""How much memory is left: the machine's, a container's, the process' own limits; the least of them counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlcompare.errors import DeviceMemoryError
from vlcompare.machine import cgroups
from vlcompare.runtime import memory

CPU = torch.device("cpu")
V1 = "30 23 0:9 {above} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V2 = "31 23 0:8 {above} /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
UNIFIED = "31 23 0:8 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


def system(root: Path, membership: str, mounts: list[str], groups: dict[str, dict[str, object]]) -> Path:
    """A root folder with what the kernel would show: `groups` is {folder below /sys/fs/cgroup: {file: content}}."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership + "\n")
    (root / "proc/self/mountinfo").write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda rw", *mounts]) + "\n")
    for folder, files in groups.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_text(f"{content}\n")
    return root


def v1(limit: int, usage: int, **stat: int) -> dict[str, object]:
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": usage,
        "memory.stat": "\n".join(f"{name} {value}" for name, value in stat.items()),
    }


def v2(most: object, current: int, high: object = "max", **stat: int) -> dict[str, object]:
    lines = "\n".join(f"{name} {value}" for name, value in stat.items())
    return {"memory.max": most, "memory.high": high, "memory.current": current, "memory.stat": lines}


NONE = 9223372036854771712  # what version 1 says where there is no limit
CASES = {
    "version 2": ("0::/a", [V2.format(above="/")], {"a": v2(1000, 300, inactive_file=100)}, 800),
    "version 2, throttled first": ("0::/a", [V2.format(above="/")], {"a": v2(1000, 300, high=900)}, 600),
    "version 2, without a limit": ("0::/a", [V2.format(above="/")], {"a": v2("max", 300)}, None),
    "an outer group is smaller": (
        "0::/a/b/c", [V2.format(above="/")],
        {"a": v2(900, 500, inactive_file=50), "a/b": v2("max", 400), "a/b/c": v2(1000, 300)}, 450,
    ),
    "files that were read again are given back, too": (
        "0::/a", [V2.format(above="/")], {"a": v2(1000, 900, inactive_file=200, active_file=500)}, 800,
    ),
    "version 1": (
        "4:memory:/a", [V1.format(above="/")],
        {"memory": v1(NONE, 9000), "memory/a": v1(700, 300, inactive_file=1, total_inactive_file=100)}, 500,
    ),
    "version 1 within a container, by the host's path": (
        "4:cpu,memory:/docker/abc", [V1.format(above="/docker/abc")], {"memory": v1(700, 300)}, 400,
    ),
    "version 2 within a container": ("0::/", [V2.format(above="/")], {"": v2(700, 300)}, 400),
    "another namespace's path": ("0::/../../x", [V2.format(above="/")], {"": v2(700, 300)}, 400),
    "both side by side": (
        "4:memory:/a\n0::/u", [V1.format(above="/"), UNIFIED], {"memory/a": v1(700, 300), "unified/u": {}}, 400,
    ),
    "another controller's mount": (
        "5:cpu:/a\n4:memory:/a", [V1.format(above="/").replace("rw,memory", "rw,cpu")], {"memory/a": v1(7, 3)}, None,
    ),
    "more used than allowed": ("0::/a", [V2.format(above="/")], {"a": v2(1000, 1200)}, -200),
    "no groups at all": ("", [], {}, None),
    "files that say nothing": ("0::/a\nrubbish", [V2.format(above="/"), "x - "], {"a": {"memory.max": "?"}}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_control_groups_leave(name: str, tmp_path: Path) -> None:
    membership, mounts, groups, expected = CASES[name]
    assert memory._left_in_groups(system(tmp_path, membership, mounts, groups)) == expected


def test_a_mount_with_a_blank_in_its_name(tmp_path: Path) -> None:
    mount = "31 23 0:8 / /sys/fs/cgroup/my\\040groups rw - cgroup2 cgroup2 rw"
    root = system(tmp_path, "0::/", [mount], {"my groups": v2(10, 3)})
    assert list(cgroups.groups("memory", root)) == [root / "sys/fs/cgroup/my groups"]
    assert memory._left_in_groups(root) == 7


@pytest.mark.parametrize("least", ["machine", "groups", "own"])
def test_the_least_counts_and_is_never_negative(least: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def patch(machine: int, groups: int, own: int) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("vm", (), {"available": machine}))
        monkeypatch.setattr(memory, "_left_in_groups", lambda: groups)
        monkeypatch.setattr(memory, "_left_of_own_limits", lambda: own)

    patch(**{**{"machine": 900, "groups": 900, "own": 900}, least: 5})
    assert memory.available_bytes(CPU) == 5
    patch(**{**{"machine": 900, "groups": 900, "own": 900}, least: -5})
    assert memory.available_bytes(CPU) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is enforced by Linux")
def test_the_process_own_limit_counts() -> None:
    code = (
        "import resource, psutil, torch; from vlcompare.runtime.memory import available_bytes\n"
        "size = psutil.Process().memory_info().vms + (100 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "print(available_bytes(torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50 << 20 < int(done.stdout) <= 100 << 20


def test_a_refusal_names_both_sizes_and_a_gpu_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**9)
    memory.check_room("x", 10**9, CPU)
    memory.check_room("x", 10**12, torch.device("cuda"))
    with pytest.raises(DeviceMemoryError, match=r"x needs about 2.0 GB of memory and 1.0 GB are free: .*container"):
        memory.check_room("x", 2 * 10**9, CPU)


def test_a_batch_that_would_not_fit_is_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU raises nothing when its memory is full: what a batch keeps is asked for before it is taken."""
    import vlcompare
    from vlcompare.evaluate.run import _generate
    from vlcompare.runtime.batch import generate_batch
    from vlcompare.types import Request

    model = vlcompare.load("tiny-pythia-vl", device="cpu")
    picture = Path(__file__).parents[1] / "examples" / "pictures" / "2026000004-vqa-0.png"
    asked = [(picture, Request(task="vqa", text=text, max_new_tokens=3)) for text in ("How many?", "Where?", "What?")]
    needed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr("vlcompare.runtime.batch.check_room", lambda name, count, device: needed.append(count))
        whole = generate_batch(model, asked)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed[0] // 2)  # enough for one of three
    with pytest.raises(DeviceMemoryError, match="A batch of 3 for tiny-pythia-vl"):
        generate_batch(model, asked)
    assert [answer.text for answer in _generate(generate_batch, model, asked, 1)] == [a.text for a in whole]


def _own_group() -> Path | None:
    """A new group below one of this process' own with a memory limit, where that is allowed here."""
    for folder in cgroups.groups("memory"):
        made = folder / f"vlcompare-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        if (made / "memory.limit_in_bytes").exists() or (made / "memory.max").exists():
            return made
        made.rmdir()
    return None


def test_a_real_group_s_limit_counts() -> None:
    group = _own_group()
    if group is None:
        pytest.skip("no control group can be made here")
    limit = 600 << 20
    try:
        name = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
        try:
            (group / name).write_text(str(limit))
        except OSError:
            pytest.skip("the memory of a control group cannot be limited here")
        code = (
            f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "import torch; from vlcompare.runtime.memory import available_bytes, _left_in_groups\n"
            "print(_left_in_groups(), available_bytes(torch.device('cpu')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        left, available = map(int, done.stdout.split())
        assert left // 2 < available <= limit and left < limit
    finally:
        group.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="the resident size is read from proc")
def test_freed_memory_does_not_hide_what_is_held() -> None:
    """In a process of its own: pieces too small to be mapped one by one are freed, then as many are taken again."""
    work = """
import psutil, torch
from vlcompare.runtime.memory import return_freed_memory
resident = lambda: psutil.Process().memory_info().rss >> 20
take = lambda: [torch.ones(1 << 12) for _ in range(1 << 13)]
freed, last = take(), torch.ones(1 << 12)
del freed
return_freed_memory()
before = resident()
held = take()
return_freed_memory()
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, timeout=120, check=True)
    assert 120 <= int(done.stdout) <= 140, done.stdout
