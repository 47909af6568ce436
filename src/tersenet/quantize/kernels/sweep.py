"""Columns of a weight decided one after the other, each knowing what those before it have done to the outputs."""

from __future__ import annotations

from tersenet.forms.kernels.trellis import Prices, compiled, decide

__all__ = ["sweep"]


@compiled
def sweep(targets, base, coupling, curvature, allowed, price, prices, table, indices, numbers):  # type: ignore[no-untyped-def]
    """Decide the columns of `targets` [rows, columns]; all in steps.

    When column j has become n, the target of every later column k moves by (base_j − n) · coupling[part, j, k]; rows
    lie in as many equal parts as `coupling` [parts, columns, columns] has. Writes indices and numbers, int32 [rows,
    columns], and changes targets.
    """
    rows, columns = targets.shape
    share = rows // len(coupling)
    for j in range(columns):
        column = Prices(
            prices.zero[:, j], prices.positive[:, j], prices.negative[:, j], prices.kind[:, j], prices.magnitude
        )
        decide(targets[:, j], curvature[:, j], allowed[:, j], price, column, table, indices[:, j], numbers[:, j])
        for row in range(rows):
            moved, part = base[row, j] - numbers[row, j], row // share
            for k in range(j + 1, columns):
                targets[row, k] += moved * coupling[part, j, k]
