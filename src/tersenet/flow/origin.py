"""What a run starts from: the key that names its checkpoints, and the objective that its losses are stated in."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import nn

from tersenet.core.recipe import Recipe, canonical_digest
from tersenet.core.version import __version__
from tersenet.data import Splits


def origin(recipe: Recipe, model: nn.Module, splits: Splits) -> str:
    """Twelve hexadecimal digits that change with the recipe, the model and the data."""
    return canonical_digest([recipe.digest(), structure(model), state_digest(model), splits.digest])


def first_key(recipe: Recipe, model: nn.Module, splits: Splits) -> str:
    """Changes with everything that determines the dense model before its first step, and with what computes it."""
    return canonical_digest(
        {
            "model": [recipe.model.to_dict() if recipe.model else None, structure(model), state_digest(model)],
            "data": splits.digest,
            "augment": recipe.data.to_dict() if recipe.data else None,
            "seed": recipe.seed,
            "runtime": recipe.runtime.to_dict(),
            "threads": torch.get_num_threads(),
            "versions": [__version__, torch.__version__],
        }
    )


def structure(model: nn.Module) -> str:
    """Modules with what they say of themselves, without the addresses of objects: models of equal weights may compute
    different things."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(model))


def state_digest(model: nn.Module) -> str:
    """Of all parameters and buffers, by name, dtype, shape and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def from_zoo(recipe: Recipe) -> bool:
    """Whether the model can be built from its name alone."""
    return recipe.model is not None and recipe.model.name is not None
