"""The control groups that this process is in, as folders of the kernel's files. Standard library only.

Both versions can be mounted side by side, each controller of version 1 in a tree of its own. A limit of any group
around a process binds it, so the whole way up is looked at. Nothing is found on systems without proc.
Formats: proc(5), and the kernel's documents admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_LONGEST = 1 << 20  # bytes read of one of the kernel's files


def groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Folders of the groups in which `controller` may limit this process, outermost first, for each mounted version.

    root: where proc and sys are found. A container sees its own group as the root of what is mounted, while
    /proc/self/cgroup may give the path on the host: the part that the mount leaves out is taken off.
    """
    paths: dict[str, str] = {}
    for line in read(root / "proc/self/cgroup").splitlines():
        if line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                paths["cgroup" if controllers else "cgroup2"] = path
    for line in read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        fields, (version, *rest) = mount.split(), (*kind.split(), "")
        if version not in paths or len(fields) < 5:
            continue
        if version == "cgroup" and controller not in ",".join(rest).split(","):
            continue
        yield from _way_down(root / _plain(fields[4]).lstrip("/"), paths[version], _plain(fields[3]))


def read(path: Path) -> str:
    """The text of one of the kernel's files, "" where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read(_LONGEST).strip()
    except OSError:
        return ""


def number(text: str) -> int | None:
    """What a file of one number says; None where it is absent or says "max"."""
    return int(text) if re.fullmatch(r"\d{1,20}", text, re.ASCII) else None


def _way_down(mounted: Path, path: str, above: str) -> Iterator[Path]:
    """From where a tree is mounted down to the process' own group. above: what of `path` the mount leaves out."""
    yield mounted
    above = above.rstrip("/")
    if path != above and not path.startswith(above + "/"):
        return
    for name in Path(path[len(above) :].lstrip("/")).parts:
        if name == "..":  # a group outside of this namespace
            return
        mounted = mounted / name
        yield mounted


def _plain(field: str) -> str:
    """A path as in mountinfo, where blanks and backslashes are octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
