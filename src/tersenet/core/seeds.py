"""Randomness that is passed in, never taken from a global: every purpose gets a stream of its own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2^63) that depends on every part of `purpose`, so that streams do not overlap by accident."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, say `generator(seed, "batches", epoch)`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))
