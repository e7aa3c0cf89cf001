"""Text to ids and back, with the `tokenizers` library: plain encoding, and a decoder that works while tokens stream.

Knows nothing of models or prompts. Two promises: text that somebody typed never becomes a special id (end of text,
padding), only ordinary pieces; and what `StreamDecoder` has given out, joined, is exactly what `Tokenizer.decode` gives
for the whole, whatever the ids. Pieces of byte-level BPE hold bytes, not characters: one emoji may be several tokens.
"""

from __future__ import annotations

import codecs
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlcompare.errors import CheckpointError
from vlcompare.runtime.bounded_files import LARGEST_TOKENIZER, read_bytes
from vlcompare.runtime.tokenizer_trial import require_usable

MARK, SEPARATOR, END = "###", "&&", "<|endoftext|>"
DEFAULT_IDS = {MARK: 4118, SEPARATOR: 10494, END: 0}  # of EleutherAI/gpt-neox-20b, for use without any tokenizer

# what a tokenizer must be able to spell, of questions and of answers, but for spaces and case
_SPELLED = "Question: Is there a red car, left of 2 boxes? [0.10,0.25,0.35,0.87]. A: True. B: False."

_LONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")

Source = str | Path | Callable[[], str | Path]


class Tokenizer:
    """A tokenizer.json, read at first use. `source` is its path, or a function that finds the path when asked.

    Without a source, or where it cannot be found, the three special places still have their usual ids, so that a
    model can be run on ids alone. `vocabulary`: size of the model's, which all ids must belong to; without a model
    neither that nor what the tokenizer can spell is checked.
    """

    def __init__(self, source: Source | None = None, *, vocabulary: int | None = None) -> None:
        self._source = source
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of a text on its own: nothing added in front or behind, special tokens' names taken as plain text."""
        loaded = self._load()
        ids = loaded.encode(text)
        if loaded.special.isdisjoint(ids):
            return ids
        # a vocabulary that holds a special token's name as an ordinary word: take the name apart before encoding
        ids = [token for part in loaded.apart(text) for token in loaded.encode(part)]
        return [token for token in ids if token not in loaded.special]  # what only a normaliser spells so is left out

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
    def vocabulary_size(self) -> int:
        return self._load().backend.get_vocab_size(with_added_tokens=True)

    @property
    def mark_id(self) -> int:
        """The id that opens and closes the image positions."""
        return self._place(MARK)

    @property
    def separator_id(self) -> int:
        """The id between two rows of image positions."""
        return self._place(SEPARATOR)

    @property
    def end_id(self) -> int:
        """The id that ends an answer."""
        return self._place(END)

    @property
    def available(self) -> bool:
        """Whether there is a tokenizer to read; False instead of an error where it is missing."""
        try:
            self._load()
        except _Missing:
            return False
        return True

    def _place(self, text: str) -> int:
        try:
            found = self._load().backend.token_to_id(text)
        except _Missing:
            return DEFAULT_IDS[text]
        if found is None:
            raise _without(self._load(), text)
        return found

    def check(self) -> None:
        """Read it now. Raises CheckpointError where it is missing, damaged, or does not fit the model."""
        self._load()

    def _load(self) -> Loaded:
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
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.exists():
            raise _Missing(f"The tokenizer {path} does not exist; give the path of a tokenizer.json.")
        return path


class StreamDecoder:
    """Turns ids into text one by one. Every piece of text is given out as soon as it is complete, and once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._loaded = tokenizer._load()
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = False  # other decoders than byte-level: whether the last token was a byte on its own
        self._window: list[int] = []  # for them: ids from the last given-out token on
        self._given = ""  # what the window's ids gave when text was last given out

    def push(self, token: int) -> str:
        """What this id adds to the text: "" while a character of several bytes is incomplete."""
        if self._loaded.pieces is not None:
            return self._bytes.decode(self._loaded.piece(token))
        known = self._loaded.known([token])
        if not known:
            return ""
        byte = self._loaded.lone_byte(token)
        if byte is not None:  # the library looks at whole runs of bytes, the end of which nobody knows while they come
            self._open = True
            self._keep(known)
            return self._bytes.decode(byte)
        if self._open:
            self._open = False
            return self._cut() + self.push(token)
        self._window += known
        text = self._loaded.decode(self._window)
        if text.endswith("\N{REPLACEMENT CHARACTER}") or not text.startswith(self._given):
            return ""
        added = text[len(self._given) :]
        self._keep(known)
        return added

    def flush(self) -> str:
        """What is left at the end: a character that stayed incomplete gives the replacement character."""
        if self._loaded.pieces is not None or self._open:
            return self._cut()
        text = self._loaded.decode(self._window)
        rest = text[len(self._given) :] if text.startswith(self._given) else ""
        self._window, self._given = [], ""
        return rest

    def _keep(self, known: list[int]) -> None:
        """Such decoders look one piece back (a leading space, a prefix mark), never further: keep that one alone."""
        self._window = known
        self._given = self._loaded.decode(known)

    def _cut(self) -> str:
        """What is left of a run of bytes that has ended."""
        rest = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return rest


class _Missing(CheckpointError):
    """There is no tokenizer to read, as against one that is damaged."""


def _read(path: Path) -> Loaded:
    """A tokenizer.json that was tried with limits before it is read in this process."""
    try:
        data = read_bytes(path, LARGEST_TOKENIZER)
    except OSError as error:
        raise CheckpointError(f"The tokenizer {path} cannot be read ({error.strerror}).") from error
    require_usable(path, data)
    return Loaded(path, data)


def _require_fitting(loaded: Loaded, vocabulary: int) -> None:
    """Raise CheckpointError unless the three places are there, all ids the model's, and questions can be spelled."""
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


def _without(loaded: Loaded, text: str) -> CheckpointError:
    return CheckpointError(
        f"The tokenizer {loaded.path} has no token {text!r}, which these models need; use EleutherAI/gpt-neox-20b's "
        "tokenizer.json."
    )


class Loaded:
    """A tokenizer.json in memory, with the bytes of each piece where its decoder is the byte-level one."""

    def __init__(self, path: Path, data: bytes) -> None:
        import tokenizers

        self.path = path
        with self._in_a_sentence():
            self.backend: Any = tokenizers.Tokenizer.from_buffer(data)
        self.backend.encode_special_tokens = True
        self.backend.no_truncation()
        self.backend.no_padding()
        added = self.backend.get_added_tokens_decoder()
        special = {token for token, entry in added.items() if entry.special}
        self.special = frozenset(special | ({self.backend.token_to_id(END)} - {None}))
        decoder = json.loads(self.backend.to_str()).get("decoder") or {}
        self.pieces = self._byte_pieces() if decoder.get("type") == "ByteLevel" else None
        self.falls_back = any(part.get("type") == "ByteFallback" for part in decoder.get("decoders", [decoder]))

    def encode(self, text: str) -> list[int]:
        """Ids as the library gives them, nothing added."""
        with self._in_a_sentence():
            return list(self.backend.encode(text, add_special_tokens=False).ids)

    def text(self, ids: list[int]) -> str:
        """Text of ids, by the pieces' bytes where the decoder is the byte-level one."""
        if self.pieces is None:
            return self.decode(self.known(ids))
        return b"".join(self.piece(token) for token in ids).decode("utf-8", errors="replace")

    def decode(self, ids: list[int]) -> str:
        """Text as the library gives it."""
        with self._in_a_sentence():
            return str(self.backend.decode(ids, skip_special_tokens=True))

    def apart(self, text: str) -> list[str]:
        """The text in parts of which none holds the name of a special token."""
        names = sorted((self.backend.id_to_token(token) for token in self.special), key=len, reverse=True)
        return re.split("|".join(f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in names), text)

    def piece(self, token: int) -> bytes:
        """Bytes of one id; empty for special ids and ids without text."""
        assert self.pieces is not None
        return self.pieces.get(token, b"")

    def lone_byte(self, token: int) -> bytes | None:
        """The byte that a piece such as "<0xE2>" stands for under a decoder with such; None for every other id."""
        found = _LONE_BYTE.fullmatch(self.backend.id_to_token(token) or "") if self.falls_back else None
        return bytes.fromhex(found[1]) if found else None

    def known(self, ids: Iterable[int]) -> list[int]:
        """The ids that have text."""
        return [i for i in ids if i >= 0 and i not in self.special and self.backend.id_to_token(i) is not None]

    @contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        """The library raises bare Exception for every kind of damage, and a BaseException where its Rust panics."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise CheckpointError(f"The tokenizer {self.path} cannot be read ({error}).") from error

    def _byte_pieces(self) -> dict[int, bytes]:
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        pieces: dict[int, bytes] = {}  # no list: a file may claim ids of any size
        byte_of = _byte_of_character()
        for text, token in vocabulary.items():
            if token in self.special:
                continue
            # as the library's decoder: a piece with any character outside the table stands for itself
            mapped = [byte_of.get(character) for character in text]
            plain = None in mapped
            pieces[token] = text.encode() if plain else bytes(value for value in mapped if value is not None)
        return pieces


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters stand for their own byte, the others for 256, 257, ... in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table
