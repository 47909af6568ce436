"""A set of small images for networks that take larger ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch.nn import functional as F

from tersenet.core.errors import DataError
from tersenet.core.recipe import Augment, DataSpec
from tersenet.data import Source, Splits, load_data
from tersenet.data.source import Batch
from tersenet.data.tensors import TensorSource


def enlarged(path: str, side: int, validation: int = 500, test: int = 2000) -> Splits:
    """The images of `path`, shifted and mirrored in training, scaled to side × side, a factory for `data:` of recipes.

    validation, test: how many images; those of test are the first ones, since large networks take their time.
    """
    augment = Augment(shift=4, flip=True)
    small = load_data(DataSpec(path=path, validation=validation, augment=augment))
    return replace(
        small,
        train=Enlarged(small.train, side),
        validation=Enlarged(small.validation, side),
        test=None if small.test is None else Enlarged(_first(small.test, test), side),
        name=f"{small.name}, scaled to {side}×{side}",
    )


@dataclass(frozen=True)
class Enlarged:
    """A split (`data.Source`) whose images [B, C, H, W] are scaled to [B, C, side, side], bilinearly."""

    source: Source
    side: int

    def __len__(self) -> int:
        return len(self.source)

    def batch_count(self, batch_size: int, world: int = 1) -> int:
        return self.source.batch_count(batch_size, world)

    def batches(self, batch_size: int, *, seed: int | None = None, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        for batch in self.source.batches(batch_size, seed=seed, rank=rank, world=world):
            yield self._scaled(batch)

    def example(self) -> Batch:
        return self._scaled(self.source.example())

    def digest(self) -> str:
        return self.source.digest()

    def _scaled(self, batch: Batch) -> Batch:
        sides = (self.side, self.side)
        return Batch(tuple(F.interpolate(x, sides, mode="bilinear") for x in batch.inputs), batch.target)


def _first(source: Source, count: int) -> TensorSource:
    if not isinstance(source, TensorSource) or source.target is None:
        raise DataError("only images with labels that are held in memory can be enlarged")
    return TensorSource([x[:count] for x in source.inputs], source.target[:count], source.prepare)
