"""Encoded images (PNG, JPEG, …) → one uint8 tensor."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
import torch

from tersenet.core.errors import DataError

RUN = 512  # images one thread decodes in a row
GREY = ("1", "L", "LA")
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class ColourError(DataError):
    """A colour image among grey ones."""


def decode_images(
    read: Callable[[int], bytes | None], name: Callable[[int], str], count: int, mode: str | None = None
) -> torch.Tensor:
    """Images 0 … count − 1 as [N, C, H, W] uint8; `read` gives their encoded bytes, `name` what errors call them.

    mode: 'L' for C = 1, 'RGB' for C = 3; None: 'RGB' if there is a colour image among them.
    Raises DataError if one is missing, is no image, or has another size than the first.
    """
    if mode is not None:
        return _decode_all(read, name, count, mode)
    try:
        return _decode_all(read, name, count, "L")
    except ColourError:
        return _decode_all(read, name, count, "RGB")


def decode_image(data: bytes | None, mode: str, name: str) -> np.ndarray:
    """One image as [C, H, W] uint8."""
    from PIL import Image

    if data is None:
        raise DataError(f"{name} is missing")
    try:
        with Image.open(io.BytesIO(data)) as image:
            found, pixels = image.mode, np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is no image that can be decoded: {_first_line(error)}") from error
    if found in DEEP:
        raise DataError(f"{name} has more than 8 bits per channel ({found}); convert it to 8 bits, or use a factory")
    if mode == "L" and found not in GREY:
        raise ColourError(f"{name} has colours ({found}), but the training images are grey")
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _decode_all(read: Callable[[int], bytes | None], name: Callable[[int], str], count: int, mode: str) -> torch.Tensor:
    first = decode_image(read(0), mode, name(0))
    images = np.empty((count, *first.shape), dtype=np.uint8)

    def decode_run(start: int) -> None:
        for index in range(start, min(start + RUN, count)):
            images[index] = same_size(decode_image(read(index), mode, name(index)), first.shape, name(index))

    with ThreadPoolExecutor(min(cpu_count() or 1, 8)) as pool:
        for _ in pool.map(decode_run, range(0, count, RUN)):
            pass
    return torch.from_numpy(images)


def same_size(image: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """`image` [C, H, W], if it has the shape that all have."""
    if image.shape != shape:
        sizes = f"{image.shape[1]}×{image.shape[2]} pixels and the first one {shape[1]}×{shape[2]}"
        raise DataError(f"{name} has {sizes}; all images must be of one size")
    return image


def image_mode(images: torch.Tensor) -> str:
    """The mode that gave [N, C, H, W]."""
    return "L" if images.ndim == 4 and images.shape[1] == 1 else "RGB"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
