"""Triton's kernels without a GPU: equal to the torch reference in Triton's interpreter, and compiled for real GPUs."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlcompare.models.kernels.reference import ScanInputs

pytest.importorskip("triton", reason="triton is not installed (it comes with torch on Linux)")
HERE = Path(__file__).resolve().parent
ARCHITECTURES = (75, 80, 89, 90, 100, 120)
KERNELS = (
    *("forward", "backward", "step", "convolution", "its step", "attend", "merge"),
    *("norms", "rank", "report", "nf4", "normed product", "normed nf4", "mix: convolve", "mix: step"),
    *("product", "scores", "int8: rows", "int8: result"),
)
KINDS = ("forward", "continued", "gradient", "step", "convolution", "prompt's convolution", "attention", "fused", "nf4",
         "product", "mix", "int8")  # fmt: skip


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    """Largest errors by case. In a process of its own: the interpreter is chosen before triton is imported."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parent), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(HERE / "triton_interpreted.py")], env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_interpreted_kernels_equal_the_reference(errors: dict[str, float], kind: str) -> None:
    mine = {label: error for label, error in errors.items() if label.startswith(kind)}
    assert mine
    wrong = {label: error for label, error in mine.items() if not error <= 5e-6}
    assert not wrong


def test_no_case_is_looked_at_by_nobody(errors: dict[str, float]) -> None:
    assert [label for label in errors if not label.startswith(KINDS)] == []


@functools.cache
def _compiled(architecture: int) -> dict[str, tuple[bytes, str]]:
    """Machine code of every kernel, compiled for a GPU that need not be there, and its PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vlcompare.models.kernels.cuda import (
        attention,
        conv,
        int8,
        mix,
        nf4,
        norm_and_argmax,
        product,
        scan,
        scan_backward,
        step,
    )

    head = {"K": 80, "KP": 128}
    row = {"TERMS": 3, "CENTRED": True, "SHIFTED": True, "BIASED": True, "NORMED": True, "GELU": True}
    alone = {"TERMS": 1, "CENTRED": False, "SHIFTED": False, "BIASED": True, "NORMED": False, "GELU": False}
    packed = {"WORDS": 8, "ROWS": nf4.ROWS, "GROUPS": nf4.NUMBERS // 64}
    sizes = {"N": 16, "NP": 16, "SMOOTH": True, "SKIP": True, "GATED": True, "BIASED": True}
    chunked = {**sizes, "CHUNK": scan_backward.CHUNK, "BD": scan_backward.CHANNELS}
    kernels = {
        "forward": (scan._scan_forward, {**chunked, "STARTED": True, "MARKED": True}),
        "backward": (scan_backward._scan_backward, chunked),
        "step": (step._step, {**sizes, "BD": 32, "RANK": 160, "RP": 256}),
        "convolution": (conv._conv, {"TAPS": 4, "BL": 16, "BD": 128, "BIASED": True, "STARTED": True}),
        "its step": (conv._conv_step, {"TAPS": 4, "BD": 128, "BIASED": True}),
        "attend": (attention._attend, {**head, "R": 20, "BLOCK": 32, "SPLITS": 8}),
        "merge": (attention._merge, {**head, "SPLITS": 8}),
        "norms": (norm_and_argmax._add_norm, {"BLOCK": 4096, "TERMS": 3, "NORMS": 2, "CENTRED": True, "BIASED": True}),
        "rank": (norm_and_argmax._rank_share, {"COUNT": 5, "SHARE": norm_and_argmax.SHARE}),
        "report": (norm_and_argmax._merge, {"COUNT": 5, "SP": 64, "CP": 256}),
        "normed product": (product._product, {**row, "PAD": 4096, "BK": 512, "ROWS": 8}),
        "mix: convolve": (
            mix._convolve_and_project,
            {"TAPS": 4, "BD": 128, "BO": mix.PROJECTED, "SUMS": 192, "BIASED": True},
        ),
        "mix: step": (
            mix._add_and_step,
            {"N": 16, "NP": 16, "BD": 32, "BS": mix.ADDED, "RANK": 160, "RP": 256, "TAPS": 4, "MOVED": 4},
        ),
        "product": (product._product, {**alone, "PAD": 1, "BK": 1024, "ROWS": 4}),
        "scores": (product._product, {**alone, "PAD": 1, "BK": 512, "ROWS": 8, "BIASED": False}),
        "int8: rows": (int8._rows, {"BLOCK": 16384}),
        "int8: result": (int8._result, {"BLOCK": int8.OUTPUTS, "BIASED": True}),
        "nf4": (nf4._product, {**alone, **packed}),
        "normed nf4": (nf4._product, {**row, **packed}),
    }
    bfloat16 = {"step", "nf4", "norms", "normed product", "normed nf4", "mix: convolve", "mix: step", "product",
                "scores", "int8: rows", "int8: result"}  # fmt: skip
    half = {
        f"{letter}_ptr"
        for letter in (
            *("proj", "xz", "u", "x", "z", "y", "B", "C", "a", "b", "c", "total", "y2"),
            *("weight", "norm_weight", "norm_bias", "bias"),
        )
    }
    cached = ("qkv_ptr", "cos_ptr", "sin_ptr", "keys_ptr", "values_ptr", "out_ptr")
    out = {}
    for name, (kernel, constants) in kernels.items():
        if "EARLY" in kernel.arg_names:
            constants = {**constants, "EARLY": architecture >= 90}
        signature = {}
        for argument in kernel.arg_names:
            if argument in constants:
                signature[argument] = "constexpr"
            elif argument in ("words_ptr", "sums_ptr") and name in ("nf4", "normed nf4", "int8: result"):
                signature[argument] = "*i32"
            elif argument == "values_ptr" and name == "int8: rows":
                signature[argument] = "*i8"
            elif argument == "y_ptr" and name == "scores":
                signature[argument] = "*fp32"
            elif argument in ("position_ptr", "chosen_ptr"):
                signature[argument] = "*i64"
            elif argument == "ids_ptr":
                signature[argument] = "*i32"
            elif argument == "packed_ptr":
                signature[argument] = "*fp64"
            elif argument in cached:
                signature[argument] = "*bf16"
            elif argument in ("scale", "eps", "eps2"):
                signature[argument] = "fp32"
            elif argument.endswith("_ptr"):
                signature[argument] = "*bf16" if argument in half and name in bfloat16 else "*fp32"
            else:
                signature[argument] = "i32"
        # addresses and widths are multiples of 16 in earnest, and the compiler is told so
        even = [a.endswith("_ptr") or a in ("inputs", "outputs", "width", "x_b") for a in kernel.arg_names]
        attributes = {(place,): [["tt.divisibility", 16]] for place, one in enumerate(even) if one}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
        warps = {"num_warps": {"nf4": 1, "normed nf4": 1, "norms": 8, "int8: rows": 8}.get(name, 4)}
        made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=warps).asm
        out[name] = made["cubin"], made["ptx"]
    return out


def _needs_a_compiler() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET=1: the interpreter replaces the compiler")
    try:
        from triton.backends.compiler import GPUTarget  # noqa: F401
        from triton.compiler import ASTSource  # noqa: F401
    except ImportError:
        pytest.skip("this triton cannot compile without a device")


@pytest.mark.parametrize(
    "architecture", [a if a in (90, 120) else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES]
)
def test_kernels_compile_for(architecture: int, tmp_path: Path) -> None:
    """And keep what they compute with in registers: none has a stack, to which it would spill."""
    import triton

    _needs_a_compiler()
    made = _compiled(architecture)
    assert sorted(made) == sorted(KERNELS)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for name, (code, _) in made.items():
        assert code, name
        (tmp_path / "kernel.cubin").write_bytes(code)
        if tool.is_file():
            command = [str(tool), "-res-usage", str(tmp_path / "kernel.cubin")]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert " STACK:0 " in told and " LOCAL:0 " in told, (name, told)


@pytest.mark.parametrize(
    ("kernel", "instruction", "most"),
    [
        # the scan itself exchanges nothing between threads: what is left are sums over 16 states, four for a position
        ("forward", "shfl.sync", 4 * 16),
        # values are looked up among the threads of a warp (eight words of eight numbers each), not in memory
        ("nf4", "shfl.sync", 8 * 8 + 8),
        ("nf4", "ld.global", 20),
    ],
)
def test_what_the_compiler_made_of_a_layout(kernel: str, instruction: str, most: int) -> None:
    _needs_a_compiler()
    _, ptx = _compiled(90)[kernel]
    assert 0 < ptx.count(instruction) <= most


STEPS = {"attend": 0, "merge": 0, "rank": 0, "report": 0, "norms": 1, "normed product": 1, "normed nf4": 1,
         "product": 1, "scores": 1, "mix: convolve": 1, "mix: step": 1, "nf4": 1}  # fmt: skip


@pytest.mark.parametrize("kernel", sorted(STEPS))
def test_a_kernel_that_is_launched_early_waits_before_it_reads_or_writes_what_others_do(kernel: str) -> None:
    """Before that it asks for weights, if for anything."""
    _needs_a_compiler()
    _, ptx = _compiled(90)[kernel]
    dependents, wait = ptx.index("griddepcontrol.launch_dependents"), ptx.index("griddepcontrol.wait")
    assert dependents < wait < ptx.index("st.global") and bool(STEPS[kernel]) is ("ld.global" in ptx[:wait])
    assert "ld.global" in ptx[wait:] and ptx.count("griddepcontrol.wait") == 1
    _, older = _compiled(80)[kernel]
    assert "griddepcontrol" not in older


@pytest.mark.parametrize("kernel", ["step", "its step", "attend", "norms", "mix: step"])
def test_steps_ask_for_everything_before_they_store(kernel: str) -> None:
    _needs_a_compiler()
    _, ptx = _compiled(90)[kernel]  # a load behind a store may not be moved before it: it would wait for memory anew
    assert 0 < ptx.rindex("ld.global") < ptx.index("st.global")


def test_lengths_and_capacities_are_no_reason_to_compile_again() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET=1: the interpreter replaces the compiler")
    from vlcompare.models.kernels.cuda import attention, conv, scan

    for kernel, names in (
        (scan._scan_forward, {"length", "chunks"}),
        (conv._conv, {"length"}),
        (attention._attend, {"capacity"}),
    ):
        assert names <= {parameter.name for parameter in kernel.params if parameter.do_not_specialize}


def test_mamba_ssm_leaves_continued_prompts_and_training_to_the_next_implementation() -> None:
    from vlcompare.models.kernels.cuda import mamba_ssm

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape)

    inputs = ScanInputs(random(1, 8, 3), random(1, 8, 3), -torch.rand(8, 4), random(1, 4, 3), random(1, 4, 3))
    assert mamba_ssm.selective_scan(inputs._replace(initial_state=random(1, 8, 4))) is None
    assert mamba_ssm.selective_scan(inputs._replace(u=inputs.u.requires_grad_())) is None


@pytest.mark.parametrize(
    ("rows", "inputs", "taken"), [(1, 2560, True), (1, 1088, True), (2, 2560, False), (1, 96, False)]
)
def test_own_nf4_product_is_for_one_row(rows: int, inputs: int, taken: bool) -> None:
    from vlcompare.models.kernels.cuda import nf4

    assert nf4.applies(torch.zeros(rows, inputs), inputs) is taken
