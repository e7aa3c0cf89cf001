"""`evaluate DATA --left X [--right Y] --out DIR`: both models over a data set. The work is in `evaluate.run`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from vlcompare.cli import options
from vlcompare.paths import existing
from vlcompare.types import SIDES

# the device is for the whole run: it decides how fast, not what
_PER_SIDE = tuple(name for name in options.FIELD_OPTIONS if name != "device")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from vlcompare.cli.score import add_reading_options, add_submission_option

    parser = subparsers.add_parser(
        "evaluate",
        help="run one or both models over a data set, and score them",
        description="Ask every sample of both models and write a run folder: run.json, samples.jsonl, "
        "predictions.jsonl, summary.json. Killed at any point, --resume goes on where it was. Several processes share "
        "the work under `accelerate launch --multi_gpu --num_processes N -m vlcompare evaluate ...`, on GPUs, or on "
        "the CPU with --device cpu (accelerate's own --cpu starts one process only, unless through mpirun). "
        "Options of a side can be given to both (--quantization) or to one (--quantization-left).",
    )
    parser.add_argument("data", metavar="DATA", type=existing, help="a file, a folder of pictures, or hub:OWNER/NAME")
    parser.add_argument("--left", required=True, metavar="X", help="checkpoint: a name, a folder, or a Hub id")
    parser.add_argument("--right", metavar="Y", help="the other checkpoint; without it one model is evaluated")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--alternatives", type=int, default=0, metavar="K", help="keep the K likeliest tokens of every step"
    )
    parser.add_argument(
        "--evidence",
        type=int,
        default=0,
        metavar="N",
        help="for the first N samples with a true box, also measure on which part of the picture the answer rests",
    )
    parser.add_argument("--evidence-seed", type=int, metavar="S", help="take these N samples at random, by this seed")
    parser.add_argument("--copy-images", action="store_true", help="copy the pictures into the run folder")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    add_submission_option(parser)
    add_reading_options(parser)
    group = parser.add_argument_group("the models (each also with -left or -right)")
    options.add_fields(group, _PER_SIDE, SIDES)


def run(args: argparse.Namespace) -> int:
    options.check_checkpoint(args.left, args.right)
    if not args.right:
        options.refuse_own(args, _PER_SIDE, "right", "give --right as well")

    from vlcompare.cli import program
    from vlcompare.cli.score import reading_options
    from vlcompare.errors import RequestError
    from vlcompare.evaluate.run import run as run_all
    from vlcompare.evaluate.score_files import submit_run
    from vlcompare.evaluate.settings import RunSettings
    from vlcompare.evaluate.summary_text import figures_as_text

    for name, least in (("batch_size", 1), ("alternatives", 0), ("evidence", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise RequestError(f"--{name.replace('_', '-')} is {least} or more, not {value}.")
    if args.evidence_seed is not None and not args.evidence:
        raise RequestError("--evidence-seed takes samples for --evidence N: give that as well.")
    if args.resume and not args.out.exists():
        raise RequestError(f"{args.out} holds no run to go on with: leave out --resume to begin one there.")
    settings = RunSettings(
        data=args.data,
        out=args.out,
        sides={side: options.side_of(args, side) for side in SIDES if getattr(args, side)},
        declared=reading_options(args),
        resume=args.resume,
        device=args.device,
        batch_size=args.batch_size,
        alternatives=args.alternatives,
        copy_images=args.copy_images,
        progress=not args.no_progress,
        evidence=args.evidence,
        evidence_seed=args.evidence_seed,
    )
    try:
        summary = run_all(settings)
    except KeyboardInterrupt:
        print(f"\nStopped. `--resume` goes on with {args.out}.", file=sys.stderr)
        return 130
    if summary:  # only the first of several processes has it
        print(figures_as_text(summary))
        for sentence in submit_run(args.out, args.submission) if args.submission else ():
            print(sentence)
        if not args.submission and not any(side["tasks"] for side in summary["sides"].values()):
            print("--submission FORMAT writes the answers as a benchmark's server takes them.")
        print(f"\n{headline(args.out)}")
        if args.evidence:
            print(f"\n{_rests_on(args.out)}")
        print(f"\nThe run is in {args.out}; `{program()} inspect {shlex.quote(str(args.out))}` opens it.")
    return 0


def _rests_on(folder: Path) -> str:
    from vlcompare.evaluate.evidence import counts_in_words
    from vlcompare.evaluate.results.run_folder import RunFolder
    from vlcompare.evaluate.results.table import RunTable
    from vlcompare.terminal import wrapped

    return wrapped(counts_in_words(RunTable(RunFolder.open(folder))))


def headline(folder: Path) -> str:
    """The share of right answers over all tasks, and the slice in which the sides differ most."""
    from vlcompare.evaluate.results.differences import largest_differences
    from vlcompare.evaluate.results.run_folder import RunFolder
    from vlcompare.evaluate.results.slices import overall
    from vlcompare.evaluate.results.table import RunTable
    from vlcompare.terminal import wrapped
    from vlcompare.units import fraction, fraction_interval

    table = RunTable(RunFolder.open(folder))
    whole = overall(table)
    if whole is None:
        return "No sample of this data set has a right answer to compare with."
    of = f"right answers of {whole.n:,}, over {whole.n_images:,} picture{'s' * (whole.n_images != 1)}"
    if whole.paired is None or whole.right is None:
        return wrapped(f"{fraction(whole.left)} {fraction_interval(*whole.left_ci95)}: {of}.")
    difference = f"{fraction(whole.paired.difference, signed=True)} {fraction_interval(*whole.paired.ci95)}"
    sentence = f"{fraction(whole.left)} against {fraction(whole.right)}, {difference}: {of}, left against right."
    largest = largest_differences(table)
    if largest and largest[0].clear:
        most = largest[0]
        figures = most.figures(table)
        sentence += (
            f" They differ most in {most.label}, {fraction(figures.left)} against "
            f"{fraction(figures.right or 0.0)} of {figures.n:,}."
        )
    return wrapped(sentence)
