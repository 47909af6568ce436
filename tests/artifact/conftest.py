"""Contents to write: a small one for exhaustive tests, and the Caffe LeNet-5 after Deep Compression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tersenet.artifact import Contents
from tersenet.core.code import Code, Symbols

RECIPE: dict[str, Any] = {
    "data": {"path": "mnist", "validation": 5000.0, "augment": {"shift": 1}},
    "train": {"epochs": 30, "lr": 0.002, "l2": 0.0003},
    "stages": [
        {
            "method": "prune.magnitude",
            "sparsity": {"conv1": 0.34, "conv2": 0.88, "fc1": 0.96, "fc2": 0.85},
            "finetune": {"epochs": 20, "lr": 0.0005},
        },
        {"method": "quantize.share", "bits": {"Conv2d": 4, "Linear": 3}, "finetune": {"epochs": 8, "lr": 0.0003}},
    ],
    "seed": 2,
}

LENET5 = (("conv1", (20, 1, 5, 5), 15, 0.66), ("conv2", (50, 20, 5, 5), 15, 0.12), ("fc1", (500, 800), 7, 0.04),
          ("fc2", (10, 500), 7, 0.15))  # fmt: skip
"""Layer, shape, nonzero codes, density: 431,080 parameters with the biases."""


@pytest.fixture(scope="session")
def lenet5() -> Contents:
    rng = np.random.default_rng(0)
    tensors: dict[str, Code] = {}
    for layer, shape, codes, density in LENET5:
        bias = rng.normal(0, 0.05, shape[0]).astype(np.float16)
        tensors[f"{layer}.bias"] = Code("dense", (shape[0],), {}, {"values": bias})
        tensors[f"{layer}.weight"] = shared(rng, shape, codes, density)
    versions = {"tersenet": "0.1.0", "torch": "2.13.0"}
    return Contents(tensors, {}, {"name": "lenet5"}, RECIPE, versions, "mnist", "90d4a1e6c7f2b3a4", 2)


@pytest.fixture(scope="session")
def small() -> Contents:
    """Every feature of the format in a few hundred bytes."""
    rng = np.random.default_rng(1)
    tensors = {
        "fc1.weight": shared(rng, (6, 10), 7, 0.3),
        "fc1.bias": Code("dense", (6,), {}, {"values": rng.normal(0, 0.1, 6).astype(np.float16)}),
        "fc2.weight": masked(rng, (10, 40), 0.2),
        "steps": Code("dense", (), {}, {"values": np.array([12], np.int64)}, {}, "int64"),
        "odd": Code(
            "of tomorrow",
            (2, 0, 3),
            {"empty": Symbols(np.zeros(0, np.int32), 5), "one": Symbols(np.array([4, 0], np.int32), 5)},
            {"flags": np.array([[True], [False]]), "scale": np.array(0.5)},
            {"bits": 3, "offset": -70},
            "bfloat16",
        ),
    }
    return Contents(
        tensors, {"tied.weight": "fc1.weight"}, None, {"seed": 1}, {"tersenet": "0"}, "digits", "not hex", 3
    )


def shared(rng: np.random.Generator, shape: tuple[int, ...], codes: int, density: float) -> Code:
    """A weight of `codes` values besides zero, those near the middle of the codebook used most."""
    size = int(np.prod(shape))
    code = 1 + np.clip(rng.normal(codes / 2, codes / 5, size).astype(np.int32), 0, codes - 1)
    index = Symbols(np.where(rng.random(size) < density, code, 0).astype(np.int32), codes + 1, zero=True)
    return Code("shared", shape, {"index": index}, {"codebook": rng.normal(0, 0.1, codes).astype(np.float16)})


def masked(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> Code:
    mask = (rng.random(int(np.prod(shape))) < density).astype(np.int32)
    values = rng.normal(0, 0.1, int(mask.sum())).astype(np.float32)
    return Code("masked", shape, {"mask": Symbols(mask, 2, zero=True)}, {"values": values})


@pytest.fixture(scope="session")
def same() -> Callable[[Contents, Contents], None]:
    return assert_same


def assert_same(found: Contents, expected: Contents) -> None:
    """Equal in everything, arrays by dtype and bits, dictionaries by order too."""
    for name in ("aliases", "model", "recipe", "versions", "data", "data_digest", "seed", "edits", "graph"):
        assert getattr(found, name) == getattr(expected, name)
    assert list(found.tensors) == list(expected.tensors)
    for name, code in expected.tensors.items():
        _assert_same_code(found.tensors[name], code)


def _assert_same_code(found: Code, expected: Code) -> None:
    for name in ("form", "shape", "dtype"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("streams", "tables", "options"):
        assert list(getattr(found, name)) == list(getattr(expected, name))
    assert found.options == expected.options
    for name, symbols in expected.streams.items():
        stream = found.streams[name]
        assert (stream.alphabet, stream.zero) == (symbols.alphabet, symbols.zero)
        np.testing.assert_array_equal(stream.values, symbols.values)
    for name, table in expected.tables.items():
        assert found.tables[name].dtype == table.dtype.newbyteorder("=")
        assert found.tables[name].shape == table.shape
        assert found.tables[name].tobytes() == table.astype(table.dtype.newbyteorder("=")).tobytes()
