"""N:M: of every M entries in a row along the inputs, at most N differ from zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.forms.form import refuse_nan, register_form, stream, table
from tersenet.forms.masked import Masked
from tersenet.forms.tables import dtype_name, to_table

LARGEST = 16
"""M at most, so that the places of N in M fit one small alphabet."""


@register_form("nm")
class NM(Masked):
    """A mask that keeps at most n of every m entries along one axis (Mishra et al. 2021, "Accelerating Sparse Deep
    Neural Networks", arXiv 2104.08378, §3: n:m = 2:4).

    axis: that of the inputs, 1 for linear layers and convolutions. Its length is a multiple of m.
    """

    def __init__(self, mask: torch.Tensor, n: int, m: int, axis: int = -1, splice: bool = False) -> None:
        super().__init__(mask, splice)
        self.n, self.m, self.axis = n, m, axis % max(mask.ndim, 1)
        if not 1 <= n <= m <= LARGEST or mask.shape[self.axis] % m:
            raise ValueError(f"{n}:{m} does not fit an axis of {mask.shape[self.axis]}; M is at most {LARGEST}")
        if int(_groups(self.mask, self.m, self.axis).sum(1).max()) > n:
            raise ValueError(f"the mask keeps more than {n} of {m} entries")

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'places', one symbol for each group: the number of its n places among all choices of n from m, in
        lexicographic order; and a table 'values' of n entries for each group, in order.

        Where a group keeps fewer, its first other places stand for the missing ones, with the value zero.
        """
        weight = self(latent.detach())
        refuse_nan(weight)
        stored = _exactly(_groups(self.mask, self.m, self.axis), self.n)
        values = _groups(weight, self.m, self.axis)[stored]
        numbers = _numbers(stored.cpu().numpy(), self.n)
        options = {"n": self.n, "m": self.m, "axis": self.axis}
        streams = {"places": Symbols(numbers, math.comb(self.m, self.n))}
        return Code("nm", tuple(weight.shape), streams, {"values": to_table(values)}, options, dtype_name(latent.dtype))

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        n, m, axis = (code.options.get(name, 0) for name in ("n", "m", "axis"))
        places, values = stream(code, "places").values, table(code, "values")
        groups = _checked_groups(code.shape, n, m, axis)
        if len(places) != groups or values.numel() != groups * n:
            raise ArtifactError(f"{groups} groups of {m} do not go with {len(places)} places and {len(values)} values")
        if groups and int(places.max()) >= math.comb(m, n):
            raise ArtifactError(f"place {int(places.max())} lies outside the {math.comb(m, n)} choices of {n} from {m}")
        flat = values.new_zeros(groups, m)
        flat[torch.from_numpy(_choices(n, m)[places])] = values
        moved = [*code.shape[:axis], *code.shape[axis + 1 :], code.shape[axis]]
        return flat.reshape(moved).movedim(-1, axis).contiguous()


@dataclass(frozen=True, eq=False)
class Packed:
    """An n:m matrix as kernels read it.

    values: [rows, columns · n / m], the kept entries of each row in order.
    indices: uint8 [rows, bytes]; place of each value in its group of m, ⌈log2 m⌉ bits each, the first in the lowest
        bits, the last byte of a row filled with zeros. For 2:4, two 2-bit places to four entries.
    columns: of the matrix.
    """

    values: torch.Tensor
    indices: torch.Tensor
    columns: int
    n: int
    m: int

    @property
    def bytes(self) -> int:
        return self.values.numel() * self.values.itemsize + self.indices.numel()


def pack(matrix: torch.Tensor, n: int = 2, m: int = 4) -> Packed:
    """Values and places of a matrix [rows, columns] in which no group of m in a row has more than n nonzeros.

    Raises ValueError where one has.
    """
    rows, columns = matrix.shape
    if columns % m:
        raise ValueError(f"{columns} columns are no multiple of {m}")
    held = matrix.reshape(-1, m) != 0
    if bool((held.sum(1) > n).any()):
        raise ValueError(f"a group of {m} has more than {n} entries other than zero")
    stored = _exactly(held, n)
    places = stored.nonzero()[:, 1].reshape(rows, -1)
    bits = (places.unsqueeze(-1) >> torch.arange(_bits(m), device=places.device)) & 1  # [rows, values, bits]
    packed = np.packbits(bits.reshape(rows, -1).to(torch.uint8).cpu().numpy(), axis=1, bitorder="little")
    values = matrix.reshape(-1, m)[stored].reshape(rows, -1)
    return Packed(values, torch.from_numpy(packed).to(matrix.device), columns, n, m)


def unpack(packed: Packed) -> torch.Tensor:
    """The matrix [rows, columns]."""
    rows, count = packed.values.shape
    bits = np.unpackbits(packed.indices.cpu().numpy(), axis=1, count=count * _bits(packed.m), bitorder="little")
    weights = 1 << np.arange(_bits(packed.m))
    places = torch.from_numpy((bits.reshape(rows, count, -1) * weights).sum(-1)).to(packed.values.device)
    flat = packed.values.new_zeros(rows * packed.columns // packed.m, packed.m)
    return flat.scatter_(1, places.reshape(-1, packed.n), packed.values.reshape(-1, packed.n)).reshape(rows, -1)


def _bits(m: int) -> int:
    return max((m - 1).bit_length(), 1)


def _groups(tensor: torch.Tensor, m: int, axis: int) -> torch.Tensor:
    """[groups, m]: the axis last, then in order."""
    return tensor.movedim(axis, -1).reshape(-1, m)


def _exactly(mask: torch.Tensor, n: int) -> torch.Tensor:
    """Of each row the entries of the mask, and the first others until there are n."""
    order = torch.sort(mask.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :n]
    return torch.zeros_like(mask).scatter_(1, order, True)


@lru_cache(maxsize=32)
def _choices(n: int, m: int) -> np.ndarray:
    """Bool [C(m, n), m]: all choices of n from m in lexicographic order of their places."""
    places = np.array(list(combinations(range(m), n)))
    chosen = np.zeros((len(places), m), dtype=bool)
    np.put_along_axis(chosen, places, True, axis=1)
    return chosen


def _numbers(stored: np.ndarray, n: int) -> np.ndarray:
    """The number of each row of bool [groups, m] among the choices, int32 [groups]."""
    m = stored.shape[1]
    weights = 1 << np.arange(m)
    number = np.zeros(1 << m, dtype=np.int32)
    number[_choices(n, m) @ weights] = np.arange(math.comb(m, n))
    return np.asarray(number[stored @ weights])


def _checked_groups(shape: tuple[int, ...], n: int, m: int, axis: int) -> int:
    """How many groups there are; raises ArtifactError where the options and the shape contradict each other."""
    if not 1 <= n <= m <= LARGEST or not 0 <= axis < len(shape) or any(size < 0 for size in shape) or shape[axis] % m:
        raise ArtifactError(f"a tensor of shape {tuple(shape)} cannot be {n}:{m} along axis {axis}")
    return math.prod(shape) // m
