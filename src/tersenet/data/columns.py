"""Which column is the input and which the label, and what stands in them, for sets of Hugging Face `datasets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tersenet.core.errors import DataError
from tersenet.core.registry import nearest
from tersenet.data.decoded import Decoded
from tersenet.data.images import decode_images

if TYPE_CHECKING:
    import datasets

LABELS = ("label", "labels", "target")


def choose_columns(dataset: datasets.Dataset, chosen: tuple[str | None, str | None], where: str) -> tuple[str, str]:
    """(input, label): those the user has chosen, else the only image column and the only class-label column.

    Where no column is marked as a class label, one that is called label, labels or target is taken.
    Raises DataError if a chosen column is not there or the choice is not clear.
    """
    import datasets

    features = dataset.features
    for name in chosen:
        if name is not None and name not in features:
            raise DataError(f"{where}: there is no column '{name}'{nearest(name, features)}")
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels = labels or [name for name in LABELS if name in features][:1]
    return (
        chosen[0] or _only(images, "image", "input", list(features), where),
        chosen[1] or _only(labels, "label", "label", list(features), where),
    )


def class_count(dataset: datasets.Dataset, label: str) -> int | None:
    """How many classes the set declares, if it does."""
    count = getattr(dataset.features[label], "num_classes", None)
    return None if count is None else int(count)


def decode_columns(dataset: datasets.Dataset, columns: tuple[str, str], where: str, mode: str | None = None) -> Decoded:
    """A whole split in memory: images [N, C, H, W] uint8, or rows of numbers [N, …]; labels [N] int64.

    mode: that of the images, as in `decode_images`.
    """
    if len(dataset) == 0:
        raise DataError(f"{where} is empty")
    table = dataset.with_format("arrow")[:]
    target = _labels(table.column(columns[1]), f"{where}, column '{columns[1]}'")
    return Decoded((_inputs(dataset, columns[0], table, mode, f"{where}, column '{columns[0]}'"),), target)


def image_bytes(entry: dict[str, Any] | None) -> bytes | None:
    """The encoded image of an undecoded entry, which holds it or says where its file is."""
    if entry is None:
        return None
    data: bytes | None = entry["bytes"]
    if data is None and entry.get("path"):
        with open(entry["path"], "rb") as file:  # noqa: PTH123  Path is slow for a million files
            data = file.read()
    return data


def label_of(value: Any, where: str) -> int:
    """A single label, checked as a column of them is."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise DataError(f"{where}: the label must be an integer of 0 or more, not {value!r}")


def _inputs(dataset: datasets.Dataset, name: str, table: Any, mode: str | None, where: str) -> torch.Tensor:
    import datasets

    column = table.column(name)
    if isinstance(dataset.features[name], datasets.Image):

        def read(index: int) -> bytes | None:
            return image_bytes(column[index].as_py())

        return decode_images(read, lambda index: f"{where}: image {index}", len(column), mode)
    try:
        rows = np.stack([np.asarray(row, dtype=np.float32) for row in column.to_pylist()])
    except (ValueError, TypeError):
        raise DataError(f"{where}: must hold images, or numbers of one shape in every row") from None
    return torch.from_numpy(rows)


def _labels(column: Any, where: str) -> torch.Tensor:
    if column.null_count:
        raise DataError(f"{where}: rows without a label: {column.null_count}")
    labels = column.to_numpy()
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels must be integers, not {column.type}")
    return torch.from_numpy(labels.astype(np.int64))


def _only(candidates: list[str], kind: str, setting: str, known: list[str], where: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    found = f"{len(candidates)} {kind} columns" if candidates else f"no {kind} column"
    raise DataError(f"{where} has {found}; say which it is with data.{setting}, of: {', '.join(known)}")
