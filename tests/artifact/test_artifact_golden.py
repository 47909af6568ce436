"""A file of format version 1, kept as it was written: every later reader has to read it, whatever else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tersenet import artifact
from tersenet.artifact import Contents
from tersenet.core.code import Code, Symbols

GOLDEN = Path(__file__).with_name("golden_version_1.hex")


def golden() -> Contents:
    index = np.zeros(200, np.int32)
    index[3::7], index[5::31] = 1, 2
    mask = (np.arange(24) % 5 == 0).astype(np.int32)
    tensors = {
        "conv1.weight": Code(
            "shared",
            (4, 2, 5, 5),
            {"index": Symbols(index, 5, zero=True)},
            {"codebook": np.array([-0.25, 0.5, 1.0, 2.0], np.float16)},
        ),
        "conv1.bias": Code("dense", (4,), {}, {"values": np.array([0.0, -1.5, 3.0, 0.125], np.float16)}),
        "fc1.weight": Code(
            "masked",
            (4, 6),
            {"mask": Symbols(mask, 2, zero=True)},
            {"values": np.arange(5, dtype=np.float32) / 8},
            {"group": -6},
        ),
        "fc2.weight": Code("dense", (8, 16), {}, {"values": (np.arange(128) % 8 - 3.5).astype(np.float32)}),
        "steps": Code("dense", (), {}, {"values": np.array([1234567], np.int64)}, {}, "int64"),
    }
    recipe = {"train": {"epochs": 20, "lr": 0.001}, "stages": [{"method": "quantize.share", "bits": 2}], "seed": 7}
    return Contents(
        tensors=tensors,
        aliases={"tied.weight": "fc1.weight"},
        model={"name": "lenet5"},
        recipe=recipe,
        versions={"tersenet": "0.1.0", "torch": "2.13.0"},
        data="mnist",
        data_digest="0123456789abcdef",
        seed=7,
    )


def test_the_golden_file_is_read_as_what_it_was(same: Callable[[Contents, Contents], None]) -> None:
    same(artifact.read_bytes(bytes.fromhex(GOLDEN.read_text())), golden())


def test_it_is_written_as_it_was_but_for_the_choices_of_zlib() -> None:
    kept, written = bytes.fromhex(GOLDEN.read_text()), artifact.to_bytes(golden(), "ans")[0]
    assert written[:5] == kept[:5]
    index = kept.index(bytes.fromhex("100123456789abcdef07"))  # digest of the data, seed; records and payloads follow
    assert kept[index:-8] == written[written.index(kept[index : index + 10]) : -8]
    assert abs(len(written) - len(kept)) < 8
