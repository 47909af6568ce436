"""What kernels are given: checked once, at the door."""

from __future__ import annotations

from typing import Any

import numpy as np

from tersenet.core.errors import DataError


def as_rows(x: Any, columns: int) -> np.ndarray:
    """`x` [columns] or [batch, columns] as contiguous float32 [batch, columns], a view where it can be.

    Raises DataError for another shape or type.
    """
    found = _float32(x)
    if found.ndim not in (1, 2) or found.shape[-1] != columns:
        raise DataError(f"the kernel takes inputs [{columns}] or [batch, {columns}], not {list(found.shape)}")
    return found if found.ndim == 2 else found[None]


def as_images(x: Any, channels: int) -> np.ndarray:
    """`x` as contiguous float32 [batch, channels, height, width]. Raises DataError for another shape or type."""
    found = _float32(x)
    if found.ndim != 4 or found.shape[1] != channels:
        raise DataError(f"the kernel takes images [batch, {channels}, height, width], not {list(found.shape)}")
    return found


def scaled(sums: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Sums [batch, rows] times the scales of their rows, where there are any."""
    return sums if scale is None else sums * scale


def like(x: Any, rows: np.ndarray) -> np.ndarray:
    """[batch, rows], or [rows] where `x` was a single vector."""
    return rows[0] if np.ndim(x) == 1 else rows


def _float32(x: Any) -> np.ndarray:
    found = np.asarray(x.detach() if hasattr(x, "detach") else x)
    if found.dtype != np.float32:
        raise DataError(f"the kernel takes inputs of type float32, not {found.dtype}")
    return np.ascontiguousarray(found)
