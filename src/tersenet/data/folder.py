"""An image folder: `train/CLASS/*.png`, `test/CLASS/*.png`, and `validation/CLASS/*.png` where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tersenet.core.errors import DataError
from tersenet.core.registry import nearest
from tersenet.data.cache import Parts, cached, folder_key
from tersenet.data.decoded import Decoded
from tersenet.data.images import decode_images, image_mode
from tersenet.data.names import named_splits

TABLES = (".parquet", ".arrow", ".csv", ".json", ".jsonl", ".txt", ".tar", ".zip", ".gz")


@dataclass(frozen=True)
class Listing:
    """Files of one split and the number of the class each belongs to."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]


def is_image_folder(folder: Path) -> bool:
    """Whether `train` in it holds folders of files that are no tables."""
    classes = _folders(folder / "train") if (folder / "train").is_dir() else []
    first = next((file for one in classes for file in _files(one)), None)
    return bool(classes) and (first is None or first.suffix.lower() not in TABLES)


def decode_image_folder(folder: Path) -> Parts:
    """All images in memory, [N, C, H, W] uint8, and the number of classes; decoded once, then from the cache.

    Classes are numbered by the sorted names of the folders in `train`.
    """
    return cached(folder_key(folder, "images"), lambda: _decode(folder))


def list_image_folder(folder: Path) -> tuple[dict[str, Listing], int]:
    """Files by split, in sorted order, and the number of classes; hidden files are passed over."""
    splits = named_splits({path.name: path for path in _folders(folder)}, str(folder))
    classes = {path.name: number for number, path in enumerate(_folders(splits["train"]))}
    return {name: _list(path, classes) for name, path in splits.items()}, len(classes)


def _list(split: Path, classes: dict[str, int]) -> Listing:
    files: list[Path] = []
    labels: list[int] = []
    for folder in _folders(split):
        if folder.name not in classes:
            raise DataError(f"{folder}: train has no class '{folder.name}'{nearest(folder.name, classes)}")
        found = _files(folder)
        if not found:
            raise DataError(f"{folder}: the class has no images")
        files += found
        labels += [classes[folder.name]] * len(found)
    if not files:
        raise DataError(f"{split} is empty; it should hold one folder of images for each class")
    return Listing(tuple(files), tuple(labels))


def _decode(folder: Path) -> Parts:
    listings, classes = list_image_folder(folder)
    parts: dict[str, Decoded] = {}
    for split, listing in listings.items():  # train comes first
        mode = image_mode(parts["train"].inputs[0]) if parts else None
        images = _decode_listing(listing, mode)
        parts[split] = Decoded((images,), torch.tensor(listing.labels))
    return parts, classes


def _decode_listing(listing: Listing, mode: str | None) -> torch.Tensor:
    files = listing.files
    return decode_images(lambda index: read_file(files[index]), lambda index: str(files[index]), len(files), mode)


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
