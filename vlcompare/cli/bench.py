"""`bench`: how fast this machine runs both architectures, beside other people's code. No logic of its own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="time both architectures at true shapes with random weights",
        description="Time load, vision, prefill and decoding at the published shapes with random weights (nothing is "
        "downloaded), with transformers' own models beside ours in the same run. Without options: the smallest pair in "
        "bf16 on the CPU, a few minutes on two cores.",
    )
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="published shapes, e.g. mambavl_2.8b, or all")
    parser.add_argument("--precisions", nargs="+", metavar="P", default=["bf16"], help="of fp32 bf16 int8 nf4")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument("--prompt", type=int, default=620, help="positions of the prompt (default: 620)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which medians are taken (default: 5)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--no-vision", action="store_true", help="leave the vision encoder's times out")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--json", type=Path, metavar="F", help="also write everything as JSON")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="also draw milliseconds a token")


def run(args: argparse.Namespace) -> int:
    import torch

    from vlcompare.bench import SMALL, Options
    from vlcompare.bench import run as measure
    from vlcompare.bench.report import plot, table
    from vlcompare.errors import RequestError
    from vlcompare.models.config import PRESETS

    if args.threads is not None:
        if args.threads < 1:
            raise RequestError("--threads must be at least 1.")
        torch.set_num_threads(args.threads)
    shapes = tuple(args.shapes or SMALL)
    options = Options(
        shapes=tuple(PRESETS) if shapes == ("all",) else shapes,
        precisions=tuple(args.precisions),
        device=args.device,
        prompt=args.prompt,
        tokens=args.tokens,
        repeats=args.repeats,
        vision=not args.no_vision,
        peers=not args.no_peers,
    )
    report = measure(options, said=lambda sentence: print(sentence, file=sys.stderr, flush=True))
    print(table(report))
    if args.json:
        try:
            args.json.write_text(json.dumps(report.to_json(), indent=1) + "\n")
        except OSError as error:
            raise RequestError(f"The report cannot be written to {args.json} ({error.strerror}).") from error
    if args.plot:
        plot(report, args.plot)
    return 0
