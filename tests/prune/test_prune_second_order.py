"""Optimal Brain Surgeon against solving for the weights that are left."""

import pytest
import torch

from tersenet.prune.second_order import BlockInverse


def removal(matrix, weight, lost):
    """Loss and weights of the best point of ½(x − w)ᵀH(x − w) with x = 0 at `lost`, by solving for the others."""
    kept = [i for i in range(len(weight)) if i not in lost]
    lost = list(lost)
    x = torch.zeros_like(weight)
    rest = torch.linalg.solve(matrix[kept][:, kept], matrix[kept][:, lost] @ weight[lost])
    x[kept] = weight[kept] + rest
    return 0.5 * (x - weight) @ matrix @ (x - weight), x


@pytest.fixture
def curvature():
    torch.manual_seed(3)
    root = torch.randn(6, 6).double()
    return root @ root.T + 0.1 * torch.eye(6).double()


def test_obs_scores_are_what_removal_costs_at_least(curvature):
    weight = torch.randn(6).double()
    inverse = BlockInverse(torch.linalg.inv(curvature)[None], 6)
    scores = weight.square() / (2 * inverse.diagonal(weight.shape))
    expected = torch.stack([removal(curvature, weight, [q])[0] for q in range(6)])
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("lost", [[2], [0, 5], [1, 2, 3, 4], [0, 1, 2, 3, 4]])
def test_compensation_is_the_best_point_without_the_lost_weights(curvature, lost):
    weight = torch.randn(2, 3).double()
    inverse = BlockInverse(torch.linalg.inv(curvature)[None], 6)
    kept = torch.ones(6, dtype=torch.bool)
    kept[lost] = False
    moved = weight + inverse.compensation(weight, kept.view(2, 3))
    torch.testing.assert_close(moved.reshape(-1), removal(curvature, weight.reshape(-1), lost)[1])
