"""Groups of prefix codes in lossless WebP files: what encoders write is read to the end, too many are refused."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlcompare.errors import ImageError
from vlcompare.runtime import picture_file, webp_groups
from vlcompare.runtime.image import open_image
from vlcompare.runtime.picture_file import MAX_GROUPS
from vlcompare.runtime.webp_groups import count_groups


def quilt(width: int = 256, height: int = 192, colours: int = 256, mode: str = "RGB") -> Image.Image:
    """Patches of different noise, for which an encoder uses codes of their own."""
    random = np.random.default_rng(width + colours)
    pixels = random.integers(0, colours, (height, width, len(mode)), dtype=np.uint8)
    for top in range(0, height, 48):
        for left in range(0, width, 64):
            pixels[top : top + 48, left : left + 64] //= 1 << ((top // 48 + left // 64) % 8)
    return Image.fromarray(pixels, mode)


def encoded(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", **how)
    return file.getvalue()


class Bits:
    """A stream, the least significant bit first."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def write(self, *pairs: tuple[int, int]) -> None:
        """Each pair: a number, and how many bits it has."""
        self.text += [f"{number:0{count}b}"[::-1] for number, count in pairs if count]

    def bytes(self) -> bytes:
        text = "".join(self.text)
        return int(text[::-1], 2).to_bytes(-(-len(text) // 8), "little")


def of_groups(groups: int, width: int = 512, height: int = 516) -> bytes:
    """A picture whose blocks of 4 x 4 pixels have numbers up to `groups` - 1 (RFC 9649, section 3.7)."""
    bits = Bits()
    bits.write((0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 4), (0, 1), (0, 1), (1, 1), (0, 3), (0, 1))
    for alphabet in (280, 256):  # green and red: 256 symbols of 8 bits
        # of the code lengths, 8 and 18 (zeros) have one bit each; in their order 18 is the second, 8 the twelfth
        bits.write((0, 1), (8, 4), *((number in (1, 11), 3) for number in range(12)), (0, 1), *((0, 1),) * 256)
        if alphabet > 256:
            bits.write((1, 1), (alphabet - 256 - 11, 7))
    bits.write(*((0b0001, 4),) * 3)  # blue, alpha, distance: one symbol, which takes no bits
    for block in range((width // 4) * (height // 4)):
        number = block % groups
        bits.write(*((int(f"{byte:08b}"[::-1], 2), 8) for byte in (number & 255, number >> 8)))
    bits.write(*((0b0001, 4),) * (5 * groups))
    stream = bits.bytes()
    body = b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream + b"\0" * (len(stream) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("how", [{"method": 0}, {"method": 4}, {"method": 4, "quality": 20}, {"method": 6}], ids=str)
@pytest.mark.parametrize("colours", [2, 3, 16, 200, 256])
def test_what_an_encoder_writes_is_read_to_the_entropy_image(colours: int, how: dict[str, int]) -> None:
    """A parser that loses its place finds an impossible code: none is found, and the pixels are the same."""
    for mode, (width, height) in (("RGB", (256, 192)), ("RGBA", (61, 7)), ("RGB", (1, 1))):
        image = quilt(width, height, colours, mode)
        data = encoded(image, lossless=True, exact=True, **how)
        assert open_image(data).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("groups", [1, 2, 300, 16_384])
def test_the_number_is_the_one_that_is_declared(groups: int) -> None:
    data = of_groups(groups)
    assert count_groups(data[20:], (512, 516), header=True) == groups
    assert open_image(data).size == (512, 516)


def test_too_many_groups_are_refused_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "WebP of more than 16,384 groups of prefix codes"
    with pytest.raises(ImageError, match=sentence):
        open_image(of_groups(MAX_GROUPS + 1))
    lossless = encoded(quilt(), lossless=True, method=6)
    frames = encoded(quilt(), lossless=True, save_all=True, append_images=[quilt(colours=200)])
    alpha = quilt(colours=255, mode="RGBA")
    transparent = encoded(alpha, quality=50)
    monkeypatch.setattr(picture_file, "MAX_GROUPS", 1)
    for data in (lossless, frames, transparent):
        with pytest.raises(ImageError, match="groups of prefix codes"):
            open_image(data)
    assert open_image(encoded(alpha.convert("RGB"), quality=50)).size == alpha.size  # lossy: has none


def test_damage_and_endless_tables_end_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    data = of_groups(30, 64, 64)
    for length in range(20, 400, 7):
        with pytest.raises(ImageError, match="damaged"):
            open_image(data[:length])
    for at in range(25, 200):
        flipped = data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :]
        try:
            open_image(flipped)
        except ImageError as error:
            assert "damaged" in str(error) or "groups" in str(error)
    monkeypatch.setattr(webp_groups, "MAX_SYMBOLS", 200)
    with pytest.raises(ImageError, match="damaged"):
        open_image(data)


def test_a_frame_of_several_pictures_is_damaged() -> None:
    """Decoders differ in which of them they take."""
    frames = encoded(quilt(), lossless=True, save_all=True, append_images=[quilt(colours=200)])
    at = frames.index(b"ANMF")
    length = int.from_bytes(frames[at + 4 : at + 8], "little")
    inner = frames[at + 24 : at + 8 + length]
    frame = frames[at + 8 : at + 24] + inner + inner
    body = frames[8:at] + b"ANMF" + struct.pack("<I", len(frame)) + frame
    with pytest.raises(ImageError, match="damaged"):
        open_image(b"RIFF" + struct.pack("<I", len(body)) + body)
