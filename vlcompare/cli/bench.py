"""`bench`: how fast this machine runs both architectures, beside other people's code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlcompare import terminal
from vlcompare.cli.options import above_zero, add_json, check_outputs
from vlcompare.errors import RequestError

BUSY_PERCENT = 20  # of all processors
KINDS = {
    "models": "the table described above (default)",
    "precisions": "what each takes beside the first, in turn, for a prompt and for steps of several rows",
    "page": "how soon the page opens and answers, and what streaming through it adds to the engine alone",
    "batch": "an evaluation's questions one by one and in batches",
    "memory": "what models take of a process's resident memory, loaded from files and kept together",
    "inspect": "the inspect page over 50,000 samples, in a browser",
    "coverage": "how often the 95 %% intervals of an evaluation hold the true value, by simulation",
}

_ABOVE_ZERO = above_zero(int)
# option: the kinds that take it, what it is where it is not given, and argparse's keywords
OPTIONS: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
    "shapes": (
        ("models", "precisions", "memory"),
        None,
        {"nargs": "+", "metavar": "SHAPE", "help": "published shapes, e.g. mambavl_2.8b, or all"},
    ),
    "precisions": (
        ("models", "precisions", "memory"),
        ["bf16"],
        {"nargs": "+", "metavar": "P", "help": "of fp32 bf16 int8 nf4 (default: bf16)"},
    ),
    "device": (("models", "batch"), "cpu", {"metavar": "D", "help": "cpu, cuda, cuda:1 (default: cpu)"}),
    "prompt": (
        ("models", "precisions"),
        620,
        {"type": _ABOVE_ZERO, "metavar": "N", "help": "positions of the prompt (default: 620)"},
    ),
    "rows": (
        ("precisions",),
        [1, 8, 16, 32],
        {"type": _ABOVE_ZERO, "nargs": "+", "metavar": "N", "help": "rows of a batch's steps"},
    ),
    "tokens": (
        ("models", "page"),
        32,
        {"type": _ABOVE_ZERO, "metavar": "N", "help": "tokens of each answer (default: 32)"},
    ),
    "repeats": (
        ("models", "precisions", "page", "inspect"),
        5,
        {"type": _ABOVE_ZERO, "metavar": "N", "help": "rounds, of which medians are taken (default: 5)"},
    ),
    "threads": (
        ("models", "precisions"),
        None,
        {"type": _ABOVE_ZERO, "metavar": "N", "help": "CPU threads (default: torch's)"},
    ),
    "token_ms": (
        ("page",),
        30.0,
        {"type": above_zero(float), "metavar": "MS", "help": "how long a token takes (default: 30)"},
    ),
    "replicates": (
        ("coverage",),
        1000,
        {"type": _ABOVE_ZERO, "metavar": "N", "help": "simulated data sets a cell (default: 1000)"},
    ),
    "seed": (("coverage",), 2026, {"type": int, "metavar": "S", "help": "of the simulation (default: 2026)"}),
    "figures": (
        ("coverage",),
        None,
        {"nargs": "+", "metavar": "F", "help": "of fraction mean_iou f1 bleu4 cider_d (default: all)"},
    ),
    "no_vision": (("models",), False, {"action": "store_true", "help": "leave the vision encoder's times out"}),
    "no_peers": (("models",), False, {"action": "store_true", "help": "ours alone"}),
    "peer_command": (
        ("models",),
        "",
        {
            "metavar": "CMD",
            "help": "another program to run beside ours in every round; {shape} {precision} {prompt} {tokens} "
            "{threads} are replaced, and its last line must be JSON with prefill_ms and token_ms (see bench/README.md)",
        },
    ),
    "plot": (("models",), None, {"type": Path, "metavar": "F.png", "help": "also draw milliseconds a token"}),
}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="time both architectures at true shapes with random weights",
        description="Time load, vision, prefill and decoding at the published shapes with random weights (nothing is "
        "downloaded), with transformers' own models beside ours in the same run. Without options: the smallest pair in "
        "bf16 on the CPU, a few minutes on two cores.",
    )
    parser.add_argument(
        "--what",
        choices=tuple(KINDS),
        default="models",
        metavar="WHAT",
        help="; ".join(f"{kind}: {text}" for kind, text in KINDS.items()),
    )
    add_json(parser, "everything")
    for name, (kinds, _, how) in OPTIONS.items():
        own = {**how, "help": f"{', '.join(kinds)}: {how['help']}"}
        parser.add_argument(_flag(name), default=None, **own)  # None: not given


def run(args: argparse.Namespace) -> int:
    complete(args)
    check_outputs(args)  # before anything is measured
    busy = "" if args.what in ("memory", "coverage") else _busy()
    _measure(args)
    if busy:
        _print(terminal.wrapped(busy))
    return 0


def complete(args: argparse.Namespace) -> None:
    """Put defaults in place of what is not given. Raises RequestError for an option that `--what` does not take."""
    for name, (kinds, default, _) in OPTIONS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif args.what not in kinds:
            raise RequestError(f"`--what {args.what}` takes no {_flag(name)}, which is for {', '.join(kinds)}.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _measure(args: argparse.Namespace) -> None:
    if args.what == "models":
        return _models(args)
    bench, options = _OTHERS[args.what](args)
    report = bench.run(options, progress=_print)
    text = bench.table(report)
    if args.what != "coverage":  # whose lines are the columns of a wide table, as it is kept
        text = "\n".join(terminal.wrapped(line, "    ") for line in text.splitlines())
    _tell(args.json, text, report)


def _models(args: argparse.Namespace) -> None:
    from vlcompare.bench.models import SMALL, ModelOptions, ModelReport
    from vlcompare.bench.models import run as measure
    from vlcompare.bench.tables import plot, table
    from vlcompare.cli.report import write_json
    from vlcompare.render.plots import new_figure

    _set_threads(args.threads)
    options = ModelOptions(
        shapes=_shapes(args, SMALL),
        precisions=tuple(args.precisions),
        device=args.device,
        prompt=args.prompt,
        tokens=args.tokens,
        repeats=args.repeats,
        vision=not args.no_vision,
        peers=not args.no_peers,
        peer_command=args.peer_command,
    )
    if args.plot:
        new_figure((1, 1))  # raises where matplotlib is not installed, before anything is measured

    def keep(report: ModelReport) -> None:
        if args.json not in (None, "-"):
            write_json(args.json, report.to_json())

    report = measure(options, progress=_print, kept=keep)
    _tell(args.json, table(report), report)
    if args.plot:
        plot(report, args.plot)


def _tell(json: str | None, text: str, report: Any) -> None:
    """The report as text, and as JSON where it is asked for; alone where that goes to standard output."""
    from vlcompare.cli.report import write_json

    if json != "-":
        print(text)
    if json is not None:
        write_json(json, report.to_json())


def _shapes(args: argparse.Namespace, small: Sequence[str]) -> tuple[str, ...]:
    from vlcompare.models.config import PRESETS

    shapes = tuple(args.shapes or small)
    return tuple(PRESETS) if shapes == ("all",) else shapes


def _busy() -> str:
    """What is to be said where other programs have the processors; empty where they do not."""
    import psutil

    used, cores = psutil.cpu_percent(0.5), psutil.cpu_count() or 1
    if used < BUSY_PERCENT:
        return ""
    return (
        f"This machine was busy when this began: other programs took {used:.0f} % of its {cores} processors. Absolute "
        "times are too long then; ratios hold, since what is compared takes turns."
    )


def _set_threads(count: int | None) -> None:
    import torch

    if count is not None:
        torch.set_num_threads(count)


def _precisions(args: argparse.Namespace) -> tuple[Any, Any]:
    from vlcompare.bench import precisions

    _set_threads(args.threads)
    return precisions, precisions.PrecisionOptions(
        _shapes(args, precisions.SMALL), tuple(args.precisions), args.prompt, tuple(args.rows), args.repeats
    )


def _page(args: argparse.Namespace) -> tuple[Any, Any]:
    from vlcompare.ui.fast_import import import_gradio

    import_gradio()
    from vlcompare.bench import page

    return page, page.PageOptions(token_ms=args.token_ms, tokens=args.tokens, repeats=args.repeats)


def _batch(args: argparse.Namespace) -> tuple[Any, Any]:
    from vlcompare.bench import batching

    return batching, batching.BatchOptions(device=args.device)


def _memory(args: argparse.Namespace) -> tuple[Any, Any]:
    from vlcompare.bench import memory

    return memory, memory.MemoryOptions(_shapes(args, memory.SMALL), tuple(args.precisions))


def _inspect(args: argparse.Namespace) -> tuple[Any, Any]:
    from vlcompare.bench import inspect

    return inspect, inspect.InspectOptions(repeats=args.repeats)


def _coverage(args: argparse.Namespace) -> tuple[Any, Any]:
    from vlcompare.bench import coverage

    figures = tuple(args.figures or coverage.FIGURES)
    return coverage, coverage.CoverageOptions(figures, replicates=args.replicates, seed=args.seed)


_OTHERS = {
    "precisions": _precisions, "page": _page, "batch": _batch, "memory": _memory, "inspect": _inspect,
    "coverage": _coverage,
}  # fmt: skip


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
