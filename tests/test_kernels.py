"""The scan's implementations against the plain torch one: outputs, states, gradients, continued states, odd sizes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vlcompare.models.kernels import dispatch, reference
from vlcompare.models.kernels.cpu import openmp, step
from vlcompare.models.kernels.reference import ScanInputs

ROOT = Path(__file__).resolve().parents[1]

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
# batch, channels, states, positions: one position, odd widths, several vectors, lengths around the backward's stretch
SIZES = ((2, 5, 4, 7), (1, 16, 16, 1), (2, 48, 16, 33), (1, 130, 16, 16), (3, 80, 8, 50))


def arguments(batch: int, channels: int, states: int, length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random tensors in the order of NAMES, channels side by side in memory as a model has them."""
    torch.manual_seed(batch * 1000 + channels + length)

    def rows() -> Tensor:
        return torch.randn(batch, length, channels).to(dtype).transpose(1, 2)

    u, delta, z = rows(), rows(), rows()
    B, C = torch.randn(batch, states, length).to(dtype), torch.randn(batch, states, length).to(dtype)
    A = -torch.rand(channels, states) * 4
    return [u, delta, A, B, C, torch.randn(channels), z, torch.randn(channels), torch.randn(batch, channels, states)]


def scan(name: str, values: list[Tensor | None], **options: bool) -> tuple[Tensor, Tensor]:
    with dispatch.use(name):
        return dispatch.selective_scan(ScanInputs(*values, **options))  # type: ignore[arg-type]


def assert_close(ours: Tensor, truth: Tensor, tolerance: float = 2e-6) -> None:
    assert ours.shape == truth.shape and ours.dtype == truth.dtype
    scale = max(1.0, float(truth.abs().max())) if truth.numel() else 1.0
    torch.testing.assert_close(ours, truth, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("size", SIZES)
def test_scan_equals_reference(size: tuple[int, int, int, int]) -> None:
    values = arguments(*size)
    for ours, truth in zip(scan("numba", values), scan("reference", values), strict=True):
        assert_close(ours, truth)


@pytest.mark.parametrize("without", ["D", "z", "delta_bias", "initial_state"])
def test_optional_arguments(without: str) -> None:
    values: list[Tensor | None] = list(arguments(2, 24, 16, 9))
    values[NAMES.index(without)] = None
    for ours, truth in zip(scan("numba", values), scan("reference", values), strict=True):
        assert_close(ours, truth)


def test_time_step_as_it_is() -> None:
    values = arguments(1, 16, 16, 9)
    values[1] = values[1].abs()
    for ours, truth in zip(
        scan("numba", values, softplus=False), scan("reference", values, softplus=False), strict=True
    ):
        assert_close(ours, truth)


def test_extreme_time_steps_stay_finite() -> None:
    values = arguments(1, 16, 4, 6)
    values[1] = torch.tensor([-200.0, -60.0, -20.0, 20.0, 60.0, 200.0]).expand(1, 16, 6)
    values[6] = torch.tensor([-300.0, 300.0, -80.0, 80.0, 0.0, 1.0]).expand(1, 16, 6)
    for ours, truth in zip(scan("numba", values), scan("reference", values), strict=True):
        assert torch.isfinite(ours).all()
        assert_close(ours, truth, 1e-5)


def test_not_a_number_is_not_hidden() -> None:
    values = arguments(1, 16, 4, 6)
    values[1][0, 3, 2] = float("nan")
    y, last = scan("numba", values)
    assert torch.isnan(y[0, 3, 2:]).all() and torch.isnan(last[0, 3]).all()
    assert torch.isfinite(y[0, :3]).all() and torch.isfinite(y[0, 3, :2]).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_equal_autograd_through_reference(size: tuple[int, int, int, int], threads: int) -> None:
    values = arguments(*size)
    gradients = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in ("numba", "reference"):
            leaves = [value.clone().requires_grad_() for value in values]
            y, last = scan(name, list(leaves))
            torch.manual_seed(1)
            ((y * torch.randn(y.shape)).sum() + (last * torch.randn(last.shape)).sum()).backward()
            gradients.append([leaf.grad for leaf in leaves])
    finally:
        torch.set_num_threads(before)
    for label, ours, truth in zip(NAMES, *gradients, strict=True):
        assert ours is not None and truth is not None, label
        assert_close(ours, truth, 4e-6)


def test_gradients_without_optional_arguments() -> None:
    values = arguments(2, 20, 4, 19)
    gradients = []
    for name in ("numba", "reference"):
        leaves = [value.clone().requires_grad_() for value in values[:5]]
        y, _ = scan(name, [*leaves, None, None, None, None])
        y.square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, truth in zip(*gradients, strict=True):
        assert ours is not None and truth is not None
        assert_close(ours, truth, 4e-6)


def test_whole_equals_continued() -> None:
    values = arguments(2, 32, 16, 21)
    whole, last = scan("numba", values)
    state, parts = values[8], []
    for start, end in ((0, 1), (1, 14), (14, 21)):
        piece = [value[:, :, start:end] if index in (0, 1, 3, 4, 6) else value for index, value in enumerate(values)]
        y, state = scan("numba", [*piece[:8], state])
        parts.append(y)
    assert_close(torch.cat(parts, 2), whole)
    assert_close(state, last)


@pytest.mark.parametrize("name", ["numba", "reference"])
def test_scan_equals_steps(name: str) -> None:
    u, delta, A, B, C, D, z, bias, state = values = arguments(2, 24, 16, 11)
    whole, last = scan(name, list(values))
    with dispatch.use(name):
        for t in range(u.shape[2]):
            inputs = ScanInputs(u[:, :, t], delta[:, :, t], A, B[:, :, t], C[:, :, t], D, z[:, :, t], bias)
            y = dispatch.selective_step(state, inputs)
            assert_close(y, whole[:, :, t])
    assert_close(state, last)


@pytest.mark.parametrize("name", ["numba", "reference"])
def test_a_step_projects_its_time_steps(name: str) -> None:
    u, _, A, B, C, D, z, bias, state = arguments(2, 32, 16, 1)
    factors, weight = torch.randn(2, 6), torch.randn(32, 6)
    inputs = ScanInputs(u[:, :, 0], factors, A, B[:, :, 0], C[:, :, 0], D, z[:, :, 0], bias)
    ours, truth = state.clone(), state.clone()
    with dispatch.use(name):
        y = dispatch.projected_step(ours, inputs, weight)
        assert_close(y, dispatch.selective_step(truth, inputs._replace(delta=factors @ weight.T)))
    assert_close(ours, truth)


def test_no_positions_leave_the_state() -> None:
    values = arguments(1, 16, 4, 0)
    y, last = scan("numba", values)
    assert y.shape == (1, 16, 0)
    assert torch.equal(last, values[8])


def test_bfloat16_in_and_out() -> None:
    values = arguments(2, 48, 16, 20, torch.bfloat16)
    y, last = scan("numba", values)
    truth, truth_last = scan("reference", values)
    assert y.dtype == torch.bfloat16 and last.dtype == torch.float32
    torch.testing.assert_close(y, truth, rtol=2**-7, atol=1e-3)  # both round once: at most one last bit apart
    assert_close(last, truth_last)


@pytest.mark.parametrize("name", ["numba", "reference"])
def test_convolution_equals_conv1d_and_its_steps(name: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 9, 24).transpose(1, 2), torch.randn(24, 4), torch.randn(24)
    window = torch.randn(2, 24, 3)
    conv = torch.nn.functional.conv1d(torch.cat([window, x], 2), weight[:, None], bias, groups=24)
    with dispatch.use(name):
        y, last = dispatch.causal_conv(x, weight, bias, window)
        assert_close(y, torch.nn.functional.silu(conv), 1e-6)
        assert torch.equal(last, x[:, :, -3:])
        for t in range(9):
            assert_close(dispatch.conv_step(window, x[:, :, t], weight, bias), y[:, :, t], 1e-6)
    assert torch.equal(window, last)


def test_convolution_shorter_than_its_window() -> None:
    x, weight = torch.randn(1, 8, 1), torch.randn(8, 4)
    _, window = dispatch.causal_conv(x, weight, None, None)
    assert torch.equal(window, torch.cat([torch.zeros(1, 8, 2), x], 2))


def test_dispatch_names() -> None:
    assert dispatch.available("cpu") == ("numba", "reference")
    assert dispatch.active("cpu") == "numba"
    with dispatch.use("reference"):
        assert dispatch.active("cpu") == "reference"
    assert dispatch.active("cpu") == "numba"
    assert dispatch.active("meta") == "reference"


def test_float64_takes_the_reference() -> None:
    values = [value.double() for value in arguments(1, 16, 4, 5)]
    y, last = scan("numba", list(values))
    truth = reference.selective_scan(ScanInputs(*values))
    assert y.dtype == last.dtype == torch.float64
    assert torch.equal(y, truth[0])


def test_gradients_of_the_convolution() -> None:
    gradients = []
    for name in ("numba", "reference"):
        torch.manual_seed(3)
        x = torch.randn(2, 9, 32).transpose(1, 2).clone().requires_grad_()
        leaves = [x, *(torch.randn(shape).requires_grad_() for shape in ((32, 4), (32,), (2, 32, 3)))]
        with dispatch.use(name):
            y, window = dispatch.causal_conv(*leaves)
        ((y * torch.randn(y.shape)).sum() + 2 * window.sum()).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, truth in zip(*gradients, strict=True):
        assert ours is not None and truth is not None
        assert_close(ours, truth, 2e-6)


def test_one_half_of_wider_rows_is_read_in_place() -> None:
    wide = torch.randn(2, 70, 96)
    x, weight = wide[:, :, 48:].transpose(1, 2), torch.randn(48, 4)
    with torch.no_grad():
        y, _ = dispatch.causal_conv(x, weight, None, None)
    assert_close(y, reference.causal_conv(x, weight, None, None)[0])


def test_threads_follow_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert openmp.threads() == (count if openmp.library() is not None else 1)
        monkeypatch.setattr(openmp, "library", lambda: None)
        assert openmp.threads() == 1
    finally:
        torch.set_num_threads(before)


def test_torch_brings_the_threads_on_linux() -> None:
    """One pool for both: a second one would wait for work on the same cores."""
    if sys.platform != "linux":
        pytest.skip("GNU OpenMP is what torch brings on Linux")
    library = openmp.library()
    assert library is not None and Path(library._name).parent.parent == Path(torch.__file__).parent


def test_every_task_is_done_once_whatever_the_threads() -> None:
    """Several Python threads at once, each with threads of its own: results do not depend on them."""
    values = arguments(3, 130, 16, 21)
    torch.manual_seed(0)
    x, weight = torch.randn(2, 256), torch.randn(1000, 256)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, product = scan("numba", list(values)), step.product(x, weight, None)
        torch.testing.assert_close(product, x @ weight.T, rtol=0, atol=1e-4)
        torch.set_num_threads(2)
        with ThreadPoolExecutor(3) as pool:
            scans = [pool.submit(scan, "numba", list(values)) for _ in range(12)]
            products = [pool.submit(step.product, x, weight, None) for _ in range(12)]
        for done in scans:
            assert all(torch.equal(ours, truth) for ours, truth in zip(done.result(), alone, strict=True))
        assert all(torch.equal(done.result(), product) for done in products)
    finally:
        torch.set_num_threads(before)


def test_kernels_run_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A read-only install without a home: compiled in memory, as quick afterwards, and right."""
    program = (
        "import torch; from vlcompare.models.kernels.cpu import step, step_loops\n"
        "x, w = torch.ones(1, 256), torch.ones(512, 256)\n"
        "assert float(step.product(x, w, None).sum()) == 512 * 256\n"
        "print(type(step_loops.product._cache).__name__)\n"
    )
    package = tmp_path / "vlcompare"
    shutil.copytree(ROOT / "vlcompare", package, ignore=shutil.ignore_patterns("__pycache__", "ui", "synth"))
    folders = [path for path in (tmp_path, *tmp_path.rglob("*")) if path.is_dir()]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": "/dev/null", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-B", "-c", program]
    if os.geteuid() == 0:  # root writes everywhere: the folders are made unusable in another way
        env["NUMBA_CACHE_LOCATOR_CLASSES"] = "UserWideCacheLocator"
    for folder in folders:
        folder.chmod(0o555)
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "NullCache"
