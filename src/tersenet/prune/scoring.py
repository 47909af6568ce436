"""What a criterion may need to be told: on how much data it looks, and its own numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tersenet.core.config import Config


class Scoring(Config):
    """Options of criteria; each belongs to those that look at it, and is an error with another."""

    split: Literal["train", "validation"] = Field("train", description="where batches come from")
    batches: int | None = Field(10, ge=1, description="how many; null: all of the split")
    batch_size: int = Field(128, ge=1, description="examples in each; 1 for statistics of single examples")
    p: float = Field(2.0, gt=0, description="lp: the exponent")
    probes: int = Field(8, ge=1, description="obd_hutchinson: random vectors for each batch")
    block: int = Field(64, ge=1, description="obs: weights in a block; memory is so many times that of the weights")
    damping: float = Field(1e-4, gt=0, description="obs: λ, what the curvature is before any batch")
    compensate: bool = Field(False, description="obs: kept weights of a block move to make up for those it loses")
    initial: str | None = Field(
        None, description="movement: state dict of the weights at the start (.safetensors, .pt); default: this run's"
    )
