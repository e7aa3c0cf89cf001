"""The command line: finds the command, runs it, and turns errors into one sentence.

Every command is a module of this folder with `add_parser(subparsers)` and `run(args) -> exit status`. They import what
they need inside `run`, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlcompare import __version__
from vlcompare.cli import incomplete
from vlcompare.cli.parser import Parser
from vlcompare.errors import VLCompareError, reason

COMMANDS: tuple[str, ...] = (
    "ask",
    "compare",
    "explain",
    "serve",
    "checkpoints",
    "doctor",
    "quantize",
    "bench",
    "scenes",
    "train",
    "study",
    "evaluate",
    "score",
    "inspect",
)


def program() -> str:
    """How this program was called: the command that an installation has, else `python -m vlcompare`."""
    return "vlcompare" if Path(sys.argv[0]).stem == "vlcompare" else "python -m vlcompare"


def build_parser() -> argparse.ArgumentParser:
    """The whole command line as one parser; each command's module adds its own part."""
    parser = Parser(
        prog=program(),
        description="Set a Transformer and a state-space vision-language model side by side.",
        epilog=f"`{program()} COMMAND --help` tells more of one; `{program()} serve --open` opens the page.",
    )
    parser.add_argument("--version", action="version", version=f"vlcompare {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name in COMMANDS:
        importlib.import_module(f"vlcompare.cli.{name}").add_parser(subparsers)
    for command in subparsers.choices.values():
        command.set_defaults(parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Its exit status: 0 done, 1 ran but failed, 2 cannot be done as asked, 130 interrupted."""
    replace_what_cannot_be_encoded()
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        parser = build_parser()
        if argv in ([], ["checkpoints"], ["study"]):  # commands that only hold others
            parser.parse_args([*argv, "--help"])
        args = parser.parse_args(argv)
        command = importlib.import_module(f"vlcompare.cli.{args.command}")
        with ending_like_ctrl_c():
            status = command.run(args)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that went away is not a failure
        return status
    except VLCompareError as error:
        print(f"vlcompare: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        library = incomplete.missing(error)
        if library is None:
            raise
        print(f"vlcompare: {incomplete.sentence(library)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlcompare: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output went away (`| head`): close quietly, as other tools do
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"vlcompare: {error.filename} cannot be used ({reason(error)}).", file=sys.stderr)
        return 2


def replace_what_cannot_be_encoded() -> None:
    """Write characters that the output's encoding lacks as escapes (\\u2264), so that no answer is lost to it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def ending_like_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM, and SIGHUP of a closed terminal, like Ctrl-C: a running command saves its state and ends the
    processes that it started."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no second one
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # else a launcher's, or nohup
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
