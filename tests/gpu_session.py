"""A first run on a CUDA GPU by one command, in under ten minutes and without a network; not collected by pytest.

    python tests/gpu_session.py OUT [--wheels FOLDER] [--device cuda] [--small] [--only STEP ...] [--seconds 570]

Each step is a process of its own with a time limit; one that hangs is killed with all that it started, one that crashes
ends nothing but itself. OUT is written to as it goes: NAME.log and NAME.json of each step, summary.json and summary.txt
after each. What the machine lacks is installed from wheels in FOLDER, 64 MiB in all. `--device cpu --small` goes
through the same steps with tiny models on a CPU. Exit status: 1 where a step failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 570.0  # for all steps together
MAX_WHEELS = 64 << 20  # bytes
SHAPES = ("mambavl_2.8b", "pythiavl_2.8b")
REPLAYS = 5  # of a profile
NO_DEVICE = 3  # exit status of a step that finds no such device: nothing that follows could tell anything
TAIL = 2000  # characters of a log that the summary keeps where a step failed


@dataclass(frozen=True)
class Step:
    """command: its arguments; "{out}" in them is the file for its JSON. limit: seconds."""

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Outcome:
    """verdict: "ok", "failed" (an exit status other than 0, or a signal), "killed" (too slow), "left out" (no time)."""

    name: str
    verdict: str
    seconds: float
    status: int | None
    headline: str


def steps_of(args: argparse.Namespace) -> list[Step]:
    """Correctness first, then figures; what may leave the GPU unusable comes last."""
    python, own = sys.executable, str(Path(__file__).resolve())
    which = ("--device", args.device, *(("--small",) if args.small else ()))
    longer = 3 if args.device == "cpu" else 1  # limits are a GPU's; a CPU compiles loops of its own

    def child(name: str, limit: float, *more: str) -> Step:
        return Step(name, (python, own, "{out}", "--child", name, *which, *more), longer * limit)

    tests = [
        Step(f"tests-{part}", (python, "-m", "pytest", "-m", "gpu", f"tests/test_gpu_{part}.py", "-v", "--tb=short",
                               "-p", "no:cacheprovider"), limit)
        for part, limit in (("kernels", 120), ("engine", 120), ("load", 60))
    ]  # fmt: skip
    wheels = [child("wheels", 60, "--wheels", str(args.wheels))] if args.wheels else []
    return [
        *wheels,
        child("versions", 30),
        child("proofs", 240),
        child("doctor", 120),
        *tests,
        child("bench-bf16", 120),
        child("bench-nf4", 120),
        child("profile", 60),
        child("race-nf4", 60),
        child("nan", 60),
    ]


# ---- the steps, each in its own process ------------------------------------------------------------------------------


def run_steps(steps: Sequence[Step], out: Path, *, seconds: float = SECONDS, say: Callable[[str], None] = print) -> int:
    """Run them one after the other; returns how many were not "ok"."""
    out.mkdir(parents=True, exist_ok=True)
    end, outcomes = time.monotonic() + seconds, []
    for step in steps:
        left = end - time.monotonic()
        outcome = (
            run_step(step, out, min(step.limit, left)) if left > 1 else Outcome(step.name, "left out", 0, None, "")
        )
        outcomes.append(outcome)
        say(_line(outcome))
        (out / "summary.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
        (out / "summary.txt").write_text("\n".join(map(_line, outcomes)) + "\n")
        if outcome.status == NO_DEVICE:
            break
    return sum(one.verdict != "ok" for one in outcomes)


def run_step(step: Step, out: Path, limit: float) -> Outcome:
    """One step; its process group is killed when the limit is over, and when it leaves processes behind."""
    log, found = out / f"{step.name}.log", out / f"{step.name}.json"
    command = [part.replace("{out}", str(found)) for part in step.command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    began, killed = time.monotonic(), False
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            killed = True
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    verdict = "killed" if killed else "failed" if status else "ok"
    headline = _headline(found, log, verdict)
    return Outcome(step.name, verdict, round(time.monotonic() - began, 1), status, headline)


def _headline(found: Path, log: Path, verdict: str) -> str:
    """What the step says of itself; else the last line of its log, or of one that failed its end."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads(found.read_text())["headline"])
    text = log.read_text(errors="replace").strip()
    return (text.splitlines() or [""])[-1][:200] if verdict == "ok" else text[-TAIL:]


def _line(outcome: Outcome) -> str:
    first = (outcome.headline.strip().splitlines() or [""])[-1]
    return f"{outcome.name:<14} {outcome.verdict:<8} {outcome.seconds:>6.1f} s  {first[:160]}"


# ---- what runs inside a step -----------------------------------------------------------------------------------------


def _wheels(args: argparse.Namespace) -> dict[str, Any]:
    """Install every wheel of the folder, and nothing else."""
    files = sorted(args.wheels.glob("*.whl"))
    size = sum(file.stat().st_size for file in files)
    if size > MAX_WHEELS:
        raise SystemExit(f"{size / 2**20:.0f} MiB of wheels are more than {MAX_WHEELS >> 20} MiB.")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(args.wheels), *map(str, files)],
        check=True,
    )
    return {"headline": f"{len(files)} wheels, {size / 2**20:.1f} MiB", "wheels": [file.name for file in files]}


def _versions(args: argparse.Namespace) -> dict[str, Any]:
    from vlcompare.runtime.doctor import hardware, software

    devices, problems = hardware.devices()
    installed = software.installed()
    wanted = [one for one in devices if one.name.startswith(args.device.partition(":")[0])]
    if not wanted:
        why = " ".join(problems) or "torch sees none"
        print(f"This machine has no {args.device} ({why}): nothing was tried; --device cpu --small rehearses all steps")
        raise SystemExit(NO_DEVICE)
    titles = ", ".join(f"{one.title} ({one.capability})" for one in wanted)
    return {"headline": f"{titles}; torch {installed.versions.get('torch')}", "software": asdict(installed),
            "devices": [asdict(one) for one in devices], "problems": problems}  # fmt: skip


def _proofs(args: argparse.Namespace) -> dict[str, Any]:
    """Every kernel at the published sizes beside the reference."""
    from vlcompare.runtime.doctor import hardware, operations

    devices, _ = hardware.devices()
    wanted = [one for one in devices if one.name.startswith(args.device.partition(":")[0])]
    trials, problems = operations.trials(wanted)
    right = sum(one.verdict == "agrees" for one in trials)
    for one in trials:
        print(one)
    return {"headline": f"{right} of {len(trials)} agree", "trials": [asdict(one) for one in trials],
            "problems": problems}  # fmt: skip


def _doctor(args: argparse.Namespace) -> dict[str, Any]:
    """Its text in the log, its values in the JSON."""
    from vlcompare.cli.doctor import lines
    from vlcompare.runtime import doctor

    found: dict[str, Any] = {}
    for name, value in doctor.sections():
        found[name] = value
        print("\n".join(lines(name, value)))
    report = doctor.Report(**found)
    said = "; ".join(report.problems) or "no problems"
    _write(args.out, {"headline": said, **asdict(report)})
    if report.problems:
        raise SystemExit(said)
    return {"headline": said, **asdict(report)}


def presets(small: bool) -> dict[str, Any]:
    """The published shapes, or two that a CPU runs in a moment."""
    from vlcompare.models.config import PRESETS, MambaConfig, ModelConfig, PythiaConfig, VisionConfig

    if not small:
        return {name: PRESETS[name] for name in SHAPES}
    scene = {"stem": [8, 8, 16, 24], "depth": 1, "heads": 2, "hidden": 32, "grid": 4}
    vision = VisionConfig("vlcompare/scene", 64, scene=scene)
    languages = MambaConfig(64, 64, 2), PythiaConfig(64, 64, 2, 2, 128)
    families = ("mamba", "pythia")
    return {
        name: ModelConfig(family, vision, language, 64)  # type: ignore[arg-type]
        for name, family, language in zip(SHAPES, families, languages, strict=True)
    }


def _bench(args: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Both families, 32 tokens, two repeats, without other people's code; kept after each shape."""
    from vlcompare.bench.models import ModelOptions, run
    from vlcompare.bench.tables import table

    tokens, prompt = (3, 30) if args.small else (32, 620)
    options = ModelOptions(SHAPES, (precision,), args.device, prompt, tokens, repeats=2, vision=False, peers=False)

    def told(report: Any) -> dict[str, Any]:
        rows = [row for row in report.rows if row.token_ms]
        said = [f"{row.shape} {row.who} {row.token_ms:.2f} ms ({row.bandwidth_share or 0:.0%})" for row in rows]
        return {"headline": "; ".join(said) or "nothing was measured", **report.to_json()}

    report = run(options, presets=presets(args.small), progress=print, kept=lambda part: _write(args.out, told(part)))
    print(table(report))
    return told(report)


def _profile(args: argparse.Namespace) -> dict[str, Any]:
    """Some steps of each family, as the device runs them: each kernel's count and time a token."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from vlcompare.bench.contestants import Ours, build, decide_kernels

    device = torch.device(args.device)
    cuda = device.type == "cuda"
    found: dict[str, Any] = {}
    for name, config in presets(args.small).items():
        with torch.inference_mode():
            vlm = build(config, "bf16", device)
            decide_kernels(vlm, "bf16", device)
            width = config.language.hidden_size
            embeddings = torch.randn(1, 30 if args.small else 620, width).to(device, torch.bfloat16)
            ours = Ours(vlm, embeddings, 3 * REPLAYS, graphs=cuda)
            ours.prefill()
            for _ in range(REPLAYS):
                ours.step()
            with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as record:
                for _ in range(REPLAYS):
                    ours.step()
                if cuda:
                    torch.cuda.synchronize(device)
        key = "self_device_time_total" if cuda else "self_cpu_time_total"
        rows = sorted(record.key_averages(), key=lambda row: -float(getattr(row, key)))
        kernels = [
            {"name": row.key[:120], "count": row.count / REPLAYS, "us": round(float(getattr(row, key)) / REPLAYS, 2)}
            for row in rows
            if getattr(row, key)
        ]
        launches, total = sum(row["count"] for row in kernels), sum(row["us"] for row in kernels)
        found[name] = {"launches": launches, "us": round(total, 1), "reason": ours.reason, "kernels": kernels}
        print(name, found[name]["launches"], "launches,", found[name]["us"], "us a token", ours.reason)
        _write(args.out, {"headline": "not finished", **found})
        del vlm, ours
    said = [f"{name} {one['launches']:.0f} launches, {one['us'] / 1e3:.2f} ms" for name, one in found.items()]
    return {"headline": "; ".join(said), **found}


def _picture() -> Path:
    return min((ROOT / "examples/pictures").glob("*.png"))


def _race(args: argparse.Namespace) -> dict[str, Any]:
    """The embedded pair in NF4, both at once on one device."""
    from vlcompare.comparison import compare
    from vlcompare.types import Request, Side

    names = {"left": "tiny-pythia-vl", "right": "tiny-mamba-vl"}
    sides = {side: Side(name, quantization="nf4", device=args.device) for side, name in names.items()}
    request = Request("captioning", max_new_tokens=3 if args.small else 32)
    answers = {event.side: event.value for event in compare(_picture(), request, sides, mode="race")
               if event.kind == "answer"}  # fmt: skip
    told = {side: {"text": one.text, "error": one.error} for side, one in answers.items()}
    print(json.dumps(told, indent=1))
    if sorted(answers) != sorted(sides) or any(one.error for one in answers.values()):
        raise SystemExit("A side did not answer.")
    return {"headline": "both answered", **told}


def _nan(args: argparse.Namespace) -> dict[str, Any]:
    """Weights that are no numbers end an answer with a sentence; the process answers again afterwards."""
    import torch

    import vlcompare

    found = {}
    for name in ("tiny-mamba-vl", "tiny-pythia-vl"):
        model = vlcompare.load(name, device=args.device, dtype="float32")
        ask: dict[str, Any] = {"task": "captioning", "max_new_tokens": 3}
        before = vlcompare.generate(model, _picture(), **ask)
        weight = next(iter(model.vlm.language_model.parameters()))
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.fill_(float("nan"))
        try:
            error = vlcompare.generate(model, _picture(), **ask).error or ""
        except vlcompare.VLCompareError as raised:
            error = str(raised)
        with torch.no_grad():
            weight.copy_(kept)
        after = vlcompare.generate(model, _picture(), **ask)
        same = [token.id for token in before.tokens] == [token.id for token in after.tokens]
        found[name] = {"sentence": error, "same_afterwards": same}
        print(name, found[name])
        if not same:
            raise SystemExit(f"{name} does not answer as before.")
    silent = [name for name, one in found.items() if not one["sentence"]]
    said = f"no sentence from {', '.join(silent)}" if silent else "a sentence each"
    return {"headline": f"{said}; answers as before afterwards", **found}


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "wheels": _wheels,
    "versions": _versions,
    "proofs": _proofs,
    "doctor": _doctor,
    "bench-bf16": lambda args: _bench(args, "bf16"),
    "bench-nf4": lambda args: _bench(args, "nf4"),
    "profile": _profile,
    "race-nf4": _race,
    "nan": _nan,
}


def _write(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1, default=str) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install first")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--small", action="store_true", help="tiny models, for a CPU")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all steps together")
    parser.add_argument("--child", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        _write(args.out, CHILDREN[args.child](args))
        return 0
    steps = [step for step in steps_of(args) if not args.only or step.name in args.only]
    return 1 if run_steps(steps, args.out.resolve(), seconds=args.seconds) else 0


if __name__ == "__main__":
    sys.exit(main())
