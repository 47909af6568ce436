"""2:4 on a GPU: torch's semi-structured tensors, which sparse tensor cores multiply with, beside dense products."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from kernels_page import DENSE, OURS, Row
from sections import Effort, interleaved
from torch import nn

from tersenet.runtime.kernels.semi_structured import to_gpu

SHAPES = ((4096, 4096), (4096, 11008))
"""Rows and columns."""

BATCHES = (64, 1024, 8192)

IN_A_ROW = 50
"""Products that are timed together, so that starting them and waiting for the last counts little."""


def semi_on_gpu(effort: Effort) -> Iterator[Row]:
    """Products of bfloat16, by the clock; none where PyTorch sees no GPU, which a printed sentence tells."""
    if not torch.cuda.is_available():
        print("gpu is left out: PyTorch sees no GPU")
        return
    where = torch.cuda.get_device_name()
    for rows, columns in SHAPES:
        weight = two_of_four(rows, columns).bfloat16().cuda()
        held = to_gpu(weight)
        for batch in BATCHES:
            x = torch.randn(batch, columns, generator=torch.Generator().manual_seed(batch)).bfloat16().cuda()
            expected = nn.functional.linear(x, weight)
            close = 0.02 * float(expected.abs().max())
            torch.testing.assert_close(nn.functional.linear(x, held), expected, rtol=0, atol=close)
            calls = {name: in_a_row(x, matrix) for name, matrix in ((OURS, held), (DENSE, weight))}
            ms = {name: own / IN_A_ROW for name, own in interleaved(calls, effort, time.perf_counter).items()}
            yield Row("gpu", f"linear {columns}→{rows}, bfloat16, {where}", ms, batch=batch)


def two_of_four(rows: int, columns: int) -> torch.Tensor:
    """Of every four normal numbers the two that are largest."""
    weight = torch.randn(rows, columns // 4, 4, generator=torch.Generator().manual_seed(0))
    kept = torch.zeros_like(weight).scatter_(2, weight.abs().topk(2, 2).indices, 1)
    return (weight * kept).reshape(rows, columns)


def in_a_row(x: torch.Tensor, matrix: torch.Tensor) -> Callable[[], None]:
    def call() -> None:
        for _ in range(IN_A_ROW):
            nn.functional.linear(x, matrix)
        torch.cuda.synchronize()

    return call
