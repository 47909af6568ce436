"""Residual sums on grids: which values are rounded where, and that nothing else is added up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersenet
from tersenet.core.change import Change
from tersenet.core.errors import ModelError
from tersenet.core.stage import parse_stage
from tersenet.forms.addends import BLOCK, OUTPUT
from tersenet.graph.edits import apply, noted
from tersenet.quantize.activations import ActivationQuantization
from tersenet.quantize.int8 import Int8
from tersenet.quantize.sums import points


class Block(nn.Module):
    """Sums written `y + x`, in place with one ReLU for all, or with a padded shortcut."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.relu = kind, nn.ReLU(inplace=True)
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "in place":
            out = self.norm(self.b(self.relu(self.a(x))))
            out += x
            return self.relu(out)
        y = self.norm(self.b(F.relu(self.a(x))))
        return F.relu(y + (x if self.kind == "plain" else F.pad(x[:, :3], (0, 0, 0, 0, 0, 1))))


class Net(nn.Module):
    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(Block(kind), Block(kind))
        self.side, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.head((F.relu(self.side(x)) * x).mean((2, 3)))


def net(kind: str = "plain") -> Net:
    torch.manual_seed(0)
    return Net(kind).eval()


def layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@pytest.fixture
def context(toy_context):
    torch.manual_seed(1)
    return toy_context((torch.randn(16, 3, 8, 8),), torch.randn(16, 3))


@pytest.mark.parametrize("kind", ["plain", "in place", "padded"])
def test_each_addend_is_rounded_where_it_is_made(kind: str) -> None:
    model = net(kind)
    found = points(model, layers(model), (torch.randn(2, 3, 8, 8),))
    first = ("blocks.0", OUTPUT)  # what the second block is given is what the first one hands on
    expected = {("blocks.0", BLOCK), ("blocks.0.norm", OUTPUT), first, ("blocks.1.norm", OUTPUT)}
    assert set(found.rounds.values()) == expected and found.lost == 0
    assert found.rounds[found.reads["blocks.0.a"]] == ("blocks.0", BLOCK)
    assert found.rounds[found.reads["blocks.1.a"]] == first
    assert found.reads["side"] not in found.rounds  # no sum


def test_sums_of_sequences_and_of_nobody_are_left() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.one(x)
            y = (y + x)[:, None, None]
            return self.two(y) + y.sigmoid()

    model = Sums().eval()
    found = points(model, layers(model), (torch.randn(2, 4),))
    assert not found.rounds and found.lost == 1


@pytest.mark.parametrize("pool", ["mean", "module", "part"])
def test_what_is_averaged_is_rounded_where_it_is_made(pool: str) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.conv(x))
            means = {"module": self.pool, "mean": lambda x: x.mean((2, 3)), "part": lambda x: x[:, :, 0].mean(2)}
            x = means[pool](x).flatten(1)
            return self.head(x * x.mean(1, keepdim=True))  # a mean of no image

    model = Pooled().eval()
    found = points(model, layers(model), (torch.randn(2, 3, 8, 8),))
    assert set(found.rounds.values()) == (set() if pool == "part" else {("relu", OUTPUT)}) and found.lost == 0


@pytest.mark.parametrize("kind", ["plain", "in place", "padded"])
def test_what_is_added_up_is_whole_numbers_of_steps(kind: str, context) -> None:
    model = parse_stage({"method": Int8.method, "ranges": ["minmax"]}).apply(net(kind), context)
    block = model.blocks[1]
    seen = []
    grids = model.blocks[0].output_grid, block.norm.output_grid
    block.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0].clone(), grids[0])))
    block.norm.register_forward_hook(lambda module, inputs, output: seen.append((output.clone(), grids[1])))
    model(*context.inputs)
    assert len(seen) == 2
    for value, grid in seen:
        numbers = value.detach() / grid.step
        torch.testing.assert_close(numbers, numbers.round(), atol=1e-3, rtol=0)
        assert numbers.round().unique().numel() > 20 and grid.levels == 256
    shared = block.a.input_grid
    assert float(shared.step) == float(model.blocks[0].output_grid.step) and shared.low == 0


def test_layers_that_read_one_value_share_its_grid(context) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.stem(x))
            return torch.cat([self.one(x), self.two(x)], 1).mean((2, 3))

    model = parse_stage({"method": ActivationQuantization.method, "range": "percentile"}).apply(Branches(), context)
    assert float(model.one.input_grid.step) == float(model.two.input_grid.step)
    assert float(model.one.input_grid.step) != float(model.stem.input_grid.step)


def test_a_file_rounds_them_too(context, tmp_path: Path) -> None:
    model = parse_stage({"method": Int8.method, "ranges": ["minmax"]}).apply(net("in place"), context)
    assert {path for path in noted(model) if not path.endswith("input_grid")} == {
        *("blocks.0.block_grid", "blocks.0.norm.output_grid", "blocks.0.output_grid", "blocks.1.norm.output_grid")
    }
    (x,) = context.inputs
    tersenet.save(model, tmp_path / "m.terse", example=x)
    own = tersenet.load(tmp_path / "m.terse", model=net("in place"))
    assert len(own.blocks[0]._forward_hooks) == 1
    torch.testing.assert_close(tersenet.load(tmp_path / "m.terse")(x), own(x))
    torch.testing.assert_close(own(x), model(x), atol=2e-2, rtol=0)  # steps are float16 there


@pytest.mark.parametrize("path", ["blocks.output_grid", "output_grid", "blocks.9.output_grid", "blocks.0.block_grid"])
def test_files_that_lie_about_values_are_refused(path: str) -> None:
    with pytest.raises(ModelError, match="it is another"):
        apply(net(), {path: Change("output_grid", {"low": 0, "levels": 256})}, {})
    with pytest.raises(ModelError):
        apply(net(), {"blocks.0.output_grid": Change("output_grid", {"low": 3, "levels": 2})}, {})
