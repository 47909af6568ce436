"""Batch norms that layers can take in, and two changes of modules: a layer gets a bias, a ReLU6 becomes a ReLU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from tersenet.core.change import CHANGES
from tersenet.core.errors import ModelError
from tersenet.graph.channels import ChannelGraph
from tersenet.graph.edits import put
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import bound, operator, owner
from tersenet.graph.uses import uses

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Normed:
    """Paths of a layer and of the batch norm that alone reads what it gives."""

    layer: str
    norm: str


class Blocked(Exception):  # noqa: N818  # no error: it says why there is no pair
    """Why a norm cannot be folded: 'it …'."""


def normed(graph: ChannelGraph, model: nn.Module) -> tuple[list[Normed], dict[str, str]]:
    """Layers with their norms in the order in which the model computes, and of other norms why they stay.

    model: the one that was exported, without forms.
    """
    found: list[Normed] = []
    blocked: dict[str, str] = {}
    nodes = [node for node in graph.flow.trace.nodes if node.op == "call_function" and operator(node) == "batch_norm"]
    calls, users = Counter(map(owner, nodes)), uses(graph, model)
    for node in nodes:
        try:
            found.append(Normed(_layer(graph, model, node, users), _norm(model, node, calls)))
        except Blocked as reason:
            blocked[owner(node)] = str(reason)
    return found, blocked


def _norm(model: nn.Module, node: Node, calls: Mapping[str, int]) -> str:
    path, args = owner(node), bound(node)
    module = model.get_submodule(path)
    if not isinstance(module, _BatchNorm):
        raise Blocked("it is no batch norm of torch.nn")
    if args.get("training") or args["running_mean"] is None:
        raise Blocked("it normalises by what it is given, with no statistics of its own")
    if calls[path] > 1:
        raise Blocked(f"the model calls it {calls[path]} times")
    if is_parametrized(module) or module._forward_hooks or module._forward_pre_hooks:
        raise Blocked("what hangs on it (a parametrization, a hook) would be lost")
    return path


def _layer(graph: ChannelGraph, model: nn.Module, norm: Node, users: Mapping[str, int]) -> str:
    """Path of the layer whose outputs the norm scales, each by a number of its own."""
    source = bound(norm)["input"]
    made = next((one for one in graph.flow.contractions if one.node is source), None)
    path = owner(source)
    layer = model.get_submodule(path) if made is not None else None
    if made is None or not isinstance(layer, LAYERS) or tensors_of(model)[made.weight] is not layer.weight:
        raise Blocked("what it reads comes from no linear layer or convolution")
    if len(source.users) > 1:
        raise Blocked(f"not only it reads what '{path}' gives")
    if users[made.weight] > 1 or (made.bias is not None and users[made.bias] > 1):
        raise Blocked(f"the layer before it, '{path}', is used in several places")
    if source.meta["val"].ndim != layer.weight.ndim:
        raise Blocked(f"it normalises another dimension than the outputs of '{path}'")
    return path


def affine(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, shift), float64 [channels], of a norm in eval mode: γ/√(σ² + ε) and β − μ·scale."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.detach().double() if norm.affine else shift


def outputs_of(layer: nn.Module) -> int:
    """How many channels the layer gives."""
    size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(size, int)
    return size


@CHANGES.register("bias")
def give_bias(model: nn.Module, path: str, options: Mapping[str, int]) -> None:
    """A layer without a bias gets one of zeros. `path` is that of the bias, the layer's and `.bias`."""
    name, _, attribute = path.rpartition(".")
    layer = dict(model.named_modules(remove_duplicate=False)).get(name)
    if attribute != "bias" or options or not isinstance(layer, LAYERS) or layer.bias is not None:
        raise ModelError(f"the file gives '{name}' a bias, which this model cannot take: it is another")
    weight = layer.weight
    zeros = torch.zeros(outputs_of(layer), dtype=weight.dtype, device=weight.device)
    layer.bias = nn.Parameter(zeros, requires_grad=any(own.requires_grad for own in layer.parameters()))


@CHANGES.register("relu")
def put_relu(model: nn.Module, path: str, options: Mapping[str, int]) -> None:
    """A ReLU where a ReLU6 is."""
    known = dict(model.named_modules(remove_duplicate=False)).get(path)
    if options or not isinstance(known, nn.ReLU6):
        raise ModelError(f"the file puts a ReLU in place of '{path}', which is no ReLU6 of this model: it is another")
    put(model, known, nn.ReLU(known.inplace).train(known.training))
