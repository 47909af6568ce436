"""A copy of a model."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

M = TypeVar("M", bound=nn.Module)


def copied(model: M) -> M:
    """`copy.deepcopy`, also of models that keep a tensor with its history (`self.last = h`, the old `weight_norm` after
    a forward), which PyTorch does not copy: the copy has its values."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for leaf in pytree.tree_leaves([value for name, value in vars(module).items() if name not in _OWN]):
            if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
                memo[id(leaf)] = leaf.detach().clone()
    return copy.deepcopy(model, memo)


_OWN = {"_parameters", "_buffers", "_modules"}
