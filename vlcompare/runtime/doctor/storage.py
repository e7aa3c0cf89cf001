"""The Hub, the folders that the program writes to, and which published checkpoints are here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vlcompare.paths import cache_folder, data_folder
from vlcompare.runtime.doctor import software
from vlcompare.runtime.doctor.facts import Hub, Storage
from vlcompare.runtime.loading import hub, registry
from vlcompare.runtime.loading.availability import state_of
from vlcompare.runtime.loading.hub.disk import existing, free_bytes


def hub_state() -> tuple[Hub, list[str]]:
    """Whether downloads would work. That the network is away is no problem: all that is here works without it."""
    state, detail = hub.reachability(registry.registry().tokenizer_repository)
    return Hub(state, software.private(detail), hub.signed_in(), bool(os.environ.get("HF_ENDPOINT"))), []


def storage() -> tuple[Storage, list[str]]:
    """Free space, whether the folders can be written to, and which checkpoints are here."""
    problems = []
    cache, data = hub.cache_folder(), data_folder()
    for title, path in (("Hub's cache", cache), ("data folder", data), ("folder of compiled kernels", cache_folder())):
        if refusal := _refusal(path):
            problems.append(f"The {title} ({software.folder(path)}) cannot be written to: {refusal}.")
    states = {checkpoint.name: state_of(checkpoint) for checkpoint in registry.registry().checkpoints}
    found = Storage(software.folder(cache), free_bytes(cache), software.folder(data), free_bytes(data), states)
    return found, problems


def _refusal(path: Path) -> str:
    """Why nothing can be written below a folder, which may not exist yet; "" where it can."""
    try:
        with tempfile.TemporaryFile(dir=existing(path)):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__
