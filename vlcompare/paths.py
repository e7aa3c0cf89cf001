"""Folders on this machine: the user's data and cache folders, and the checkpoints and examples that are shipped.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlcompare.whole_files import write_whole

# a path of two names or more in a sentence, of either kind of system
PATH_IN_TEXT = re.compile(r"(?<![\w/.:~-])(?:/[\w.@+~-]+){2,}/?|(?<!\w)[A-Za-z]:\\[^\s'\"<>|]+")

PACKAGE = Path(__file__).resolve().parent


def last_name(path: str) -> str:
    """What stands behind the last separator of a path of either kind of system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def shipped(name: str, package: Path = PACKAGE) -> Path:
    """A folder that comes with the program: inside the package where it was installed, beside it in a checkout.

    Inside goes first: beside an installed package are other people's, one of which may have the same name.
    """
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


CHECKPOINTS = shipped("checkpoints")
EXAMPLES = shipped("examples")
EMBEDDED = ("tiny-pythia-vl", "tiny-mamba-vl")  # folders of CHECKPOINTS: the left side's and the right side's
INSTALLED = CHECKPOINTS.parent == PACKAGE  # rather than a checkout


def existing(path: str) -> str:
    """The path; one that begins with "examples/" and is not there is that of the shipped examples."""
    inside = path.replace(os.sep, "/").partition("examples/")
    found = EXAMPLES / inside[2]
    return str(found) if not inside[0] and inside[1] and not os.path.exists(path) and found.exists() else path


def existing_path(path: str) -> Path:
    """As `existing`."""
    return Path(existing(path))


def data_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder for what this program remembers between runs; it may not exist yet.

    `$VLCOMPARE_DATA`, else the system's own place for such data: XDG on Linux, Application Support on macOS, AppData on
    Windows.
    """
    env = os.environ if environment is None else environment
    if given := env.get("VLCOMPARE_DATA"):
        return Path(given).expanduser()
    return _users_folder("XDG_DATA_HOME", ".local/share", "Application Support")


def cache_folder() -> Path:
    """The folder for what can be made again: the system's own place for caches."""
    return _users_folder("XDG_CACHE_HOME", ".cache", "Caches")


def _users_folder(variable: str, on_linux: str, on_macos: str) -> Path:
    if sys.platform == "darwin":
        base = Path.home() / "Library" / on_macos
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get(variable) or Path.home() / on_linux)
    return base / "vlcompare"


def read_record(name: str) -> Any:
    """A JSON file of the data folder; None where it cannot be read."""
    try:
        return json.loads((data_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_record(name: str, value: Any) -> None:
    """Replace a JSON file of the data folder as a whole; where it cannot be written, nothing is remembered."""
    file = data_folder() / name
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(file, json.dumps(value, indent=1, sort_keys=True))
