"""Hashed: which entries share a value is settled by a hash of their place, so that no code is stored."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code
from tersenet.core.errors import ArtifactError
from tersenet.core.stage import Phase
from tersenet.forms.form import Form, refuse_nan, register_form, stream, table
from tersenet.forms.masked import mask_symbols
from tersenet.forms.shared import sum_by_code
from tersenet.forms.tables import dtype_name, shaped, to_table


def places(entries: int, buckets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bucket (int32, [0, buckets)) and sign (±1, float32) of each entry, the same on every machine.

    Integers of 64 bits only: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", the mixing
    function of figure 16 (SplitMix64); the bucket is its upper 32 bits scaled to the range, the sign its lowest bit.
    """
    with np.errstate(over="ignore"):
        mixed = np.arange(1, entries + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    bucket = ((mixed >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)
    return bucket.astype(np.int32), np.where(mixed & np.uint64(1), np.float32(1), np.float32(-1))


class _Spread(torch.autograd.Function):
    """values[bucket] · sign; the gradient of a value is the signed sum over its entries, in a fixed order."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, bucket: torch.Tensor, sign: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        ctx.save_for_backward(bucket, sign)
        ctx.buckets, ctx.dtype = values.numel(), values.dtype
        return (values.index_select(0, bucket) * sign.to(values.dtype)).reshape(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        bucket, sign = ctx.saved_tensors
        signed = gradients[0].reshape(-1) * sign.to(gradients[0].dtype)
        return sum_by_code(signed, bucket, None, ctx.buckets).to(ctx.dtype), None, None, None


@register_form("hashed")
class Hashed(Form):
    """A weight of `buckets` values, each entry ± one of them, chosen by a hash of its place (Chen et al. 2015,
    "Compressing Neural Networks with the Hashing Trick", arXiv 1504.04788, eq. 3, and 7 with the sign).

    The latent is the values [buckets]; the gradient of a value is the signed sum over its entries (eq. 12).
    support: entries outside are zero, for ever.
    """

    phase = Phase.VALUES
    bucket: torch.Tensor
    sign: torch.Tensor
    mask: torch.Tensor | None

    def __init__(
        self, shape: torch.Size | tuple[int, ...], buckets: int, seed: int, support: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.shape, self.buckets, self.seed = torch.Size(shape), buckets, seed
        bucket, sign = places(prod(shape), buckets, seed)
        self.register_buffer("bucket", torch.from_numpy(bucket), persistent=False)
        self.register_buffer("sign", torch.from_numpy(sign), persistent=False)
        self.register_buffer("mask", None if support is None else support.detach().clone())

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = _Spread.apply(latent, self.bucket, self.sign, self.shape)  # type: ignore[no-untyped-call]
        return weight if self.mask is None else torch.where(self.mask, weight, 0)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The signed mean of each bucket's entries [buckets], which is the least-squares choice."""
        held = torch.ones_like(weight) if self.mask is None else self.mask.to(weight.dtype)
        signed = weight.reshape(-1) * self.sign.to(weight) * held.reshape(-1)
        sums, counts = (sum_by_code(values, self.bucket, None, self.buckets) for values in (signed, held))
        return (sums / counts.clamp(min=1)).to(weight.dtype)

    def encode(self, latent: torch.Tensor) -> Code:
        """A table 'values', options buckets and seed, and a stream 'mask' where there is a support."""
        values = latent.detach()
        refuse_nan(values)
        streams = {} if self.mask is None else {"mask": mask_symbols(self.mask)}
        options = {"seed": self.seed}
        return Code(
            "hashed", tuple(self.shape), streams, {"values": to_table(values)}, options, dtype_name(values.dtype)
        )

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        values, seed = table(code, "values"), code.options.get("seed", -1)
        if not values.numel() or not 0 <= seed < 2**31 or values.numel() > max(prod(code.shape), 1):
            raise ArtifactError(f"{values.numel()} hashed values with seed {seed} make no weight")
        bucket, sign = (torch.from_numpy(found) for found in places(prod(code.shape), values.numel(), seed))
        weight = values[bucket] * sign.to(values.dtype)
        if "mask" in code.streams:
            mask = torch.from_numpy(stream(code, "mask").values != 0)
            weight = torch.where(shaped(mask, code.shape).reshape(-1), weight, 0)
        return shaped(weight, code.shape)

    @property
    def support(self) -> torch.Tensor | None:
        return self.mask

    @property
    def distinct(self) -> int:
        return 2 * self.buckets + (self.mask is not None)
