"""The argument parser of all commands: short errors that suggest what was meant, and help that fits the terminal."""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vlcompare import terminal
from vlcompare.paths import existing_path


class _Help(argparse.HelpFormatter):
    """Help whose first column has room for the names of all commands."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class Parser(argparse.ArgumentParser):
    """argparse's parser; a mistake is answered with one sentence, the nearest name, and where help is."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, **how})
        for kind in (Path, existing_path):
            self.register("type", kind, _named(kind))

    def format_help(self) -> str:
        """argparse's help, with a usage line of what must be given, since the options are listed below it."""
        if self.usage is None:
            own = [action for action in self._actions if action.required and action.option_strings]
            named = [f"{action.option_strings[0]} {action.metavar or action.dest.upper()}" for action in own]
            places = [action for action in self._actions if not action.option_strings]
            words = [f"{action.metavar or action.dest}{' ...' * (action.nargs in ('+', 'A...'))}" for action in places]
            usage = " ".join([self.prog.replace("%", "%%"), "[options]", *named, *words])
            self.usage = textwrap.fill(usage, max(20, terminal.width() - len("usage: ")), subsequent_indent="    ")
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}\nTry '{self.prog} --help'.", file=sys.stderr)
        raise SystemExit(2)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; an option that there is not is answered with the nearest one of the command."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command: Parser = getattr(found, "parser", self)
            flags = [flag for action in command._actions for flag in action.option_strings]
            command.error(f"unrecognized arguments: {' '.join(unknown)}{_suggestion(unknown[0], flags)}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise argparse.ArgumentError for a value that is no choice, with the choices and the nearest of them."""
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            near = _suggestion(value, list(action.choices))
            raise argparse.ArgumentError(None, f"there is no command {value!r}{near}")
        choices = [str(choice) for choice in action.choices]
        near = _suggestion(str(value), choices) or f" (choose from {', '.join(choices)})"
        raise argparse.ArgumentError(action, f"invalid choice: {str(value)!r}{near}")


def _named(kind: Callable[[str], Path]) -> Callable[[str], Path]:
    """The same type of argument, without the empty one, which as a path would be the working directory."""

    def read(value: str) -> Path:
        if not value:
            raise argparse.ArgumentTypeError("a path is empty here: name one ('.' is the working directory)")
        return kind(value)

    return read


def _suggestion(given: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(given.partition("=")[0].lower(), known, 1)
    return f"; did you mean {near[0]}?" if near else ""
