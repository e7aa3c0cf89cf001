"""`bench`: how fast this machine runs both architectures, beside other people's code."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vlcompare import terminal
from vlcompare.cli.options import check_outputs

BUSY_PERCENT = 20  # of all processors


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
        choices=("models", "precisions", "page", "batch", "memory", "inspect", "coverage"),
        default="models",
        metavar="WHAT",
        help="models: the table described above (default); precisions: what each takes beside the first, in turn, for "
        "a prompt and for steps of several rows; page: how soon the page opens and answers, and what "
        "streaming through it adds to the engine alone; batch: an evaluation's questions one by one and in batches; "
        "memory: what models take of a process's resident memory, loaded from files and kept together; "
        "inspect: the inspect page over 50,000 samples, in a browser; coverage: how often the 95 %% intervals of an "
        "evaluation hold the true value, by simulation",
    )
    parser.add_argument("--shapes", nargs="+", metavar="SHAPE", help="published shapes, e.g. mambavl_2.8b, or all")
    parser.add_argument("--precisions", nargs="+", metavar="P", default=["bf16"], help="of fp32 bf16 int8 nf4")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument("--prompt", type=int, default=620, help="positions of the prompt (default: 620)")
    parser.add_argument(
        "--rows", type=int, nargs="+", metavar="N", default=[1, 8, 16, 32], help="precisions: rows of a batch's steps"
    )
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which medians are taken (default: 5)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--token-ms", type=float, default=30.0, metavar="MS", help="page: how long a token takes")
    parser.add_argument(
        "--replicates", type=int, default=1000, help="coverage: simulated data sets a cell (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=2026, help="coverage: of the simulation (default: 2026)")
    parser.add_argument("--figures", nargs="+", metavar="F", help="coverage: of fraction mean_iou f1 bleu4 cider_d")
    parser.add_argument("--no-vision", action="store_true", help="leave the vision encoder's times out")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument(
        "--peer-command",
        default="",
        metavar="CMD",
        help="models: another program to run beside ours in every round; {shape} {precision} {prompt} {tokens} "
        "{threads} are replaced, and its last line must be JSON with prefill_ms and token_ms (see bench/README.md)",
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write everything as JSON")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="also draw milliseconds a token")


def run(args: argparse.Namespace) -> int:
    check_outputs(args)  # before anything is measured
    busy = "" if args.what in ("memory", "coverage") else _busy()
    _measure(args)
    if busy:
        _print(terminal.wrapped(busy))
    return 0


def _measure(args: argparse.Namespace) -> None:
    if args.what == "models":
        return _models(args)
    bench, options = _OTHERS[args.what](args)
    report = bench.run(options, progress=_print)
    text = bench.table(report)
    if args.what != "coverage":  # whose lines are the columns of a wide table, as it is kept
        text = "\n".join(terminal.wrapped(line, "    ") for line in text.splitlines())
    print(text)
    _write(args.json, report.to_json())


def _models(args: argparse.Namespace) -> None:
    from vlcompare.bench.models import SMALL, ModelOptions
    from vlcompare.bench.models import run as measure
    from vlcompare.bench.tables import plot, table
    from vlcompare.models.config import PRESETS
    from vlcompare.render.plots import new_figure

    _set_threads(args.threads)
    shapes = tuple(args.shapes or SMALL)
    options = ModelOptions(
        shapes=tuple(PRESETS) if shapes == ("all",) else shapes,
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
    report = measure(options, progress=_print, kept=lambda report: _write(args.json, report.to_json()))
    print(table(report))
    if args.plot:
        plot(report, args.plot)


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

    from vlcompare.errors import RequestError

    if count is not None:
        if count < 1:
            raise RequestError("--threads must be at least 1.")
        torch.set_num_threads(count)


def _precisions(args: argparse.Namespace) -> tuple[Any, Any]:
    from vlcompare.bench import precisions

    _set_threads(args.threads)
    return precisions, precisions.PrecisionOptions(
        tuple(args.shapes or precisions.SMALL), tuple(args.precisions), args.prompt, tuple(args.rows), args.repeats
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

    return memory, memory.MemoryOptions(tuple(args.shapes or memory.SMALL), tuple(args.precisions))


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


def _write(path: Path | None, report: dict[str, Any]) -> None:
    from vlcompare.errors import RequestError

    if path is None:
        return
    try:
        path.write_text(json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise RequestError(f"The report cannot be written to {path} ({error.strerror}).") from error
