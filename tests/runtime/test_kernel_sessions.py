"""Whole networks on kernels: torch's outputs, without a dense weight of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tersenet
from tersenet.core.errors import ModelError
from tersenet.core.recipe import ModelSpec
from tersenet.forms import NM, Binary, Masked, Product, Shared, Ternary, Uniform, attach, decode, match, weight_of
from tersenet.forms.inputs import InputGrid
from tersenet.graph.edits import change
from tersenet.models import build
from tersenet.runtime.kernels.lowered import LoweredConv2d
from tersenet.runtime.layers import kernels_of

SHAPE = {"lenet_300_100": (1, 28, 28), "lenet5": (1, 28, 28), "bnn": (1, 28, 28)}


def made(name: str, **options: Any) -> nn.Module:
    model = build(ModelSpec.parse({"name": name, "kwargs": options}), 0).eval()
    noise = torch.Generator().manual_seed(0)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.running_mean.normal_(generator=noise)
        norm.weight.data.normal_(generator=noise)
    return model


def few(weight: torch.Tensor, values: int) -> torch.Tensor:
    return torch.bucketize(weight, torch.linspace(float(weight.min()), float(weight.max()), values - 1))


def sparse(weight: torch.Tensor) -> torch.Tensor:
    return weight.abs() >= weight.abs().flatten().kthvalue(int(0.9 * weight.numel())).values


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    groups = weight.abs().reshape(-1, 4)
    return torch.zeros_like(groups).scatter_(1, groups.topk(2).indices, 1).bool().reshape(weight.shape)


FORMS = {
    "shared": lambda w: Shared(few(w, 16), 16, zero=False),
    "sparse shared": lambda w: Shared((few(w, 16) + 1) * sparse(w), 16, zero=True),
    "uniform": lambda w: Uniform(torch.tensor([0.02]), torch.tensor([-8]), 16),
    "ternary": lambda w: Ternary(w.shape),
    "binary": lambda w: Binary(w.shape, scaled=True, axis=0),
    "2:4": lambda w: NM(two_of_four(w), 2, 4),
    "product": lambda w: Product(torch.randint(0, 8, (w.shape[1] // 4, w.shape[0])), 8, w.shape, "inputs"),
}


def saved(model: nn.Module, name: str, path: Path, **options: Any) -> nn.Module:
    """Into a file that names its model; the model as it is read back."""
    from tersenet import artifact
    from tersenet.core.recipe import Recipe
    from tersenet.flow.pack import contents_of

    recipe = Recipe.parse({"model": {"name": name, "kwargs": options}, "code": {"small_tensors": "float32"}})
    path.write_bytes(artifact.to_bytes(contents_of(model, recipe, None))[0])
    return tersenet.load(path)


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every weight of two axes and more that is decoded, by its form."""
    from tersenet.forms import codes, form

    decoded = []

    def watched(code: Any) -> torch.Tensor:
        if len(code.shape) > 1:
            decoded.append(code.form)
        return decode(code)

    for module in (codes, form):
        monkeypatch.setattr(module, "decode", watched)
    return decoded


@pytest.mark.parametrize("name", FORMS)
def test_linear_layers_give_what_torch_gives(name: str, tmp_path: Path, no_decoding: list[str]) -> None:
    model = made("lenet_300_100")
    torch.manual_seed(0)
    for target in match(model):
        attach(target, FORMS[name](weight_of(target)))
    change(model, "fc2.input_grid", "input_grid", {"low": 0, "levels": 256})
    assert isinstance(model.fc2.input_grid, InputGrid)
    model.fc2.input_grid.step.data.fill_(0.02)
    back = saved(model, "lenet_300_100", tmp_path / "m.terse")
    no_decoding.clear()
    session = tersenet.load(tmp_path / "m.terse", runtime="kernels")
    assert no_decoding == [] and session.notes == () and session.runtime == "kernels"
    for batch in (1, 5):
        x = torch.randn(batch, 1, 28, 28)
        with torch.no_grad():
            torch.testing.assert_close(session(x), back(x), rtol=1e-3, atol=3e-3)
        assert isinstance(session(x.numpy()), np.ndarray)


def test_convolutions_without_filters_are_smaller_products(tmp_path: Path, no_decoding: list[str]) -> None:
    model = made("lenet5")
    for name in ("conv1", "conv2"):
        (target,) = match(model, [name])
        mask = torch.ones(target.shape, dtype=torch.bool)
        if name == "conv2":
            mask[::2], mask[:, 3], mask[1, 2, 0, 0] = False, False, False
        attach(target, Masked(mask))
    back = saved(model, "lenet5", tmp_path / "m.terse")
    no_decoding.clear()
    session = tersenet.load(tmp_path / "m.terse", runtime="kernels")
    assert len(no_decoding) == 3  # conv1, fc1, fc2
    assert len(session.notes) == 3 and "conv1 computes in torch: no filter and no column" in session.notes[0]
    x = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(session(x), back(x), rtol=1e-3, atol=1e-4)
    found, _ = kernels_of(made("lenet5"), {"conv2.weight": Masked(mask).encode(model.conv2.weight)}, {})
    assert isinstance(found["conv2"], LoweredConv2d) and found["conv2"].matrix.shape == (25, 19 * 25)


def test_a_binary_network_counts_bits_throughout(tmp_path: Path, no_decoding: list[str]) -> None:
    options = {"hidden": [70, 130]}
    model = made("bnn", **options)
    for target in match(model):
        attach(target, Binary(target.shape))
    back = saved(model, "bnn", tmp_path / "m.terse", **options)
    no_decoding.clear()
    session = tersenet.load(tmp_path / "m.terse", runtime="kernels")
    x = torch.randint(0, 256, (4, 1, 28, 28)) / 256  # sums are exact in float32
    with torch.no_grad():
        assert torch.equal(session(x), back(x)) and no_decoding == [] and session.notes == ()


def test_networks_without_kernels_are_refused(tmp_path: Path) -> None:
    model = made("lenet_300_100")
    saved(model, "lenet_300_100", tmp_path / "dense.terse")
    with pytest.raises(ModelError, match=r"with any of its layers \(fc1 computes in torch: no kernel"):
        tersenet.load(tmp_path / "dense.terse", runtime="kernels")
    own = nn.Sequential(nn.Linear(6, 4))
    tersenet.save(own, tmp_path / "own.terse", example=torch.randn(2, 6))
    with pytest.raises(ModelError, match="holds operators and not layers"):
        tersenet.load(tmp_path / "own.terse", runtime="kernels")
    shared, _ = kernels_of(own, {"0.weight": Ternary((4, 6)).encode(own[0].weight)}, {"other": "0.weight"})
    assert shared == {}
