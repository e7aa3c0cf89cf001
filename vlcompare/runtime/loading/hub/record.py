"""The record of downloaded repositories: `revisions.json` in the user's data folder.

{repository: {"revisions": {name: commit}, "sha256": {commit: {file: sum}}, "sha1": {commit: {file: sum}}}}: the commit
of a branch when it was first requested, and the Hub's checksums: SHA-256 of large files, the git blob's SHA-1 of small
ones.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from vlcompare.paths import read_record, write_record

COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = "revisions.json"
_KINDS = {64: "sha256", 40: "sha1"}  # by the number of a checksum's digits
_lock = threading.Lock()


def revision(repository: str, name: str) -> str | None:
    """The recorded commit of a branch or tag."""
    commit = _mapping(_mapping(_read(), repository), "revisions").get(name)
    return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None


def checksums(repository: str, commit: str) -> dict[str, str]:
    """The recorded checksums of a commit's files, by name."""
    entry = _mapping(_read(), repository)
    return {
        name: value
        for digits, kind in _KINDS.items()
        for name, value in _mapping(_mapping(entry, kind), commit).items()
        if isinstance(value, str) and len(value) == digits
    }


def remember(repository: str, name: str, commit: str, sums: Mapping[str, str]) -> None:
    """Record the commit of a branch or tag, and checksums of the commit's files."""

    def change(record: dict[str, Any]) -> None:
        entry = record.setdefault(repository, {})
        if not COMMIT.fullmatch(name):
            entry.setdefault("revisions", {})[name] = commit
        for file, value in sums.items():
            entry.setdefault(_KINDS[len(value)], {}).setdefault(commit, {})[file] = value

    _change(change)


def forget(repository: str) -> None:
    _change(lambda record: record.pop(repository, None))


def _read() -> dict[str, Any]:
    record = read_record(_NAME)
    return {key: value for key, value in record.items() if isinstance(value, dict)} if isinstance(record, dict) else {}


def _mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = record.get(name)
    return part if isinstance(part, dict) else {}


def _change(change: Callable[[dict[str, Any]], Any]) -> None:
    with _lock:
        record = _read()
        change(record)
        write_record(_NAME, record)
