"""Text to ids and back: plain encoding, and a decoder for tokens as they stream.

Typed text never becomes a special id (end of text, padding), only ordinary pieces; and for any ids the joined output of
`StreamDecoder` is exactly what `Tokenizer.decode` returns. Pieces of byte-level BPE hold bytes, not characters: one
emoji may be several tokens.
"""

from __future__ import annotations

import codecs
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from vlcompare.errors import CheckpointError
from vlcompare.runtime.bounded_files import LARGEST_TOKENIZER, is_there, open_regular, read_bytes
from vlcompare.runtime.tokenizer_file import END, TokenizerFile
from vlcompare.runtime.tokenizer_trial import require_usable

MARK, SEPARATOR = "###", "&&"
DEFAULT_IDS = {MARK: 4118, SEPARATOR: 10494, END: 0}  # of EleutherAI/gpt-neox-20b, for use without any tokenizer

# what a tokenizer must be able to spell, of questions and of answers, but for spaces and case
_SPELLED = "Question: Is there a red car, left of 2 boxes? [0.10,0.25,0.35,0.87]. A: True. B: False."

TokenizerSource = str | Path | Callable[[], str | Path]


class Tokenizer:
    """A tokenizer.json, read at first use.

    source: its path, or a function that returns it. Where there is no file, the three special tokens still have their
    usual ids, so that a model can be run on ids alone. vocabulary: the model's size, which all ids must be below;
    without it neither that nor what the tokenizer can spell is checked. All methods raise CheckpointError where the
    file is missing (but for those three ids), damaged, or does not fit the model.
    """

    def __init__(self, source: TokenizerSource | None = None, *, vocabulary: int | None = None) -> None:
        self._source = source
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._loaded: TokenizerFile | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of a text on its own: nothing is added, and names of special tokens are plain text."""
        loaded = self._load()
        ids = loaded.encode(text)
        if loaded.special.isdisjoint(ids):
            return ids
        # a vocabulary in which a special token's name is an ordinary word: encode the name in parts
        ids = [token for part in loaded.split_special_names(text) for token in loaded.encode(part)]
        return [token for token in ids if token not in loaded.special]  # a normaliser may still spell the name

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids. Special tokens and ids without text (padding of the vocabulary, image slots) give ""."""
        loaded = self._load()
        if loaded.pieces is None:
            decoder = StreamDecoder(self)
            return "".join([decoder.push(token) for token in ids]) + decoder.flush()
        return loaded.text(list(ids))

    def token_id(self, token: str) -> int | None:
        """The id of exactly this piece of the vocabulary, or None."""
        return self._load().backend.token_to_id(token)

    @property
    def mark_id(self) -> int:
        """The id that opens and closes the image positions."""
        return self._special_id(MARK)

    @property
    def separator_id(self) -> int:
        """The id between two rows of image positions."""
        return self._special_id(SEPARATOR)

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""
        return self._special_id(END)

    def check(self) -> None:
        """Read it now."""
        self._load()

    def _special_id(self, text: str) -> int:
        try:
            token = self._load().backend.token_to_id(text)
        except _Missing:
            return DEFAULT_IDS[text]
        if token is None:
            raise _without(self._load(), text)
        return token

    def _load(self) -> TokenizerFile:
        with self._lock:
            if self._loaded is None:
                loaded = _read(self._find())
                if self._vocabulary is not None:
                    _require_fitting(loaded, self._vocabulary)
                self._loaded = loaded
            return self._loaded

    def _find(self) -> Path:
        if self._source is None:
            raise _Missing(
                "There is no tokenizer: put a tokenizer.json beside the weights, or name one with --tokenizer."
            )
        try:
            path = Path(self._source() if callable(self._source) else self._source)
        except CheckpointError as error:
            raise _Missing(str(error)) from error
        return tokenizer_file(path)


def tokenizer_file(given: str | Path) -> Path:
    """The tokenizer.json at a path, or in the folder at it. Raises CheckpointError if there is no such file."""
    path = Path(os.path.expanduser(given))
    if os.path.isdir(path) and path.name != "tokenizer.json":
        path = path / "tokenizer.json"
    if not is_there(path):
        raise _Missing(f"The tokenizer {path} does not exist; give the path of a tokenizer.json.")
    try:
        open_regular(path).close()
    except OSError as error:
        raise _unreadable(path, error) from error
    return path


class StreamDecoder:
    """Turns ids into text one by one; returns each piece of text once, as soon as it is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._loaded = tokenizer._load()
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # for decoders other than byte-level:
        self._in_bytes = False  # whether the last token was a single byte
        self._window: list[int] = []  # ids from the last returned token on
        self._given = ""  # the window's text when text was last returned

    def push(self, token: int) -> str:
        """The text that this id adds: "" while a character of several bytes is incomplete."""
        if self._loaded.pieces is not None:
            return self._bytes.decode(self._loaded.piece(token))
        known = self._loaded.known([token])
        if not known:
            return ""
        byte = self._loaded.lone_byte(token)
        if byte is not None:  # the library decodes a run of bytes as a whole, and its end is not known yet
            self._in_bytes = True
            self._keep(known)
            return self._bytes.decode(byte)
        if self._in_bytes:
            self._in_bytes = False
            return self._end_bytes() + self.push(token)
        self._window += known
        text = self._loaded.decode(self._window)
        if text.endswith("\N{REPLACEMENT CHARACTER}") or not text.startswith(self._given):
            return ""
        added = text[len(self._given) :]
        self._keep(known)
        return added

    def flush(self) -> str:
        """The rest of the text; a character that is still incomplete becomes the replacement character."""
        if self._loaded.pieces is not None or self._in_bytes:
            return self._end_bytes()
        text = self._loaded.decode(self._window)
        rest = text[len(self._given) :] if text.startswith(self._given) else ""
        self._window, self._given = [], ""
        return rest

    def _keep(self, known: list[int]) -> None:
        """Such decoders depend on the piece before (a leading space, a prefix) and on no earlier one."""
        self._window = known
        self._given = self._loaded.decode(known)

    def _end_bytes(self) -> str:
        """The rest of a run of bytes."""
        rest = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return rest


class _Missing(CheckpointError):
    """There is no tokenizer to read; not raised for one that is damaged."""


def _read(path: Path) -> TokenizerFile:
    """A tokenizer.json, read in this process once a child process has tried it with limits."""
    try:
        data = read_bytes(path, LARGEST_TOKENIZER)
    except OSError as error:
        raise _unreadable(path, error) from error
    require_usable(path, data)
    return TokenizerFile(path, data)


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"The tokenizer {path} cannot be read ({error.strerror}).")


def _require_fitting(loaded: TokenizerFile, vocabulary: int) -> None:
    """Raise CheckpointError unless it has the three special tokens, the model's ids, and can spell questions."""
    for text in (MARK, SEPARATOR, END):
        if loaded.backend.token_to_id(text) is None:
            raise _without(loaded, text)
    last = max(loaded.backend.get_vocab(with_added_tokens=True).values())
    if last >= vocabulary:
        raise CheckpointError(
            f"The tokenizer {loaded.path} has ids up to {last}, but the model's vocabulary ends at {vocabulary - 1}: "
            "it belongs to another model."
        )
    spelled = loaded.text(loaded.encode(_SPELLED))
    if "".join(spelled.split()).casefold() != "".join(_SPELLED.split()).casefold():
        raise CheckpointError(
            f"The tokenizer {loaded.path} cannot spell a question (of {_SPELLED[:20]!r} it makes {spelled[:20]!r}); "
            "use EleutherAI/gpt-neox-20b's tokenizer.json."
        )


def _without(loaded: TokenizerFile, text: str) -> CheckpointError:
    return CheckpointError(
        f"The tokenizer {loaded.path} has no token {text!r}, which these models need; use EleutherAI/gpt-neox-20b's "
        "tokenizer.json."
    )
