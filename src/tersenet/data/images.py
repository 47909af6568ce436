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


def decode_images(read: Callable[[int], bytes | None], count: int, where: str, mode: str | None = None) -> torch.Tensor:
    """Images 0 … count − 1, whose encoded bytes `read` gives, as [N, C, H, W] uint8.

    mode: PIL's name of the colour mode, 'L' for C = 1 or 'RGB' for C = 3; None: 'L' if the first image is grey.
    Raises DataError if one is missing, is no image, or has another size than the first.
    """
    mode = mode or image_mode(read(0), f"{where}, image 0")
    first = decode_image(read(0), mode, f"{where}, image 0")
    images = np.empty((count, *first.shape), dtype=np.uint8)

    def decode_run(start: int) -> None:
        for index in range(start, min(start + RUN, count)):
            image = decode_image(read(index), mode, f"{where}, image {index}")
            if image.shape != first.shape:
                sizes = f"{_size(image)} pixels and image 0 {_size(first)}"
                raise DataError(f"{where}: image {index} has {sizes}; all images must be of one size")
            images[index] = image

    with ThreadPoolExecutor(min(cpu_count() or 1, 8)) as pool:  # PIL decodes without holding Python's lock
        for _ in pool.map(decode_run, range(0, count, RUN)):
            pass
    return torch.from_numpy(images)


def decode_image(data: bytes | None, mode: str, where: str) -> np.ndarray:
    """One image as [C, H, W] uint8."""
    from PIL import Image

    if data is None:
        raise DataError(f"{where} is missing")
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} cannot be decoded as an image: {_first_line(error)}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def image_mode(data: bytes | None, where: str) -> str:
    """'L' for a grey image, else 'RGB'."""
    from PIL import Image

    if data is None:
        raise DataError(f"{where} is missing")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return "L" if image.mode in ("1", "L", "LA", "I", "I;16", "F") else "RGB"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} cannot be decoded as an image: {_first_line(error)}") from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[2]}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
