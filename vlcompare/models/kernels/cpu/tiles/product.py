"""The compiled loop of a product by tiles. Flat arrays in, flat arrays out; no torch in here."""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from numba import njit

from vlcompare.models.kernels.cpu.packed_loops import named
from vlcompare.models.kernels.cpu.packed_simd import prefetch
from vlcompare.models.kernels.cpu.simd import WIDTH, compiled
from vlcompare.models.kernels.cpu.threads import barrier, in_each_thread
from vlcompare.models.kernels.cpu.tiles.instructions import (
    LINE,
    PAIR,
    SUMS,
    TILE,
    add,
    begin,
    configure,
    end,
    release,
    turn,
    write,
)
from vlcompare.models.kernels.cpu.unpack_loops import PIECE, block_of
from vlcompare.models.kernels.packed_format import BLOCK

_SHORT = 64  # rows up to which waiting for weights takes longer than multiplying them
_DEPTH, _MOST = 2048, 4 * PAIR  # inputs and outputs of a chunk at most: its weights take 512 KB
_AHEAD = 4096  # bytes between the weights that are asked for and those that are unpacked


class Sizes(NamedTuple):
    """Of a product and of its chunks. `outputs` is a multiple of 32, `inputs` of 64."""

    rows: int
    inputs: int
    outputs: int
    many: int  # outputs of a chunk
    depth: int  # inputs of a chunk


def sizes_of(rows: int, inputs: int, outputs: int, threads: int) -> Sizes:
    if rows <= _SHORT:  # weights in the order in which they lie in memory
        return Sizes(rows, inputs, outputs, PAIR, inputs)
    depth = min(inputs, _DEPTH)
    many = max(1, min(_MOST, outputs // (4 * threads)) // PAIR) * PAIR
    return Sizes(rows, inputs, outputs, many, depth)


def scratch_bytes(sizes: Sizes) -> int:
    """What a thread needs: two chunks of weights, and the sums that wait for the inputs that follow."""
    waiting = -(-sizes.rows // PAIR) if sizes.inputs > sizes.depth else 1
    return sizes.many * (2 * 2 * sizes.depth + 4 * PAIR * waiting)


@compiled(inner=True)
def _turn_rows(x, turned, rows, inputs, number):
    """32 rows by 32 inputs of x as two tiles; number: of rows and inputs, the latter first."""
    words, steps = inputs // 2, inputs // PIECE
    row, step = number // steps * PAIR, number % steps
    for half in range(2):
        first = row + half * WIDTH
        if first < rows:
            count = min(rows - first, WIDTH)
            turn(x, first * words + step * WIDTH, words, count, turned, (number * 2 + half) * SUMS)


@compiled(inner=True)
def _chunk(number, after, sizes, at):
    """(first output, outputs, first input, input after the last, where its weights are unpacked to).

    No outputs from chunk `after` on.
    """
    _, inputs, outputs, many, depth = sizes
    parts = (inputs + depth - 1) // depth
    first, start = number // parts * many, number % parts * depth
    here = min(many, outputs - first) if number < after else 0
    return first, here, start, min(start + depth, inputs), at


@compiled(inner=True)
def _cursor(chunk, inputs):
    """A chunk's first block: (output, block of its row, block of the weight, where it is unpacked to)."""
    first, _, start, _, at = chunk
    return 0, 0, (first * inputs + start) // BLOCK, at


def _unpacking(method: str, variant: str) -> Any:
    """unpack(weight, absmax, chunk, inputs, tiles, cursor): the cursor's block. Returns the next one's cursor."""
    block, block_bytes = block_of(method, variant, exact=False), BLOCK // 2 if method == "nf4" else BLOCK

    def unpack(weight, absmax, chunk, inputs, tiles, cursor):
        first, _, start, after, at = chunk
        output, k, number, place = cursor
        block(weight, absmax, first + output, number, tiles, place, place + 2 * TILE)
        prefetch(weight, number * block_bytes + _AHEAD)
        blocks = (after - start) // BLOCK
        k, number, place = k + 1, number + 1, place + 4 * TILE
        if k == blocks:
            output, k, number = output + 1, 0, number + inputs // BLOCK - blocks
            place = at + ((output >> 5) * 4 * blocks + (output >> 4 & 1)) * TILE + (output & 15) * PIECE
        return output, k, number, place

    return njit(inline="always")(named(unpack, f"{method}_{variant}"))


def _multiplication(wide: bool, unpack: Any, name: str) -> Any:
    """multiply(tiles, at, turned, rows_at, sums, sums_at, steps, fresh, weight, absmax, coming, inputs, cursor, each):
    32 outputs with 32 rows (16, unless wide), `steps` times 32 inputs. Meanwhile `each` blocks of the coming chunk are
    unpacked in a step. Returns the cursor.
    """
    begin_tiles, add_tiles, end_tiles = begin(wide), add(wide), end(wide)

    def multiply(
        tiles, at, turned, rows_at, sums, sums_at, steps, fresh, weight, absmax, coming, inputs, cursor, each
    ):  # fmt: skip
        begin_tiles(sums, sums_at, fresh)
        for step in range(steps):
            add_tiles(tiles, at + step * 2 * TILE, turned, rows_at + step * 2 * SUMS)
            for _ in range(each):
                if cursor[0] < coming[1]:
                    cursor = unpack(weight, absmax, coming, inputs, tiles, cursor)
        end_tiles(sums, sums_at)
        return cursor

    return compiled(inner=True)(named(multiply, f"{name}_{'wide' if wide else 'narrow'}"))


def _chunk_loop(unpack: Any, name: str) -> Any:
    """multiply(turned, weight, absmax, bias, y, tiles, sums, sizes, chunk, coming, cursor): a chunk with all rows."""
    wide, narrow = _multiplication(True, unpack, name), _multiplication(False, unpack, name)

    def chunk_loop(turned, weight, absmax, bias, y, tiles, sums, sizes, chunk, coming, cursor):
        rows, inputs, outputs, _, depth = sizes
        first, here, start, after, at = chunk
        strips, steps = (rows + PAIR - 1) // PAIR, (after - start) // PIECE
        each = (WIDTH + strips - 1) // strips  # a chunk has 16 blocks for each step of a strip
        for strip in range(strips):
            left, row = rows - strip * PAIR, strip * PAIR
            for output in range(0, here, PAIR):
                sums_at = (row // PAIR * here + output) * PAIR if inputs > depth else 0
                given = tiles, at + output * steps * PIECE, turned, (row * inputs + PAIR * start) // 2, sums, sums_at
                given_too = steps, start == 0, weight, absmax, coming, inputs, cursor, each
                cursor = wide(*given, *given_too) if left > WIDTH else narrow(*given, *given_too)
                if after == inputs:
                    to = row * outputs + first + output
                    write(sums, sums_at, bias, first + output, y, to, outputs, min(left, WIDTH))
                    if left > WIDTH:
                        to += WIDTH * outputs
                        write(sums, sums_at + SUMS, bias, first + output, y, to, outputs, min(left - WIDTH, WIDTH))
        while cursor[0] < coming[1]:
            cursor = unpack(weight, absmax, coming, inputs, tiles, cursor)

    return compiled(inner=True)(named(chunk_loop, name))


@functools.cache
def loop(method: str, variant: str) -> Any:
    """product(x, turned, weight, absmax, bias, y, tiles, sums, config, sizes, threads): y = x weight^T + bias.

    x: (rows, inputs) in bfloat16, pairs as float32's bits; turned: scratch of its size, but for a multiple of 32 rows;
    y: (rows, outputs) in bfloat16; tiles, sums: the same scratch as uint16 and as float32, `scratch_bytes` for each
    thread, from the beginning of a line of the cache; sizes: `Sizes`.
    """
    name = f"{method}_{variant}"
    unpack = _unpacking(method, variant)
    chunk_loop = _chunk_loop(unpack, name)

    def of_thread(x, turned, weight, absmax, bias, y, tiles, sums, config, sizes, thread, count):
        rows, inputs, outputs, many, depth = sizes
        number = (rows + PAIR - 1) // PAIR * (inputs // PIECE)
        for k in range(number * thread // count, number * (thread + 1) // count):
            _turn_rows(x, turned, rows, inputs, k)
        barrier()
        lines = len(tiles) // (count * LINE // 2)
        tiles = tiles[thread * lines * LINE // 2 : (thread + 1) * lines * LINE // 2]
        sums = sums[thread * lines * LINE // 4 + many * depth : (thread + 1) * lines * LINE // 4]
        tasks, parts = (outputs + many - 1) // many, (inputs + depth - 1) // depth
        number, after = tasks * thread // count * parts, tasks * (thread + 1) // count * parts
        configure(config)
        chunk = _chunk(number, after, sizes, 0)
        cursor = _cursor(chunk, inputs)
        while cursor[0] < chunk[1]:
            cursor = unpack(weight, absmax, chunk, inputs, tiles, cursor)
        while number < after:
            number += 1
            coming = _chunk(number, after, sizes, many * depth - chunk[4])
            cursor = _cursor(coming, inputs)
            chunk_loop(turned, weight, absmax, bias, y, tiles, sums, sizes, chunk, coming, cursor)
            chunk = coming
        release()

    of_thread = compiled(inner=True)(named(of_thread, name))

    def product(x, turned, weight, absmax, bias, y, tiles, sums, config, sizes, threads):
        in_each_thread(of_thread, (x, turned, weight, absmax, bias, y, tiles, sums, config, sizes), threads)

    return compiled()(named(product, name))
