"""CUDA without a GPU: tensors that report `cuda:0`, hold their numbers on the CPU, and are as strict as CUDA's.

An operation on tensors of two devices raises. What makes the host wait is counted, and raises while a graph is
captured. Every other operation is one launch, views and allocations none. `torch.cuda.graph` records what is launched
without running it, and a replay runs the record on the same memory. A copy to pinned memory that does not wait holds
NaN until somebody has waited for it. Triton's kernels are stood for by the reference.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten

# the host reads a number, or the size of the result depends on the values
READS = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default, aten.nonzero.default,
    aten.masked_select.default, aten._unique2.default, aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor, aten.bincount.default,
}  # fmt: skip
CROSSES = {aten.copy_.default, aten._to_copy.default}  # may take tensors of both devices
INDEXES = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
ALLOCATES = {
    aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten.lift_fresh.default, aten._reshape_alias.default, aten._unsafe_view.default,
}  # fmt: skip
# Triton's kernels by the function that launches them: how many it launches
LAUNCHES = {
    "selective_scan": 1, "selective_step": 1, "projected_step": 1, "causal_conv": 1, "conv_step": 1,
    "rotate_and_attend": 2, "add_norm": 1, "greedy": 2, "norm_product": 1, "nf4_norm_product": 1, "mix_step": 2,
    "row_product": 1, "nf4_product": 1, "int8_rows": 1, "int8_result": 1,
}  # fmt: skip


class Counts:
    """What happened since the last `clear`: waits of the host and launches, by name, and captured launches by graph."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.graphs: list[int] = []  # launches in each recorded graph
        self.order: list[str] = []  # replays, waits and copies that do not wait, one after the other

    def clear(self) -> None:
        self.waits.clear()
        self.launches.clear()
        self.graphs.clear()
        self.order.clear()


counts = Counts()
_local = threading.local()  # .graph: the graph that this thread records; .forbidden: waiting raises


_pinned: set[int] = set()  # addresses of pinned memory
_copies: list[tuple[Tensor, Tensor]] = []  # copies to pinned memory in the order of their launches: target, numbers
_arrived = [0]  # how many of them somebody has waited for


def _arrive(count: int) -> None:
    for target, values in _copies[_arrived[0] : count]:
        target.copy_(values)
    _arrived[0] = max(_arrived[0], count)


def wait(what: str, copies: int | None = None) -> None:
    """The host waits for the device, or for its first `copies` copies to pinned memory and what was before them."""
    if getattr(_local, "graph", None) is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")
    if getattr(_local, "forbidden", False):
        raise RuntimeError(f"the host waits for the device: {what}")
    counts.waits[what] += 1
    counts.order.append("wait")
    _arrive(len(_copies) if copies is None else copies)


@contextlib.contextmanager
def nobody_waits() -> Iterator[None]:
    """Raises where the host would wait for the device, in this thread."""
    _local.forbidden = True
    try:
        yield
    finally:
        _local.forbidden = False


class OnCuda(Tensor):
    """A tensor that says it is on `cuda:0`; `.numbers` is a CPU tensor of the same strides."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnCuda:
        made = Tensor._make_wrapper_subclass(
            cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, layout=numbers.layout, device=DEVICE, requires_grad=numbers.requires_grad,
        )  # fmt: skip
        made.numbers = numbers
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCuda({tuple(self.shape)}, {self.dtype})"

    def data_ptr(self) -> int:
        fake = type(self.numbers) is not Tensor and not isinstance(self.numbers, torch.nn.Parameter)
        return id(self.numbers) if fake else self.numbers.data_ptr()

    def tolist(self) -> Any:
        wait("tolist")
        return self.numbers.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _launch(func, args, kwargs or {})


def numbers(x: Any) -> Any:
    return x.numbers if isinstance(x, OnCuda) else x


def _on_cuda(x: Any) -> Any:
    return OnCuda(x) if isinstance(x, Tensor) and not isinstance(x, OnCuda) else x


def _device_of(kwargs: dict[str, Any]) -> str:
    return "" if kwargs.get("device") is None else torch.device(kwargs["device"]).type


def _check_devices(func: Any, leaves: list[Any]) -> None:
    """Raise for two devices; note where CUDA allows them, or reads numbers, at the price of a wait."""
    ours = [x for x in leaves if isinstance(x, OnCuda)]
    cpus = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, OnCuda) and x.dim() > 0]
    if not ours:
        return
    if func in INDEXES:
        if cpus:
            wait("an index on the CPU")
        if any(x.dtype in (torch.bool, torch.uint8) for x in ours[1:]) and func is aten.index.Tensor:
            wait("an index that is a mask")
    elif func not in CROSSES and cpus:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu, in {func}")
    if func in READS:
        wait(str(func))


def _launch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    _check_devices(func, leaves)
    target = _device_of(kwargs)
    on_cuda = target == "cuda" or (not target and any(isinstance(x, OnCuda) for x in leaves))
    if func is aten.copy_.default:
        on_cuda = isinstance(args[0], OnCuda)
        if not on_cuda and args[0].data_ptr() in _pinned and (kwargs.get("non_blocking") or args[2:] == (True,)):
            return _sent(args[0], args[1].numbers)
        if on_cuda != isinstance(args[1], OnCuda) and args[1].numel():
            wait("copy_ to the other device")
    elif func is aten._to_copy.default and target and (target == "cuda") != isinstance(args[0], OnCuda):
        wait(f"a copy to {target}")
    args, plain = tree_map(numbers, args), tree_map(numbers, kwargs)
    if target == "cuda":
        plain["device"] = torch.device("cpu")
    writes = [i for i, a in enumerate(func._schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    views = not writes and any(a.alias_info is not None for a in func._schema.arguments)
    graph = getattr(_local, "graph", None) if on_cuda else None
    result = _recorded(graph, func, args, plain, writes, views) if graph is not None else func(*args, **plain)
    if on_cuda and not views and func not in ALLOCATES:
        counts.launches[str(func)] += 1
    if not on_cuda:
        return result
    if writes:  # the tensor that is written to is also what is returned
        given = [x for x in leaves if isinstance(x, OnCuda)]
        return tree_map(lambda x: next((one for one in given if one.numbers is x), _on_cuda(x)), result)
    return tree_map(_on_cuda, result)


def _sent(target: Tensor, values: Tensor) -> Tensor:
    """A copy to pinned memory is launched; until it is waited for, nobody knows what is there."""
    assert getattr(_local, "graph", None) is None
    counts.order.append("send")
    counts.launches["a copy to pinned memory"] += 1
    _copies.append((target, values.clone()))
    return target.fill_(float("nan"))


def _recorded(graph: Graph, func: Any, args: Any, kwargs: Any, writes: list[int], views: bool) -> Any:
    """The result as far as its shape is concerned; what is written is written by a replay only."""
    if views or func in ALLOCATES:
        return func(*args, **kwargs)
    if writes:
        graph.record(lambda: func(*args, **kwargs))
        out = kwargs.get("out")
        return args[writes[0]] if out is None else out
    result = func(*args, **kwargs)
    graph.record(lambda: _fill(result, func(*args, **kwargs)))
    return result


def _fill(buffers: Any, values: Any) -> None:
    for buffer, value in zip(tree_leaves(buffers), tree_leaves(values), strict=True):
        if isinstance(buffer, Tensor) and buffer is not value:
            buffer.copy_(value)


class Factories(TorchDispatchMode):
    """New tensors on the device, copies from the CPU to it, and CPU operations that are given one of its tensors."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch's compiler is imported, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("pin_memory"):
            made = func(*args, **{**kwargs, "pin_memory": False})
            _pinned.add(made.data_ptr())
            return made
        if _device_of(kwargs) == "cuda" or any(isinstance(x, OnCuda) for x in tree_leaves((args, kwargs))):
            return _launch(func, args, kwargs)
        return func(*args, **kwargs)


def kernel(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """A Triton kernel, stood for by `function` of torch: its launches, whatever torch makes of it."""
    leaves = tree_leaves(args)
    modules = [m for m in leaves if isinstance(m, torch.nn.Module)]
    tensors = [x for x in leaves if isinstance(x, Tensor)] + [p for m in modules for p in m.parameters()]
    if any(not isinstance(x, OnCuda) for x in tensors):
        raise ValueError(f"Pointer argument cannot be accessed from Triton (cpu tensor?), in {name}")
    counts.launches[name] += LAUNCHES.get(name, 1)
    graph, args = getattr(_local, "graph", None), tree_map(lambda x: _unwrapped(numbers(x)), args)
    _local.graph = None  # what torch launches in its place is not the kernel's
    try:
        if graph is None:
            return tree_map(_on_cuda, _quietly(function, *args))
        graph.record(lambda: _fill(result, _quietly(function, *args)), LAUNCHES.get(name, 1))
        spared = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, args)  # the state does not move
        result = _quietly(function, *spared)
        return tree_map(_on_cuda, result)
    finally:
        _local.graph = graph


def stand_ins(patch: pytest.MonkeyPatch) -> None:
    """Let the reference stand for every Triton kernel; whether they agree with it is still asked, and found."""
    from vlcompare.models.kernels import cases, early_launch, fused, reference, speed
    from vlcompare.models.kernels.cuda import attention, conv, int8, mix, nf4, norm_and_argmax, scan, step
    from vlcompare.models.kernels.cuda import product as products

    def projected_step(state: Any, inputs: Any, weight: Any) -> Any:
        few = inputs.u.shape[0] <= step.PROJECTED_ROWS
        return kernel("projected_step", reference.projected_step, state, inputs, weight) if few else None

    def mix_step(window: Any, state: Any, xz: Any, weights: Any) -> Any:
        few = state.shape[0] <= mix.MAX_ROWS
        return kernel("mix_step", reference.mix_step, window, state, xz, weights) if few else None

    def greedy(logits: Any, count: int) -> Any:
        return kernel("greedy", lambda x: fused.chosen(x, count, lambda likeliest: likeliest), logits)

    def plain(name: str) -> Callable[..., Any]:
        return lambda *args: kernel(name, getattr(reference, name), *args)

    def dense(results: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Channels side by side in memory, as Triton's kernels leave them."""
        y, last = results
        return y.transpose(1, 2).contiguous().transpose(1, 2), last

    def many(name: str) -> Callable[..., Any]:
        return lambda *args: kernel(name, lambda *given: dense(getattr(reference, name)(*given)), *args)

    patch.setattr(cases, "POSITIONS", 18)  # the reference takes a scan position by position
    patch.setattr(early_launch, "supported", lambda device: False)
    patch.setattr(early_launch, "_on", set())
    patch.setattr(speed, "measured", lambda ours, theirs, device: (1.0, 2.0))  # ours are faster
    patch.setattr(speed, "MAX_COPIES", 1)
    for module, function, instead in (
        (scan, "selective_scan", many("selective_scan")), (step, "selective_step", plain("selective_step")),
        (step, "projected_step", projected_step), (conv, "causal_conv", many("causal_conv")),
        (conv, "conv_step", plain("conv_step")), (attention, "rotate_and_attend", plain("rotate_and_attend")),
        (norm_and_argmax, "add_norm", plain("add_norm")), (norm_and_argmax, "greedy", greedy),
        (nf4, "nf4_product", plain("nf4_product")), (mix, "mix_step", mix_step),
        (products, "row_product", plain("row_product")),
        (int8, "int8_rows", plain("int8_rows")), (int8, "int8_result", plain("int8_result")),
        (products, "norm_product", plain("norm_product")), (nf4, "nf4_norm_product", plain("nf4_norm_product")),
    ):  # fmt: skip
        patch.setattr(module, function, instead)


def shapes_only(patch: pytest.MonkeyPatch) -> None:
    """The scan of a long prompt as what it returns, where tensors hold no numbers: the reference takes it in a loop."""
    from vlcompare.models.kernels.cuda import scan

    def scanned(inputs: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(inputs.u), inputs.A.new_empty(inputs.u.shape[0], *inputs.A.shape)

    patch.setattr(scan, "selective_scan", lambda inputs: kernel("selective_scan", scanned, inputs))


def _quietly(function: Callable[..., Any], *args: Any) -> Any:
    with torch.no_grad():
        return function(*args)


def _unwrapped(x: Any) -> Any:
    """A norm with its parameters' numbers, callable on the CPU."""
    if not isinstance(x, torch.nn.Module):
        return x
    copy = type(x)(x.normalized_shape, eps=x.eps, device="meta")  # type: ignore[call-arg]
    for key, value in x._parameters.items():
        copy._parameters[key] = None if value is None else torch.nn.Parameter(numbers(value), requires_grad=False)
    return copy


class Graph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], Any]] = []
        self.launches = 0

    def record(self, step: Callable[[], Any], launches: int = 1) -> None:
        self.steps.append(step)
        self.launches += launches

    def pool(self) -> object:
        return (0, 1)

    def replay(self) -> None:
        counts.order.append("replay")
        with torch.no_grad():
            for step in self.steps:
                step()


@contextlib.contextmanager
def _capture(graph: Graph, **options: Any) -> Iterator[None]:
    assert getattr(_local, "graph", None) is None
    wait("the beginning of a capture")  # torch waits for the whole device
    _local.graph = graph
    try:
        yield
        counts.graphs.append(graph.launches)
    finally:
        _local.graph = None


class Event:
    """Stands for torch.cuda.Event; its times are the host's."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self.at = 0.0
        self.copies = 0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()
        self.copies = len(_copies)

    def synchronize(self) -> None:
        wait("an event", self.copies)

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at - self.at)


class Stream:
    """Stands for torch.cuda.Stream."""

    device = DEVICE

    def __init__(self, device: Any = None, **_: Any) -> None:
        pass

    def wait_stream(self, other: Any) -> None:
        pass

    def synchronize(self) -> None:
        wait("a stream")


class _Generator(torch.Generator):
    """The CPU's, whatever device it is for."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, device="cpu")


def _nothing(*_: Any, **__: Any) -> Any:
    return contextlib.nullcontext()


MAIN_STREAM = Stream()
MEMORY = 80 << 30
CUDA: dict[str, Any] = {
    "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0, "_lazy_init": lambda: None,
    "get_device_capability": lambda *_: (9, 0), "get_device_name": lambda *_: "a GPU that is pretended",
    "get_device_properties": lambda *_: SimpleNamespace(total_memory=MEMORY, major=9, minor=0, name="pretended"),
    "is_bf16_supported": lambda *_, **__: True, "is_current_stream_capturing": lambda: _local.__dict__.get("graph"),
    "synchronize": lambda *_: wait("synchronize"), "empty_cache": lambda: None, "set_stream": lambda *_: None,
    "mem_get_info": lambda *_: (MEMORY, MEMORY), "memory_reserved": lambda *_: 0, "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0, "reset_peak_memory_stats": lambda *_: None,
    "current_stream": lambda *_: MAIN_STREAM, "stream": _nothing, "device": _nothing, "device_of": _nothing,
    "graph_pool_handle": lambda: (0, 1), "graph": _capture, "CUDAGraph": Graph, "Event": Event, "Stream": Stream,
}  # fmt: skip


def _make_subclass(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor._make_subclass` for parameters of a class of their own, such as bitsandbytes' 4-bit ones."""
    classes: dict[type, type] = {}

    def make(cls: Any, data: Tensor, requires_grad: bool = False, **options: Any) -> Any:
        if type(data) is FakeTensor:  # a place for what follows
            return torch.nn.Parameter(data, requires_grad=False)
        if not isinstance(data, OnCuda):
            return original(cls, data, requires_grad, **options)
        if cls not in classes:
            classes[cls] = type(cls)(f"{cls.__name__}OnCuda", (OnCuda, cls), {})
        return OnCuda.__new__(classes[cls], data.numbers)

    return make


@contextlib.contextmanager
def pretended(patch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """One GPU for as long as the block lasts, in every thread that is started in it."""
    torch._C._ensureCUDADeviceGuardSet()  # guards of CUDA devices do nothing then, as under fake tensors
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # a tensor of values with device="cuda" is then a copy from the CPU
    for name, value in CUDA.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(Tensor, "_make_subclass", _make_subclass(Tensor._make_subclass))
    patch.setattr(torch, "Generator", _Generator)
    _without_inference_mode(patch)
    run = threading.Thread.run

    def in_mode(thread: threading.Thread) -> None:
        torch._C._set_only_lift_cpu_tensors(True)
        with Factories():
            run(thread)

    patch.setattr(threading.Thread, "run", in_mode)  # a mode belongs to a thread
    patch.setenv("VLCOMPARE_PROOFS", "here")  # another process would have no GPU
    counts.clear()
    _pinned.clear()
    _copies.clear()
    _arrived[0] = 0
    try:
        with Factories():
            yield counts
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)


def _without_inference_mode(patch: pytest.MonkeyPatch) -> None:
    """A wrapper's views have version counters, which inference mode denies them: without gradients does as well."""

    def enter(self: Any) -> None:
        self._instead = torch.no_grad() if self.mode else torch.enable_grad()
        self._instead.__enter__()

    patch.setattr(torch.inference_mode, "__enter__", enter)
    patch.setattr(torch.inference_mode, "__exit__", lambda self, *error: self._instead.__exit__(*error))
