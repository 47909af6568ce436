"""Dependent: each entry is a whole number of steps, out of one of two sets, which the entries above it decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.core.stage import Phase
from tersenet.forms.codebook import Precision, rounded, to_tables
from tersenet.forms.form import Form, refuse_nan, register_form, stream
from tersenet.forms.tables import dtype_name, from_table, shaped

STATES = (4, 8)


class _Nearest(torch.autograd.Function):
    """The nearest weight that the form can hold; the gradient goes straight through within the range."""

    @staticmethod
    def forward(ctx: Any, latent: torch.Tensor, form: Dependent) -> torch.Tensor:
        _, numbers = form.indices(latent)
        ctx.inside = (latent / form.steps()).abs() <= 2 * form.most
        if form.mask is not None:
            ctx.inside &= form.mask
        return torch.where(latent.isnan(), latent, _values(numbers, form.steps(), latent.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.where(ctx.inside, gradients[0], 0), None


@register_form("dependent")
class Dependent(Form):
    """Trellis-coded quantization (Marcellin & Fischer 1990; as "dependent" quantization in VVC and, for neural
    networks, Haase et al. 2020, "Dependent Scalar Quantization for Neural Network Compression").

    An entry is n steps, n = 2k − sgn(k) · (state mod 2), where k is its index, |k| ≤ most, and the state that of a
    machine which the parities of the indices drive, from state 0 down each column of the weight seen as a matrix of
    dimension 0 by all others. So either set of numbers is twice as coarse as both together, and an index costs a bit
    less than it would on the grid of both.

    The latent is the weight in full, and the forward the weight nearest to it that can be held, with straight-through
    gradients. step: [1], positive. support: entries outside are zero, for ever. precision: of the step.
    """

    phase = Phase.VALUES
    step: torch.Tensor
    mask: torch.Tensor | None

    def __init__(
        self,
        step: torch.Tensor,
        most: int,
        states: int,
        *,
        support: torch.Tensor | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        if states not in STATES or most < 1:
            raise ValueError(f"{states} states and indices up to {most}: there must be 4 or 8 states, and indices")
        self.most, self.states, self.precision = most, states, precision
        self.register_buffer("step", step.detach().to(torch.promote_types(step.dtype, torch.float32)).clone())
        self.register_buffer("mask", None if support is None else support.detach().to(torch.bool).clone())

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = _Nearest.apply(latent, self)  # type: ignore[no-untyped-call]
        return weight

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def steps(self) -> torch.Tensor:
        """[1], as it will be stored."""
        return rounded(self.step, self.precision)

    def indices(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """k and n of the nearest weight, int32, shape of the latent."""
        from tersenet.forms.kernels.trellis import TABLES, decide_all, free

        targets = _matrix((latent.detach() / self.steps()).double().cpu()).numpy()
        mask = torch.ones_like(latent, dtype=torch.bool) if self.mask is None else self.mask
        found = np.zeros((2, *targets.shape), np.int32)
        allowed = _matrix(mask.cpu()).numpy()
        far = np.clip(targets, -3 * self.most, 3 * self.most)  # infinite ones too
        decide_all(far, allowed, free(len(targets), self.most), TABLES[self.states], *found)
        indices, numbers = (torch.from_numpy(one).reshape(latent.shape).to(latent.device) for one in found)
        return indices, numbers

    def encode(self, latent: torch.Tensor) -> Code:
        """Stream 'index': 0 for k = 0, then the negative k from −most on, then the positive ones; the step as table."""
        refuse_nan(latent)
        k, _ = self.indices(latent)
        symbols = torch.where(k == 0, 0, k + self.most + (k < 0)).reshape(-1).cpu().numpy().astype(np.int32)
        streams = {"index": Symbols(symbols, 2 * self.most + 1, zero=True)}
        tables = to_tables(self.steps(), self.precision)
        return Code(
            "dependent", tuple(latent.shape), streams, tables, {"states": self.states}, dtype_name(latent.dtype)
        )

    @classmethod
    def decode(cls, code: Code) -> torch.Tensor:
        from tersenet.forms.kernels.trellis import TABLES, numbers_of

        symbols, states, found = stream(code, "index"), code.options.get("states"), code.tables.get("codebook")
        if states not in STATES or symbols.alphabet % 2 == 0:
            raise ArtifactError(f"a weight of form 'dependent' has {states} states and {symbols.alphabet} indices")
        if found is None or found.dtype not in (np.float16, np.float32, np.float64) or found.size != 1:
            raise ArtifactError("a weight of form 'dependent' needs one step, as a float")
        most = symbols.alphabet // 2
        values = symbols.values.astype(np.int64)
        indices = np.where(values == 0, 0, values - most - (values <= most))
        flat = shaped(torch.from_numpy(indices), code.shape)
        numbers = torch.from_numpy(numbers_of(_matrix(flat).numpy(), TABLES[states])).reshape(code.shape)
        step = from_table(found, "float64" if found.dtype == np.float64 else "float32")
        return _values(numbers, step, from_table(np.zeros(0, np.float32), code.dtype).dtype)

    @property
    def support(self) -> torch.Tensor | None:
        return self.mask

    @property
    def distinct(self) -> int:
        return 4 * self.most + 1


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Dimension 0 by all others; contiguous."""
    rows = tensor.shape[0] if tensor.ndim else 1
    return tensor.reshape(rows, tensor.numel() // max(rows, 1)).contiguous()


def _values(numbers: torch.Tensor, step: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """n · step, computed in the wider of the step's type and `dtype`."""
    wide = torch.promote_types(step.dtype, dtype)
    return (numbers.to(wide) * step.to(wide)).to(dtype)
