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
