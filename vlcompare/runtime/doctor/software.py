"""Versions, switches and the processor, and texts without anything private. Standard library only."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import re
import socket
import sys
from pathlib import Path

import vlcompare
from vlcompare.machine import cgroups, threads
from vlcompare.paths import PATH_IN_TEXT, last_name
from vlcompare.runtime.doctor.facts import Processor, Software

REQUIRED = ("torch", "torchvision", "timm", "transformers", "accelerate", "bitsandbytes", "huggingface-hub",
            "safetensors", "tokenizers", "numba", "numpy", "pillow", "psutil", "gradio", "datasets",
            "matplotlib")  # fmt: skip
OPTIONAL = ("triton", "mamba-ssm", "causal-conv1d")
# environment variables whose values are numbers or words of a known set
SWITCHES = ("VLCOMPARE_KERNELS", "VLCOMPARE_GRAPHS", "VLCOMPARE_EARLY_LAUNCH", "VLCOMPARE_PROOFS",
            "VLCOMPARE_DEVICE", "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "PYTORCH_CUDA_ALLOC_CONF",
            "TRITON_INTERPRET", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "NUMBA_DISABLE_JIT",
            "SPACES_ZERO_GPU")  # fmt: skip
# what decides which kernels a CPU can run, as proc names it
_INSTRUCTIONS = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
                 "amx_bf16", "amx_tile", "asimd", "asimddp", "sve", "sve2", "bf16", "i8mm")  # fmt: skip
_TOKEN = re.compile(r"\b(?:hf|api)_\w{8,}|(?i:bearer)\s+\S+")


def installed() -> Software:
    versions = {name: version for name in (*REQUIRED, *OPTIONAL) if (version := _version(name))}
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    switches = {name: private(os.environ[name]) for name in SWITCHES if os.environ.get(name)}
    return Software(vlcompare.__version__, platform.python_version(), private(system), versions, switches)


def missing() -> list[str]:
    """A sentence for required packages that are not installed."""
    absent = [name for name in REQUIRED if not _version(name)]
    how = "install them with `pip install -r requirements.txt`"
    return [f"Required packages are not installed: {', '.join(absent)}; {how}."] if absent else []


def processor() -> Processor:
    return Processor(
        processor_name(), os.cpu_count() or 1, threads.budget(), threads.reasons(), tuple(_instruction_sets())
    )


def processor_name() -> str:
    """The CPU's name as its maker gives it."""
    found = re.search(r"^model name\s*:\s*(.+)$", cgroups.read(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def driver(version: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The version of NVIDIA's driver; "" where it is not told (Linux alone tells)."""
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", cgroups.read(version))
    return found[1] if found else ""


def reason(error: BaseException) -> str:
    """An exception as one line without anything private."""
    lines = str(error).strip().splitlines()
    return private(f"{type(error).__name__}: {lines[0].strip()[:200]}" if lines else type(error).__name__).rstrip(".")


def private(text: str) -> str:
    """The text without tokens, user's and host's names, a mirror's address, and folders: below ~ they begin there.

    Of any other path the last name is left.
    """
    text = _TOKEN.sub("(token)", text)
    if mirror := os.environ.get("HF_ENDPOINT"):
        text = text.replace(mirror, "(HF_ENDPOINT)")
    for home in sorted({str(Path.home()), os.path.realpath(Path.home())}, key=len, reverse=True):
        if len(Path(home).parts) > 1:
            text = re.sub(rf"{re.escape(home)}(?=[/\\]|\W|$)", "~", text)
    text = PATH_IN_TEXT.sub(lambda found: f"…/{last_name(found[0])}", text)
    for name in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "(name)", text)
    return text


def folder(path: Path) -> str:
    """A folder for a reader: below ~, or none at all."""
    try:
        return (Path("~") / path.resolve().relative_to(Path.home().resolve())).as_posix()
    except (ValueError, OSError, RuntimeError):
        return "outside of ~"


def _names() -> list[str]:
    """The user's and the machine's, where they could be told from ordinary words."""
    found = {socket.gethostname(), platform.node()}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user that the system has no name for
        found.add(getpass.getuser())
    ordinary = {"root", "user", "localhost", "linux", "ubuntu", "admin", "torch", "cuda", "cpu", "python", "vlcompare"}
    return sorted((name for name in found if len(name) > 2 and name.lower() not in ordinary), key=len, reverse=True)


def is_installed(package: str) -> bool:
    return bool(_version(package))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _instruction_sets() -> list[str]:
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cgroups.read(Path("/proc/cpuinfo")), re.MULTILINE)
    present = set(found[1].split()) if found else set()
    if not found and sys.platform == "darwin":
        present = {"asimd"}
    return [name for name in _INSTRUCTIONS if name in present]
