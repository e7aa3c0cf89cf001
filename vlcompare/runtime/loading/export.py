"""Writing a quantized checkpoint: a folder that loads without the original, and exactly as quantizing at load would.

One tensor at a time from the source's files to the new one. Knows files, keys and rounding; nothing of running models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.bounded_files import LARGEST_TOKENIZER, read_bytes
from vlcompare.runtime.loading import quantize
from vlcompare.runtime.loading.fill import ByteProgress, account
from vlcompare.runtime.loading.keys import highest_value, model_key, stored_norm
from vlcompare.runtime.loading.locate import SECTION, CheckpointSource, local_tokenizer, read_stored
from vlcompare.runtime.loading.safetensors_files import Stored, check_finite, read_tensor, write_file
from vlcompare.runtime.loading.weight_files import ONE_FILE

Entries = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def write_quantized(
    source: CheckpointSource,
    out: Path,
    method: str,
    device: torch.device,
    report: ByteProgress = lambda done, total: None,
) -> Path:
    """Write `source` to the folder `out` with the language model's large Linears quantized. Returns `out`.

    All other tensors stay as they are stored; of two tied ones, the one that is used. Raises RequestError where `out`
    holds something or `source` is quantized already.
    """
    if source.quantization != "none":
        raise RequestError(f"{source.name} is stored in {source.quantization} already; quantize the original.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(
            f"{out} exists and is not an empty folder; choose another place for the quantized checkpoint."
        )
    stored = read_stored(source)
    chosen, linears = _chosen(source, stored)
    entries = _entries(chosen, linears, method)
    created = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / ONE_FILE, entries, _tensors(chosen, linears, method, device, report))
        section = {"version": 1, "method": method, "block": quantize.BLOCK, "source": Path(source.name).name,
                   "revision": source.revision}  # fmt: skip
        config = {**source.data, SECTION: section}
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (out / "README.md").write_text(_card(source, method), encoding="utf-8")
        if tokenizer := local_tokenizer(source):
            (out / "tokenizer.json").write_bytes(read_bytes(tokenizer, LARGEST_TOKENIZER))
    except BaseException as error:
        for path in (out / ONE_FILE, out / "config.json", out / "README.md", out / "tokenizer.json"):
            path.unlink(missing_ok=True)
        if created and out.is_dir():
            out.rmdir()
        if isinstance(error, OSError):
            raise CheckpointError(f"{out} cannot be written ({error.strerror}); nothing was left there.") from error
        raise
    return out


def _chosen(source: CheckpointSource, stored: dict[str, Stored]) -> tuple[list[Stored], set[str]]:
    """The tensors that the model uses, in the order of the files, and the names of the weights to quantize."""
    config = source.config.with_norm(stored_norm(stored, source.config.family))  # type: ignore[arg-type]
    model = meta_model(config)
    todo = account(model, stored, source.quantization)
    order = sorted(todo.fill.values(), key=lambda entry: (entry.file, entry.begin))
    return order, {f"{name}.weight" for name in quantize.targets(model, config.family)}


def _entries(chosen: list[Stored], linears: set[str], method: str) -> Entries:
    entries: Entries = {}
    for entry in chosen:
        if not _is_target(entry, linears):
            entries[entry.key] = (entry.dtype, entry.shape)
            continue
        rows, columns = entry.shape
        for part, shape in quantize.part_shapes(method, rows, columns).items():
            entries[_part_key(entry, part)] = (quantize.PARTS[method][part], shape)
    return entries


def _tensors(
    chosen: list[Stored], linears: set[str], method: str, device: torch.device, report: ByteProgress
) -> Iterator[Tensor]:
    """The tensors of `_entries`, in its order."""
    total, done = sum(entry.bytes for entry in chosen), 0
    for entry in chosen:
        tensor = read_tensor(entry)
        check_finite(tensor, entry, highest_value(entry.key))
        if _is_target(entry, linears):
            parts = quantize.quantize(tensor.to(device), method)
            yield from (parts[part] for part in quantize.PARTS[method])
        else:
            yield tensor
        done += entry.bytes
        report(done, total)


def _is_target(entry: Stored, linears: set[str]) -> bool:
    return any(model_key(entry.key, family) in linears for family in quantize.TARGETS)


def _part_key(entry: Stored, part: str) -> str:
    return entry.key.removesuffix("weight") + part


def _card(source: CheckpointSource, method: str) -> str:
    label = "NF4 (blocks of 64)" if method == "nf4" else "int8 (by rows)"
    origin = f"{Path(source.name).name}" + (f" at commit {source.revision}" if source.revision else "")
    return (
        f"# {Path(source.name).name}, {method}\n\n"
        f"{origin}: the large linear layers of its language model in {label}, everything else as it was.\n"
        'Written by `python -m vlcompare quantize`; load it with `vlcompare.load("this folder or repository")`.\n'
    )
