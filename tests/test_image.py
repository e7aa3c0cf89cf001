"""Opening of images: what is refused, before any memory is spent; what odd pictures become; the transform both ways."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image, ImageOps

from vlcompare.errors import ImageError
from vlcompare.runtime.image import ImageLimits, ImageTransform, open_image
from vlcompare.runtime.picture_file import MAX_PARTS, read_pixel_parts


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
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


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_chunks(chunks: bytes) -> bytes:
    """The small PNG with chunks behind its header."""
    return PNG[:33] + chunks + PNG[33:]


def riff(body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def with_extras(webp: bytes, flags: int, extras: bytes) -> bytes:
    """A simple WebP of 40 x 30 pixels as an extended one."""
    return riff(b"VP8X\x0a\0\0\0" + bytes([flags, 0, 0, 0, 39, 0, 0, 29, 0, 0]) + webp[12:] + extras)


def greedy_exif(entries: int, size: int) -> bytes:
    """EXIF whose entries all point at the same bytes, as if each had its own; the last one turns the picture."""
    rows = b"".join(struct.pack("<HHII", 1000 + i, 7, size, 8) for i in range(entries))
    rows += struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", entries + 1) + rows).ljust(size + 8, b"\0")


def many_frames(count: int) -> bytes:
    two = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime")]
    data = encoded(two[0], "WEBP", save_all=True, append_images=two[1:], lossless=True)
    last = data.rindex(b"ANMF")
    return riff(data[12:] + data[last:] * count)


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
    "jpeg of empty segments": (b"\xff\xd8" + b"\xff\xe0\0\0" * 100_000, "more than 20,000 segments"),
    "jpeg of many scans": (many_scans(2000), "more than 64 scans"),
    "scans of a large picture": (many_scans(40, 5000), "JPEG of 46 scans over 25 million pixels; at most 40 are taken"),
    "long side": (huge_png(1, 50_000_000), "a side of 50,000,000 pixels; at most 30,000"),
    "png of many chunks": (with_chunks(chunk(b"tEXt", b"a\0b") * MAX_PARTS), "PNG of more than 20,000 chunks"),
    "webp of many chunks": (riff(WEBP[12:] + b"JUNK\0\0\0\0" * MAX_PARTS), "WebP of more than 20,000 chunks"),
    "webp of many frames": (many_frames(MAX_PARTS), "WebP of more than 20,000 chunks"),
    "jpeg of tables": (JPEG[:2] + 3 * segment(0xDB, b"\0" * 65_000) + JPEG[2:], "more than 131,072 bytes of tables"),
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


COSTLY = {  # small pictures in files that ask a decoder for far more than pixels
    "jpeg of APP segments": JPEG[:2] + segment(0xE1, b"Exif\0\0" + b"a" * 900) * 8000 + JPEG[2:],
    "jpeg of profiles": JPEG[:2] + segment(0xE2, b"ICC_PROFILE\0\1\1" + b"a" * 60_000) * 200 + JPEG[2:],
    "jpeg of greedy EXIF": JPEG[:2] + segment(0xE1, b"Exif\0\0" + greedy_exif(4000, 60_000)) + JPEG[2:],
    "png of greedy EXIF": with_chunks(chunk(b"eXIf", greedy_exif(60_000, 1_000_000))),
    "png of packed text": with_chunks(
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n" * 10**8, 9)) * 9
    ),
    "png of a packed profile": with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 10**8, 9))),
    "png of pixels behind its last": PNG[:33] + chunk(b"IDAT", zlib.compress(b"\0" * 10**8, 9)) + PNG[-12:],
    "png of single bytes": PNG[:33]
    + b"".join(chunk(b"IDAT", PNG[i : i + 1]) for i in range(41, len(PNG) - 16))
    + PNG[-12:],
    "webp of greedy EXIF": with_extras(
        WEBP, 8, b"EXIF" + struct.pack("<I", 1_000_008) + greedy_exif(60_000, 1_000_000)
    ),
    "webp of frames": many_frames(9000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_small_picture_costs_little_whatever_its_file_holds(name: str) -> None:
    """The decoder gets the pixels alone. Its libraries allocate no Python objects: the process is looked at, too."""
    file = read_pixel_parts(COSTLY[name])
    assert len(file.data) < 200_000 and file.size == (40, 30)
    before = psutil.Process().memory_info().rss
    tracemalloc.start()
    picture = open_image(COSTLY[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.size == ((30, 40) if "greedy" in name else (40, 30))
    assert peak < 8 * 2**20 + 3 * len(COSTLY[name]) and psutil.Process().memory_info().rss - before < 64 * 2**20


def test_orientation_is_read_where_pillow_reads_it() -> None:
    exif = Image.Exif()
    exif[274] = 8
    packed = exif.tobytes()
    digits = b"\nexif\n%d\n%s" % (len(packed), packed.hex().encode())
    turn = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    files = {
        "jpeg": encoded(gradient(40, 30), "JPEG", exif=exif),
        "big-endian": JPEG[:2] + segment(0xE1, b"Exif\0\0" + turn) + JPEG[2:],
        "jpeg, XMP": JPEG[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp) + JPEG[2:],
        "png": encoded(gradient(40, 30), exif=exif),
        "png, XMP": with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
        "png, ImageMagick's": with_chunks(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(digits))),
        "webp": encoded(gradient(40, 30), "WEBP", exif=exif),
        "none": PNG,
        "out of range": with_chunks(chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x09\0\0\0\0\0\0\0")),
    }
    for name, data in files.items():
        with Image.open(io.BytesIO(data)) as whole:
            turned = ImageOps.exif_transpose(whole).convert("RGB")
        assert open_image(data).tobytes() == turned.tobytes(), name
        assert (turned.size == (30, 40)) == (name not in ("none", "out of range")), name


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
    small = ImageLimits(max_bytes=1000, max_pixels=100)
    with pytest.raises(ImageError, match="MiB; at most"):
        open_image(b"\0" * 1001, small)
    (tmp_path / "large.png").write_bytes(b"\0" * 1001)
    with pytest.raises(ImageError, match="MiB; at most"):
        open_image(tmp_path / "large.png", small)
    with pytest.raises(ImageError, match="40 x 30 pixels"):
        open_image(PNG, ImageLimits(max_pixels=1199))
    with pytest.raises(ImageError, match="40 x 30 pixels"):
        open_image(gradient(40, 30), ImageLimits(max_pixels=1199))
    assert open_image(PNG, ImageLimits(max_pixels=1200)).size == (40, 30)


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("/nowhere/a.png", "/nowhere/a.png does not exist"),
        ("/", "is not a file"),
        ("/dev/zero", "is not a file"),
        ("a\0b.png", "cannot be read"),
        ("a" * 300 + ".png", r"cannot be read \(File name too long\)"),
        ("http://127.0.0.1/a.png", "Web addresses are not opened"),
        (7, "not int"),
        (None, "not NoneType"),
    ],
)
def test_sources_that_are_no_picture(source, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        open_image(source)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is not a file"):
        open_image(tmp_path / "pipe.png")


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
    assert [read_pixel_parts(data).size for data in kinds] == [(301, 207)] * len(kinds)
    for data in kinds:
        with Image.open(io.BytesIO(data)) as whole:  # whatever was left out, the pixels are the same
            assert open_image(data).tobytes() == whole.convert("RGB").tobytes()
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
    found = tuple(value * extent / 336 for value, extent in zip(box, opened.size * 2, strict=True))
    slack = [max(1.0, width / 336), max(1.0, height / 336)] * 2  # a pixel of either grid
    assert all(abs(a - b) <= limit for a, b, limit in zip(found, truth, slack, strict=True))


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
