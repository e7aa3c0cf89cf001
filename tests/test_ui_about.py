"""About this machine, at the foot of the page: what it tells, and that it tells nothing that is private."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlcompare.models.kernels import fallback
from vlcompare.runtime.doctor import hardware
from vlcompare.runtime.doctor.facts import Device
from vlcompare.ui import about


def test_versions_devices_and_kernels_are_told_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "_sentences", {})
    fallback.tell("graphs", "cuda", "CUDA graphs are not used: /srv/secret/lib.so failed.")
    gpu = Device("cuda:0", "NVIDIA <T4>", 16_000_000_000, 1, "7.5", False)
    monkeypatch.setattr(
        hardware, "devices", lambda: ((Device("cpu", "A CPU", 8_000_000_000, 1, "AVX2", False), gpu), [])
    )
    text = str(about.view())
    for part in ("Program", "torch ", "A CPU, 8.0 GB, ", "NVIDIA &lt;T4&gt;, 16.0 GB, capability 7.5", "cpu kernels",
                 "numba for", "CUDA graphs are not used: …/lib.so failed."):  # fmt: skip
        assert part in text
    assert not [path for path in (str(Path.home()), os.getcwd(), "/srv") if len(path) > 3 and path in text]
