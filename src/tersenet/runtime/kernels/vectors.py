"""Sums of many floats side by side, written in the compiler's own terms where it finds no such loop by itself."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from tersenet.runtime.kernels.jit import intrinsic

LANES, WIDE = 16, 64
"""Floats that are computed side by side: one register of AVX-512, and four, or several where registers are shorter."""


def _adding(lanes: int) -> Any:
    vector = ir.VectorType(ir.FloatType(), lanes)

    @intrinsic
    def add(typing: Any, out: Any, at: Any, x: Any, places: Any, factors: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            out_type, _, x_type, _, _ = signature.args
            held = context.make_array(out_type)(context, builder, arguments[0]).data
            read = context.make_array(x_type)(context, builder, arguments[2]).data
            target = _beside(builder, held, arguments[1], vector)
            starts = [_beside(builder, read, builder.extract_value(arguments[3], i), vector) for i in range(4)]
            total = builder.load(target, align=4)
            for i, start in enumerate(starts):
                factor = _everywhere(builder, builder.extract_value(arguments[4], i), vector)
                term = builder.fmul(builder.load(start, align=4), factor, flags=["contract"])
                total = builder.fadd(total, term, flags=["contract"])
            builder.store(total, target, align=4)
            return context.get_dummy_value()

        return types.void(out, at, x, places, factors), generate

    return add


add_four, add_four_wide = _adding(LANES), _adding(WIDE)
"""out[at : at+lanes] += Σ factors[i] · x[places[i] : places[i]+lanes] for four places: read once, written once.

Flat arrays of float32; the compiler makes no such loop, since `out` and `x` might overlap for all it knows.
"""


@intrinsic
def copy_lanes(typing: Any, out: Any, at: Any, x: Any, place: Any) -> Any:
    """out[at : at+16] = x[place : place+16], flat arrays of float32."""
    vector = ir.VectorType(ir.FloatType(), LANES)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        target, read = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        seen = builder.load(_beside(builder, read, arguments[3], vector), align=4)
        builder.store(seen, _beside(builder, target, arguments[1], vector), align=4)
        return context.get_dummy_value()

    return types.void(out, at, x, place), generate


def _block(height: int) -> Any:
    """The compiler keeps no sums in registers over a loop of its own making, so this one is written for it."""
    vector = ir.VectorType(ir.FloatType(), LANES)
    zeros = ir.Constant(vector, [0.0] * LANES)

    @intrinsic
    def block(typing: Any, out: Any, at: Any, apart: Any, w: Any, first: Any, x: Any, base: Any, places: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            target, weights, read, offsets = (
                context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 3, 5, 7)
            )
            at, apart, first, base = (arguments[i] for i in (1, 2, 4, 6))
            word = at.type
            sums = [cgutils.alloca_once(builder, vector) for _ in range(2 * height)]  # type: ignore[no-untyped-call]
            for cell in sums:
                builder.store(zeros, cell)
            count = builder.extract_value(offsets.shape, 0)
            with cgutils.for_range(builder, count) as loop:
                place = builder.add(base, builder.load(builder.gep(offsets.data, [loop.index])))
                next_place = builder.add(place, ir.Constant(word, LANES))
                seen = [builder.load(_beside(builder, read.data, p, vector), align=4) for p in (place, next_place)]
                own = builder.add(first, builder.mul(loop.index, ir.Constant(word, height)))
                for row in range(height):
                    where = builder.gep(weights.data, [builder.add(own, ir.Constant(word, row))])
                    factor = _everywhere(builder, builder.load(where), vector)
                    for half, inputs in enumerate(seen):
                        cell = sums[2 * row + half]
                        term = builder.fmul(inputs, factor, flags=["contract"])
                        builder.store(builder.fadd(builder.load(cell), term, flags=["contract"]), cell)
            for row in range(height):
                begin = builder.add(at, builder.mul(apart, ir.Constant(word, row)))
                for half, p in enumerate((begin, builder.add(begin, ir.Constant(word, LANES)))):
                    builder.store(builder.load(sums[2 * row + half]), _beside(builder, target.data, p, vector), align=4)
            return context.get_dummy_value()

        return types.void(out, types.intp, types.intp, w, types.intp, x, types.intp, places), generate

    return block


block_of_two, block_of_four = _block(2), _block(4)
"""out[at + r · apart : … + 32] = Σ_k w[first + k · h + r] · x[base + places[k] : … + 32] for each of h rows r.

Flat arrays of float32, places int64: a product of a small matrix with rows that are read where they lie.
"""


def _beside(builder: ir.IRBuilder, data: Any, place: Any, vector: ir.VectorType) -> Any:
    """Pointer to the floats that begin at data[place]."""
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def _everywhere(builder: ir.IRBuilder, value: Any, vector: ir.VectorType) -> Any:
    """A float in every lane."""
    number = ir.IntType(32)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, number(0))
    lanes = ir.Constant(ir.VectorType(number, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lanes)
