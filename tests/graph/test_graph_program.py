"""A model without its source: what is stored computes what the model computes, and a hostile graph is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersenet
from tersenet.core.errors import ArtifactError, ModelError
from tersenet.graph import ChannelGraph, remove
from tersenet.graph.program import StoredModel, stored


class Branches(nn.Module):
    """Convolutions, a norm, a buffer no state dict holds, a constant, attention, and two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("scale", torch.tensor([0.5, float("inf")]), persistent=False)
        self.tied = self.head

    def forward(self, image: torch.Tensor, offset: torch.Tensor) -> dict[str, Any]:
        hidden = self.norm(self.conv(image)).relu().flatten(2).transpose(1, 2)  # (N, positions, 8)
        query, key, value = self.qkv(hidden).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        logits = self.tied(self.drop(mixed).mean(1)) + offset.unsqueeze(1) * self.scale[0] + torch.tensor(0.25)
        return {"logits": logits, "parts": (mixed, logits.clamp(max=float("inf")))}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = Branches()
    net.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
    return net


def _again(model: nn.Module, program: dict[str, Any]) -> StoredModel:
    state = model.state_dict()
    back = StoredModel(json.loads(json.dumps(program)), {name: torch.empty_like(t) for name, t in state.items()})
    back.load_state_dict(state)
    return back


def test_what_is_stored_computes_the_same_for_any_batch(model: nn.Module) -> None:
    back = _again(model, stored(model, (torch.randn(1, 3, 6, 6), torch.randn(1))))
    model.eval()
    for batch in (1, 2, 5):
        inputs = torch.randn(batch, 3, 6, 6), torch.randn(batch)
        found, expected = back(*inputs), model(*inputs)
        assert set(found) == {"logits", "parts"}
        torch.testing.assert_close(found["logits"], expected["logits"], rtol=0, atol=0)
        torch.testing.assert_close(found["parts"], expected["parts"], rtol=0, atol=0)


def test_the_model_is_left_in_training_mode(model: nn.Module) -> None:
    model.train()
    stored(model, (torch.randn(2, 3, 6, 6), torch.randn(2)))
    assert all(module.training for module in model.modules())


def test_a_pruned_model_of_the_user_loads_without_its_source(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 4))
    fresh, example = copy.deepcopy(net), torch.randn(2, 3, 8, 8)
    graph = ChannelGraph(net, example)
    remove(net, graph, {group.name: range(group.units // 2) for group in graph if group.prunable})
    tersenet.save(net, tmp_path / "net.terse", example=example, small_tensors="float32")
    alone = tersenet.load(tmp_path / "net.terse")
    into = tersenet.load(tmp_path / "net.terse", fresh)
    assert into[0].weight.shape == (4, 3, 3, 3) and into[2].in_channels == 4  # type: ignore[union-attr, index, operator]
    for back in (alone, into):
        torch.testing.assert_close(back(example), net.eval()(example), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["calls"].append(["aten.from_file.default", ["x"], {}]), "must not call"),
        (lambda p: p["calls"].append(["os.system", ["true"], {}]), "must not call"),
        (lambda p: p["calls"].append(["aten.relu.default", [{"r": 999}], {}]), "before it is there"),
        (lambda p: p["calls"].append(["aten.relu.default", [{"r": -1}], {}]), "before it is there"),
        (lambda p: p["state"].append("nothing"), "not stored"),
        (lambda p: p.pop("output"), "cannot be built"),
        (lambda p: p["constants"].append(["float32", [3], "AAAA"]), "cannot be built"),
        (lambda p: p["constants"].append(["nn", [1], "AAAAAA=="]), "no dtype"),
        (lambda p: p["inputs"].append(["float32", [-1]]), "no example has the shape"),
        (lambda p: p["inputs"].append(["float32", [2**20, 2**20]]), "no example has the shape"),
        (lambda p: p["inputs"].append(["nn", [1]]), "no dtype"),
        (lambda p: p.update(inputs=2), "cannot be built"),
    ],
)
def test_a_graph_that_was_not_written_by_us_is_refused(model: nn.Module, change: Any, message: str) -> None:
    program = stored(model, (torch.randn(2, 3, 6, 6), torch.randn(2)))
    change(program)
    with pytest.raises(ArtifactError, match=message):
        _again(model, program)


def test_the_file_knows_what_an_example_looks_like(model: nn.Module) -> None:
    image, offset = _again(model, stored(model, (torch.randn(4, 3, 6, 6), torch.randn(4).double()))).example() or ()
    assert (image.shape, image.dtype) == ((1, 3, 6, 6), torch.float32)
    assert (offset.shape, offset.dtype) == ((1,), torch.float64)
    assert _again(nn.Identity(), stored(nn.Identity(), torch.tensor(1.0))).example() is None


def test_what_cannot_be_exported_is_said() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(ModelError, match=r"torch\.export cannot follow Branching"):
        stored(Branching(), torch.randn(2, 3))


def test_the_wrong_number_of_inputs_is_said(model: nn.Module) -> None:
    back = _again(model, stored(model, (torch.randn(2, 3, 6, 6), torch.randn(2))))
    with pytest.raises(ModelError, match="takes 2 tensors, not 1"):
        back(torch.randn(2, 3, 6, 6))
