"""`scenes`: write rendered pictures with questions and their whole truth to a folder. Trains and loads nothing."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "scenes",
        help="write rendered pictures with questions and answers",
        description="Draw scenes and write OUT/samples.jsonl and OUT/pictures: several rows a picture, for nine tasks. "
        "Every seed gives scenes of the evaluation stream, on which the embedded models were never trained.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write to; it is made where it does not exist")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="pictures to draw (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other scenes (default: 0)")
    parser.add_argument(
        "--size", type=int, default=224, metavar="PX", help="width and height of a picture (default: %(default)s)"
    )
    parser.add_argument(
        "--sampling",
        metavar="HOW",
        default="balanced",
        help="balanced: every attribute equally often, independent of the others; natural: a long tail, and most "
        "things in the usual colour of their kind, so that language alone guesses more (default: %(default)s)",
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only questions of these tasks (default: all)")


def run(args: argparse.Namespace) -> int:
    from vlcompare.synth.scenes.dataset import write_scenes
    from vlcompare.terminal import progress_bar

    with progress_bar(args.count, "drawing", " pictures") as bar:
        path, rows = write_scenes(
            args.out, args.count, args.seed, args.size, args.tasks, lambda done: bar.update(done - bar.n), args.sampling
        )
    how = " sampled naturally" if args.sampling == "natural" else ""
    print(f"{path}: {rows} rows about {args.count} pictures{how} of {args.size} x {args.size} pixels.")
    return 0
