"""Tables of numbers as bytes: as they are, or split into their first bytes, second bytes, … where that codes smaller.

The first bytes of a float are its fraction's lowest bits, which look like noise; the last hold sign and exponent, which
repeat. Apart, each goes through the coder that suits it (as in Blosc's shuffle filter and in ZipNN, arXiv 2411.05239).
"""

from __future__ import annotations

import math

import numpy as np

from tersenet.artifact.entry import DTYPES, Plane, Table
from tersenet.artifact.varint import varint
from tersenet.coding import decode, encode, entropy_bytes, lanes
from tersenet.coding.lanes import Map
from tersenet.core.code import Symbols
from tersenet.core.errors import ArtifactError

WORTH = 64
"""Tables of fewer bytes are stored as they are."""

BYTE = 256


def encode_table(name: str, array: np.ndarray, coder: str) -> Table:
    """Raises ArtifactError for a dtype that files do not hold. `coder`: as in `coding.encode`."""
    dtype = array.dtype.name
    if dtype not in DTYPES:
        raise ArtifactError(f"table '{name}' is of type {dtype}; a file holds {', '.join(DTYPES)}")
    raw = np.ascontiguousarray(array, DTYPES[dtype]).tobytes()
    if coder != "raw" and len(raw) >= WORTH:
        split = np.frombuffer(raw, np.uint8).reshape(-1, array.dtype.itemsize)
        planes = tuple(_encode_plane(np.ascontiguousarray(plane), coder) for plane in split.T)
        if sum(map(_plane_bytes, planes)) < len(raw):
            return Table(name, dtype, array.shape, True, planes)
    return Table(name, dtype, array.shape, False, (Plane("", raw),))


def decode_table(table: Table, each: Map = map) -> np.ndarray:
    """The array, native byte order. `each`: `map`, or that of a pool of threads.

    Raises ArtifactError if its coded bytes are malformed.
    """
    dtype = DTYPES[table.dtype]
    count = math.prod(table.shape)
    if table.packed:
        split = np.empty((count, dtype.itemsize), np.uint8)
        for place, plane in enumerate(table.planes):
            split[:, place] = decode_plane(plane, table, each)
        flat = split.reshape(-1).view(dtype)
    else:
        flat = np.frombuffer(table.planes[0].payload, dtype)
    if dtype == np.bool_ and np.any(flat.view(np.uint8) > 1):
        raise ArtifactError(f"malformed: the truth values of table '{table.name}' are not all 0 or 1")
    return flat.reshape(table.shape).astype(dtype.newbyteorder("="), copy=True)


def _encode_plane(plane: np.ndarray, coder: str) -> Plane:
    symbols = Symbols(plane.astype(np.int32), BYTE)
    if entropy_bytes(symbols) < plane.size:
        encoded = encode(symbols, coder)
        candidate = Plane(encoded.coder, encoded.payload, encoded.table_bytes)
        if _plane_bytes(candidate) <= plane.size:
            return candidate
    return Plane("", plane.tobytes())


def decode_plane(plane: Plane, table: Table, each: Map = map) -> np.ndarray:
    """One byte of every number of `table`, as integers. Raises ArtifactError if the plane is malformed."""
    if not plane.coder:
        return np.frombuffer(plane.payload, np.uint8)
    try:
        if plane.coder == lanes.NAME:  # without a detour over wider integers
            return lanes.decode_bytes(plane.payload, math.prod(table.shape), each=each)
        return Symbols(decode(plane.coder, bytes(plane.payload), math.prod(table.shape), BYTE), BYTE).values
    except ValueError as error:
        raise ArtifactError(f"malformed: table '{table.name}' cannot be decoded: {error}") from None


def _plane_bytes(plane: Plane) -> int:
    """With its numbers in the index."""
    return len(plane.payload) + (1 + len(varint(len(plane.payload))) if plane.coder else 1)
