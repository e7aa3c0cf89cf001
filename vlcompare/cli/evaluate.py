"""`evaluate DATA --left X [--right Y] --out DIR`: both models over a data set. The work is in `evaluate.run`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlcompare.types import DTYPES, NORMS, PROMPT_ORDERS, QUANTIZATIONS, SIDES, Side

# options that each side can have of its own: name -> (type or choices, help)
_PER_SIDE: dict[str, tuple[object, str]] = {
    "quantization": (QUANTIZATIONS, "default: none"),
    "dtype": (DTYPES, "default: bfloat16 on CUDA, else float32"),
    "image_size": (int, "resample to this size (default: as trained)"),
    "revision": (str, "of a Hub id: a commit, branch or tag"),
    "tokenizer": (str, "path of a tokenizer.json (default: the checkpoint's)"),
    "norm": (NORMS, "Mamba's norms (default: auto, by the tensors)"),
    "prompt_order": (PROMPT_ORDERS, "default: image_first"),
    "max_new_tokens": (int, "at most so many tokens (default: the task's)"),
    "temperature": (float, "0 takes the likeliest (default)"),
    "top_p": (float, "sample from this share of probability"),
    "top_k": (int, "sample from the K likeliest (0: from all)"),
    "seed": (int, "of the sampling (default: 0)"),
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from vlcompare.cli.score import add_reading_options

    parser = subparsers.add_parser(
        "evaluate",
        help="run one or both models over a data set, and score them",
        description="Ask every sample of both models and write a run folder: run.json, samples.jsonl, "
        "predictions.jsonl, summary.json. Killed at any point, --resume goes on where it was. Several processes share "
        "the work under `accelerate launch --multi_gpu --num_processes N -m vlcompare evaluate ...`, on GPUs, or on "
        "the CPU with --device cpu (accelerate's own --cpu starts one process only, unless through mpirun). "
        "Options of a side can be given to both (--quantization) or to one "
        "(--quantization-left).",
    )
    parser.add_argument("data", metavar="DATA", help="a file, a folder of pictures, or hub:OWNER/NAME")
    parser.add_argument("--left", required=True, metavar="X", help="checkpoint: a name, a folder, or a Hub id")
    parser.add_argument("--right", metavar="Y", help="the other checkpoint; without it one model is evaluated")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--alternatives", type=int, default=0, metavar="K", help="keep the K likeliest tokens of every step"
    )
    parser.add_argument("--copy-images", action="store_true", help="copy the pictures into the run folder")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    add_reading_options(parser)
    group = parser.add_argument_group("the models (each also with -left or -right)")
    for name, (kind, text) in _PER_SIDE.items():
        option = name.replace("_", "-")
        how = {"choices": kind} if isinstance(kind, tuple) else {"type": kind}
        group.add_argument(f"--{option}", help=text, **how)  # type: ignore[arg-type]
        for side in SIDES:
            group.add_argument(f"--{option}-{side}", help=argparse.SUPPRESS, **how)  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> int:
    from vlcompare.cli.score import reading_options
    from vlcompare.errors import RequestError
    from vlcompare.evaluate.run import run as run_all
    from vlcompare.evaluate.settings import RunSettings
    from vlcompare.evaluate.summary_text import figures_as_text

    for name, least in (("batch_size", 1), ("alternatives", 0), ("limit", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise RequestError(f"--{name.replace('_', '-')} is {least} or more, not {value}.")
    names = {side: getattr(args, side) for side in SIDES if getattr(args, side)}
    settings = RunSettings(
        data=args.data,
        out=args.out,
        sides={side: Side(name, **_own(args, side)) for side, name in names.items()},
        declared=reading_options(args),
        resume=args.resume,
        device=args.device,
        batch_size=args.batch_size,
        alternatives=args.alternatives,
        copy_images=args.copy_images,
        progress=not args.no_progress,
    )
    try:
        summary = run_all(settings)
    except KeyboardInterrupt:
        print(f"\nStopped. `--resume` goes on with {args.out}.", file=sys.stderr)
        return 130
    if summary:  # only the first of several processes has it
        print(figures_as_text(summary))
        print(f"The run is in {args.out}; look at it with `python -m vlcompare inspect {args.out}`.")
    return 0


def _own(args: argparse.Namespace, side: str) -> dict[str, object]:
    """A side's own options, else those given to both; what was not given is left to the default."""
    found = {}
    for name in _PER_SIDE:
        own = getattr(args, f"{name}_{side}")
        value = own if own is not None else getattr(args, name)
        if value is not None:
            found[name] = value
    return found
