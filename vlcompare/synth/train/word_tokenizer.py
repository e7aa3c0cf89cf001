"""The embedded pair's tokenizer: whole words, whole instructions, and one token for each coordinate of a box.

A byte-level vocabulary without merges: a piece that the pattern cuts out and that is in the vocabulary is one token,
any other piece falls apart into its bytes. So every text can be encoded, and decoding gives it back exactly. A box
`[0.12,0.34,0.56,0.78]` is the four pieces `[0.12` `,0.34` `,0.56` `,0.78]`.
"""

from __future__ import annotations

import re
import string
from functools import cache
from pathlib import Path
from typing import Any

from vlcompare.synth.scenes.phrases import VOCABULARY
from vlcompare.synth.scenes.scene import SIGN_WORDS
from vlcompare.tasks import forms

END, MARK, SEPARATOR = "<|endoftext|>", "###", "&&"
BINS = 101  # coordinates 0.00 .. 1.00
FIRST, MIDDLE, LAST = "[{:.2f}", ",{:.2f}", ",{:.2f}]"  # x0; y0 and x1; y1

INSTRUCTIONS: tuple[str, ...] = (
    forms.CAPTION + "\n",
    forms.GROUNDED_CAPTION + "\n",
    forms.REGION + "\n",
    forms.ANSWER,
    forms.LETTER,
    forms.LOCATE,
    forms.MATCH + "\n",
)
FRAMES: tuple[str, ...] = ("\nQuestion: ", "\nAnswer: ", f"\n{forms.OCR_HEADER}\n")
LETTERS: tuple[str, ...] = tuple(f"{letter}: " for letter in string.ascii_uppercase[:8])
MARKS: tuple[str, ...] = (MARK, SEPARATOR, "||", " ||", ".\n", "?\n")
BARE: tuple[str, ...] = ("a", "an", "what")  # words that also occur without a space before them, lower-case

# what is cut out of a text, in this order; the last two take any single character that is left
_PATTERN = "|".join(
    (
        *(re.escape(text).replace("\\ ", " ").replace("\\\n", "\\n") for text in (*INSTRUCTIONS, *FRAMES)),
        r"[A-H]: ",
        "###|&&",
        r" ?\|\|",
        r"[.?]\n(?!Answer: |Question: )",
        r"\[[01]\.[0-9][0-9](?=,)",
        r",[01]\.[0-9][0-9]\]",
        r",[01]\.[0-9][0-9](?=,)",
        r" ?[A-Za-z]+",
        r"\s",
        r"[^\sA-Za-z]",
    )
)


def _pieces() -> list[str]:
    """All pieces that are a token of their own, in the order of their ids, behind END and the single bytes."""
    words = [f" {word}" for word in VOCABULARY] + [word.capitalize() for word in VOCABULARY]
    words += [f" {word}" for word in SIGN_WORDS] + list(BARE)
    coordinates = [form.format(bin / 100) for form in (FIRST, MIDDLE, LAST) for bin in range(BINS)]
    return list(dict.fromkeys((*MARKS, *INSTRUCTIONS, *FRAMES, *LETTERS, *coordinates, *words)))


@cache
def byte_characters() -> dict[int, str]:
    """GPT-2's visible stand-ins for the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


def visible(text: str) -> str:
    """The vocabulary's spelling of a piece."""
    return "".join(byte_characters()[byte] for byte in text.encode())


@cache
def vocabulary() -> dict[str, int]:
    """Piece, in the vocabulary's spelling -> id. Id 0 ends a text, as with the published checkpoints."""
    entries = [END, *(byte_characters()[byte] for byte in range(256)), *map(visible, _pieces())]
    return {piece: index for index, piece in enumerate(dict.fromkeys(entries))}


def token_id(text: str) -> int:
    """The id of a text that is one token."""
    return vocabulary()[text if text == END else visible(text)]


def coordinate_ids() -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Ids of the 101 bins of x0, of y0 and x1, and of y1."""
    first, middle, last = (
        tuple(token_id(form.format(bin / 100)) for bin in range(BINS)) for form in (FIRST, MIDDLE, LAST)
    )
    return first, middle, last


def word_ids(word: str) -> tuple[int, ...]:
    """All tokens that are this word, with a space or a capital or neither; empty for an unknown word."""
    forms_ = (f" {word}", word.capitalize(), word, f" {word.upper()}")
    known = vocabulary()
    return tuple(dict.fromkeys(known[visible(form)] for form in forms_ if visible(form) in known))


def build() -> Any:
    """The tokenizer, as an object of the `tokenizers` library."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary(), merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return tokenizer


def write(folder: Path) -> Path:
    """Write tokenizer.json into a folder."""
    path = folder / "tokenizer.json"
    build().save(str(path))
    return path
