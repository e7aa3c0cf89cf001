"""A loop's tasks spread over torch's own threads, from inside a numba function, by one call of OpenMP.

Knows no loops of its own. numba has parallel loops too, but it compiles each of them four times over (ten seconds and
more for the scan on a new machine), and its threads are a second pool that fights torch's for the cores: each waits
for work by spinning. So `share_out` makes one plain function of the tasks and hands it to `GOMP_parallel`, the entry
point of the OpenMP library that torch has brought along and whose threads are there anyway (GNU OpenMP's interface;
LLVM's library offers the same name). Where there is no such library, the calling thread does all tasks itself.
"""

# numba and llvmlite have no types for what is done here
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils

from vlcompare.models.kernels.cpu.simd import intrinsic

_NAMES = ("GOMP_parallel", "omp_get_num_threads", "omp_get_thread_num")
_BYTES = ir.IntType(8).as_pointer()
_INT = ir.IntType(32)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The OpenMP library that this process' torch uses, where it has GNU OpenMP's interface."""
    folder = Path(torch.__file__).parent
    beside = (folder / "lib", folder.parent / "torch.libs", folder.parent / "torch.libs.d")
    files = [file for place in beside for file in sorted(place.glob("*omp*"))]
    for file in files:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(str(file))  # loaded already: this only finds it
            if all(hasattr(library, name) for name in _NAMES):
                return library
    return None


def threads() -> int:
    """How many threads a loop may use: torch's number, or one where torch brings no OpenMP that can be called."""
    return torch.get_num_threads() if _library() is not None else 1


_alone = (
    ctypes.CFUNCTYPE(None)(lambda: None),  # never called: there is one thread only
    ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1),
    ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0),
)
for _name, _substitute in zip(_NAMES, _alone, strict=True):
    # under names of our own, so that machine code kept on disk finds them in the next process, wherever they are then
    _found: Any = getattr(_library(), _name, _substitute)
    llvm.add_symbol(f"vlcompare_{_name}", ctypes.cast(_found, ctypes.c_void_p).value)


def _foreign(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"vlcompare_{name}")


@intrinsic
def share_out(typing: Any, body: Any, given: Any, tasks: Any, threads: Any) -> Any:
    """body(*given, task) for each task from 0 to tasks - 1, in `threads` threads; the tasks must not disturb another.

    body: a compiled function; what it returns is dropped. Every thread takes a run of neighbouring tasks.
    """
    kinds = (*given.types, types.intp)
    typing.resolve_function_type(body, kinds, {})  # compiles it for these arguments

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, packed, tasks, threads = args
        data = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, (packed, tasks)))
        run = _outlined(context, builder.module, body, kinds, data.type)
        address = builder.bitcast(data, _BYTES)
        several = builder.icmp_signed(">", threads, ir.Constant(threads.type, 1))
        with builder.if_else(several) as (together, alone):
            with together:
                start = _foreign(
                    builder, "GOMP_parallel", ir.VoidType(), run.type, _BYTES, _INT, _INT
                )  # function, its data, how many threads, flags
                builder.call(start, [run, address, builder.trunc(threads, _INT), ir.Constant(_INT, 0)])
            with alone:
                builder.call(run, [address])
        return context.get_dummy_value()

    return types.void(body, given, types.intp, types.intp), generate


def _outlined(context: Any, module: Any, body: Any, kinds: tuple[Any, ...], pointer: Any) -> Any:
    """void run(data): this thread's part of the tasks."""
    compiled = body.dispatcher.overloads[kinds]
    context.add_linking_libs((compiled.library,))
    name = module.get_unique_name(f"vlcompare_tasks_{body.dispatcher.py_func.__name__}")
    run = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTES]), name=name)
    run.linkage = "internal"
    builder = ir.IRBuilder(run.append_basic_block("entry"))
    packed, tasks = cgutils.unpack_tuple(builder, builder.load(builder.bitcast(run.args[0], pointer)), 2)
    given = [builder.extract_value(packed, place) for place in range(len(kinds) - 1)]
    number, count = (
        builder.sext(builder.call(_foreign(builder, name, _INT), []), tasks.type)
        for name in ("omp_get_thread_num", "omp_get_num_threads")
    )
    first = builder.sdiv(builder.mul(tasks, number), count)
    last = builder.sdiv(builder.mul(tasks, builder.add(number, ir.Constant(tasks.type, 1))), count)
    function = context.declare_function(module, compiled.fndesc)
    with cgutils.for_range_slice(builder, first, last, ir.Constant(tasks.type, 1)) as (task, _):
        context.call_conv.call_function(
            builder, function, compiled.fndesc.restype, compiled.fndesc.argtypes, [*given, task]
        )
    builder.ret_void()
    return run
