"""Nothing that a test of this room decodes may land in the user's cache."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def png():
    """Pixels [H, W] or [H, W, 3] → the bytes of a PNG."""

    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def grey():
    """Random grey images [N, H, W] uint8 and labels [N] in [0, 3), every class present."""

    def make(count: int, size: int = 6, seed: int = 0) -> tuple[np.ndarray, list[int]]:
        generator = np.random.default_rng(seed)
        return generator.integers(0, 256, (count, size, size), dtype=np.uint8), [i % 3 for i in range(count)]

    return make
