"""Data that the user hands over as Python objects, directly or through a factory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from tersenet.core.errors import DataError
from tersenet.core.factory import reason
from tersenet.core.recipe import Augment, DataSpec
from tersenet.core.registry import nearest
from tersenet.data.collate import as_tensor
from tersenet.data.columns import choose_columns, class_count, decode_columns
from tersenet.data.decoded import Decoded, kept_rows, to_splits
from tersenet.data.names import SPLITS, VALIDATION, named_splits
from tersenet.data.source import Source, Splits
from tersenet.data.streams import DatasetSource, LoaderSource

AS_IT_IS = DataSpec(path="given", normalize=False)


def as_splits(data: Any, spec: DataSpec | None = None, name: str = "given") -> Splits:
    """Splits of whatever `data` is:

    - a mapping with 'train' and, where there are any, 'validation' and 'test'; or a tuple of these three. Without
      validation, the last rows of train are held out, as many as `spec.validation` says;
    - or a single one, which is then train. Each may be tensors or arrays (x, …, y), a `Dataset`, a `DataLoader` or a
      list of batches, a set of Hugging Face `datasets`, or a `Source`;
    - or a `Splits`.

    Tensors are normalised and augmented as `spec` says, and without one taken as they are, but images of uint8
    are scaled to [0, 1]. What a loader or a dataset yields is always taken as it is.
    `name` is what errors and the file call the data; what `spec` says of where data lies is not looked at.
    Raises DataError if it is none of this.
    """
    if isinstance(data, Splits):
        return data
    spec = spec or AS_IT_IS
    parts: dict[str, Decoded | Source] = {}
    classes = None
    for split, value in _named(data, name).items():
        parts[split] = _part(value, f"{name}: {split}", spec)
        if split == "train" and _is_table(value):
            classes = class_count(value, _columns(value, spec, name)[1])
    tensors = {split: part for split, part in parts.items() if isinstance(part, Decoded)}
    if len(tensors) == len(parts):
        return to_splits(tensors, spec, name, classes)
    if tensors:
        raise DataError(f"{name}: give all splits as tensors, or all as datasets or loaders")
    return _streams({split: part for split, part in parts.items() if isinstance(part, Source)}, spec, name)


def _named(data: Any, name: str) -> dict[str, Any]:
    if isinstance(data, Mapping):
        for key in data:
            if key not in SPLITS and key not in VALIDATION and not _is_of_datasets(data[key]):
                raise DataError(f"{name}: unknown split '{key}'{nearest(str(key), SPLITS)}")
        return named_splits(data, name)
    if isinstance(data, tuple) and not _are_arrays(data):
        if len(data) == 3:
            return dict(zip(SPLITS, data, strict=True))
        raise DataError(
            f"{name}: a tuple of {len(data)} does not say what is what; name them, {{'train': …, 'test': …}}"
        )
    return {"train": data}


def _part(value: Any, where: str, spec: DataSpec) -> Decoded | Source:
    if isinstance(value, Source):
        return value
    if _is_table(value):
        return decode_columns(value, _columns(value, spec, where), where)
    if isinstance(value, TensorDataset):
        return _decoded(value.tensors, where)
    if isinstance(value, torch.Tensor | np.ndarray):
        return _decoded((value,), where)
    if isinstance(value, tuple | list) and value and _are_arrays(value):
        return _decoded(value, where)
    if isinstance(value, IterableDataset):
        raise DataError(f"{where}: an IterableDataset does not batch itself; give DataLoader(dataset, batch_size=…)")
    if isinstance(value, Dataset) or _is_of_datasets(value):
        return DatasetSource(value, where, workers=spec.workers)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return LoaderSource(value, where)
    raise DataError(f"{where}: cannot use {type(value).__name__}; give tensors (x, y), a Dataset or a DataLoader")


def _decoded(arrays: Iterable[Any], where: str) -> Decoded:
    """Tensors (x, …, y), all of one length; a single one is an input without target."""
    tensors = [as_tensor(array, where).detach().cpu() for array in arrays]
    lengths = [len(tensor) if tensor.ndim else 0 for tensor in tensors]
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: tensors have different lengths: {', '.join(map(str, lengths))}")
    if len(tensors) == 1:
        return Decoded((tensors[0],), None)
    return Decoded(tuple(tensors[:-1]), tensors[-1])


def _streams(parts: dict[str, Source], spec: DataSpec, name: str) -> Splits:
    if spec.augment != Augment() or (spec.normalize and "normalize" in spec.model_fields_set):
        raise DataError(f"{name}: data.augment and data.normalize change tensors only, not what a loader yields")
    if "validation" not in parts:
        parts["train"], parts["validation"] = _held_out(parts["train"], spec, name)
    for split, part in parts.items():
        _try(part, f"{name}: {split}")
    return Splits(parts["train"], parts["validation"], parts.get("test"), name, parts["train"].digest())


def _try(part: Source, where: str) -> None:
    """Raises DataError if the split is empty, yields what is no batch, or fails in the user's own code."""
    try:
        part.example()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where}: reading the first batch raised {reason(error)}") from error


def _held_out(train: Source, spec: DataSpec, name: str) -> tuple[Source, Source]:
    """The last rows of a dataset, or of the dataset behind a plain loader, apart."""
    if isinstance(train, DatasetSource):
        first, last = _cut(train.dataset, spec, name)
        return DatasetSource(first, train.where, workers=train.workers), DatasetSource(
            last, f"{name}: validation", workers=train.workers
        )
    loader = train.loader if isinstance(train, LoaderSource) else None
    if not isinstance(loader, DataLoader) or not _is_plain(loader):
        raise DataError(f"{name}: nothing can be held out of this train; give {{'train': …, 'validation': …}}")
    first, last = _cut(loader.dataset, spec, name)
    shuffled = isinstance(loader.sampler, RandomSampler)
    own = {"shuffle": shuffled, "drop_last": loader.drop_last, "generator": loader.generator}
    return (
        LoaderSource(_like(loader, first, **own), f"{name}: train"),
        LoaderSource(_like(loader, last, shuffle=False), f"{name}: validation"),
    )


def _cut(dataset: Dataset[Any], spec: DataSpec, name: str) -> tuple[Dataset[Any], Dataset[Any]]:
    length = len(dataset)  # type: ignore[arg-type]
    kept = kept_rows(length, spec.validation, name)
    return Subset(dataset, range(kept)), Subset(dataset, range(kept, length))


def _is_plain(loader: DataLoader[Any]) -> bool:
    """A loader that could be built again over part of its dataset."""
    ordinary = type(loader.sampler) in (RandomSampler, SequentialSampler)
    return ordinary and loader.batch_size is not None and not isinstance(loader.dataset, IterableDataset)


def _like(loader: DataLoader[Any], dataset: Dataset[Any], **own: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        **own,
    )


def _are_arrays(values: Iterable[Any]) -> bool:
    return all(isinstance(value, torch.Tensor | np.ndarray) for value in values)


def _is_table(value: Any) -> bool:
    """A `datasets.Dataset` of plain columns; one with a format or transform of its own is read through that."""
    return _is_of_datasets(value) and value.format["type"] is None


def _is_of_datasets(value: Any) -> bool:
    """A `datasets.Dataset`, told without importing that library."""
    return any(cls.__module__ == "datasets.arrow_dataset" and cls.__name__ == "Dataset" for cls in type(value).__mro__)


def _columns(dataset: Any, spec: DataSpec, where: str) -> tuple[str, str]:
    return choose_columns(dataset, (spec.input, spec.label), where)
