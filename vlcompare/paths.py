"""Where things live on this machine: the user's data folder, and the checkpoints and examples that are shipped.

Creates nothing by itself.

Standard library only. `$VLCOMPARE_DATA` overrides the data folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str, package: Path = PACKAGE) -> Path:
    """A folder that comes with the program: inside the package where it was installed, beside it in a checkout.

    Inside goes first: beside an installed package are other people's, one of which may have the same name.
    """
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


CHECKPOINTS = shipped("checkpoints")
EXAMPLES = shipped("examples")


def data_folder(environment: Mapping[str, str] | None = None) -> Path:
    """The folder for what this program remembers between runs; it may not exist yet.

    It is where the system keeps such data: XDG on Linux, Application Support on macOS, AppData on Windows.
    """
    env = os.environ if environment is None else environment
    if given := env.get("VLCOMPARE_DATA"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "vlcompare"
