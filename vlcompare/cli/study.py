"""`study run`, `report` and `open`: grids of small trainings on in-context retrieval, and their figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlcompare.cli.options import above_zero, add_address_options, address_of, serve_page
from vlcompare.paths import existing_path

UNFINISHED = 3  # exit status: other processes are still training some rows


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "study",
        help="in-context retrieval, trained from scratch: grids of trainings and their figures",
        description="Train grids of small Transformers, state-space models and hybrids on in-context retrieval.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser(
        "run",
        help="train a grid's rows; after an interruption the same command continues",
        description="Train every row of a grid that DIR does not hold yet. Several processes may share DIR, also under "
        "`accelerate launch`. A grid is a JSON file, or: cpu (hours on two cores), quick (minutes), paper (for a GPU); "
        "or pictures: the comparisons on pictures (some 7 to 30 minutes of one core a row), all or one of them: "
        "pictures-order, pictures-scale, pictures-twice, pictures-resolution, pictures-sampling, pictures-distance; "
        "pictures-pilot says which further tasks are learnt well enough to be compared. "
        "At the sizes of cpu a process takes about 1 GB of memory, and a finished row takes 0.5 MB in DIR.",
    )
    run.add_argument("grid", metavar="GRID", help="cpu, quick, paper, pictures, or a JSON file")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of rows, weights and states")
    run.add_argument("--device", default="cpu", help="cpu (default), cuda, or cuda:N")
    run.add_argument(
        "--jobs", type=above_zero(int), default=1, metavar="N", help="processes, of one thread each (default 1)"
    )
    report = actions.add_parser(
        "report",
        help="write figures and tables from the rows",
        description="Write report.md, figures (SVG) and tables (CSV) from the rows in DIR.",
    )
    report.add_argument("folder", type=existing_path, metavar="DIR", help="a folder with rows.jsonl, or that file")
    report.add_argument("--out", type=Path, required=True, metavar="DIR2", help="folder for the figures and tables")
    opened = actions.add_parser(
        "open",
        help="look at the rows in the browser",
        description="Open the page at its tab Study, with the figures of the rows in DIR, of trainings on text or on "
        "pictures. The retrieval lab there asks the models in DIR/weights that these rows are about, and where there "
        "are none, those that come with the program.",
    )
    opened.add_argument("folder", type=existing_path, metavar="DIR", help="a folder with rows.jsonl, or that file")
    add_address_options(opened)
    opened.add_argument("--open", action="store_true", help="open a browser window")


def run(args: argparse.Namespace) -> int:
    return {"run": _run, "report": _report, "open": _open}[args.action](args)


def _run(args: argparse.Namespace) -> int:
    from vlcompare.study import run as runner
    from vlcompare.study.grid import open_grid
    from vlcompare.study.progress import duration, estimated_seconds
    from vlcompare.units import how_many

    grid = open_grid(args.grid)
    device = runner.device_of(args.device)
    count, left = len(grid.entries), runner.unfinished(grid, args.out)
    if left:
        guess = duration(estimated_seconds(left, device))
        known = f", {count - len(left)} of them finished; the rest takes" if len(left) < count else ";"
        print(
            f"{grid.name}: {how_many(count, 'row')}{known} roughly {guess} on one {device.type} if none stops early",
            flush=True,
        )
    done = runner.run_grid(grid, args.out, device=args.device, jobs=args.jobs)
    print(f"{done} of {how_many(count, 'row')} {'is' if done == 1 else 'are'} in {args.out / 'rows.jsonl'}")
    return 0 if done == count else UNFINISHED


def _report(args: argparse.Namespace) -> int:
    from vlcompare.study.report import write_report
    from vlcompare.training.progress import writing_to

    with writing_to(args.out):
        told = write_report(args.folder, args.out)
    print(told)
    return 0


def _open(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from vlcompare.study.opened import open_any

    open_any(args.folder)  # raises, before anything is loaded, where no row can be shown
    from vlcompare.ui.settings import AppSettings

    settings = AppSettings.from_environment(**address_of(args))
    serve_page(args, settings, study=args.folder)
    return 0
