"""The `digits` set that comes with scikit-learn: 1,797 grey images of 8×8, nothing to download."""

from __future__ import annotations

import torch

from tersenet.core.seeds import generator
from tersenet.data.decoded import Decoded

TEST = 360  # one fifth


def load_digits() -> tuple[dict[str, Decoded], int]:
    """'train' (1,437) and 'test' (360), images [N, 1, 8, 8] float32 in [0, 1]; and the number of classes.

    The order is shuffled with a fixed seed before it is split, since the set comes ordered by writer.
    """
    from sklearn.datasets import load_digits as from_sklearn

    pixels, labels = from_sklearn(return_X_y=True)
    order = torch.randperm(len(labels), generator=generator(0, "digits"))
    images = torch.from_numpy(pixels).float().div_(16).view(-1, 1, 8, 8)[order]
    target = torch.from_numpy(labels).long()[order]
    whole = Decoded((images,), target)
    return {"train": whole.rows(0, len(whole) - TEST), "test": whole.rows(len(whole) - TEST, len(whole))}, 10
