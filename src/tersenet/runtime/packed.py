"""Several numbers in a byte of an ONNX file, taken apart by operators that every runtime computes once, at loading."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

BYTE = 256
"""Combinations that a byte tells apart."""


LEAST = 2048
"""Entries of a tensor from which on the table and the operators are paid for."""


def in_a_byte(values: int) -> int:
    """How many numbers that can be one of `values` fit into a byte: eight of two, five of three, two of sixteen."""
    return max((n for n in range(1, 9) if values**n <= BYTE), default=1)


def packed(numbers: np.ndarray, name: str) -> tuple[list[Any], list[Any]]:
    """(initialisers, nodes) that give int8 `numbers`, of at most 16 different ones; the last node has no output yet.

    A byte is the row of a table [combinations, numbers in a byte], which is the same for all tensors of these numbers.
    """
    from onnx import TensorProto, helper, numpy_helper

    book, digits = np.unique(numbers, return_inverse=True)
    size = in_a_byte(len(book))
    padded = np.pad(digits.reshape(-1), (0, -numbers.size % size)).reshape(-1, size)
    table = np.array(list(product(book.tolist(), repeat=size)), np.int8)
    tensors: dict[str, np.ndarray] = {
        "": (padded @ len(book) ** np.arange(size)[::-1]).astype(np.uint8),
        "_table": table,
        "_shape": np.array(numbers.shape, np.int64),
    }
    nodes = [
        helper.make_node("Cast", [name], [f"{name}_rows"], to=TensorProto.INT32),
        helper.make_node("Gather", [f"{name}_table", f"{name}_rows"], [f"{name}_looked_up"]),
    ]
    last = f"{name}_looked_up"
    if numbers.size % size:
        tensors |= {"_flat": np.array([-1]), "_start": np.array([0]), "_end": np.array([numbers.size])}
        nodes.append(helper.make_node("Reshape", [last, f"{name}_flat"], [f"{name}_line"]))
        nodes.append(helper.make_node("Slice", [f"{name}_line", f"{name}_start", f"{name}_end"], [f"{name}_cut"]))
        last = f"{name}_cut"
    nodes.append(helper.make_node("Reshape", [last, f"{name}_shape"], [""]))
    return [numpy_helper.from_array(array, f"{name}{ending}") for ending, array in tensors.items()], nodes
