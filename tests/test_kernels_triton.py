"""Triton's kernels without a GPU: equal to the torch reference in Triton's interpreter, and compiled for real GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed (it comes with torch on Linux)")
HERE = Path(__file__).resolve().parent
ARCHITECTURES = (80, 89, 90, 100, 120)
KERNELS = ("forward", "backward", "step", "convolution", "its step", "turn", "look back", "merge", "nf4")


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Largest errors by case. In a process of its own: the interpreter is chosen before triton is imported."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parent), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(HERE / "triton_interpreted.py")], env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "kind", ["forward", "continued", "gradient", "step", "convolution", "prompt's convolution", "attention", "nf4"]
)
def test_interpreted_kernels_equal_the_reference(errors: dict[str, float], kind: str) -> None:
    mine = {label: error for label, error in errors.items() if label.startswith(kind)}
    assert mine
    wrong = {label: error for label, error in mine.items() if not error <= 5e-6}
    assert not wrong


def _compiled(architecture: int) -> dict[str, int]:
    """Bytes of machine code of every kernel, compiled for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vlcompare.models.kernels import nf4, triton_attention, triton_conv, triton_scan

    head = {"K": 80, "KP": 128}
    sizes = {"N": 16, "NP": 16, "SMOOTH": True, "SKIP": True, "GATED": True, "BIASED": True}
    kernels = {
        "forward": (triton_scan._scan_forward, {**sizes, "CHUNK": 64, "BD": 4, "STARTED": True, "MARKED": True}),
        "backward": (triton_scan._scan_backward, {**sizes, "CHUNK": 64, "BD": 4}),
        "step": (triton_scan._step, {**sizes, "BD": 32}),
        "convolution": (triton_conv._conv, {"TAPS": 4, "BL": 16, "BD": 128, "BIASED": True, "STARTED": True}),
        "its step": (triton_conv._conv_step, {"TAPS": 4, "BD": 128, "BIASED": True}),
        "turn": (triton_attention._turn, {**head, "R": 20}),
        "look back": (triton_attention._look_back, {**head, "BLOCK": 32, "SPLITS": 8}),
        "merge": (triton_attention._merge, {**head, "SPLITS": 8}),
        "nf4": (nf4._product, {"HALF": 32, "ROWS": 4, "GROUPS": 16, "BIASED": True}),
    }
    half = ("u_ptr", "x_ptr", "z_ptr", "y_ptr", "B_ptr", "C_ptr")
    cached = ("qkv_ptr", "cos_ptr", "sin_ptr", "keys_ptr", "values_ptr", "out_ptr")
    out = {}
    for name, (kernel, constants) in kernels.items():
        signature = {}
        for argument in kernel.arg_names:
            if argument in constants:
                signature[argument] = "constexpr"
            elif argument == "packed_ptr":
                signature[argument] = "*u8"
            elif argument == "position_ptr":
                signature[argument] = "*i64"
            elif argument in cached:
                signature[argument] = "*bf16"
            elif argument == "scale":
                signature[argument] = "fp32"
            elif argument.endswith("_ptr"):
                signature[argument] = "*bf16" if argument in half and name in ("step", "nf4") else "*fp32"
            else:
                signature[argument] = "i32"
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        out[name] = len(triton.compile(source, target=GPUTarget("cuda", architecture, 32)).asm["cubin"])
    return out


@pytest.mark.parametrize(
    "architecture", [a if a in (90, 120) else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES]
)
def test_kernels_compile_for(architecture: int) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET=1: the interpreter replaces the compiler")
    try:
        from triton.backends.compiler import GPUTarget  # noqa: F401
        from triton.compiler import ASTSource  # noqa: F401
    except ImportError:
        pytest.skip("this triton cannot compile without a device")
    made = _compiled(architecture)
    assert sorted(made) == sorted(KERNELS)
    assert all(made.values())
