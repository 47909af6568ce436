"""factorize.depthwise: kernels against the SVD of each input channel, 1×1 against least squares on the data itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersenet.core.errors import RecipeError
from tersenet.core.stage import parse_stage
from tersenet.factorize.conv import RIDGE, compose, depthwise
from tersenet.factorize.svd import square_root
from tersenet.flow.load import load
from tersenet.flow.pack import save
from tersenet.flow.prepare import register_methods
from tersenet.forms import check_order
from tersenet.measure.macs import count_macs

register_methods()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, groups=2, stride=2)
        self.point, self.fc = nn.Conv2d(24, 8, 1), nn.Linear(72, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.fc(self.point(x).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture
def context(toy_context: Any) -> Any:
    torch.manual_seed(0)
    return toy_context((torch.randn(60, 3, 8, 8),), torch.randn(60, 4))


def factorise(model: nn.Module, context: Any, **options: Any) -> Any:
    stage = parse_stage({"method": "factorize.depthwise", **options})
    check_order([stage], model)
    return stage.apply(model, context)


def net() -> Net:
    torch.manual_seed(1)
    return Net().eval()


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_each_input_channel_keeps_its_largest_singular_values(rank: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    near = compose("depthwise", depthwise(weight, rank), (rank,))
    tails = [torch.linalg.svdvals(weight[:, c].flatten(1))[rank:].square().sum() for c in range(5)]
    torch.testing.assert_close((near - weight).square().sum(), torch.stack(tails).sum())
    for c in range(5):
        assert torch.linalg.matrix_rank(near[:, c].flatten(1), rtol=1e-9) == rank


@pytest.mark.parametrize("rank", [1, 3])
def test_on_data_one_by_one_is_least_squares_on_what_the_kernels_give(rank: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 4, 6, 6, dtype=torch.float64).cumsum(2).cumsum(3)  # neighbours agree, as in images
    weight = torch.randn(7, 4, 3, 3, dtype=torch.float64)
    rows = F.unfold(x, 3).transpose(1, 2).reshape(-1, 36)
    kernels, mixing = depthwise(weight, rank, square_root(rows.T @ rows))
    given = F.conv2d(x, kernels, groups=4).permute(0, 2, 3, 1).reshape(-1, 4 * rank)
    wanted = F.conv2d(x, weight).permute(0, 2, 3, 1).reshape(-1, 7)
    ridge = (RIDGE * rows.square().sum(0).mean()).sqrt()  # as that many rows more, one for each entry of the window
    blocks = torch.block_diag(*kernels.reshape(4, rank, 9)).T  # type: ignore[no-untyped-call]
    more = torch.cat([given, ridge * blocks]), torch.cat([wanted, ridge * weight.flatten(1).T])
    torch.testing.assert_close(mixing.flatten(1).T, torch.linalg.lstsq(*more).solution, rtol=1e-6, atol=1e-8)

    def left(pair: list[torch.Tensor]) -> float:
        return float((F.conv2d(F.conv2d(x, pair[0], groups=4), pair[1]) - F.conv2d(x, weight)).square().sum())

    assert left([kernels, mixing]) < 0.7 * left(depthwise(weight, rank))


def test_by_default_one_kernel_for_each_channel_and_the_saving_of_the_paper(context: Any) -> None:
    model, example = net(), context.inputs[0][:1]
    dense = count_macs(model, example).total
    factorise(model, context)
    kernel, point = model.first
    assert (kernel.weight.shape, kernel.groups, point.weight.shape) == ((3, 1, 3, 3), 3, (16, 3, 1, 1))
    places = 64
    saved = 3 * 16 * 9 * places * (1 - (1 / 16 + 1 / 9))  # MobileNet, §3.1
    only = net()
    factorise(only, context, targets=["first"])
    assert dense - count_macs(only, example).total == round(saved)
    told = "\n".join(context.notes)
    assert "point.weight is left as it is: its kernel is 1×1" in told
    assert "fc.weight is left as it is: 'depthwise' takes convolutions" in told


def test_groups_have_their_own_kernels_and_the_file_gives_them_back(context: Any, tmp_path: Path) -> None:
    model = factorise(net(), context, rank={"second": 3}, targets=["second"])
    x = context.inputs[0]
    assert model.second[0].groups == 16 and model.second[1].groups == 2
    save(model, tmp_path / "a.terse", small_tensors="float32")
    assert torch.equal(load(tmp_path / "a.terse", net())(x), model(x))


def test_data_make_it_better(context: Any) -> None:
    x, errors = context.inputs[0], {}
    for objective in ("weights", "outputs"):
        model = factorise(net(), context, targets=["second"], rank=2, objective=objective)
        errors[objective] = float((model(x) - net()(x)).square().mean().detach())
    assert errors["outputs"] < 0.9 * errors["weights"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"energy": 0.9}, "no singular values for 'energy'"),
        ({"decomposition": "svd"}, "belongs to factorize.low_rank"),
        ({"rank": 10}, "first.weight: rank 10 is not possible; as depthwise the layer can have 1 to 9"),
        ({"rank": 0}, "rank 0 is not possible"),
        ({"targets": ["fc"]}, "fc.weight cannot be factorised: 'depthwise' takes convolutions"),
    ],
    ids=str,
)
def test_mistakes(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check_order([parse_stage({"method": "factorize.depthwise", **options})], net())
