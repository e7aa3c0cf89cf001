"""A tokenizer.json in memory, with the `tokenizers` library: text to ids, ids to text, and the bytes of each piece."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlcompare.errors import CheckpointError

END = "<|endoftext|>"
_LONE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenizerFile:
    """A tokenizer.json in memory, with the bytes of each piece where its decoder is the byte-level one.

    Every method raises CheckpointError where the library fails.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        import tokenizers

        self.path = path
        with self._library_errors():
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
        with self._library_errors():
            return list(self.backend.encode(text, add_special_tokens=False).ids)

    def text(self, ids: list[int]) -> str:
        """Text of ids, by the pieces' bytes where the decoder is the byte-level one."""
        if self.pieces is None:
            return self.decode(self.known(ids))
        return b"".join(self.piece(token) for token in ids).decode("utf-8", errors="replace")

    def decode(self, ids: list[int]) -> str:
        """Text as the library gives it."""
        with self._library_errors():
            return str(self.backend.decode(ids, skip_special_tokens=True))

    def split_special_names(self, text: str) -> list[str]:
        """The text in parts of which none contains the name of a special token."""
        names = sorted((self.backend.id_to_token(token) for token in self.special), key=len, reverse=True)
        return re.split("|".join(f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in names), text)

    def piece(self, token: int) -> bytes:
        """Bytes of one id; empty for special ids and ids without text."""
        assert self.pieces is not None
        return self.pieces.get(token, b"")

    def lone_byte(self, token: int) -> bytes | None:
        """The byte of a piece such as "<0xE2>", if the decoder has byte fallback; None for any other id."""
        match = _LONE_BYTE.fullmatch(self.backend.id_to_token(token) or "") if self.falls_back else None
        return bytes.fromhex(match[1]) if match else None

    def known(self, ids: Iterable[int]) -> list[int]:
        """The ids that have text."""
        return [i for i in ids if i >= 0 and i not in self.special and self.backend.id_to_token(i) is not None]

    @contextmanager
    def _library_errors(self) -> Iterator[None]:
        """The library raises bare Exception for damage of any kind, and a BaseException where its Rust code panics."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise CheckpointError(f"The tokenizer {self.path} cannot be read ({error}).") from error

    def _byte_pieces(self) -> dict[int, bytes]:
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        pieces: dict[int, bytes] = {}  # a dict, since a file may claim ids of any size
        byte_of = _byte_of_character()
        for text, token in vocabulary.items():
            if token in self.special:
                continue
            # like the library's decoder: a piece with any character outside the table stands for itself
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
