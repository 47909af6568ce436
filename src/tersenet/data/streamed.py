"""Sets too large for memory: images decoded one by one by workers, everything else as for sets in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, Subset

from tersenet.core.errors import DataError
from tersenet.core.recipe import DataSpec
from tersenet.data.cache import cached, directory, folder_key, text_key
from tersenet.data.columns import choose_columns, class_count, image_bytes, label_of
from tersenet.data.decoded import Decoded, kept_rows
from tersenet.data.folder import Listing, is_image_folder, list_image_folder, read_file
from tersenet.data.hub import read_folder, read_hub
from tersenet.data.images import ColourError, decode_image, same_size
from tersenet.data.prepare import Prepare, statistics
from tersenet.data.source import Splits
from tersenet.data.streams import DatasetSource

STATISTICS_BATCH = 256


class Encoded(Protocol):
    """Images as they lie on disk. Must pickle, since workers get a copy."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def image(self, index: int) -> bytes | None: ...

    def label(self, index: int) -> int: ...


class Files:
    """Those of an image folder."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing

    def __len__(self) -> int:
        return len(self.listing.files)

    def name(self, index: int) -> str:
        return str(self.listing.files[index])

    def image(self, index: int) -> bytes | None:
        return read_file(self.listing.files[index])

    def label(self, index: int) -> int:
        return self.listing.labels[index]


class Rows:
    """Those of a set of Hugging Face `datasets`, which maps its table into memory."""

    def __init__(self, dataset: Any, columns: tuple[str, str], where: str) -> None:
        import datasets

        if not isinstance(dataset.features[columns[0]], datasets.Image):
            raise DataError(f"{where}: with in_memory: false, column '{columns[0]}' must hold images; use a factory")
        if len(dataset) == 0:
            raise DataError(f"{where} is empty")
        self.dataset, self.columns, self.where = dataset, columns, where
        self._table: Any = None

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"{self.where}: image {index}"

    def image(self, index: int) -> bytes | None:
        return image_bytes(self.table.column(self.columns[0])[index].as_py())

    def label(self, index: int) -> int:
        return label_of(self.table.column(self.columns[1])[index].as_py(), f"{self.where}, row {index}")

    @property
    def table(self) -> Any:
        """Reading its cells is some ten times faster than asking the dataset for a row."""
        if self._table is None:
            self._table = self.dataset.with_format("arrow")[:]
        return self._table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None}  # a worker maps it again instead of getting it whole


class ImageStream(Dataset[tuple[torch.Tensor, int]]):
    """Image i as [C, H, W] uint8 with its label, decoded when asked for.

    mode: 'L' or 'RGB'; None: that of the first image.
    """

    def __init__(self, encoded: Encoded, mode: str | None) -> None:
        self.encoded = encoded
        self.mode = mode or _mode_of(encoded)
        self.shape = decode_image(encoded.image(0), self.mode, encoded.name(0)).shape

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        name = self.encoded.name(index)
        image = same_size(decode_image(self.encoded.image(index), self.mode, name), self.shape, name)
        return torch.from_numpy(image.copy()), self.encoded.label(index)


def stream_splits(path: str, spec: DataSpec) -> Splits:
    """Splits of a folder or hub id whose images stay on disk.

    Normalisation statistics take one pass over train, and are kept in the cache.
    """
    streams, classes, key = _streams(path, spec)
    train: Dataset[Any] = streams["train"]
    validation: Dataset[Any] | None = streams.get("validation")
    if validation is None:
        kept = kept_rows(len(streams["train"]), spec.validation, path)
        train, validation = Subset(train, range(kept)), Subset(train, range(kept, len(streams["train"])))
    plain = _prepare(DatasetSource(train, path, workers=spec.workers), spec, key)
    augmented = Prepare(plain.mean, plain.deviation, spec.augment)
    source = DatasetSource(train, f"{path}: train", [augmented], spec.workers)
    test = streams.get("test")
    return Splits(
        train=source,
        validation=DatasetSource(validation, f"{path}: validation", [plain], spec.workers),
        test=None if test is None else DatasetSource(test, f"{path}: test", [plain], spec.workers),
        name=path,
        digest=source.digest(),
        classes=classes,
    )


def _streams(path: str, spec: DataSpec) -> tuple[dict[str, ImageStream], int | None, str]:
    """Splits, number of classes if declared, and a key that changes with the data."""
    folder = Path(path).expanduser()
    if folder.is_dir() and is_image_folder(folder):
        listings, classes = list_image_folder(folder)
        return _of_one_mode({name: Files(listing) for name, listing in listings.items()}), classes, folder_key(folder)
    # A place of our own: in the usual one, a folder called `mnist` would later pass for the hub's set of that name.
    splits = read_folder(folder, str(directory() / "datasets")) if folder.is_dir() else read_hub(path)
    columns = choose_columns(splits["train"], (spec.input, spec.label), path)
    rows: dict[str, Encoded] = {}
    for name, dataset in splits.items():
        choose_columns(dataset, columns, f"{path}: {name}")
        rows[name] = Rows(dataset, columns, f"{path}: {name}")
    prints = [dataset._fingerprint for dataset in splits.values()]
    return _of_one_mode(rows), class_count(splits["train"], columns[1]), text_key(path, *columns, *prints)


def _of_one_mode(splits: dict[str, Any]) -> dict[str, ImageStream]:
    train = ImageStream(splits["train"], None)
    return {name: train if name == "train" else ImageStream(encoded, train.mode) for name, encoded in splits.items()}


def _mode_of(encoded: Encoded) -> str:
    try:
        decode_image(encoded.image(0), "L", encoded.name(0))
    except ColourError:
        return "RGB"
    return "L"


def _prepare(train: DatasetSource, spec: DataSpec, key: str) -> Prepare:
    if not spec.normalize:
        return Prepare()

    def measure() -> tuple[dict[str, Decoded], None]:
        mean, deviation = statistics(batch.inputs[0] for batch in train.batches(STATISTICS_BATCH))
        return {"statistics": Decoded((mean, deviation), None)}, None

    parts, _ = cached(text_key(key, "statistics", str(len(train))), measure)
    mean, deviation = parts["statistics"].inputs
    return Prepare(mean, deviation)
