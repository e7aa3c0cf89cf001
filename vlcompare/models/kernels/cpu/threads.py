"""Runs tasks in torch's own threads, from inside a numba function, by one OpenMP call.

numba has parallel loops too, but it compiles each of them four times (ten seconds and more for the scan on a new
machine), and its threads are a second pool that competes with torch's for the cores, since both wait for work by
spinning. So `share_out` compiles one plain function that runs the tasks and passes it to `GOMP_parallel`, an entry
point of the OpenMP library that torch has loaded, whose threads exist already (GNU OpenMP's interface; LLVM's library
has the same function). Without such a library, the calling thread runs all tasks.

To wake a thread that sleeps takes as long as a small product. Work of many short parts, each of which needs what the
threads did in the one before, is therefore one function that `in_each_thread` runs in all of them, with a `barrier`
between the parts. Nothing in such a function may raise or allocate: a thread that left it early would leave the others
waiting.
"""

# numba and llvmlite have no type hints for code generation
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from vlcompare.models.kernels.cpu.openmp import NAMES, library
from vlcompare.models.kernels.cpu.simd import intrinsic

_BYTES = ir.IntType(8).as_pointer()
_INT = ir.IntType(32)


_single_thread = (
    ctypes.CFUNCTYPE(None)(lambda: None),  # never called, since there is only one thread
    ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1),
    ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0),
    ctypes.CFUNCTYPE(None)(lambda: None),
)
for _name, _substitute in zip(NAMES, _single_thread, strict=True):
    # under this package's own names, so that cached machine code is linked to their addresses in each new process
    _symbol: Any = getattr(library(), _name, _substitute)
    llvm.add_symbol(f"vlcompare_{_name}", ctypes.cast(_symbol, ctypes.c_void_p).value)


def _openmp_function(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    function_type = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, function_type, f"vlcompare_{name}")


def _run_in_threads(context: Any, builder: Any, run: Any, data: Any, threads: Any) -> None:
    """run(address of data) in `threads` threads."""
    address = builder.bitcast(data, _BYTES)
    several = builder.icmp_signed(">", threads, ir.Constant(threads.type, 1))
    with builder.if_else(several) as (together, alone):
        with together:
            start = _openmp_function(
                builder, "GOMP_parallel", ir.VoidType(), run.type, _BYTES, _INT, _INT
            )  # function, its data, how many threads, flags
            builder.call(start, [run, address, builder.trunc(threads, _INT), ir.Constant(_INT, 0)])
        with alone:
            builder.call(run, [address])


@intrinsic
def share_out(typing: Any, body: Any, arguments: Any, tasks: Any, threads: Any) -> Any:
    """body(*arguments, task) for each task from 0 to tasks - 1, in `threads` threads; tasks must be independent.

    body: a compiled function, whose result is dropped. Every thread runs a contiguous range of tasks.
    """
    argument_types = (*arguments.types, types.intp)
    typing.resolve_function_type(body, argument_types, {})  # compiles it for these arguments

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, packed, tasks, threads = args
        data = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, (packed, tasks)))
        with _thread_function(context, builder.module, body, argument_types, data.type) as (run, inside, call, place):
            packed, tasks = cgutils.unpack_tuple(inside, inside.load(place), 2)
            number, count = _thread_and_count(inside, tasks.type)
            first = inside.sdiv(inside.mul(tasks, number), count)
            last = inside.sdiv(inside.mul(tasks, inside.add(number, ir.Constant(tasks.type, 1))), count)
            with cgutils.for_range_slice(inside, first, last, ir.Constant(tasks.type, 1)) as (task, _):
                call(packed, task)
        _run_in_threads(context, builder, run, data, threads)
        return context.get_dummy_value()

    return types.void(body, arguments, types.intp, types.intp), generate


@intrinsic
def in_each_thread(typing: Any, body: Any, arguments: Any, threads: Any) -> Any:
    """body(*arguments, thread, count) once in each of `threads` threads or fewer: `count` says how many there are.

    body: a compiled function, whose result is dropped; `barrier` may be called in it, by every thread alike.
    """
    argument_types = (*arguments.types, types.intp, types.intp)
    typing.resolve_function_type(body, argument_types, {})

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, packed, threads = args
        data = cgutils.alloca_once_value(builder, packed)
        with _thread_function(context, builder.module, body, argument_types, data.type) as (run, inside, call, place):
            call(inside.load(place), *_thread_and_count(inside, threads.type))
        _run_in_threads(context, builder, run, data, threads)
        return context.get_dummy_value()

    return types.void(body, arguments, types.intp), generate


@intrinsic
def barrier(typing: Any) -> Any:
    """Wait until every thread of `in_each_thread` has come here; what they wrote before is seen by all."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_openmp_function(builder, "GOMP_barrier", ir.VoidType()), [])
        return context.get_dummy_value()

    return types.void(), generate


def _thread_and_count(builder: Any, integer: Any) -> list[Any]:
    return [
        builder.sext(builder.call(_openmp_function(builder, name, _INT), []), integer)
        for name in ("omp_get_thread_num", "omp_get_num_threads")
    ]


@contextlib.contextmanager
def _thread_function(
    context: Any, module: Any, body: Any, argument_types: tuple[Any, ...], pointer: Any
) -> Iterator[tuple[Any, Any, Callable[..., None], Any]]:
    """The LLVM function void run(data) that each thread runs, its builder, call(packed, *more), which generates
    body(*packed, *more), and the typed address of its data. What is generated inside is its whole body.
    """
    compiled = body.dispatcher.overloads[argument_types]
    context.add_linking_libs((compiled.library,))
    name = module.get_unique_name(f"vlcompare_tasks_{body.dispatcher.py_func.__name__}")
    run = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTES]), name=name)
    run.linkage = "internal"
    builder = ir.IRBuilder(run.append_basic_block("entry"))
    function = context.declare_function(module, compiled.fndesc)

    def call(packed: Any, *more: Any) -> None:
        given = [builder.extract_value(packed, index) for index in range(len(argument_types) - len(more))]
        context.call_conv.call_function(
            builder, function, compiled.fndesc.restype, compiled.fndesc.argtypes, [*given, *more]
        )

    yield run, builder, call, builder.bitcast(run.args[0], pointer)
    builder.ret_void()
