"""Runs tasks in torch's own threads, from inside a numba function, by one OpenMP call.

numba has parallel loops too, but it compiles each of them four times (ten seconds and more for the scan on a new
machine), and its threads are a second pool that competes with torch's for the cores, since both wait for work by
spinning. So `share_out` compiles one plain function that runs the tasks and passes it to `GOMP_parallel`, an entry
point of the OpenMP library that torch has loaded, whose threads exist already (GNU OpenMP's interface; LLVM's library
has the same function). Without such a library, the calling thread runs all tasks.
"""

# numba and llvmlite have no type hints for code generation
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import ctypes
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
)
for _name, _substitute in zip(NAMES, _single_thread, strict=True):
    # under this package's own names, so that cached machine code is linked to their addresses in each new process
    _symbol: Any = getattr(library(), _name, _substitute)
    llvm.add_symbol(f"vlcompare_{_name}", ctypes.cast(_symbol, ctypes.c_void_p).value)


def _openmp_function(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    function_type = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, function_type, f"vlcompare_{name}")


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
        run = _thread_function(context, builder.module, body, argument_types, data.type)
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
        return context.get_dummy_value()

    return types.void(body, arguments, types.intp, types.intp), generate


def _thread_function(context: Any, module: Any, body: Any, argument_types: tuple[Any, ...], pointer: Any) -> Any:
    """The LLVM function void run(data), which runs this thread's range of tasks."""
    compiled = body.dispatcher.overloads[argument_types]
    context.add_linking_libs((compiled.library,))
    name = module.get_unique_name(f"vlcompare_tasks_{body.dispatcher.py_func.__name__}")
    run = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTES]), name=name)
    run.linkage = "internal"
    builder = ir.IRBuilder(run.append_basic_block("entry"))
    packed, tasks = cgutils.unpack_tuple(builder, builder.load(builder.bitcast(run.args[0], pointer)), 2)
    arguments = [builder.extract_value(packed, index) for index in range(len(argument_types) - 1)]
    number, count = (
        builder.sext(builder.call(_openmp_function(builder, name, _INT), []), tasks.type)
        for name in ("omp_get_thread_num", "omp_get_num_threads")
    )
    first = builder.sdiv(builder.mul(tasks, number), count)
    last = builder.sdiv(builder.mul(tasks, builder.add(number, ir.Constant(tasks.type, 1))), count)
    function = context.declare_function(module, compiled.fndesc)
    with cgutils.for_range_slice(builder, first, last, ir.Constant(tasks.type, 1)) as (task, _):
        context.call_conv.call_function(
            builder, function, compiled.fndesc.restype, compiled.fndesc.argtypes, [*arguments, task]
        )
    builder.ret_void()
    return run
