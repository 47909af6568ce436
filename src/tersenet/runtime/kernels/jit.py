"""How every kernel is compiled: once per machine, kept on disk, and without holding the interpreter's lock."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types

jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy")
"""Indices are made unsigned inside: for signed ones every access first asks whether they count from the end."""

intrinsic: Any = extending.intrinsic


@intrinsic
def ones(typing: Any, word: Any) -> Any:
    """How many bits of a uint64 are set: one instruction, and eight at a time where the processor has AVX-512."""
    if word != types.uint64:
        return None

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def fetch(typing: Any, array: Any, place: Any) -> Any:
    """Asks for the cache line of array[place], one dimension, so that it is there when it is read soon after."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(held.data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (pointer.type,), kind)
        builder.call(prefetch, [pointer, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(array, place), generate


LANES = 16
"""Floats that `add_four` computes side by side: one register of AVX-512, or several where registers are shorter."""


@intrinsic
def add_four(typing: Any, out: Any, at: Any, x: Any, places: Any, factors: Any) -> Any:
    """out[at : at+16] += Σ factors[i] · x[places[i] : places[i]+16] for four places: read once, written once.

    Flat arrays of float32; the compiler makes no such loop, since `out` and `x` might overlap for all it knows.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        out_type, _, x_type, _, _ = signature.args
        held = context.make_array(out_type)(context, builder, arguments[0]).data
        read = context.make_array(x_type)(context, builder, arguments[2]).data
        target = _sixteen(builder, held, arguments[1])
        starts = [_sixteen(builder, read, builder.extract_value(arguments[3], i)) for i in range(4)]
        total = builder.load(target, align=4)
        for i, start in enumerate(starts):
            factor = _everywhere(builder, builder.extract_value(arguments[4], i))
            term = builder.fmul(builder.load(start, align=4), factor, flags=["contract"])
            total = builder.fadd(total, term, flags=["contract"])
        builder.store(total, target, align=4)
        return context.get_dummy_value()

    return types.void(out, at, x, places, factors), generate


_VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _sixteen(builder: ir.IRBuilder, data: Any, place: Any) -> Any:
    """Pointer to the 16 floats that begin at data[place]."""
    return builder.bitcast(builder.gep(data, [place]), _VECTOR.as_pointer())


def _everywhere(builder: ir.IRBuilder, value: Any) -> Any:
    """A float in every lane."""
    number = ir.IntType(32)
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, number(0))
    lanes = ir.Constant(ir.VectorType(number, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), lanes)
