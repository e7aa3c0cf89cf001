"""How many groups of prefix codes a lossless WebP declares (RFC 9649, section 3), without decoding its pixels.

A decoder builds tables of some 6 KB for each group before the first pixel, and a file of 300 KB may declare 65,536. The
encoders in use write at most some 2,600. The groups are numbered by a small picture, the entropy image, which follows
the transforms; so this module reads as far as the entropy image, and no further.
"""

from __future__ import annotations

MAX_SYMBOLS = 300_000  # of all pictures before the pixels; a picture of 50 million pixels has some 100,000
_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)  # of the lengths of the code-length code
_REPEATS = {16: (2, 3), 17: (3, 3), 18: (7, 11)}  # symbol -> bits of the count, least count
_WIDTH_BITS = ((2, 3), (4, 2), (16, 1))  # colours at most -> 2 ** bits pixels share one


def count_groups(stream: bytes, size: tuple[int, int], *, header: bool) -> int:
    """The number of groups of a picture of `size` (width, height). header: the stream begins as a VP8L chunk does.

    Raises ValueError for a stream that is damaged or holds more than MAX_SYMBOLS before its pixels.
    """
    reader = _Reader(stream, 40 if header else 0)
    width, height = size
    while reader.bits(1):
        transform = reader.bits(2)
        if transform in (0, 1):  # prediction and colour, by blocks
            side = reader.bits(3) + 2
            reader.picture(_blocks(width, side) * _blocks(height, side))
        elif transform == 3:  # a palette; few colours share a pixel
            colours = reader.bits(8) + 1
            reader.picture(colours)
            width = _blocks(width, next((bits for most, bits in _WIDTH_BITS if colours <= most), 0))
    if reader.bits(1):
        reader.bits(4)  # of the colour cache
    if not reader.bits(1):
        return 1
    side = reader.bits(3) + 2
    return reader.picture(_blocks(width, side) * _blocks(height, side)) + 1


def _blocks(length: int, bits: int) -> int:
    """How many blocks of 2 ** bits pixels cover a length."""
    return (length + (1 << bits) - 1) >> bits


class _Code:
    """A prefix code as a table: the next `most` bits -> a symbol and how many bits it took."""

    def __init__(self, lengths: dict[int, int]) -> None:
        """lengths: symbol -> bits of its code, for those that have one. A single symbol takes no bits."""
        if not lengths:
            raise ValueError("a code without symbols")
        self.most = max(lengths.values()) if len(lengths) > 1 else 0
        self.table = [-1] * (1 << self.most)
        if len(lengths) == 1:
            self.table = [next(iter(lengths)) << 4]
            return
        code = before = 0
        for length, symbol in sorted((length, symbol) for symbol, length in lengths.items()):
            code <<= length - before
            before = length
            if code >> length:
                raise ValueError("more codes than there are")
            first = int(f"{code:0{length}b}"[::-1], 2)  # bits come least significant first
            self.table[first :: 1 << length] = [symbol << 4 | length] * (1 << (self.most - length))
            code += 1
        if code != 1 << before:
            raise ValueError("an incomplete code")


class _Reader:
    """Reads bits, codes and pictures from a stream."""

    def __init__(self, stream: bytes, at: int) -> None:
        self.stream = stream
        self.at = at  # bits
        self.left = MAX_SYMBOLS

    def bits(self, count: int) -> int:
        """The next bits as a number, the least significant first."""
        value = int.from_bytes(self.stream[self.at >> 3 : (self.at >> 3) + 4], "little") >> (self.at & 7)
        self.at += count
        if self.at > 8 * len(self.stream):
            raise ValueError("cut off")
        return value & ((1 << count) - 1)

    def symbol(self, code: _Code) -> int:
        if not code.most:
            return code.table[0] >> 4
        window = int.from_bytes(self.stream[self.at >> 3 : (self.at >> 3) + 3], "little") >> (self.at & 7)
        entry = code.table[window & ((1 << code.most) - 1)]
        self.at += entry & 15
        return entry >> 4

    def picture(self, pixels: int) -> int:
        """Read a picture; the largest of its upper 16 bits without alpha, in which an entropy image has its numbers.

        Copies and the colour cache repeat earlier pixels, so only pixels that are spelt out need to be compared.
        """
        cache = 1 << self.bits(4) if self.bits(1) else 0
        green, red, blue, alpha, distance = (self.code(count) for count in (280 + cache, 256, 256, 256, 40))
        largest = 0
        while pixels > 0:
            self.left -= 1
            if self.left < 0 or self.at > 8 * len(self.stream):
                raise ValueError("cut off, or too long")
            symbol = self.symbol(green)
            if symbol < 256:
                largest = max(largest, self.symbol(red) << 8 | symbol)
                self.symbol(blue)
                self.symbol(alpha)
                pixels -= 1
            elif symbol < 280:
                pixels -= self.number(symbol - 256)
                self.number(self.symbol(distance))
            else:
                pixels -= 1
        return largest

    def number(self, prefix: int) -> int:
        """A length or a distance: its prefix, then the lower bits."""
        if prefix < 4:
            return prefix + 1
        extra = (prefix - 2) >> 1
        return ((2 + (prefix & 1)) << extra) + self.bits(extra) + 1

    def code(self, alphabet: int) -> _Code:
        if self.bits(1):  # one symbol, or two of one bit each
            several = self.bits(1)
            symbols = [self.bits(8 if self.bits(1) else 1)] + [self.bits(8) for _ in range(several)]
            return _Code({symbol: 1 for symbol in symbols if symbol < alphabet})
        lengths = {symbol: self.bits(3) for symbol in _ORDER[: 4 + self.bits(4)]}
        of_lengths = _Code({symbol: length for symbol, length in lengths.items() if length})
        left = 2 + self.bits(2 + 2 * self.bits(3)) if self.bits(1) else alphabet
        found: dict[int, int] = {}
        symbol, before = 0, 8
        while symbol < alphabet and left > 0:
            left -= 1
            length = self.symbol(of_lengths)
            count = 1
            if length > 15:
                extra, least = _REPEATS[length]
                count = least + self.bits(extra)
                length = before if length == 16 else 0
            if symbol + count > alphabet:
                raise ValueError("more symbols than there are")
            if length:
                before = length
                found.update(dict.fromkeys(range(symbol, symbol + count), length))
            symbol += count
        return _Code(found)
