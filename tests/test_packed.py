"""Packed weights on CPU: every variant of the products beside the unpacked weight, the unpacking, and the choice."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.models.kernels import fallback, packed, packed_format, packed_proofs
from vlcompare.models.kernels.packed import PLAIN, PackedLinear
from vlcompare.runtime.loading import quantize

METHODS = ("nf4", "int8")
SHARE = 64  # output rows that the loops give to one thread at a time
VARIANTS = packed.supported()
# rows, inputs, outputs: a block alone, blocks in pairs and one behind, one output, a share of outputs and its
# neighbours, as many rows as go straight from the packed form
SIZES = (
    (1, 64, 1), (1, 192, 67), (3, 128, 130), (2, 576, 5), (packed.FEW_ROWS, 64, 32), (7, 192, 3), (1, 128, SHARE - 1),
    (2, 192, SHARE), (1, 64, SHARE + 1), (1, 320, 2 * SHARE),
)  # fmt: skip

needs_variants = pytest.mark.skipif(not VARIANTS, reason="no kernels for packed weights on this processor")

needs_tiles = pytest.mark.skipif(
    not VARIANTS or not packed.tiled("nf4"), reason="no tiles for bfloat16 (AMX) on this processor"
)


def layer(method: str, outputs: int, inputs: int, bias: bool = True) -> tuple[PackedLinear, Tensor]:
    """A random packed layer and its weight in float64."""
    torch.manual_seed(outputs + inputs)
    parts = quantize.quantize(torch.randn(outputs, inputs), method)
    shape = (outputs, inputs)
    made = PackedLinear(method, parts[method], parts["absmax"], shape, torch.randn(outputs) if bias else None)
    return made, quantize.dequantize(parts, method, shape, torch.float64)


def error(y: Tensor, truth: Tensor) -> float:
    return float((y.double() - truth).norm() / truth.norm())


@needs_variants
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
def test_each_variant_gives_the_unpacked_product(variant: str, method: str) -> None:
    assert packed_proofs.packed_product_agrees(variant, method)
    for rows, inputs, outputs in SIZES:
        for dtype, bound in ((torch.float32, 2e-4), (torch.bfloat16, 2**-8)):
            made, weight = layer(method, outputs, inputs, bias=outputs != 5)
            x = torch.randn(rows, inputs).to(dtype)
            with packed.use(variant), torch.inference_mode():
                y = made(x)
            truth = F.linear(x.double(), weight, None if made.bias is None else made.bias.double())
            assert y.dtype == dtype and error(y, truth) < bound, (rows, inputs, outputs, dtype)


@needs_variants
@pytest.mark.parametrize("variant", VARIANTS)
def test_numbers_that_need_no_rounding_give_exact_sums(variant: str) -> None:
    """Whole int8 weights and activations whose largest of 64 is the largest int16 activation."""
    inputs, outputs = 192, 70
    torch.manual_seed(0)
    x = torch.randint(-16383, 16384, (2, inputs)).float()
    x[:, ::64] = 16383
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    made = PackedLinear("int8", weight, torch.full((outputs,), 127.0), (outputs, inputs))
    with packed.use(variant), torch.inference_mode():
        y = made(x)
    truth = x.double() @ weight.double().T
    assert float((y.double() - truth).abs().max() / truth.abs().max()) < 3e-7  # float32 sums of exact block sums


@needs_variants
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
def test_zeros_small_numbers_and_numbers_that_are_none(variant: str, method: str) -> None:
    made, weight = layer(method, 8, 128, bias=False)
    with packed.use(variant), torch.inference_mode():
        assert torch.equal(made(torch.zeros(1, 128)), torch.zeros(1, 8))
        small = torch.randn(1, 128) * 1e-20
        assert error(made(small), small.double() @ weight.T) < 2e-4
        mixed = torch.randn(1, 128)
        mixed[0, :64] *= 1e6  # the other block keeps its own precision
        ours = made(mixed) - made(torch.cat([mixed[:, :64], torch.zeros(1, 64)], 1))
        assert torch.isfinite(ours).all()
        for bad in (float("nan"), float("inf")):
            x = torch.randn(1, 128)
            x[0, 3] = bad
            assert not torch.isfinite(made(x)).any()


@needs_variants
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_threads_changes_nothing(method: str, variant: str) -> None:
    made, _ = layer(method, 300, 256)
    x = torch.randn(2, 256)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with packed.use(variant), torch.inference_mode():
                results.append((made(x), made(x.repeat(20, 1))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(few, results[0][0]) for few, _ in results)
    assert all(torch.allclose(many, results[0][1], atol=1e-5) for _, many in results)


def in_two_threads(right: Callable[[int], bool]) -> list[int]:
    """The threads' numbers, 0 and 1, for which right(number) was false, of 25 times each."""
    wrong: list[int] = []

    def work(number: int) -> None:
        with torch.inference_mode():
            wrong.extend(number for _ in range(25) if not right(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@needs_variants
def test_two_threads_at_once_give_what_one_gives() -> None:
    layers = [layer(method, 400, 512)[0] for method in METHODS]
    inputs = [torch.randn(1, 512) for _ in range(8)]
    with torch.inference_mode():
        expected = [[made(x) for x in inputs] for made in layers]
    wrong = in_two_threads(lambda number: all(map(torch.equal, [layers[number](x) for x in inputs], expected[number])))
    assert not wrong


@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="numba is not installed")
def test_the_kernels_are_there_where_numba_is() -> None:
    """Whatever fails while they are imported would else be told as a processor that they do not know."""
    assert importlib.import_module("vlcompare.models.kernels.cpu.packed").supported() == VARIANTS


# rows, inputs, outputs: below and above 16 and 32 rows, one and several chunks of outputs and of inputs, a shorter last
TILED_SIZES = (
    (packed.TILED_ROWS, 64, 32), (16, 192, 96), (17, 128, 160), (31, 320, 64), (33, 64, 32), (64, 4160, 32),
    (65, 2112, 96), (80, 4160, 1056), (97, 64, 416),
)  # fmt: skip


@needs_tiles
@pytest.mark.parametrize("method", METHODS)
def test_tiles_give_the_product_of_the_unpacked_weight(method: str) -> None:
    before = torch.get_num_threads()
    for rows, inputs, outputs in TILED_SIZES:
        made, _ = layer(method, outputs, inputs, bias=outputs != 96)
        parts = {method: made.packed, "absmax": made.absmax}
        weight = quantize.dequantize(parts, method, (outputs, inputs), torch.bfloat16).double()
        x = torch.randn(rows, inputs).bfloat16()
        truth = F.linear(x.double(), weight, None if made.bias is None else made.bias.double())
        found = []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                with torch.inference_mode():
                    found.append(made._by_tiles(x))
        finally:
            torch.set_num_threads(before)
        assert found[0] is not None and found[0].dtype == torch.bfloat16
        assert all(other is not None and torch.equal(other, found[0]) for other in found), (rows, inputs, outputs)
        apart = (found[0].double() - truth).abs()
        assert (apart <= 2**-8 * truth.abs() + 1e-5 * truth.abs().max()).all(), (rows, inputs, outputs)


@needs_tiles
@pytest.mark.parametrize("method", METHODS)
def test_tiles_keep_rows_apart_and_numbers_that_are_none(method: str) -> None:
    made, _ = layer(method, 64, 192, bias=False)
    x = torch.randn(40, 192).bfloat16()
    with torch.inference_mode():
        clean = made(x)
        bad = x.clone()
        bad[3, 5], bad[38, 0] = torch.nan, torch.inf
        found = made(bad)
        assert found[3].isnan().all() and not found[38].isfinite().any()
        others = [row for row in range(40) if row not in (3, 38)]
        assert torch.equal(found[others], clean[others])
        assert torch.equal(made(x[7:12]), clean[7:12])  # a row's numbers do not depend on how many there are
        assert torch.equal(made(torch.zeros(9, 192).bfloat16()), torch.zeros(9, 64).bfloat16())
        made.absmax[:1] = torch.nan
        assert made(x).isnan()[:, 0].all() and made(x)[:, 1:].isfinite().all()


@needs_tiles
def test_tiles_are_for_bfloat16_and_whole_pairs_of_tiles_and_used_once_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = layer("nf4", 64, 128)
    odd, _ = layer("nf4", 48, 128)
    x = torch.randn(packed.FEW_ROWS + 1, 128).bfloat16()
    with torch.inference_mode():
        assert made._by_tiles(x) is not None and made._by_tiles(x.float()) is None and odd._by_tiles(x) is None
        assert odd(x).shape == (len(x), 48)
        with packed.use(PLAIN):
            assert made._by_tiles(x) is None
    assert made._by_tiles(x.clone().requires_grad_()) is None
    from vlcompare.models.kernels.cpu import packed as module

    right = module.tiled_product
    assert packed_proofs.tiles_agree(VARIANTS[0], "nf4")
    monkeypatch.setattr(module, "tiled_product", lambda *given: right(*given) * 1.01)
    assert not packed_proofs.tiles_agree(VARIANTS[0], "nf4")
    monkeypatch.setattr(packed_proofs, "proven", lambda check, *given: check is not packed_proofs.tiles_agree)
    assert made._by_tiles(x) is None and not packed.tiled("nf4")


@needs_tiles
@pytest.mark.parametrize("feature", ["amx-tile", "amx-bf16", "avx512bw", "avx512bf16"])
def test_a_processor_that_lacks_an_instruction_of_the_loops_uses_no_tiles(
    feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual machine may hide some of its processor's instructions, and LLVM ends the process at one it needs."""
    instructions = importlib.import_module("vlcompare.models.kernels.cpu.tiles.instructions")
    codegen = instructions.cpu_target.target_context.codegen()
    triple, name, features = codegen.magic_tuple()
    assert instructions.allowed.__wrapped__()
    fewer = str(features).replace(f"+{feature},", f"-{feature},")
    monkeypatch.setattr(type(codegen), "magic_tuple", lambda self: (triple, name, fewer))
    assert not instructions.allowed.__wrapped__()


@needs_tiles
def test_two_threads_at_once_by_tiles_give_what_one_gives() -> None:
    made = [layer(method, 256, 512)[0] for method in METHODS]
    inputs = [torch.randn(rows, 512).bfloat16() for rows in (5, 40, 100)]
    with torch.inference_mode():
        expected = [[one(x) for x in inputs] for one in made]
    wrong = in_two_threads(lambda number: all(map(torch.equal, [made[number](x) for x in inputs], expected[number])))
    assert not wrong


@pytest.mark.parametrize("method", METHODS)
def test_a_cast_of_the_model_leaves_the_scales_in_float32(method: str) -> None:
    made, _ = layer(method, 64, 128)
    failed = fallback.failed("numba")
    for rows in (1, packed.TILED_ROWS, packed.FEW_ROWS + 1):
        x = torch.randn(rows, 128).bfloat16()
        with torch.inference_mode():
            before = made(x)
            for dtype in (torch.float64, torch.bfloat16, torch.float16):
                cast = torch.nn.Sequential(copy.deepcopy(made)).to(dtype)
                assert cast[0].absmax.dtype == torch.float32 and torch.equal(cast[0].absmax, made.absmax)
                assert torch.allclose(cast(x).float(), before.float(), atol=0.1, rtol=0.02), (rows, dtype)
    assert fallback.failed("numba") == failed
    assert made.to("meta").absmax.is_meta


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", [PLAIN, *VARIANTS])
def test_slices_are_the_weight_to_the_bit(method: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_EVEN", 5)
    monkeypatch.setattr(packed, "_SLICE", 4 * 5 * 192)  # seven slices, the last one shorter
    made, _ = layer(method, 33, 192)
    parts = {method: made.packed, "absmax": made.absmax}
    with packed.use(variant), torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            whole = quantize.dequantize(parts, method, (33, 192), dtype)
            held = torch.empty(33, 192, dtype=dtype)
            assert torch.equal(made.unpacked_rows(0, 33, held), whole)
            assert torch.equal(made.unpacked_rows(7, 20, held), whole[7:20])
            assert variant == PLAIN or packed_proofs.unpacking_agrees(method, variant)
        x = torch.randn(2, 9, 192)  # more rows than go straight
        truth = F.linear(x, quantize.dequantize(parts, method, (33, 192), torch.float32), made.bias)
        assert torch.allclose(made(x), truth, atol=1e-4) and made(x).shape == (2, 9, 33)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", [PLAIN, *VARIANTS[:1]])
def test_slices_of_scales_that_are_no_numbers(method: str, variant: str) -> None:
    made, _ = layer(method, 3, 128)
    made.absmax[:2] = torch.tensor([torch.inf, torch.nan])
    for dtype in (torch.float32, torch.bfloat16):
        parts = {method: made.packed, "absmax": made.absmax}
        whole = quantize.dequantize(parts, method, (3, 128), dtype)
        with packed.use(variant):
            found = made.unpacked_rows(0, 3, torch.empty(3, 128, dtype=dtype))
        assert torch.equal(whole.isnan(), found.isnan()) and whole.isnan().any() and whole.isinf().any()
        assert torch.equal(whole.nan_to_num(), found.nan_to_num())


@needs_variants
@pytest.mark.parametrize("method", METHODS)
def test_rows_go_straight_or_through_slices_with_the_same_numbers(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, weight = layer(method, 70, 192)
    by_slices, seen = made._by_slices, list[int]()
    monkeypatch.setattr(made, "_by_slices", lambda rows: (seen.append(len(rows)), by_slices(rows))[1])
    assert made.bias is not None
    for rows in (0, 1, packed.FEW_ROWS, packed.FEW_ROWS + 1):
        x = torch.randn(rows, 192)
        with torch.inference_mode():
            y = made(x)
        assert y.shape == (rows, 70) and torch.allclose(y.double(), x.double() @ weight.T + made.bias, atol=5e-3)
    assert seen == [0, packed.FEW_ROWS + 1]


def test_a_size_that_no_loop_takes_is_unpacked_by_torch() -> None:
    made, weight = layer("int8", 33, 100)
    x = torch.randn(2, 100)
    with torch.inference_mode():
        y, slices = made(x), made.unpacked_rows(3, 9, torch.empty(6, 100))
    assert made.bias is not None
    assert torch.equal(slices, weight[3:9].float())
    assert error(y, F.linear(x.double(), weight, made.bias.double())) < 1e-6


def test_gradients_pass_through_to_the_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_EVEN", 16)
    monkeypatch.setattr(packed, "_SLICE", 4 * 16 * 64)  # three slices
    made, weight = layer("nf4", 40, 64)
    x = torch.randn(1, 64, requires_grad=True)
    made(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad[0], weight.sum(0).float(), atol=1e-4)


@needs_variants
def test_a_variant_with_wrong_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "_sentences", {})
    packed._chosen.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(packed_proofs, "proven", lambda check, *given: given[0] != VARIANTS[0])
            assert packed.variant("nf4") == (VARIANTS[1] if len(VARIANTS) > 1 else PLAIN)
            assert VARIANTS[0] in fallback.notices("cpu")[0]
    finally:
        packed._chosen.cache_clear()


@needs_variants
def test_the_check_of_a_variant_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.models.kernels.cpu import packed as module

    right = module.product
    for method in METHODS:
        assert packed_proofs.packed_product_agrees(VARIANTS[0], method)
    monkeypatch.setattr(module, "product", lambda *given: right(*given) * 1.01)
    assert not packed_proofs.packed_product_agrees(VARIANTS[0], "nf4")


@needs_variants
def test_a_damaged_file_of_machine_code_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.models.kernels.cpu.packed_loops import loops

    assert packed_proofs.packed_product_agrees(VARIANTS[0], "int8")  # compiled
    dispatcher = loops(VARIANTS[0]).int8
    cache, (signature,), context = dispatcher._cache, dispatcher.overloads, dispatcher.targetctx
    data = bytearray(cache._path(signature, context).read_bytes())
    monkeypatch.setattr(fallback, "_sentences", {})
    monkeypatch.setattr(cache, "cache_path", str(tmp_path))
    file = cache._path(signature, context)
    assert cache.load_overload(signature, context) is None and not fallback.notices("cpu")
    file.write_bytes(data)
    assert cache.load_overload(signature, context) is not None
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert cache.load_overload(signature, context) is None and "damaged" in fallback.notices("cpu")[0]


@pytest.mark.skipif(fallback.failed("numba"), reason="numba does not run here")
@pytest.mark.parametrize("method", METHODS)
def test_compiled_rounding_gives_the_same_bits(method: str) -> None:
    assert packed_proofs.quantizing_agrees(method)
    before = torch.get_num_threads()
    torch.manual_seed(4)
    try:
        for rows, columns in ((1, 64), (7, 192), (130, 128)):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                weight = torch.randn(rows, columns).to(dtype)
                weight[0, :3] = torch.tensor([0.0, -0.0, 6e-8])
                for given in (weight, weight.t().contiguous().t()):
                    for threads in (1, 2, 4):
                        torch.set_num_threads(threads)
                        found = fallback.load_and_call("cpu.packed", "quantized", given, method)
                        assert all(map(torch.equal, found, packed_format.quantized(given, method)))
    finally:
        torch.set_num_threads(before)


def test_rounding_that_is_not_proven_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(4, 128)
    expected = packed.quantized(weight, "nf4")
    monkeypatch.setattr(fallback, "load_and_call", lambda *arguments: pytest.fail("called without a proof"))
    monkeypatch.setattr(packed_proofs, "proven", lambda check, *arguments: False)
    assert all(map(torch.equal, packed.quantized(weight, "nf4"), expected))
