"""The mathematics: β against scikit-learn's Lasso, weights against numpy's least squares, choices against enumeration,
patches against F.unfold."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from torch.nn import functional as F

from tersenet.prune.regression import (
    Layer,
    Moments,
    Objective,
    by_lasso,
    by_surgeon,
    by_thinet,
    lasso,
    objective,
    reconstructed,
)
from tersenet.train.patches import patches


def layer(seed, units=6, places=3, outputs=4, rows=50, parts=1):
    """X, W, Y of a layer whose inputs are mixed, and the unit of each column."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    columns = units * places
    x = draw(parts, rows, columns) @ draw(columns, columns) / columns**0.5 + draw(columns)
    weight = draw(parts, outputs, columns)
    y = x @ weight.mT + 0.3 * draw(parts, rows, outputs)
    return x, weight, y, torch.arange(units).repeat_interleave(places)


def contributions(x, weight, units, count):
    """Z_i = X_i W_iᵀ of each unit as a column: (parts · rows · outputs, units), written out."""
    found = [(x * (units == unit)) @ weight.mT for unit in range(count)]
    return torch.stack([z.flatten() for z in found], 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 0.9), st.sampled_from([1, 2]))
def test_beta_is_that_of_scikit_learn(seed, share, parts):
    """Its objective is ‖T − Zβ‖² / (2 m) + α‖β‖₁ with m rows of Z, ours ½‖T − Zβ‖² / n + λ‖β‖₁: α = λ n / m."""
    x, weight, y, units = layer(seed, parts=parts)
    problem = objective(Moments.of(x, y, intercept=False), weight, units, 6)
    penalty = share * float(problem.cross.abs().max())
    z = contributions(x, weight, units, 6).numpy()
    reference = Lasso(alpha=penalty * x.shape[1] / len(z), fit_intercept=False, tol=1e-12, max_iter=100_000)
    reference.fit(z, y.flatten().numpy())
    np.testing.assert_allclose(lasso(problem, penalty).numpy(), reference.coef_, atol=1e-6)


def test_the_objective_is_the_squared_error_and_fixed_columns_are_taken_from_the_target():
    x, weight, y, units = layer(1)
    units[units == 5] = -1
    problem = objective(Moments.of(x, y, intercept=False), weight, units, 5)
    z = contributions(x, weight, units, 5)
    target = (y - (x * (units < 0)) @ weight.mT).flatten()
    torch.testing.assert_close(problem.gram, z.T @ z / x.shape[1])
    torch.testing.assert_close(problem.cross, z.T @ target / x.shape[1])


@pytest.mark.parametrize("keep", range(1, 13))
def test_lasso_leaves_as_many_as_asked_and_its_path_decides(keep):
    x, weight, y, units = layer(2, units=12)
    problem = objective(Moments.of(x, y, intercept=False), weight, units, 12)
    stay = by_lasso(problem, keep)
    assert len(set(stay.tolist())) == keep and stay.tolist() == sorted(stay.tolist())
    path = [lasso(problem, float(problem.cross.abs().max()) * share) for share in np.geomspace(1, 1e-4, 400)]
    supports = [set(beta.nonzero().flatten().tolist()) for beta in path if int(beta.count_nonzero()) == keep]
    assert not supports or set(stay.tolist()) in supports


def test_equal_channels_still_give_exact_counts():
    problem = Objective(torch.ones(6, 6).double(), torch.ones(6).double())
    for keep in range(1, 7):
        assert len(by_lasso(problem, keep)) == len(by_thinet(problem, keep)) == keep


def test_channels_that_say_nothing_go_first():
    x, weight, _, units = layer(3)
    x[..., units == 2] = 0
    weight[..., units == 4] = 0
    problem = objective(Moments.of(x, x @ weight.mT, intercept=False), weight, units, 6)
    for choose in (by_lasso, by_thinet):
        assert choose(problem, 4).tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("seed", range(5))
def test_thinet_is_greedy_as_written(seed):
    """Algorithm 1: of the channels left, the one whose removal makes Σ (Σ_gone z)² smallest, step by step."""
    x, weight, y, units = layer(seed, units=16)
    z = contributions(x, weight, units, 16)
    gone = []
    for _ in range(9):
        left = [unit for unit in range(16) if unit not in gone]
        gone.append(min(left, key=lambda unit: float(z[:, [*gone, unit]].sum(1).square().sum())))
    problem = objective(Moments.of(x, y, intercept=False), weight, units, 16)
    assert by_thinet(problem, 7).tolist() == sorted(set(range(16)) - set(gone))


def test_both_choices_are_near_the_best_of_all_pairs():
    x, weight, y, units = layer(5, units=8)
    moments = Moments.of(x, y, intercept=False)
    problem = objective(moments, weight, units, 8)

    def error(stay):
        kept = torch.isin(units, torch.as_tensor(stay))
        return moments.error(reconstructed(moments, weight, kept, 1e-9))

    errors = sorted(error(stay) for stay in combinations(range(8), 4))
    for choose in (by_lasso, by_thinet):
        assert error(choose(problem, 4)) <= errors[len(errors) // 2]


@pytest.mark.parametrize("parts", [1, 2])
def test_the_surgeon_refits_at_every_step(parts):
    """Each step against all refits by hand; two layers whose weights are far from fitted, and which also read columns
    that are not up for choice or gone already."""
    layers = []
    for seed in (8, 9):
        x, weight, y, units = layer(seed, units=7, parts=parts)
        units = torch.tensor([0, 1, 2, -1, 3, 4, 5])[units]
        kept = torch.arange(len(units)) != 10  # one of the columns that no unit has
        layers.append(Layer(Moments.of(x, y, False), weight.roll(5, 2), units, kept))

    def error(gone):
        kept = [each.kept & ~torch.isin(each.units, torch.as_tensor(gone)) for each in layers]
        return sum(
            each.moments.error(reconstructed(each.moments, each.weight, kept, 1e-12))
            for each, kept in zip(layers, kept, strict=True)
        )

    gone = []
    for _ in range(4):
        gone.append(min((unit for unit in range(6) if unit not in gone), key=lambda unit: error([*gone, unit])))
    assert by_surgeon(layers, 6, 2, 1e-12).tolist() == sorted(set(range(6)) - set(gone))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("intercept", [False, True])
def test_weights_are_those_of_numpy(intercept, parts):
    x, weight, y, units = layer(6, parts=parts)
    kept = (units != 1) & (units != 4)
    moments = Moments.of(x, y, intercept)
    found = reconstructed(moments, weight, kept, 1e-12)
    assert not found[..., ~kept].any()
    error = 0.0
    for part in range(parts):
        given = x[part][:, kept].numpy()
        given = np.column_stack([given, np.ones(len(given))]) if intercept else given
        solution, residual, *_ = np.linalg.lstsq(given, y[part].numpy())
        error += residual.sum() / x.shape[1]
        np.testing.assert_allclose(found[part][:, kept].numpy().T, solution[: int(kept.sum())], atol=1e-8)
        if intercept:
            np.testing.assert_allclose(moments.intercept(found)[part].numpy(), solution[-1], atol=1e-8)
    assert moments.error(found) == pytest.approx(error, rel=1e-6)


def test_what_the_data_do_not_settle_stays():
    """Fewer rows than columns, and a column that is always zero: nothing explodes, and W₀ answers where it can."""
    x, weight, _, units = layer(7, rows=5)
    x[..., 0] = 0
    moments = Moments.of(x, x @ weight.mT, intercept=False)
    same = reconstructed(moments, weight, torch.ones(len(units), dtype=torch.bool), 1e-6)
    torch.testing.assert_close(same, weight)


CASES = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": (2, 1)},
    {"kernel_size": 3, "padding": (2, 1)},
    {"kernel_size": (3, 2), "dilation": (2, 3), "padding": 1, "stride": 2},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_patches_are_those_of_unfold(case):
    x = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=torch.channels_last)
    kernel = case["kernel_size"] if isinstance(case["kernel_size"], tuple) else (case["kernel_size"],) * 2
    rows = F.unfold(x, **case).mT.flatten(0, 1)  # (N · positions, C · k · k)
    at = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:40]
    others = (case.get("stride", 1), case.get("padding", 0), case.get("dilation", 1))
    assert torch.equal(patches(x, kernel, *others, at).flatten(1), rows[at])


@pytest.mark.parametrize(("rank", "padding"), [(1, "same"), (2, "same"), (3, "same"), (3, 1), (1, "valid")])
def test_patches_times_weight_are_the_convolution(rank, padding):
    convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *[7] * rank, generator=generator)
    weight = torch.randn(5, 3, *[4, 3, 2][:rank], generator=generator)
    y = convolution(x, weight, padding=padding, dilation=2)
    at = torch.arange(y.numel() // 5)
    found = patches(x, weight.shape[2:], 1, padding, 2, at).flatten(1) @ weight.flatten(1).T
    torch.testing.assert_close(found, y.movedim(1, -1).reshape(-1, 5), atol=1e-4, rtol=1e-4)
