"""The image door: what is refused, before any memory is spent; what odd pictures become; the transform both ways."""

from __future__ import annotations

import io
import json
import random
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from vlcompare.errors import ImageError
from vlcompare.runtime.image import ImageTransform, Limits, open_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def huge_jpeg() -> bytes:
    data = bytearray(encoded(gradient(16, 16), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 30_000, 30_000)
    return bytes(data)


def huge_webp() -> bytes:
    side = (16_383).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + side + side
    return b"RIFF" + struct.pack("<I", len(body)) + body


def many_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG with `count` scans more than it needs: its last one, again and again."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + count * last + data[-2:]


PNG = encoded(gradient(40, 30))
JPEG = encoded(gradient(40, 30), "JPEG")
WEBP = encoded(gradient(40, 30), "WEBP")

REFUSED = {
    "30k x 30k png": (huge_png(), "30,000 x 30,000 pixels; at most 50 million"),
    "30k x 30k jpeg": (huge_jpeg(), "30,000 x 30,000 pixels"),
    "16k x 16k webp": (huge_webp(), "16,384 x 16,384 pixels"),
    "no pixels": (huge_png(0, 5), "no pixels"),
    "empty": (b"", "empty"),
    "truncated png": (PNG[: len(PNG) // 2], "damaged or cut off"),
    "truncated jpeg": (JPEG[:-100], "damaged or cut off"),
    "truncated webp": (WEBP[: len(WEBP) // 2], "damaged"),
    "png signature alone": (PNG[:8], "header is damaged or cut off"),
    "jpeg start alone": (JPEG[:4], "header is damaged or cut off"),
    "jpeg of fill": (b"\xff\xd8\xff" + b"\xff" * 100_000, "header is damaged"),
    "jpeg of empty segments": (b"\xff\xd8" + b"\xff\xe0\0\0" * 100_000, "header is damaged"),
    "jpeg of many scans": (many_scans(2000), "more than 64 scans"),
    "webp of no kind": (b"RIFF\x10\0\0\0WEBPVP9 " + b"\0" * 20, "WebP header is damaged"),
    "webp start alone": (WEBP[:14], "damaged"),
    "png of garbage": (PNG[:33] + b"garbage" * 20, "damaged"),
    "gif": (encoded(gradient(9, 9).convert("P"), "GIF"), "is a GIF, not a JPEG, PNG or WebP"),
    "bmp": (encoded(gradient(9, 9), "BMP"), "is a BMP"),
    "tiff": (encoded(gradient(9, 9), "TIFF"), "is a TIFF"),
    "pdf": (b"%PDF-1.7 ...", "is a PDF"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG"),
    "heic": (b"\0\0\0\x18ftypheic", "is a HEIC"),
    "text": (b"hello", "not a JPEG, PNG or WebP"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence(name: str, tmp_path: Path) -> None:
    data, sentence = REFUSED[name]
    renamed = tmp_path / "picture.png"  # the name promises a PNG whatever is inside
    renamed.write_bytes(data)
    for source in (data, renamed, bytearray(data), lambda: data):
        with pytest.raises(ImageError, match=sentence) as caught:
            open_image(source)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about the damaged metadata
def test_damage_anywhere_is_a_sentence_or_a_picture() -> None:
    draw = random.Random(0)
    outcomes = set()
    for _ in range(600):
        data = bytearray(draw.choice((PNG, JPEG, WEBP)))
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            outcomes.add(open_image(bytes(data)).mode)
        except ImageError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"RGB", "ImageError"}


@pytest.mark.parametrize("name", ["30k x 30k png", "30k x 30k jpeg", "16k x 16k webp"])
def test_a_huge_claim_costs_no_memory(name: str) -> None:
    data, _ = REFUSED[name]
    process = psutil.Process()
    before = process.memory_info().rss
    tracemalloc.start()
    try:
        with pytest.raises(ImageError):
            open_image(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 and process.memory_info().rss - before < 32 * 2**20


def test_limits_are_on_bytes_and_pixels(tmp_path: Path) -> None:
    small = Limits(max_bytes=1000, max_pixels=100)
    with pytest.raises(ImageError, match="MiB; at most"):
        open_image(b"\0" * 1001, small)
    (tmp_path / "large.png").write_bytes(b"\0" * 1001)
    with pytest.raises(ImageError, match="MiB; at most"):
        open_image(tmp_path / "large.png", small)
    with pytest.raises(ImageError, match="40 x 30 pixels"):
        open_image(PNG, Limits(max_pixels=1199))
    with pytest.raises(ImageError, match="40 x 30 pixels"):
        open_image(gradient(40, 30), Limits(max_pixels=1199))
    assert open_image(PNG, Limits(max_pixels=1200)).size == (40, 30)


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("/nowhere/a.png", "/nowhere/a.png does not exist"),
        ("/", "is not a file"),
        ("/dev/zero", "is not a file"),
        ("a\0b.png", "cannot be read"),
        ("http://127.0.0.1/a.png", "Web addresses are not opened"),
        (7, "not int"),
        (None, "not NoneType"),
    ],
)
def test_sources_that_are_no_picture(source, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        open_image(source)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (301, 7)])
def test_the_three_formats_by_path_bytes_and_image(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    data = encoded(gradient(*size), kind)
    path = tmp_path / "picture.txt"
    path.write_bytes(data)
    opened = [open_image(source) for source in (data, path, str(path), memoryview(data), Image.open(path))]
    assert all(image.mode == "RGB" and image.size == size and image.info == {} for image in opened)
    assert len({image.tobytes() for image in opened}) == 1


def test_headers_are_read_right_for_every_kind_of_file() -> None:
    from vlcompare.runtime.image import _header_size

    picture = gradient(301, 207)
    thumbnail = Image.Exif()
    thumbnail[0x010E] = "x" * 30_000
    kinds = [
        encoded(picture, "JPEG", progressive=True),
        encoded(picture, "JPEG", exif=thumbnail, icc_profile=b"\xff\xc0" * 70_000),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture, "PNG"),
        encoded(picture, "WEBP"),
        encoded(picture, "WEBP", lossless=True),
        encoded(picture.convert("RGBA"), "WEBP", exif=thumbnail),
        encoded(picture, "WEBP", save_all=True, append_images=[picture.rotate(90)]),
    ]
    kinds.append(kinds[0] + 100 * b"\xff\xda\0\2")  # a film behind the picture is not looked at
    assert [_header_size(data) for data in kinds] == [(301, 207)] * len(kinds)
    assert open_image(many_scans(50)).size == (64, 64)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(image)[y, x])


def test_colours_become_what_pillow_makes_of_them() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    palette = red.quantize(4)
    hidden = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    cases = {
        "palette": (encoded(palette), (255, 0, 0)),
        "grey": (encoded(Image.new("L", (8, 8), 77)), (77, 77, 77)),
        "one bit": (encoded(Image.new("1", (8, 8), 1)), (255, 255, 255)),
        "transparent: the colour under it shows": (encoded(hidden), (10, 20, 30)),
        "grey with alpha": (encoded(Image.new("LA", (8, 8), (50, 0))), (50, 50, 50)),
        "cmyk": (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
    }
    for name, (data, colour) in cases.items():
        assert np.allclose(pixel(open_image(data)), colour, atol=3), name
        assert open_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes(), name


def test_16_bits_keep_their_upper_half() -> None:
    grey = Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], np.uint16))
    assert np.asarray(open_image(encoded(grey)))[0, :, 0].tolist() == [0, 0x12, 0xFF]
    assert np.asarray(open_image(grey))[0, :, 0].tolist() == [0, 0x12, 0xFF]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert pixel(open_image(data)) == (255, 0, 0)


def test_a_given_image_is_left_as_it_is() -> None:
    image = gradient(10, 12)
    image.info["comment"] = "x"
    exif = image.getexif()
    exif[0x0112] = 6
    turned = open_image(image)
    assert turned.size == (12, 10) and image.size == (10, 12) and image.info["comment"] == "x"
    assert open_image(turned).tobytes() == turned.tobytes()  # once, not twice


@pytest.mark.filterwarnings("ignore")
def test_an_image_that_is_still_to_be_read_serves_several_threads() -> None:
    """The sides of a race are given the same one."""
    data = io.BytesIO()
    Image.effect_noise((900, 900), 60).save(data, "PNG")
    image, found = Image.open(data), []

    def look() -> None:
        found.append(open_image(image).tobytes())

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1


def test_broken_metadata_leaves_the_picture() -> None:
    data = encoded(gradient(20, 10), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert open_image(data).size == (20, 10)


# orientation -> how an upright picture is stored under it (the inverse of what a viewer does)
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("size", [(201, 151), (97, 333), (512, 255)])
def test_a_box_seen_by_the_model_comes_back_within_a_pixel(orientation: int, size: tuple[int, int]) -> None:
    """A white box in the upright picture, stored turned, is found in the model's pixels and brought back."""
    width, height = size
    truth = (round(0.22 * width), round(0.31 * height), round(0.58 * width), round(0.83 * height))
    upright = np.zeros((height, width, 3), np.uint8)
    upright[truth[1] : truth[3], truth[0] : truth[2]] = 255
    stored = Image.fromarray(upright)
    if (turn := STORED[orientation]) is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(stored, exif=exif))
    assert opened.size == size

    transform = ImageTransform(336)
    seen = transform.apply(opened)[0]
    share = (seen - seen.min()) / (seen.max() - seen.min())  # an edge lies where coverage sums up to it
    rows, cols = share.max(axis=1), share.max(axis=0)
    left, top = float(np.argmax(cols >= 0.5)), float(np.argmax(rows >= 0.5))
    box = (left, top, left + float((cols >= 0.5).sum()), top + float((rows >= 0.5).sum()))
    found = transform.to_image(box, opened.size)
    slack = [max(1.0, width / 336), max(1.0, height / 336)] * 2  # a pixel of either grid
    assert all(abs(a - b) <= limit for a, b, limit in zip(found, truth, slack, strict=True))
    back = transform.to_image(transform.to_model(truth, opened.size), opened.size)
    assert back == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("size", [56, 112, 224, 336])
def test_pixels_as_recorded(reference: Path, size: int) -> None:
    with np.load(reference / "expected" / f"pixel_values_{size}.npz") as recorded:
        expected = recorded[recorded.files[0]].reshape(3, size, size)
    ours = ImageTransform(size).apply(open_image(reference / "expected" / "image_200x150.png"))
    assert ours.dtype == np.float32 and ours.flags.c_contiguous
    assert np.abs(ours - expected).max() <= 1e-5


def test_normalisation_by_hand() -> None:
    grey = ImageTransform(4).apply(Image.new("RGB", (9, 5), (0, 128, 255)))
    assert grey[:, 0, 0] == pytest.approx(
        [-0.48145466 / 0.26862954, (128 / 255 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711], abs=1e-6
    )


def test_the_oracle_names_the_same_pixels(reference: Path) -> None:
    import hashlib

    expected = json.loads((reference / "expected" / "summary.json").read_text())["preprocessing"]
    image = open_image(reference / "expected" / "image_200x150.png")
    assert hashlib.sha256(np.asarray(image).tobytes()).hexdigest() == expected["image_png_sha256_pixels"]
