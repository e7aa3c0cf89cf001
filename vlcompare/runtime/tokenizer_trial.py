"""Tries a tokenizer.json in a child process with limits before this process uses it.

The `tokenizers` library does whatever a file asks for: normalisers that double a text thirty times, patterns that match
for hours, and panics that print to the terminal. It holds Python's lock meanwhile, so one such file would stop every
answer. A file that parses, encodes and decodes all trial texts within the limits is remembered by its SHA-256, so that
it is tried once on a machine. Files that are part of this project are not tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlcompare.errors import CheckpointError
from vlcompare.paths import CHECKPOINTS, read_record, write_record
from vlcompare.runtime.tokenizer_file import TokenizerFile

SECONDS = 20  # of wall time; a tokenizer of 50,000 pieces takes less than one
_CPU_SECONDS = 6
_MEMORY = 1 << 29  # bytes of address space: with a tokenizer of 50,000 pieces 0.1 GB are taken
_LENGTHS = (20, 2000)  # characters of a trial text: what grows soon shows at the first; half of the longest question
_MAX_IDS = 64  # a character; compatibility forms have up to 18 characters of up to 4 bytes
_LONGEST_PIECE = 4096  # characters that one id may decode to
_MAX_KNOWN = 256  # tokenizers that are remembered
_RECORD = "tokenizers.json"
_RULES = "1"  # changes with what is tried, so that files are tried again

_tried: set[str] = set()


def require_usable(path: Path, data: bytes) -> None:
    """Raise CheckpointError where reading or using this tokenizer.json takes too long, too much memory, or fails.

    path: where `data` was read from, for the sentence and to tell the project's own files.
    """
    if path.resolve().is_relative_to(CHECKPOINTS):
        return
    key = hashlib.sha256(_RULES.encode() + _library().encode() + data).hexdigest()
    if key in _tried:
        return
    if key not in _known():
        _try(path, data)
        write_record(_RECORD, [*_known(), key][-_MAX_KNOWN:])
    _tried.add(key)


def _library() -> str:
    import tokenizers

    return str(tokenizers.__version__)


def _try(path: Path, data: bytes) -> None:
    """Run `main` below in a separate process."""
    start = f"import sys; sys.path[:] = {sys.path!r}; from vlcompare.runtime.tokenizer_trial import main; main()"
    quiet = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", start, path.name],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
            env={**os.environ, **quiet},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(_sentence(path, f"it took over {SECONDS} seconds to try")) from error
    except OSError as error:
        raise CheckpointError(
            f"The tokenizer {path} cannot be tried before it is used: no process can be started ({error.strerror})."
        ) from error
    if done.returncode == 0:
        return
    reason = done.stdout.decode("utf-8", errors="replace")[:500]
    raise CheckpointError(_sentence(path, reason or "trying it took too much time or memory, or crashed the library"))


def _sentence(path: Path, why: str) -> str:
    return f"The tokenizer {path} cannot be read ({why}); use EleutherAI/gpt-neox-20b's tokenizer.json."


# ------------------------------------------------------------------------------------------------ in the child


def main() -> None:
    """Try the tokenizer.json on standard input. Its exit status is 0, or 1 with the reason on standard output."""
    _limit()
    data = sys.stdin.buffer.read()
    try:
        loaded = TokenizerFile(Path(sys.argv[1]), data)
        for text in _texts(json.loads(loaded.backend.to_str())):
            ids = loaded.encode(text)
            if len(ids) > _MAX_IDS * (len(text) + 1):
                raise CheckpointError(f"it makes {len(ids)} pieces of {len(text)} characters")
            if len(loaded.decode(ids)) > _MAX_IDS * (len(text) + 1):
                raise CheckpointError(f"it decodes {len(text)} characters as many times more")
        for piece, token in loaded.backend.get_vocab(with_added_tokens=True).items():
            if max(len(piece), len(loaded.decode([token]))) > _LONGEST_PIECE:
                raise CheckpointError(f"its id {token} stands for over {_LONGEST_PIECE} characters")
    except MemoryError:
        _end("trying it took too much memory")
    except CheckpointError as error:
        _end(str(error.__cause__ or error))
    except RecursionError:
        _end("it is nested too deeply")


def _end(why: str) -> None:
    sys.stdout.buffer.write(" ".join(why.split()).encode("utf-8", errors="replace")[:500])
    sys.stdout.flush()
    os._exit(1)


def _limit() -> None:
    """Bounds for this process, where the system has such (Windows has the clock alone)."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CPU, _CPU_SECONDS), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


def _texts(description: dict[str, Any]) -> Iterator[str]:
    """Long texts of one thing over and over, which is what growth and backtracking feed on: of the usual characters, of
    each that the file's own patterns name, and of those patterns; last, a box and a question."""
    named = [text for part in ("normalizer", "pre_tokenizer", "decoder") for text in _strings(description.get(part))]
    named += [str(entry.get("content", "")) for entry in description.get("added_tokens") or ()][:64]
    characters = dict.fromkeys("aA0 \n\t.!#é日🎉\N{COMBINING ACUTE ACCENT}\ufdfa" + "".join(named)[:4000])
    parts = dict.fromkeys([*list(characters)[:160], *named[:64], "ab ", "a.", "\r\n", "a\n", "0,"])
    for length in _LENGTHS:
        for part in filter(None, parts):
            yield (part * (length // len(part) + 1))[:length] + "!"
    yield "\nQuestion: What color is the left box? [0.10,0.60,0.35,0.87].\nAnswer: ### && <|endoftext|>"


def _strings(part: Any) -> Iterator[str]:
    """Every string in a piece of JSON, names of fields and kinds left out."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        for one in part:
            yield from _strings(one)
    elif isinstance(part, dict):
        for key, one in part.items():
            if key not in ("type", "behavior", "prepend_scheme", "precompiled_charsmap"):
                yield from _strings(one)


# ------------------------------------------------------------------------------------------------ what was tried


def _known() -> list[str]:
    """Hashes of files that were tried and found usable."""
    known = read_record(_RECORD)
    return [key for key in known if isinstance(key, str)] if isinstance(known, list) else []
