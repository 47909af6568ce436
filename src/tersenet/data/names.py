"""What splits are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tersenet.core.errors import DataError

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
VALIDATION = ("validation", "valid", "val", "dev")


def named_splits(found: Mapping[str, T], where: str) -> dict[str, T]:
    """train, validation and test of `found`, in this order; validation may go by a short form of its name.

    Splits of other names ('unsupervised', 'extra') are left alone. Raises DataError if there is no train.
    """
    splits: dict[str, T] = {}
    for name, part in found.items():
        plain = "validation" if name in VALIDATION else name
        if plain in splits:
            raise DataError(f"{where}: has two validation splits, one of them '{name}'; keep one")
        splits[plain] = part
    if "train" not in splits:
        raise DataError(f"{where}: there is no split 'train'; there are: {', '.join(found) or 'none'}")
    return {name: splits[name] for name in SPLITS if name in splits}
