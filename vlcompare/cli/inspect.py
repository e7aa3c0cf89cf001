"""`inspect DIR`: the page at its second tab, with these runs open. The work is in `ui.inspect`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlcompare.cli.options import add_address_options, address_of, serve_page
from vlcompare.paths import existing_path

MAX_ARCHIVE_BYTES = 2 << 30  # bytes of a run archive


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="look at a finished run: who is right where, each picture, notes",
        description="Open run folders (or run archives, .zip) in the browser: quadrants, slices, a table that sorts "
        "and filters, every sample with both answers, notes and exports. Several runs over the same samples can be set "
        "against each other.",
    )
    parser.add_argument(
        "runs", nargs="+", type=existing_path, metavar="DIR", help="a run folder, a folder of runs, or a .zip"
    )
    parser.add_argument(
        "--images",
        action="append",
        type=Path,
        metavar="DIR",
        help="a folder whose pictures may be shown besides those in the run folders; runs that you made here "
        "show theirs anyway",
    )
    add_address_options(parser)
    parser.add_argument("--open", action="store_true", help="open a browser window")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    checked(args.runs, args.images or ())
    from vlcompare.evaluate.results.run_folder import half_runs
    from vlcompare.ui.settings import AppSettings

    pictures = tuple(args.images) if args.images else None
    settings = AppSettings.from_environment(**address_of(args), pictures=pictures)
    settings = replace(settings, limits=replace(settings.limits, upload_bytes=MAX_ARCHIVE_BYTES))
    for halves in filter(None, (half_runs(path, 1) for path in args.runs)):
        print(f"vlcompare: {halves}", flush=True)
    serve_page(args, settings, runs=args.runs)
    return 0


def checked(paths: Sequence[Path], pictures: Sequence[Path] = ()) -> None:
    """Raise SampleError, before anything is loaded, if a path holds no run or a picture folder is not a folder."""
    from vlcompare.errors import SampleError
    from vlcompare.evaluate.results.run_folder import find_runs, half_runs

    for path in pictures:
        if not path.is_dir():
            raise SampleError(f"{path} is not a folder: --images takes a folder of pictures.")
    for path in paths:
        if not path.exists():
            raise SampleError(f"{path} does not exist: give the folder that `evaluate --out` wrote.")
        if path.is_file() and path.suffix != ".zip":
            raise SampleError(f"{path} is a file: give the run's folder, or its archive (.zip).")
        if path.is_dir() and not find_runs(path, 1):
            found = f"{path} holds no run: there is no samples.jsonl with a predictions.jsonl in it."
            raise SampleError(" ".join(filter(None, (found, half_runs(path, 1)))))
