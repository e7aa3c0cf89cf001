"""Safetensors files as they lie on disk: which belong together, what they hold, and one tensor of them at a time.

Knows the format (github.com/huggingface/safetensors: eight bytes of length, a JSON header, then the bytes of all
tensors without gaps) and checks it before it is used. Tensors are read into their own memory, not mapped: no page of
the file stays resident, and a file that shrinks under us is an error, not a crash.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vlcompare.errors import CheckpointError
from vlcompare.runtime.bounded_files import open_regular
from vlcompare.units import format_bytes
from vlcompare.whole_files import whole_file

STORED_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in STORED_DTYPES.items()}
_LONGEST_HEADER = 4 << 20  # the format allows 100 MB, which would be 1.5 GB once read; 2.8 B parameters need 0.2 MB
_MAX_TENSORS = 20_000  # 2.8 B parameters lie in 1,200
_LONGEST_KEY = 256  # characters
# the largest magnitude of a weight: bfloat16 ends at 3.4e38, as float32 does, and rounding to int8 multiplies by 127
LARGEST_VALUE = 2.0**120
_MAX_AXES = 8  # of a tensor; with sizes below 2**63 its bytes are then counted in a moment, whatever the header says
_CHUNK = 1 << 20  # elements looked at in one go for NaN


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in a file: where it lies, and as what."""

    file: Path
    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # from the start of the file
    bytes: int

    @property
    def where(self) -> str:
        """How the tensor is named in a sentence."""
        return f"{self.file.name}: {self.key!r}"


def read_header(file: Path) -> dict[str, Stored]:
    """Everything a safetensors file says it holds, checked against its size. Raises CheckpointError where it lies."""
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if _LONGEST_HEADER < length <= size - 8:
                raise CheckpointError(
                    f"{file.name}: the header has {format_bytes(length)}, more than any model that is loaded here has."
                )
            if size < 8 or not 2 <= length <= size - 8:
                raise CheckpointError(
                    f"{file.name} is truncated or not a safetensors file: it has {size} bytes and its header claims "
                    f"{length if size >= 8 else 'nothing'}. Download the checkpoint again."
                )
            header = json.loads(_exactly(stream, length, file))
    except OSError as error:
        raise CheckpointError(f"{file.name} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file.name}: the header is not readable JSON; download the checkpoint again."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file.name}: the header is not a table of tensors; download the checkpoint again.")
    if len(header) > _MAX_TENSORS:
        raise CheckpointError(f"{file.name} holds {len(header)} tensors, more than any model that is loaded here.")
    start = 8 + length
    found = {key: _entry(file, key, row, start) for key, row in header.items() if key != "__metadata__"}
    _check_layout(file, found, start, size)
    return found


def read_headers(files: Iterable[Path]) -> dict[str, Stored]:
    """What all the files hold together. Raises CheckpointError where two hold the same key."""
    found: dict[str, Stored] = {}
    for file in files:
        for key, stored in read_header(file).items():
            if key in found:
                raise CheckpointError(f"{file.name}: {key!r} is stored in {found[key].file.name} as well; keep one.")
            found[key] = stored
        if len(found) > _MAX_TENSORS:
            raise CheckpointError(f"{file.name} and those before it hold over {_MAX_TENSORS} tensors, too many.")
    return found


def read_tensor(stored: Stored) -> Tensor:
    """A copy of one tensor, in its stored dtype. Raises CheckpointError if the file ends too early."""
    tensor = torch.empty(stored.shape, dtype=stored.dtype)
    if not stored.bytes:
        return tensor
    # reinterpreting the tensor's own memory as bytes: the file is read straight into it, without a second copy
    view = tensor.reshape(-1).view(torch.uint8).numpy().data
    try:
        with open_regular(stored.file) as stream:
            stream.seek(stored.begin)
            done = 0
            while done < stored.bytes:
                count = stream.readinto(view[done:])  # type: ignore[attr-defined]  # unbuffered, so it has this
                if not count:
                    raise CheckpointError(f"{stored.where} ends too early: the file is truncated; download it again.")
                done += count
    except OSError as error:
        raise CheckpointError(f"{stored.where} cannot be read ({error.strerror}).") from error
    return tensor


def parameters_in(stored: Mapping[str, Stored]) -> int:
    """How many numbers a checkpoint's tensors hold; two 4-bit ones are in a byte of those that are stored so."""
    return sum(math.prod(entry.shape) * (1 + (entry.dtype == torch.uint8)) for entry in stored.values())


def check_finite(tensor: Tensor, stored: Stored, highest: float = LARGEST_VALUE) -> None:
    """Raises CheckpointError, naming file and key, where a value is NaN, infinite, or would be in another precision.

    The limit is the same for all: what loads in float32 loads in bfloat16, NF4 and int8, too. highest: a lower limit of
    positive values, for tensors of which more is computed than products.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    flat = tensor.reshape(-1)
    for part in (flat,) if tensor.is_cuda else flat.split(_CHUNK):  # every look at a GPU's result waits for it
        low, high = (value.item() for value in torch.aminmax(part))  # both are NaN where any value is
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckpointError(f"{stored.where} holds NaN or infinite values: the checkpoint is damaged.")
        if high > highest or low < -LARGEST_VALUE:
            raise CheckpointError(
                f"{stored.where} holds values up to {max(-low, high):.1e}, which overflow to infinity in the "
                "precisions that models run in: the checkpoint is damaged."
            )


def write_file(
    file: Path, entries: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], tensors: Iterator[Tensor]
) -> None:
    """Write a safetensors file one tensor at a time. `tensors` gives them in the order of `entries`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, (dtype, shape) in entries.items():
        size = math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of eight
    with whole_file(file) as partial, partial.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for (key, (dtype, shape)), tensor in zip(entries.items(), tensors, strict=True):
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise ValueError(f"{key}: {tensor.dtype} {tuple(tensor.shape)} where {dtype} {shape} was announced")
            stream.write(as_bytes(tensor))


def as_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes in memory order; a view where it lies on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _exactly(stream: BinaryIO, length: int, file: Path) -> bytes:
    """So many bytes of an unbuffered file, which may give fewer at a time."""
    found = bytearray()
    while len(found) < length:
        part = stream.read(length - len(found))
        if not part:
            raise CheckpointError(f"{file.name} ends within its header: the file is truncated; download it again.")
        found += part
    return bytes(found)


def _entry(file: Path, key: str, row: Any, start: int) -> Stored:
    if len(key) > _LONGEST_KEY:
        raise CheckpointError(f"{file.name}: a key has {len(key)} characters; no model that is loaded here has such.")
    try:
        dtype, shape, (begin, end) = STORED_DTYPES.get(row["dtype"]), tuple(row["shape"]), row["data_offsets"]
        whole = len(shape) <= _MAX_AXES
        whole = whole and all(type(value) is int and 0 <= value < 1 << 63 for value in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file.name}: {key!r} is described incompletely; download the checkpoint again."
        ) from error
    if dtype is None:
        raise CheckpointError(
            f"{file.name}: {key!r} is stored as {reprlib.repr(row['dtype'])}, which this loader does not read."
        )
    if not whole or math.prod(shape) * dtype.itemsize != end - begin:
        raise CheckpointError(
            f"{file.name}: the header lies about {key!r} ({row['dtype']} {reprlib.repr(list(shape))} in "
            f"{reprlib.repr(end)} - {reprlib.repr(begin)} bytes); download the checkpoint again."
        )
    return Stored(file, key, dtype, shape, start + begin, end - begin)


def _check_layout(file: Path, found: Mapping[str, Stored], start: int, size: int) -> None:
    """The tensors fill the rest of the file exactly: no gap, no overlap, nothing behind them."""
    reached = start
    for stored in sorted(found.values(), key=lambda stored: (stored.begin, stored.bytes)):
        if stored.begin + stored.bytes > size:
            raise CheckpointError(
                f"{stored.where} should end at byte {stored.begin + stored.bytes}, but the file is truncated after "
                f"{size}: download the checkpoint again."
            )
        if stored.begin != reached:
            raise CheckpointError(f"{stored.where} overlaps another tensor or leaves a gap: the header is damaged.")
        reached = stored.begin + stored.bytes
    if reached != size:
        raise CheckpointError(f"{file.name} has {size - reached} bytes that no tensor owns: the header is damaged.")
