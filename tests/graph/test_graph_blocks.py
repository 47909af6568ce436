"""Blocks found by their operators, against what each toy was built to be; removal against the masked model, by hand."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tersenet.core.errors import ArtifactError, ModelError
from tersenet.graph import ChannelGraph
from tersenet.graph.blocks import Block, blocks, remove_blocks
from tersenet.graph.edits import Skip, apply, noted
from tersenet.models import MODELS

WIDTH = 6


class Residual(nn.Module):
    """after(x + branch(x)); `branch` and `after` by name."""

    def __init__(self, branch: str, after: str = "") -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.BatchNorm2d(WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.BatchNorm2d(WIDTH)
        self.end = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        self.scale, self.late = nn.Parameter(torch.randn(WIDTH, 1, 1)), nn.GroupNorm(2, WIDTH)
        self.branch, self.after = branch, after
        for norm in (self.norm, self.two):
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor, *more: Any) -> torch.Tensor:
        y = self.one(torch.relu(self.norm(x)))
        match self.branch:
            case "norm":
                y = self.two(y)
            case "conv":
                y = self.end(y)
            case "scale":
                y = F.dropout(self.end(y) * self.scale, 0.5, self.training)
            case "gate":
                y = self.two(y) * torch.sigmoid(y.mean((2, 3), keepdim=True))
            case "gelu":
                y = F.gelu(self.end(y).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
            case "sigmoid":
                y = torch.sigmoid(y)
            case "position":
                y = self.scale.expand(-1, *x.shape[2:])
        y = x - y if self.branch == "gelu" else y + x
        match self.after:
            case "relu":
                return torch.relu(y)
            case "relu6":
                return F.relu6(y)
            case "norm":
                return self.late(y)
            case "twice":
                return y + self.two(self.one(y))
        return y


class Net(nn.Module):
    """A stem, whose activation bounds what the blocks get, blocks and a head."""

    def __init__(self, *inner: nn.Module, stem: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self.first, self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1), stem
        self.blocks, self.head = nn.ModuleList(inner), nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(5 * self.first(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def net(*inner: nn.Module, **options: Any) -> Net:
    torch.manual_seed(0)
    return Net(*inner, **options)


def example() -> torch.Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def found(model: nn.Module) -> tuple[Block, ...]:
    return blocks(model, ChannelGraph(model, example()))


ENDS = {
    "norm": {"two.weight", "two.bias"},
    "conv": {"end.weight"},
    "scale": {"scale"},
    "gate": {"two.weight", "two.bias"},
    "gelu": {"end.weight"},
}


@pytest.mark.parametrize("branch", ENDS)
def test_the_last_parameters_of_the_branch_make_it_zero(branch: str) -> None:
    model = net(Residual(branch))
    (block,) = found(model)
    assert block.name == "blocks.0" and block.reason is None and block.values == 0
    assert block.ends == {f"blocks.0.{name}" for name in ENDS[branch]}
    assert block.parameters == sum(parameter.numel() for parameter in model.blocks[0].parameters())


def test_both_branches_of_a_block_end() -> None:
    (block,) = found(net(Residual("conv", after="twice")))
    assert block.ends == {"blocks.0.end.weight", "blocks.0.two.weight", "blocks.0.two.bias"}


def test_an_activation_after_the_sum_passes_only_what_it_would_not_change() -> None:
    """relu(x + 0) = x needs x ≥ 0, which is known of the output of a ReLU and of nothing else."""
    stays = "relu at blocks.0 .* changes what goes around the block"
    cases = {("relu", torch.relu): None, ("relu", F.relu6): None, ("relu6", F.relu6): None}
    cases |= {("relu", F.gelu): stays, ("relu6", torch.relu): stays.replace("relu", "relu6")}
    for (after, stem), reason in cases.items():
        (block,) = found(net(Residual("norm", after), stem=stem))
        assert (block.reason is None) == (reason is None), (after, stem)
        if reason:
            assert re.search(reason, str(block.reason))


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (Residual("norm", after="norm"), "group_norm at blocks.0.late .* stands between its input and its output"),
        (Residual("sigmoid"), None),
        (Residual("position"), None),
        (nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), None),
        (nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU()), None),
        (nn.Dropout(0.5), None),
    ],
    ids=["post-norm", "never zero", "position", "conv", "no way around", "no branch"],
)
def test_what_is_no_block_is_refused_with_the_reason_or_not_listed(block: nn.Module, reason: str | None) -> None:
    listed = found(net(block))
    assert len(listed) == (reason is not None)
    if reason:
        assert re.search(reason, str(listed[0].reason))


def test_blocks_called_twice_shared_or_formed_stay() -> None:
    twice = Residual("norm")
    assert {b.reason for b in found(net(twice, twice))} == {"the model calls it 2 times"}
    one, other = Residual("conv"), Residual("conv")
    other.end.weight = one.end.weight
    assert {str(b.reason).split("'")[-1] for b in found(net(one, other))} == {" is used outside of it too"}
    formed = Residual("conv")
    parametrizations.weight_norm(formed.one)
    (block,) = found(net(formed))
    assert "has a form already; blocks are removed before weights are masked or quantized" in str(block.reason)


class Named(nn.Module):
    """Calls its block by keyword, which nothing that stands in for a block can know."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Residual("norm"), nn.Conv2d(WIDTH, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x=x))


class Aliased(Named):
    """Changes the block's output in place and goes on with its input, which are one tensor without the block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x)
        y = self.block(x)
        y += 1
        return self.head(x * y)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Named, "the model's own code does not run without it: .*missing 1 required positional argument"),
        (Aliased, "without it the model's output would differ by .* from that with its branches at zero"),
    ],
)
def test_what_only_running_tells_is_refused_and_the_model_stays(kind: type[Named], reason: str) -> None:
    torch.manual_seed(0)
    model, x = kind(), torch.randn(2, WIDTH, 5, 5)
    state, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    graph = ChannelGraph(model, x)
    (block,) = blocks(model, graph)
    assert re.search(reason, str(block.reason))
    assert remove_blocks(model, graph, ["block"]).refused.keys() == {"block"}
    assert dict(model.named_modules()) == modules and noted(model) == {} and model.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


class Tuple(Residual):
    def forward(self, x: torch.Tensor, *more: Any) -> Any:
        return super().forward(x), None


class Unpacking(Named):
    def __init__(self) -> None:
        super().__init__()
        self.block = Tuple("norm")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, nothing = self.block(x, torch.ones(1), None)
        assert nothing is None
        return self.head(y)


def test_blocks_that_take_more_and_give_tuples_go() -> None:
    torch.manual_seed(0)
    model, x = Unpacking(), torch.randn(2, WIDTH, 5, 5)
    done = remove_blocks(model, ChannelGraph(model, x), ["block"])
    assert done.removed == ("block",) and noted(model) == {"block": 2}
    assert torch.equal(model(x), model.head(x))


def test_of_nested_blocks_the_unit_is_found() -> None:
    """Stages are taken apart; a block with residual modules in its branch, or with its sum in a module, is not."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expand, self.end = nn.Conv2d(WIDTH, 9, 1), nn.Conv2d(9, WIDTH, 1)
            self.inner = nn.Sequential(Residual("scale"), Residual("norm"))
            self.mix = nn.Conv2d(9, WIDTH, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.end(torch.cat([self.inner(self.mix(self.expand(x))), x[:, :3]], 1))

    class Shell(nn.Module):
        """The sum is in a module of its own, which has most of the parameters."""

        def __init__(self) -> None:
            super().__init__()
            self.small, self.add = nn.Conv2d(WIDTH, WIDTH, 1, groups=WIDTH), Add()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.add(x, self.small(x))

    class Add(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.end = nn.Conv2d(WIDTH, WIDTH, 1)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.end(y) + x

    stage = nn.Sequential(Residual("norm"), Residual("conv"))
    names = [b.name for b in found(net(stage, nn.Sequential(Residual("norm")), Outer(), Shell()))]
    assert names == ["blocks.0.0", "blocks.0.1", "blocks.1.0", "blocks.2", "blocks.3"]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_choice_gives_what_the_masked_model_gives(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=4))
    after = data.draw(st.sampled_from(["", "relu"]))
    model = net(*(Residual(kind, after) for kind in kinds)).eval()
    names = [f"blocks.{i}" for i in range(len(kinds))]
    if after:  # x − y with y ≥ 0 would be bounded, but that is not known; all pass a ReLU
        assert all(block.reason is None for block in found(model))
    gone = data.draw(st.lists(st.sampled_from(names), unique=True))
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name in gone:
            for end in ENDS[kinds[int(name[-1])]]:
                masked.get_parameter(f"{name}.{end}").zero_()
    x = example()
    done = remove_blocks(model, ChannelGraph(model, x), gone, inputs=torch.randn(2, 3, 8, 8))
    assert done.removed == tuple(gone) and not done.refused
    torch.testing.assert_close(model(x), masked(x), atol=1e-5, rtol=1e-4)
    assert {name for name, module in model.named_modules() if isinstance(module, Skip)} == set(gone)


def test_nothing_else_changes() -> None:
    model = net(Residual("norm"), Residual("conv"), Residual("scale"))
    model.blocks[1:].eval()
    model.head.weight.requires_grad_(False)
    seen: list[int] = []
    model.head.register_forward_hook(lambda *_: seen.append(1))
    modes = {name: module.training for name, module in model.named_modules() if not name.startswith("blocks.1.")}
    kept = {n: (p, p.detach().clone()) for n, p in model.named_parameters() if not n.startswith("blocks.1.")}
    remove_blocks(model, ChannelGraph(model, example()), ["blocks.1"])
    assert {name: module.training for name, module in model.named_modules()} == modes
    after = dict(model.named_parameters())
    assert after.keys() == kept.keys()
    assert all(after[name] is p and torch.equal(p, value) for name, (p, value) in kept.items())
    assert not model.head.weight.requires_grad and model.head._forward_hooks and not model.blocks[0]._forward_hooks
    seen.clear()
    model(example()).sum().backward()
    assert len(seen) == 1 and model.first.weight.grad is not None


def test_names_that_do_not_fit_are_errors() -> None:
    model = net(Residual("norm"), Residual("norm", after="norm"))
    graph = ChannelGraph(model, example())
    with pytest.raises(ModelError, match=r"there is no block 'block\.0'; did you mean 'blocks\.0'"):
        remove_blocks(model, graph, ["block.0"])
    with pytest.raises(ModelError, match=r"'blocks\.1' cannot go: group_norm at"):
        remove_blocks(model, graph, ["blocks.1"])


@pytest.mark.parametrize(("name", "count", "half"), [("resnet20", 7, 4), ("resnet56", 25, 12), ("vit_cifar", 6, 3)])
def test_of_the_zoo(name: str, count: int, half: int) -> None:
    """ResNet-56: 27 blocks, of which the two that downsample change the shape; half of the others go."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = torch.randn(2, 3, 32, 32)
    graph = ChannelGraph(model, x)
    listed = blocks(model, graph)
    assert len(listed) == count and all(block.reason is None for block in listed)
    gone = [block.name for block in listed[::2]][:half]
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in (masked.get_parameter(f"{block}.{end}") for block in gone for end in _ends(name)):
            parameter.zero_()
    done = remove_blocks(model, graph, gone)
    assert done.removed == tuple(gone) and done.change > 0.1
    torch.testing.assert_close(model(x), masked(x))
    assert not any(parameter.startswith(f"{gone[0]}.") for parameter in model.state_dict())
    assert all(group.name.split(".conv")[0] not in gone for group in ChannelGraph(model, x))


def _ends(name: str) -> list[str]:
    if name.startswith("vit"):
        return ["attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"]
    return ["bn2.weight", "bn2.bias"]


def test_edits_go_into_a_fresh_model_once_and_hostile_ones_are_refused() -> None:
    inner = lambda: (nn.Sequential(Residual("norm"), Residual("conv")), Residual("conv"))  # noqa: E731
    model = net(*inner())
    remove_blocks(model, ChannelGraph(model, example()), ["blocks.0.1"])
    remove_blocks(model, ChannelGraph(model, example()), ["blocks.1"])
    assert noted(copy.deepcopy(model)) == {"blocks.0.1": 0, "blocks.1": 0}
    fresh = net(*inner())
    apply(fresh, noted(model), {})
    assert fresh.state_dict().keys() == model.state_dict().keys() and noted(fresh) == noted(model)
    for path in ("", "blocks.7", "blocks.0.0.forward", "head.weight", "__class__"):
        with pytest.raises(ModelError, match="which this model does not have: it is another"):
            apply(net(*inner()), {path: 0}, {})
    with pytest.raises(ModelError, match=r"takes out 'blocks\.0\.1', which this model does not have"):
        apply(net(*inner()), {"blocks.0.1": 0, "blocks.0": 0}, {})
    with pytest.raises(ModelError, match=r"sets 'blocks\.0\.1\.one\.out_channels'"):
        apply(net(*inner()), {"blocks.0.1": 0, "blocks.0.1.one": {"out_channels": 3}}, {})


def test_a_whole_stage_goes_by_its_name_with_all_in_it() -> None:
    model = net(nn.Sequential(Residual("norm"), Residual("conv")), Residual("conv"))
    names = ["blocks.0.1", "blocks.1", "blocks.0"]
    assert remove_blocks(model, ChannelGraph(model, example()), names).removed == ("blocks.1", "blocks.0")
    x = example()
    assert torch.equal(model(x), model.head(torch.relu(5 * model.first(x)).mean((2, 3))))


def test_a_module_registered_twice_goes_from_both_places() -> None:
    model = net(Residual("norm"), Residual("conv"))
    model.same = model.blocks[1]  # type: ignore[assignment]
    remove_blocks(model, ChannelGraph(model, example()), [found(model)[1].name])
    assert isinstance(model.same, Skip) and model.same is model.blocks[1]
    fresh = net(Residual("norm"), Residual("conv"))
    fresh.same = fresh.blocks[1]  # type: ignore[assignment]
    apply(fresh, noted(model), {})
    assert fresh.state_dict().keys() == model.state_dict().keys()


def test_the_file_holds_numbers_of_values_within_bounds() -> None:
    from tersenet.artifact.text import parse_text

    text = b'[[],[],{},null,{},{},"",{"blocks.1":%d}]'
    assert parse_text(text % 16).edits == {"blocks.1": 16}
    for wrong in (-1, 17, 2**70):
        with pytest.raises(ArtifactError, match="malformed"):
            parse_text(text % wrong)
