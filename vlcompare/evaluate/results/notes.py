"""Notes and tags on samples, by sample id, in a small SQLite file.

One row a sample: a text and a list of tags, of which ERROR_TYPES are offered. Each call opens the file for itself, so
that pages of several threads can write.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.schema import MAX_NOTES

ERROR_TYPES = (
    "wrong object",
    "right object, loose box",
    "attribute",
    "relation",
    "counting",
    "reading",
    "format",
    "hallucination",
    "label wrong",
)
MAX_NOTE = 4000
MAX_TAGS = 20
MAX_TAG = 60


@dataclass(frozen=True, slots=True)
class Note:
    sample: str
    text: str = ""
    tags: tuple[str, ...] = ()
    updated: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tags": list(self.tags)}


class Notes:
    """The notes of one run. Nothing is written, not even the file, before the first note."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, sample: str) -> Note:
        """A sample's note; an empty one by default."""
        if not self.path.exists():
            return Note(sample)
        with self._open() as database:
            row = database.execute(
                "SELECT sample, text, tags, updated FROM notes WHERE sample = ?", (sample,)
            ).fetchone()
        return _note(row) if row else Note(sample)

    def all(self) -> dict[str, Note]:
        """Every note, by sample id."""
        if not self.path.exists():
            return {}
        with self._open() as database:
            rows = database.execute(
                f"SELECT sample, text, tags, updated FROM notes ORDER BY sample LIMIT {MAX_NOTES}"
            ).fetchall()
        return {note.sample: note for note in map(_note, rows)}

    def put(self, sample: str, text: str = "", tags: Iterable[str] = ()) -> Note:
        """Write a sample's note; an empty one is removed. Text and tags are cut at MAX_NOTE, MAX_TAG and MAX_TAGS."""
        note = _cut(sample, text, tags)
        with self._open() as database:
            if note.text or note.tags:
                database.execute(_PUT, _values(note))
            else:
                database.execute("DELETE FROM notes WHERE sample = ?", (sample,))
        return note

    def load(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Take notes over from an export, all at once; those that are here stay, and of two the first counts.

        rows: as `schema.NOTES` types them. Returns how many were taken.
        """
        here = set(self.all())
        taken: dict[str, Note] = {}
        for row in rows:
            if row["sample"] not in here:
                taken.setdefault(row["sample"], _cut(row["sample"], row.get("text") or "", row.get("tags") or []))
        if taken:
            with self._open() as database:
                database.executemany(_PUT, [_values(note) for note in taken.values() if note.text or note.tags])
        return len(taken)

    def tags(self) -> tuple[str, ...]:
        """Tags to offer: the error types, then those that were used besides, the commonest first."""
        used: dict[str, int] = {}
        for note in self.all().values():
            for tag in note.tags:
                used[tag] = used.get(tag, 0) + 1
        own = sorted((tag for tag in used if tag not in ERROR_TYPES), key=lambda tag: (-used[tag], tag))
        return (*ERROR_TYPES, *own)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=10)
            database.execute("PRAGMA trusted_schema = OFF")  # the file may have come with a folder from elsewhere
            database.execute(
                "CREATE TABLE IF NOT EXISTS notes (sample TEXT PRIMARY KEY, text TEXT NOT NULL, tags TEXT NOT NULL, "
                "updated TEXT NOT NULL)"
            )
            with database:
                yield database
        except (sqlite3.Error, OSError, UnicodeError) as error:
            raise SampleError(f"The notes in {self.path.name} cannot be used ({type(error).__name__}).") from error
        finally:
            if database is not None:
                database.close()


_PUT = (
    "INSERT INTO notes (sample, text, tags, updated) VALUES (?, ?, ?, ?) ON CONFLICT (sample) DO UPDATE SET "
    "text = excluded.text, tags = excluded.tags, updated = excluded.updated"
)


def _cut(sample: str, text: str, tags: Iterable[str]) -> Note:
    """A note of now within the bounds."""
    folded = (" ".join(str(tag).split())[:MAX_TAG] for tag in tags)
    kept = tuple(dict.fromkeys(tag for tag in folded if tag))[:MAX_TAGS]
    return Note(sample, text.strip()[:MAX_NOTE], kept, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _values(note: Note) -> tuple[str, str, str, str]:
    return note.sample, note.text, json.dumps(list(note.tags), ensure_ascii=False), note.updated


def _note(row: tuple[Any, ...]) -> Note:
    """A row of the file, which may come from elsewhere: texts, cut as `put` cuts them."""
    sample, text, tags, updated = (value if isinstance(value, str) else "" for value in row)
    try:
        listed = json.loads(tags)
    except (ValueError, RecursionError):
        listed = []
    kept = [str(tag)[:MAX_TAG] for tag in listed[:MAX_TAGS]] if isinstance(listed, list) else []
    return Note(sample, text[:MAX_NOTE], tuple(kept), updated[:40])
