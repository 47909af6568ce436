"""Product: pieces of the weight are vectors of a few codebooks, which trains with the codebooks as latent."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.core.stage import Phase
from tersenet.forms.codebook import Precision, from_tables, rounded, to_tables
from tersenet.forms.form import Form, refuse_nan, register_form, stream
from tersenet.forms.masked import mask_symbols
from tersenet.forms.tables import dtype_name, shaped

Layout = Literal["outputs", "inputs", "kernels"]
LAYOUTS: tuple[Layout, ...] = ("outputs", "inputs", "kernels")


def pieces(weight: torch.Tensor, layout: Layout, groups: int) -> torch.Tensor:
    """The weight as [groups, vectors, d], a view where it can be.

    With the weight as a matrix [rows, columns], dimension 0 by all others:
    outputs: each column in `groups` parts of d = rows / groups entries. inputs: each row in `groups` parts of
    d = columns / groups. kernels: each row in parts of as many entries as a kernel has places, in one group.
    """
    rows = weight.shape[0]
    matrix = weight.reshape(rows, -1)
    if layout == "outputs":
        return matrix.reshape(groups, rows // groups, -1).transpose(1, 2)
    if layout == "inputs":
        return matrix.reshape(rows, groups, -1).transpose(0, 1)
    return weight.reshape(1, -1, prod(weight.shape[2:]))


def joined(vectors: torch.Tensor, layout: Layout, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """The way back from `pieces`."""
    if layout == "outputs":
        return vectors.transpose(1, 2).reshape(shape)
    if layout == "inputs":
        return vectors.transpose(0, 1).reshape(shape)
    return vectors.reshape(shape)


@register_form("product")
class Product(Form):
    """A weight whose pieces are taken from codebooks (Jégou et al. 2011, "Product Quantization for Nearest Neighbor
    Search"; Gong et al. 2014, arXiv 1412.6115, §3.3; on kernels Stock et al. 2020, "And the Bit Goes Down", arXiv
    1907.05686). The latent is the codebooks [groups, k, d]; a centroid's gradient is the sum of its members'.

    index: integers in [0, k), [groups, vectors]. shape: of the weight. layout: how it is cut, see `pieces`.
    support: entries outside are zero, for ever. precision: the forward uses centroids rounded to it, gradients straight
        through, and so they are stored.
    """

    phase = Phase.VALUES
    index: torch.Tensor
    mask: torch.Tensor | None

    def __init__(
        self,
        index: torch.Tensor,
        k: int,
        shape: torch.Size | tuple[int, ...],
        layout: Layout,
        *,
        support: torch.Tensor | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < k:
            raise ValueError(f"codes must lie in [0, {k})")
        self.k, self.shape, self.layout, self.precision = k, torch.Size(shape), layout, precision
        self.register_buffer("index", index.detach().to(torch.int32).clone())
        self.register_buffer("mask", None if support is None else support.detach().clone())

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        values = rounded(latent, self.precision)
        groups, k, d = values.shape
        places = self.index + k * torch.arange(groups, device=self.index.device, dtype=torch.int32)[:, None]
        vectors = torch.nn.functional.embedding(places, values.reshape(groups * k, d))  # [groups, vectors, d]
        weight = joined(vectors, self.layout, self.shape).contiguous()  # layers round alike on the weight read back
        return weight if self.mask is None else torch.where(self.mask, weight, 0)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The mean of each centroid's members [groups, k, d], entries outside the support left out."""
        held = torch.ones_like(weight) if self.mask is None else self.mask.to(weight.dtype)
        sums, counts = (self._sums(values) for values in (weight * held, held))
        return (sums / counts.clamp(min=1)).to(weight.dtype)

    def _sums(self, weight: torch.Tensor) -> torch.Tensor:
        """Sums over the members of each centroid: float64 [groups, k, d]."""
        vectors = pieces(weight.detach().double(), self.layout, len(self.index))
        found = vectors.new_zeros(len(vectors), self.k, vectors.shape[2])
        for group, (own, codes) in enumerate(zip(vectors, self.index.long(), strict=True)):
            found[group].index_put_((codes,), own, accumulate=True)
        return found

    def encode(self, latent: torch.Tensor) -> Code:
        """Streams 'index', group after group, and 'mask' where there is a support; the tables of the codebook."""
        refuse_nan(latent.detach())
        index = self.index.reshape(-1).cpu().numpy()
        streams = {"index": Symbols(index, max(self.k, 1))}
        if self.mask is not None:
            streams["mask"] = mask_symbols(self.mask)
        options = {"groups": len(self.index), "k": self.k, "layout": LAYOUTS.index(self.layout)}
        return Code(
            "product", tuple(self.shape), streams, to_tables(latent, self.precision), options, dtype_name(latent.dtype)
        )

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        symbols, values = stream(code, "index").values, from_tables(code)
        groups, k, layout = (code.options.get(name, -1) for name in ("groups", "k", "layout"))
        entries = prod(code.shape)
        size = values.numel() // (groups * k) if groups > 0 and k > 0 else 0
        fits = 0 <= layout < len(LAYOUTS) and size > 0 and values.numel() == groups * k * size
        if not fits or symbols.size * size != entries or symbols.size % groups or not _cuts(code.shape, layout, groups):
            raise ArtifactError(f"its codebooks of {values.numel()} entries do not make a weight of {entries}")
        if symbols.size and int(symbols.max()) >= k:
            raise ArtifactError(f"code {int(symbols.max())} lies outside its codebook of {k}")
        index = torch.from_numpy(symbols).long().reshape(groups, -1)
        books = values.reshape(groups, k, size)
        vectors = torch.stack([book[own] for book, own in zip(books, index, strict=True)])
        weight = joined(vectors, LAYOUTS[layout], code.shape)
        if "mask" in code.streams:
            mask = torch.from_numpy(stream(code, "mask").values != 0)
            weight = torch.where(shaped(mask, code.shape), weight, 0)
        return shaped(weight.reshape(-1), code.shape)

    @property
    def support(self) -> torch.Tensor | None:
        return self.mask

    @property
    def distinct(self) -> int:
        size = prod(self.shape) // max(self.index.numel(), 1)
        return len(self.index) * self.k * size + (self.mask is not None)


def _cuts(shape: tuple[int, ...], layout: int, groups: int) -> bool:
    """Whether a weight of this shape can be cut so."""
    if len(shape) < 2 or 0 in shape:
        return False
    if LAYOUTS[layout] == "kernels":
        return len(shape) > 2 and groups == 1
    return (shape[0] if LAYOUTS[layout] == "outputs" else prod(shape[1:])) % groups == 0
