"""NF4 and int8: the rounding itself, the modules, the fallback without a fast path, and files written quantized."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import write_checkpoint
from vlcompare.cli import main
from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.kernels import fallback, packed_format
from vlcompare.runtime.loading import export, quantize
from vlcompare.runtime.loading.estimate import estimate
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.loading.locate import SECTION, find_source
from vlcompare.runtime.loading.model import Model
from vlcompare.runtime.loading.verify import verify
from vlcompare.types import ModelSpec

FAMILIES = ("pythia", "mamba")
METHODS = ("nf4", "int8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write_checkpoint(root / family, family, width=64) for family in FAMILIES}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that stay packed, whichever machine this is: where it has no kernels, by unpacked slices."""
    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: True)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a fast path, whichever this is."""
    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: False)


def answers(model: Model) -> torch.Tensor:
    torch.manual_seed(1)
    rows, columns = model.vlm.vision_encoder.grid
    ids = torch.tensor([5, 6, *[-200] * (rows * columns), 7, 8, 9])
    return model.logits(torch.rand(3, 64, 64), ids)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


# ------------------------------------------------------------------------------------------------ the rounding


def test_nf4_takes_the_nearest_code_over_the_largest_of_64() -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 128)
    code = quantize.nf4_code()
    parts = quantize.quantize(weight, "nf4")
    assert {key: tuple(value.shape) for key, value in parts.items()} == quantize.part_shapes("nf4", 32, 128)
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(1)
    nearest = (blocks / largest[:, None])[:, :, None].sub(code).abs().argmin(-1)
    expected = (code[nearest] * largest[:, None]).view(32, 128)
    assert torch.equal(quantize.dequantize(parts, "nf4", (32, 128), torch.float32), expected)
    first = parts["nf4"][0]
    assert (int(first) >> 4, int(first) & 15) == (int(nearest[0, 0]), int(nearest[0, 1]))


def test_int8_spreads_a_row_over_its_largest() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0], [-4.0, 2.0, 4.0]])
    parts = quantize.quantize(weight, "int8")
    assert parts["int8"].tolist() == [[127, -64, 32], [0, 0, 0], [-127, 64, 127]]
    assert parts["absmax"].tolist() == [1.0, 0.0, 4.0]
    back = quantize.dequantize(parts, "int8", (3, 3), torch.float32)
    assert (back - weight).abs().max() <= 4.0 / 127 / 2 + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_rounding_again_changes_nothing_and_chunks_do_not_matter(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 192).bfloat16()
    parts = quantize.quantize(weight, method)
    once = quantize.dequantize(parts, method, (64, 192), torch.float32)
    assert apart(once, weight.float()) < {"nf4": 0.12, "int8": 0.01}[method]
    again = quantize.quantize(once, method)
    assert all(torch.equal(parts[key], again[key]) for key in parts)
    monkeypatch.setattr(packed_format, "_CHUNK", 1024)
    with monkeypatch.context() as patch:
        patch.setenv(fallback.SWITCH, "torch")
        plain = quantize.quantize(weight, method)
    assert all(torch.equal(parts[key], plain[key]) for key in parts)
    small = quantize.quantize(weight, method)
    assert all(torch.equal(parts[key], small[key]) for key in parts)
    assert torch.equal(quantize.dequantize(parts, method, (64, 192), torch.float32), once)


def test_bitsandbytes_reads_the_same_values() -> None:
    import bitsandbytes

    torch.manual_seed(0)
    weight = torch.randn(32, 128)
    parts = quantize.quantize(weight, "nf4")
    packed, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    same = (packed.view(-1) == parts["nf4"]).float().mean()
    assert same > 0.999 and torch.equal(state.absmax, parts["absmax"])
    state.absmax = parts["absmax"]
    theirs = bitsandbytes.functional.dequantize_4bit(parts["nf4"].view(-1, 1), state)
    ours = quantize.dequantize(parts, "nf4", (32, 128), torch.float32)
    assert torch.allclose(theirs, ours, rtol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_modules_multiply_with_what_is_stored(method: str, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 64, bias=bias).requires_grad_(False)
    parts = quantize.quantize(linear.weight, method)
    module = quantize.quantized_linear(parts, method, (64, 128), linear.bias, torch.device("cpu"))
    linear.weight.copy_(quantize.dequantize(parts, method, (64, 128), torch.float32))
    for shape in ((128,), (1, 128), (2, 5, 128)):
        x = torch.randn(shape)
        found = module(x)
        assert found.dtype == x.dtype and found.shape == linear(x).shape and apart(found, linear(x)) < 2e-4


def test_int8_hands_dense_rows_to_kernels_that_know_addresses_only() -> None:
    """A scan may leave its positions side by side in memory; bitsandbytes' CUDA kernels do not look at strides."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if "int8_linear_matmul" in str(func):
                seen.append(args[0].is_contiguous())
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    linear = nn.Linear(128, 64).requires_grad_(False)
    parts = quantize.quantize(linear.weight, "int8")
    module = quantize.Int8Linear(parts["int8"], parts["absmax"], linear.bias)
    x = torch.randn(1, 128, 5).transpose(1, 2)
    with Watch():
        found = module(x)
    assert seen[:1] == [True]
    assert torch.equal(found, module(x.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_keeps_the_range_of_its_activations(dtype: torch.dtype) -> None:
    """Beyond 65,504, where float16 ends, in what is read, in what is written and in the bias."""
    torch.manual_seed(0)
    linear = nn.Linear(128, 64).requires_grad_(False)
    linear.bias.mul_(1e9)
    parts = quantize.quantize(linear.weight, "int8")
    module = quantize.Int8Linear(parts["int8"], parts["absmax"], linear.bias.to(dtype))
    x = (torch.randn(3, 128) * 1e7).to(dtype)
    found = module(x)
    assert found.dtype == dtype and found.abs().max() > 1e7 and apart(found.float(), linear(x.float())) < 0.03
    x[1, 5] = torch.inf
    assert not module(x)[1].isfinite().any() and module(x)[0].isfinite().all()


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_large_linears_of_the_language_model(folders: dict[str, Path], family: str) -> None:
    model = load(folders[family])
    names = {name.split(".", 1)[0] for name in quantize.targets(model.vlm, family)}
    lasts = {name.rsplit(".", 1)[1] for name in quantize.targets(model.vlm, family)}
    assert names == {"language_model"} and lasts == quantize.TARGETS[family]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_models_answer_and_take_less(
    folders: dict[str, Path], family: str, method: str, kernels: None
) -> None:
    full, small = load(folders[family]), load(folders[family], quantization=method)  # type: ignore[arg-type]
    assert small.quantization == method and small.notices == ()
    assert small.weights_bytes < full.weights_bytes
    assert estimate(ModelSpec(str(folders[family]), method)).weights == pytest.approx(small.weights_bytes, rel=0.02)
    distance = apart(answers(small), answers(full))
    assert 0 < distance < {"nf4": 0.6, "int8": 0.12}[method]
    replaced = [m for m in small.vlm.modules() if type(m).__name__ == "PackedLinear"]
    assert len(replaced) == len(quantize.targets(full.vlm, family))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_fast_path_the_values_are_rounded_and_it_is_said(
    folders: dict[str, Path], family: str, method: str, no_kernels: None
) -> None:
    full, rounded = load(folders[family]), load(folders[family], quantization=method)  # type: ignore[arg-type]
    (notice,) = rounded.notices
    assert "no fast path" in notice and "held in float32" in notice
    assert rounded.quantization == method
    assert rounded.weights_bytes == full.weights_bytes
    for name, linear in quantize.targets(full.vlm, family).items():
        parts = quantize.quantize(linear.weight, method)
        held = rounded.vlm.get_parameter(f"{name}.weight")
        assert torch.equal(held, quantize.dequantize(parts, method, tuple(held.shape), torch.float32))  # type: ignore[arg-type]
    assert 0 < apart(answers(rounded), answers(full)) < {"nf4": 0.6, "int8": 0.1}[method]


def test_where_nothing_can_be_quantized_it_is_said(tmp_path: Path) -> None:
    model = load(write_checkpoint(tmp_path / "narrow", "mamba", width=32), quantization="nf4")
    assert any("2 of 4 large layers stay as they are" in notice for notice in model.notices)


# ------------------------------------------------------------------------------------------------ files


@pytest.fixture(params=[(f, m) for f in FAMILIES for m in METHODS], ids=lambda pair: "-".join(pair))
def written(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> tuple[Path, Path, str]:
    family, method = request.param
    source = Path(shutil.copytree(folders[family], tmp_path / "source"))
    assert main(["quantize", str(source), str(tmp_path / "out"), f"--{method}", "--device", "cpu"]) == 0
    return source, tmp_path / "out", method


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["kernels", "no_kernels"])
def test_a_written_folder_stands_alone_and_answers_as_quantized_at_load(
    written: tuple[Path, Path, str], dtype: str, way: str, request: pytest.FixtureRequest
) -> None:
    source, out, method = written
    request.getfixturevalue(way)
    at_load = load(source, quantization=method, dtype=dtype)  # type: ignore[arg-type]
    expected = answers(at_load)
    shutil.rmtree(source)
    model = load(out, dtype=dtype)
    assert model.quantization == method and model.notices == at_load.notices
    assert torch.equal(answers(model), expected)
    assert model.weights_bytes == at_load.weights_bytes
    assert estimate(ModelSpec(str(out), dtype=dtype)).weights == pytest.approx(model.weights_bytes, rel=0.02)
    model.tokenizer.check()


def test_what_a_written_folder_holds(written: tuple[Path, Path, str]) -> None:
    source, out, method = written
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    before, after = load_file(str(source / "model.safetensors")), load_file(str(out / "model.safetensors"))
    section = json.loads((out / "config.json").read_text())[SECTION]
    assert section == {"version": 1, "method": method, "block": 64, "source": "source", "revision": None}
    parts = {key for key in after if key not in before}
    assert {key.rsplit(".", 1)[1] for key in parts} == set(quantize.PARTS[method])
    assert all(torch.equal(before[key], after[key]) for key in after if key in before)
    assert (out / "model.safetensors").stat().st_size < (source / "model.safetensors").stat().st_size
    assert verify(out)[-1] == "A question was answered."


def test_a_quantized_checkpoint_is_not_quantized_again(written: tuple[Path, Path, str], tmp_path: Path) -> None:
    _, out, method = written
    other = next(name for name in METHODS if name != method)
    with pytest.raises(RequestError, match=f"stored in {method}"):
        load(out, quantization=other)  # type: ignore[arg-type]
    assert load(out, quantization=method).quantization == method  # type: ignore[arg-type]
    assert main(["quantize", str(out), str(tmp_path / "more"), "--nf4"]) == 2
    assert not (tmp_path / "more").exists()


def test_a_result_whose_name_is_another_checkpoints_is_called_by_its_path(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, last in (("tiny-mamba-vl", "Use it as ./tiny-mamba-vl"), ("mine", "mine: ")):
        assert main(["quantize", str(folders["mamba"]), name, "--nf4", "--device", "cpu"]) == 0
        said = [line for line in capsys.readouterr().out.splitlines() if "tokenizer.json" not in line]
        assert said[-1].startswith(last)
    source = find_source("./tiny-mamba-vl")
    assert source is not None and source.quantization == "nf4"
    assert main(["checkpoints", "info", "./tiny-mamba-vl"]) == 0
    said = capsys.readouterr().out
    assert "revision" not in said and "float32, nf4" in said and "none" not in said


def test_a_part_that_is_missing_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = find_source(folders["mamba"])
    assert source is not None
    out = export.write_quantized(source, tmp_path / "out", "nf4", torch.device("cpu"))
    tensors = load_file(str(out / "model.safetensors"))
    del tensors["backbone.layers.1.mixer.in_proj.absmax"]
    save_file(tensors, str(out / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"model.safetensors: 'backbone.layers.1.mixer.in_proj.absmax' missing"):
        load(out)


def test_a_place_that_is_taken_stays_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["quantize", str(folders["mamba"]), str(tmp_path), "--nf4"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_write_that_fails_leaves_no_folder(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_file", full)
    source = find_source(folders["mamba"])
    assert source is not None
    with pytest.raises(CheckpointError, match="No space left"):
        export.write_quantized(source, tmp_path / "out", "nf4", torch.device("cpu"))
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_rounds_to_the_same_bits(folders: dict[str, Path], family: str, method: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    weight = torch.randn(256, 192, generator=torch.Generator().manual_seed(0))
    here, there = quantize.quantize(weight, method), quantize.quantize(weight.cuda(), method)
    assert all(torch.equal(here[key], there[key].cpu()) for key in here)
    full, small = load(folders[family], device="cuda"), load(folders[family], device="cuda", quantization=method)  # type: ignore[arg-type]
    assert small.notices == () and apart(answers(small), answers(full)) < {"nf4": 0.6, "int8": 0.15}[method]


@pytest.mark.parametrize("method", quantize.METHODS)
def test_rows_that_lie_apart_multiply_as_dense_ones(method: str) -> None:
    """bitsandbytes' kernels know addresses only: a transposed input once gave other numbers with NF4 on a CPU."""
    torch.manual_seed(0)
    parts = quantize.quantize(torch.randn(64, 128), method)
    layer = quantize.bitsandbytes_linear(parts, method, (64, 128), None)
    x = torch.randn(1, 128, 5).bfloat16().transpose(1, 2)
    with torch.inference_mode():
        assert torch.equal(layer(x), layer(x.contiguous()))
