"""`doctor`: what it says of this machine, that it says nothing private, and what makes it fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from vlcompare.cli import doctor as command
from vlcompare.cli import main
from vlcompare.machine import threads
from vlcompare.models.kernels import fallback, packed
from vlcompare.paths import EMBEDDED
from vlcompare.runtime import doctor
from vlcompare.runtime.doctor import hardware, operations, software, storage
from vlcompare.runtime.doctor.facts import Answered, Device, Operation, Trial

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def report() -> Iterator[doctor.Report]:
    """Of this machine, with a network that is switched off, and little arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr(hardware, "_MEGABYTES", {"cpu": 1, "cuda": 1})
        patch.setattr(operations, "TOKENS", 2)
        yield doctor.report()


def test_this_machine_is_in_order(report: doctor.Report) -> None:
    assert report.problems == ()
    assert [one.name for one in report.devices][0] == "cpu" and report.devices[0].total_bytes > 1 << 28
    assert {(one.device, one.checkpoint) for one in report.answers} >= {("cpu", name) for name in EMBEDDED}
    assert all(one.agrees and one.tokens == 2 for one in report.answers)
    assert report.bandwidth[0].copy > 0 and report.bandwidth[0].product
    assert report.hub.state == "offline" and report.storage.cache_free_bytes > 0
    assert report.storage.checkpoints[EMBEDDED[0]] == "part of this project"
    assert report.processor.threads == threads.budget()
    kernels = {one.operation: one.kernel for one in report.operations if one.device == "cpu"}
    assert kernels["prompt: scan"] == kernels["token: products"] == "numba"


def test_a_cpus_packed_products_are_this_projects_own(report: doctor.Report) -> None:
    named = [one.kernel for one in report.operations if one.device == "cpu" and one.operation.startswith("products in")]
    expected = f"numba, {packed.supported()[0]}" if packed.supported() else operations.PYTORCH
    assert named == [expected + " and AMX" * packed.tiled("nf4")] * 2


def test_the_text_and_the_json_say_the_same(report: doctor.Report, monkeypatch: pytest.MonkeyPatch,
                                            tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(doctor, "sections", lambda: iter((name, getattr(report, name)) for name in asdict(report)))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(asdict(report)))
    file = tmp_path / "doctor.json"
    assert main(["doctor", "--json", str(file)]) == 0 and json.loads(file.read_text()) == told
    assert capsys.readouterr().out == text
    assert max(map(len, text.splitlines())) <= 80
    plain = " ".join(text.split())
    assert f"torch {told['software']['versions']['torch']}" in plain and "problems none found" in plain
    assert (
        f"{told['processor']['threads']}: {told['processor']['thread_limits']['cores']} cores" in plain
        and "offline" in plain
    )


def test_nothing_private_is_said(report: doctor.Report) -> None:
    told = json.dumps(asdict(report))
    home, cwd = str(Path.home()), os.getcwd()
    assert not [path for path in (home, cwd, str(ROOT)) if len(path) > 5 and path in told]
    assert not [name for name in software._names() if f" {name} " in told]


PRIVATE = [
    ("FileNotFoundError: '/home/rosa/.cache/x.bin'", "FileNotFoundError: '~/.cache/x.bin'"),
    ("/home/rosa", "~"),
    ("cannot open /mnt/disk1/rosa/models/a.so now", "cannot open …/a.so now"),
    (r"C:\Users\Rosa\a.dll is missing", "…/a.dll is missing"),
    ("Bearer hf_abcdefghijklmnop was refused", "(token) was refused"),
    ("token hf_abcdefghijklmnop", "token (token)"),
    ("https://mirror.example.org/api refused", "(HF_ENDPOINT)/api refused"),
    ("host big-rig-7 said no to rosa", "host (name) said no to (name)"),
    ("a rosary, 3/4 of it, and/or cuda:0", "a rosary, 3/4 of it, and/or cuda:0"),
]


@pytest.mark.parametrize(("text", "left"), PRIVATE)
def test_private_parts_are_taken_out(text: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/rosa")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org")
    monkeypatch.setattr(software.socket, "gethostname", lambda: "big-rig-7")
    monkeypatch.setattr(software.platform, "node", lambda: "big-rig-7")
    monkeypatch.setattr(software.getpass, "getuser", lambda: "rosa")
    assert software.private(text) == left


def test_a_folder_is_named_below_home_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert software.folder(tmp_path / "a" / "b") == "~/a/b" and software.folder(Path("/srv/x")) == "outside of ~"


def test_the_first_lines_come_before_torch() -> None:
    code = (
        "import sys; from vlcompare.runtime import doctor; s = doctor.sections()\n"
        "print([next(s)[0], next(s)[0], 'torch' in sys.modules, 'numpy' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "['software', 'processor', False, False]"


@pytest.mark.parametrize(
    ("environment", "shown", "count"),
    [({}, "not set", None), ({"OMP_NUM_THREADS": "1"}, "1", 1), ({"OMP_NUM_THREADS": "1,4"}, "1,4", 1)],
)
def test_threads_say_how_their_number_came_about(environment: dict[str, str], shown: str, count: int | None) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "LOCAL_WORLD"))}
    code = (
        "from vlcompare.runtime.doctor import software\n"
        "p = software.processor(); print(p.thread_limits['OMP_NUM_THREADS'], p.threads, sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, env={**kept, **environment}
    )
    given, _, used = done.stdout.strip().partition("|")
    assert given == shown and used == str(count or threads.budget())


def found_with(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> dict[str, Any]:
    """All sections, each part quick and in order except for those given."""
    quick: dict[str, Any] = {
        "devices": lambda: ((), []), "answers": lambda devices: ((), []), "trials": lambda devices: ((), []),
        "operations": lambda devices: ((), []), "rates": lambda devices: ((), []),
        "hub_state": lambda: (storage.Hub("offline", "", False, False), []),
        "storage": lambda: (storage.Storage("~", 1, "~", 1, {}), []), "notices": lambda: ((), []),
    }  # fmt: skip
    for name, part in {**quick, **parts}.items():
        module = next(module for module in (hardware, operations, storage) if hasattr(module, name))
        monkeypatch.setattr(module, name, part)
    return dict(doctor.sections())


def test_what_fails_is_a_problem_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(devices: Any) -> Any:
        raise RuntimeError("CUDA error: out of order\nand more")

    found = found_with(monkeypatch, rates=broken)
    assert found["bandwidth"] == () and found["hub"].state == "offline"
    assert found["problems"] == (
        "The part 'bandwidth' could not be found out: RuntimeError: CUDA error: out of order.",
    )


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "REQUIRED", ("torch", "no-such-package"))
    (problem,) = found_with(monkeypatch)["problems"]
    assert "no-such-package" in problem and "torch" not in problem and "pip install" in problem


def test_a_driver_without_a_build_for_it_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "_has_driver", lambda: True)
    (problem,) = hardware.devices()[1]
    assert "NVIDIA driver" in problem and "finds no GPU" in problem


def test_failed_cpu_kernels_are_a_problem_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "_failed", set())
    monkeypatch.setattr(fallback, "_sentences", {})
    fallback.give_up("numba", ImportError("libllvm.so: cannot open"))
    found, problems = operations.operations([Device("cpu", "", 0, 0, "", True)])
    scan = next(one for one in found if one.operation == "prompt: scan")
    assert scan.kernel == operations.PYTORCH and "cannot open" in scan.reason and len(problems) == 1


def test_an_answer_that_differs_or_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(checkpoint: str, device: str) -> tuple[int, ...]:
        if device == "cuda:0":
            raise RuntimeError("no kernel image is available")
        return (1, 2) if device == "cpu" else (1, 3)

    operations._expected.cache_clear()
    monkeypatch.setattr(operations, "_ids", ids)
    devices = [Device(name, "", 0, 0, "", True) for name in ("cpu", "cuda:0", "cuda:1")]
    answers, problems = operations.answers(devices)
    operations._expected.cache_clear()
    assert [one.agrees for one in answers] == [True, True, False, False, False, False]
    assert "no kernel image" in problems[0] and "its tokens are not" in problems[2] and len(problems) == 4


def test_a_folder_that_cannot_be_written_to_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def refuse(dir: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuse)
    problems = storage.storage()[1]
    assert len(problems) == 3 and problems[0].startswith("The Hub's cache (")
    assert all(problem.endswith(") cannot be written to: Permission denied.") for problem in problems)


def test_a_report_of_a_gpu_reads_well(report: doctor.Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    gpu = replace(
        report,
        devices=(*report.devices, Device("cuda:0", "NVIDIA T4", 16_000_000_000, 15_000_000_000, "7.5", False,
                                         "torch for CUDA 12.8, driver 570.86")),
        answers=(Answered("cuda:0", EMBEDDED[0], 0.0, 0, False, "RuntimeError: no kernel image"),),
        operations=(Operation("cuda:0", "token: scan", operations.PYTORCH, "triton is not installed"),),
        trials=(Trial("cuda:0", "triton conv_step bfloat16 width=5120", "agrees", 1.25, 0.0012, 0.02),
                Trial("cuda:0", "triton add_norm bfloat16 width=2560", "failed", 0.5, None, 0.02, "OutOfResources")),
        problems=("tiny-pythia-vl on cuda:0 does not answer.",),
    )  # fmt: skip
    text = " ".join("\n".join(line for name in asdict(gpu) for line in command.lines(name, getattr(gpu, name))).split())
    for part in ("15.0 GB free of 16.0 GB; capability 7.5; no bfloat16 instructions",
                 "; torch for CUDA 12.8, driver 570.86", "(triton is not installed)",
                 "agrees, difference 1.2e-03 of 2e-02 allowed, 1.2 s", "failed, 0.5 s: OutOfResources",
                 "PROBLEM tiny-pythia-vl on cuda:0"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\n", "570.86.10"),
        ("another driver\n", ""),
        (None, ""),
    ],
)
def test_the_driver_is_told(told: str | None, version: str, tmp_path: Path) -> None:
    if told is not None:
        (tmp_path / "version").write_text(told)
    assert software.driver(tmp_path / "version") == version


def test_a_gpus_kernels_are_tried_at_their_own_sizes_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import pretended_cuda

    from vlcompare.models.config import PRESETS
    from vlcompare.models.kernels import verdicts
    from vlcompare.models.kernels.cuda import norm_and_argmax

    small = {
        "mambavl_2.8b": {"hidden_size": 64},
        "pythiavl_2.8b": {"hidden_size": 64, "heads": 4, "intermediate_size": 64},
    }
    shapes = {
        name: replace(PRESETS[name], language=replace(PRESETS[name].language, vocab_size=64, **sizes))
        for name, sizes in small.items()
    }
    monkeypatch.setattr(operations, "PRESETS", shapes)
    monkeypatch.setattr(fallback, "_failed", {"mamba_ssm"})
    monkeypatch.setattr(fallback, "_sentences", {})
    monkeypatch.setenv("VLCOMPARE_PROOFS", "here")
    verdicts.forget()
    with pretended_cuda.pretended(monkeypatch):
        pretended_cuda.stand_ins(monkeypatch)

        def broken(*given: Any) -> Any:
            raise RuntimeError("out of resources")

        monkeypatch.setattr(norm_and_argmax, "greedy", broken)
        gpu = Device("cuda:0", "NVIDIA", 1, 1, "9.0", True)
        trials, problems = operations.trials([gpu])
        found, _ = operations.operations([gpu])
    verdicts.forget()
    named = {one.case.split()[1]: one.verdict for one in trials}
    packed = "nf4_product", "nf4_norm_product", "int8_rows", "int8_result", "nf4", "int8"
    assert {named[function] for function in packed} == {"agrees"}
    assert any("selective_scan" in one.case and "trained=1" in one.case for one in trials)
    problems = [problem for problem in problems if "trained=1" not in problem]  # nothing has gradients here
    assert named["mix_step"] == named["norm_product"] == named["rotate_and_attend"] == "agrees"
    assert named["greedy"] == "failed" and problems and all(" greedy " in problem for problem in problems)
    kernels = {one.operation: one for one in found}
    assert kernels["token: attention"].kernel == kernels["token: convolution to scan"].kernel == "triton"
    assert kernels["token: greedy choice"].kernel == operations.PYTORCH
    assert "out of resources" in kernels["token: greedy choice"].reason
