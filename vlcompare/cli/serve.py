"""`serve`: the page in the browser. The options become the operator's settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlcompare.cli.options import above_zero, add_address_options, address_of, serve_page
from vlcompare.types import QUANTIZATIONS

SETTINGS = ("left", "right", "quantization", "device", "allow_path", "data", "votes_dataset", "concurrency")


def add_parser(subparsers: Any) -> None:
    """The command's options; all but two can also come from the environment as VLCOMPARE_HOST and so on."""
    parser = subparsers.add_parser(
        "serve",
        help="open the page: two models on one picture, side by side",
        description="Serve the page. Every option but --share and --open can also come from the environment, as in "
        "VLCOMPARE_PRELOAD.",
    )
    add_address_options(parser)
    parser.add_argument("--left", help="the left side's checkpoint when the page opens")
    parser.add_argument("--right", help="the right side's checkpoint when the page opens")
    parser.add_argument("--offer", nargs="+", metavar="CHECKPOINT", help="only these (default: all, and any Hub id)")
    parser.add_argument("--preload", nargs="*", metavar="CHECKPOINT", help="load these at the start (none named: both)")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, help="of both sides when the page opens")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--allow-path", type=Path, metavar="DIR", help="users may open checkpoints and runs below it")
    parser.add_argument("--data", type=Path, help="where votes are kept (default: the user's data folder)")
    parser.add_argument("--memory", metavar="SIZE", help="memory for weights at most, e.g. 6GB (default: what is free)")
    parser.add_argument("--max-seconds", type=above_zero(float), help="work for one answer at most (default 300)")
    parser.add_argument("--max-new-tokens", type=above_zero(int), help="tokens of one answer at most (default 512)")
    parser.add_argument("--max-megabytes", type=above_zero(int), help="largest picture file, in MiB (default 20)")
    parser.add_argument("--queue", type=above_zero(int), help="users who may wait (default 24)")
    parser.add_argument("--concurrency", type=above_zero(int), help="comparisons at the same time (default 2)")
    parser.add_argument("--votes-dataset", metavar="OWNER/NAME", help="also commit votes to this dataset repository")
    parser.add_argument("--share", action="store_true", help="ask gradio for a public address (off by default)")
    parser.add_argument("--open", action="store_true", help="open a browser window")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    serve_page(args, settings_of(args), share=args.share)
    return 0


def settings_of(args: argparse.Namespace) -> Any:
    """The operator's settings: defaults, then the environment, then what was given here."""
    from dataclasses import replace

    from vlcompare.ui.settings import AppSettings, parse_bytes

    settings = AppSettings.from_environment(
        **address_of(args),
        offered=tuple(args.offer) if args.offer else None,
        budget_bytes=parse_bytes(args.memory) if args.memory else None,
        **{name: getattr(args, name) for name in SETTINGS},
    )
    if args.preload is not None:
        settings = replace(settings, preload=tuple(args.preload) or (settings.left, settings.right))
    given = {
        "seconds": args.max_seconds,
        "new_tokens": args.max_new_tokens,
        "file_bytes": args.max_megabytes * 2**20 if args.max_megabytes else None,
        "queue": args.queue,
    }
    limits = replace(settings.limits, **{name: value for name, value in given.items() if value is not None})
    return replace(settings, limits=limits)
