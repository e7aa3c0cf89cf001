"""`train`: the embedded pair from scratch, on a CPU or a GPU; stopped at any moment, `--resume` continues."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from vlcompare.cli.options import above_zero

STAGES = ("encoder", "features", "pythia", "mamba", "export", "report")  # as in synth.train.stages, imported late
UNFINISHED = 3  # exit status: the budget ran out, the state is saved


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train the embedded pair on rendered scenes",
        description="Train the scene encoder, then both language models on the same batches, and export checkpoints.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for states, logs and features")
    parser.add_argument(
        "--stage",
        choices=(*STAGES, "all"),
        default="all",
        metavar="STAGE",
        help=f"one of {', '.join(STAGES)}, or all in order (default)",
    )
    parser.add_argument(
        "--recipe",
        help="cpu, gpu, smoke, or a JSON file with the values that differ from cpu (default: DIR's recipe, else cpu)",
    )
    parser.add_argument(
        "--budget", type=above_zero(float), metavar="MINUTES", help="stop after that time; --resume continues"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the states in DIR")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=above_zero(int), default=1, metavar="N", help="of each process on CPU (default 1)"
    )
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="where `export` writes the pair (default: DIR/checkpoints)"
    )


def run(args: argparse.Namespace) -> int:
    import torch

    from vlcompare.cli import program
    from vlcompare.errors import RequestError
    from vlcompare.synth.train import recipe, stages

    if args.resume and not stages.begun(args.out):
        raise RequestError(f"{args.out} holds no training to continue: leave out --resume to begin one there.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise RequestError("There is no CUDA device here; use --device cpu.")
    kept = args.out / "recipe.json"
    named = args.recipe or (str(kept) if kept.is_file() else "cpu")
    settings = stages.TrainingSettings(
        out=args.out,
        recipe=recipe.load(named),
        device=args.device,
        resume=args.resume,
        budget_seconds=None if args.budget is None else args.budget * 60,
        threads=args.threads,
        checkpoints=args.checkpoints,
    )
    done = stages.run_all(settings) if args.stage == "all" else stages.run_stage(args.stage, settings)
    if not done:
        again = ["--out", str(args.out), "--stage", args.stage, "--recipe", named, "--device", args.device]
        again += ["--threads", str(settings.threads)]
        again += ["--checkpoints", str(args.checkpoints)] if args.checkpoints else []
        print(f"The budget is spent; go on with: {program()} train {shlex.join([*again, '--resume'])}")
    return 0 if done else UNFINISHED
