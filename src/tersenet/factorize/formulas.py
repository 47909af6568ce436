"""How many times fewer numbers factors hold, from sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod


def svd_compression(rows: int, columns: int, rank: int) -> float:
    """N·M / (K·(N + M)): a matrix [N, M] over its factors [N, K] and [K, M]; below 1, factors cost more.

    Raises ValueError for a rank below 1.
    """
    return rows * columns / (_positive(rank) * (rows + columns))


def cp_compression(sizes: Sequence[int], rank: int) -> float:
    """∏ n_i / (R · Σ n_i): a tensor of sizes n_i over R terms, each an outer product of one vector per dimension.

    Raises ValueError for a rank below 1.
    """
    return prod(sizes) / (_positive(rank) * sum(sizes))


def tucker_compression(outputs: int, inputs: int, places: int, ranks: tuple[int, int]) -> float:
    """N·C·k² / (N·R_N + R_N·R_C·k² + C·R_C): a kernel over its Tucker-2 factors, places k² (Kim et al. 2016, arXiv
    1511.06530, §3.1). ranks: (R_N, R_C), of outputs and inputs.

    Raises ValueError for a rank below 1.
    """
    n, c = map(_positive, ranks)
    return outputs * inputs * places / (outputs * n + n * c * places + inputs * c)


def break_even(rows: int, columns: int) -> int:
    """The largest K for which factors [N, K] and [K, M] hold fewer numbers than the matrix; 0 if there is none."""
    return (rows * columns - 1) // (rows + columns)


def _positive(rank: int) -> int:
    if rank < 1:
        raise ValueError(f"a rank is 1 or more, not {rank}")
    return rank
