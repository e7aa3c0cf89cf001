"""Votes: which side was better, with a note, only after consent. SQLite in the operator's data folder.

Stores the question, the settings and both texts; of the picture only a checksum. On a host without a persistent disk,
votes may be committed to a dataset repository of the operator's.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vlcompare.errors import RequestError, reason
from vlcompare.types import SIDES, Side
from vlcompare.ui.compare.belonging import settings_line
from vlcompare.ui.compare.forms import bounded
from vlcompare.ui.compare.session import CompareSession, Run
from vlcompare.ui.settings import Limits

CHOICES = {"left": "Left", "right": "Right", "tie": "Both good", "both_bad": "Both bad"}
COLUMNS = (
    "id", "created", "run", "choice", "blind", "note", "task", "text", "mode", "picture_sha256", "left_checkpoint",
    "right_checkpoint", "left_settings", "right_settings", "left_text", "right_text",
)  # fmt: skip
MAX_BYTES = 512 * 2**20

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, created REAL NOT NULL, {", ".join(f"{name} TEXT" for name in COLUMNS[2:])},
    UNIQUE (run)
);
PRAGMA user_version = 1;
"""


class Votes:
    """The votes of one server. `publish` gets each row for a copy elsewhere; its errors do not reach the voter."""

    def __init__(
        self, folder: Path, limits: Limits | None = None, publish: Callable[[dict[str, Any]], None] | None = None
    ):
        self.path = folder / "votes.sqlite"
        self.limits = limits or Limits()
        self._publish = publish
        self._lock = threading.Lock()

    def add(self, run: Run, choice: str, note: str = "", *, consent: bool, blind: bool = False) -> None:
        """Store one vote; a second vote on the same run replaces the first. Raises RequestError without consent.

        blind: it is cast before anything told which model is which.
        """
        if not consent:
            raise RequestError("A vote is stored on this server: tick the box to agree first.")
        if choice not in CHOICES:
            raise RequestError(f"A vote is one of {', '.join(CHOICES)}.")
        row = self._row(run, choice, bounded(note.strip(), self.limits.note_characters, "note"), blind)
        with self._lock, self._open() as database:
            if self.path.stat().st_size > MAX_BYTES:
                raise RequestError("The store of votes on this server is full.")
            if not row["note"]:  # a second vote without a note keeps that of the first
                found = database.execute("SELECT note FROM votes WHERE run = ?", (run.id,)).fetchone()
                row["note"] = found[0] if found else ""
            names = COLUMNS[1:]
            database.execute(
                f"INSERT OR REPLACE INTO votes ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
                [row[name] for name in names],
            )
        if self._publish is not None:
            threading.Thread(target=self._publish_quietly, args=(row,), daemon=True, name="vlcompare-votes").start()

    def count(self) -> int:
        if not self.path.exists():
            return 0
        with self._open() as database:
            return int(database.execute("SELECT COUNT(*) FROM votes").fetchone()[0])

    def export(self, runs: set[str] | None = None) -> str:
        """CSV of the votes; with `runs` only the votes on these runs, which the user may see.

        Raises RequestError where no vote on them is stored.
        """
        rows: list[tuple[Any, ...]] = []
        chosen = "" if runs is None else f"WHERE run IN ({', '.join('?' * len(runs))})"
        if self.path.exists():
            with self._open() as database:
                query = f"SELECT {', '.join(COLUMNS)} FROM votes {chosen} ORDER BY id"
                rows = database.execute(query, sorted(runs or ())).fetchall()
        if runs is not None and not rows:
            raise RequestError("No vote on these comparisons is stored: tick “Store my vote”, then vote.")
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows([_inert(cell) for cell in row] for row in rows)
        return out.getvalue()

    def _row(self, run: Run, choice: str, note: str, blind: bool) -> dict[str, Any]:
        row: dict[str, Any] = {
            "created": time.time(),
            "run": run.id,
            "choice": choice,
            "blind": str(int(blind)),
            "note": note,
            "task": run.request.task,
            "text": run.request.text,
            "mode": run.mode,
            "picture_sha256": hashlib.sha256(run.picture.data).hexdigest(),
        }
        for side in SIDES:
            part = run.sides[side]
            settings = {name: getattr(part.settings, name) for name in part.settings.__dataclass_fields__}
            row[f"{side}_checkpoint"] = part.settings.checkpoint
            row[f"{side}_settings"] = json.dumps(settings)
            row[f"{side}_text"] = part.answer.error or part.answer.text if part.answer else part.text
        return row

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._private()
            with closing(sqlite3.connect(self.path, timeout=10)) as database:
                database.executescript(_SCHEMA)
                with database:
                    yield database
        except (OSError, sqlite3.DatabaseError) as error:
            raise RequestError(f"The votes at {self.path} cannot be read or written ({reason(error)}).") from error

    def _private(self) -> None:
        """Create folder and file, private to the user; a home, working or shared folder keeps its permissions."""
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.resolve() not in (Path.home(), Path.cwd()) and not folder.stat().st_mode & stat.S_ISVTX:
            folder.chmod(0o700)
        self.path.touch(mode=0o600)
        self.path.chmod(0o600)

    def _publish_quietly(self, row: dict[str, Any]) -> None:
        try:
            self._publish(row)  # type: ignore[misc]
        except Exception as error:  # the vote itself is stored; the operator sees the error on the console
            print(f"vlcompare: a vote could not be copied to the dataset repository ({error}).")


def cast(votes: Votes, session: CompareSession, run: Run, choice: str, note: str, *, consent: bool) -> str:
    """Note a visitor's vote on a run, store it with consent, and say so in a sentence.

    Raises RequestError where it is to be stored and cannot be; nothing is then noted.
    """
    with session.voting:
        counts, blind = session.counted(run, choice)
        hidden, stored, stays = run.hidden, run.id in session.stored, run.voted_blind
        if consent and not (stored and stays and not note.strip()):
            votes.add(run, counts, note, consent=True, blind=blind)
            session.stored.add(run.id)
        session.vote(run, choice)
        kept = consent or (stored and stays)
        sentence = f"Your vote: {CHOICES[counts].lower()}; it is {'stored' if kept else 'not stored'}."
        if stored and not kept:
            sentence += " The one that you stored before stays."
        if counts != choice:
            sentence += " It was cast blind, and stays."
        if hidden and not blind:
            sentence += " It does not count as blind: an answer to this had been shown with its model's name."
        return sentence


def tally(session: CompareSession) -> str:
    """What the visitor's blind votes add up to; "" until there are two."""
    if session.blind_votes.total() < 2:
        return ""
    counts: Counter[tuple[str, str]] = Counter()  # (what is said, what it is about) -> votes
    for better, count in session.blind_votes.items():
        if isinstance(better, str):
            counts[CHOICES[better].lower(), ""] += count
        else:
            model = Side(better.checkpoint, quantization=better.quantization)
            counts[settings_line(model), better.checkpoint] += count
    said = Counter(name for name, _ in counts)
    names = {pair: pair[0] if said[pair[0]] == 1 else f"{pair[0]} ({pair[1]})" for pair in counts}
    return f"Your blind votes: {', '.join(f'{names[pair]} {count}' for pair, count in counts.most_common())}."


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet reads as a formula."""
    return "'" + cell if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
