"""A whole network of binary weights and activations, with its norms folded into thresholds on counts of bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.core.code import Code
from tersenet.core.errors import ModelError
from tersenet.forms.form import stream
from tersenet.models.bnn import Sign
from tersenet.runtime.kernels.inputs import as_rows
from tersenet.runtime.kernels.lookup import LookupMatrix, pack_sign_lookup
from tersenet.runtime.kernels.xnor import SignMatrix, pack_bits, pack_signs


@dataclass(frozen=True, eq=False)
class BinaryNetwork:
    """Linear layers of ±1, each with a batch norm and all but the last with signs after it, as in `models.bnn`.

    first: takes the real inputs. first_norm: γ/σ and β − µ·γ/σ, whose sign is taken. hidden: each with the places in
    which a row may differ from its input and still give +1, int32 [rows]. last, norm: give the real outputs.
    """

    first: LookupMatrix
    first_norm: nn.Module
    hidden: tuple[tuple[SignMatrix, np.ndarray], ...]
    last: SignMatrix
    norm: nn.Module

    def __call__(self, x: Any) -> np.ndarray:
        """`x` float32 [batch, …], flattened to [batch, inputs]: outputs float32 [batch, classes].

        From the first layer's signs on all is exact: equal signs give the outputs of the torch model bit for bit. The
        first layer's sums are of real inputs and round in another order than torch's, so a unit whose norm is within
        that rounding of 0 can have the other sign; with inputs whose sums are exact in float32 none can.
        """
        rows = as_rows(np.reshape(x, (len(x), -1)), self.first.columns)
        bits = pack_bits(_normed(self.first_norm, self.first(rows)))
        for matrix, limits in self.hidden:
            bits = matrix.fires(bits, limits)
        return _normed(self.norm, self.last.products(bits).astype(np.float32))

    def module(self) -> nn.Module:
        """The same for tensors."""
        return _Module(self)


class _Module(nn.Module):
    def __init__(self, network: BinaryNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.network(x.numpy()))


def compile_binary(model: nn.Module, codes: Mapping[str, Code] | None = None) -> BinaryNetwork:
    """The network of `model`, whose children are flatten, then linear, batch norm and sign in turn, dropout anywhere.

    codes: weights as a file holds them; by default they are the layers'. Raises ModelError for other children, fewer
    than two linear layers, biases, and weights other than ±1.
    """
    named = {
        name: child
        for name, child in model.named_children()
        if not isinstance(child, nn.Flatten | nn.Dropout | nn.Identity)
    }
    layers = list(named.values())
    linears, norms, signs = dict(list(named.items())[0::3]), layers[1::3], layers[2::3]
    kinds = ((list(linears.values()), nn.Linear), (norms, nn.BatchNorm1d), (signs, Sign))
    if len(layers) < 5 or len(layers) % 3 != 2 or any(not isinstance(m, kind) for held, kind in kinds for m in held):
        raise ModelError("a binary network is linear layers with a batch norm each, and signs between, two at least")
    if any(list(layer.children()) for layer in layers):
        raise ModelError("a layer of a binary network rounds its input, which signs need not")
    weights = [_signs(layer, None if codes is None else codes[f"{name}.weight"]) for name, layer in linears.items()]
    held = [_frozen(norm) for norm in norms]
    hidden = tuple(_folded(weight, norm) for weight, norm in zip(weights[1:-1], held[1:-1], strict=True))
    return BinaryNetwork(pack_sign_lookup(weights[0]), held[0], hidden, pack_signs(weights[-1]), held[-1])


def _signs(layer: Any, code: Code | None) -> np.ndarray:
    if layer.bias is not None:
        raise ModelError("a linear layer of a binary network has a bias; the norm after it is enough")
    if code is not None:
        symbols = stream(code, "sign") if code.form == "binary" and not code.tables else None
        if symbols is None or symbols.zero:
            raise ModelError(f"a weight of form '{code.form}' of other values than ±1 is in no binary network")
        signs: np.ndarray = (2 * symbols.values.reshape(code.shape) - 1).astype(np.float32)
        return signs
    weight: np.ndarray = layer.weight.detach().float().cpu().numpy()
    return weight


def _frozen(norm: Any) -> nn.Module:
    """A copy that normalises by its running statistics, whatever happens to the model."""
    if norm.running_mean is None:
        raise ModelError("a batch norm of a binary network has no running statistics")
    copy = nn.BatchNorm1d(norm.num_features, norm.eps, affine=norm.affine).eval()
    copy.load_state_dict(norm.state_dict())
    return copy.requires_grad_(False)


def _normed(norm: nn.Module, values: np.ndarray) -> np.ndarray:
    found: np.ndarray = norm(torch.from_numpy(values)).numpy()
    return found


def _folded(weight: np.ndarray, norm: Any) -> tuple[SignMatrix, np.ndarray]:
    """Rows whose γ is negative change their signs, so that more agreement never makes a unit fall silent; then the norm
    itself is asked at how many differences that happens, by bisection, which no rounding can make wrong."""
    flip = np.ones(len(weight), np.float32)
    if norm.affine:
        flip[norm.weight.numpy() < 0] = -1
    rows, columns = weight.shape
    least, most = np.full(rows, -1), np.full(rows, columns)  # fires at `least`, if at all, and not above `most`
    while (least < most).any():
        middle = (least + most + 1) // 2
        sums = (flip * (columns - 2 * middle)).astype(np.float32)
        fired = _normed(norm, sums[None])[0] >= 0
        least, most = np.where(fired, middle, least), np.where(fired, most, middle - 1)
    return pack_signs(weight * flip[:, None]), least.astype(np.int32)
