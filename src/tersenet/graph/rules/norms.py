"""Normalisations: each channel for itself, or over channels, which must then all stay."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from tersenet.graph.axes import Dim
from tersenet.graph.flow import Dims, Flow, rule, shape


@rule("batch_norm", "instance_norm", "native_batch_norm", "cudnn_batch_norm")
def batch_norm(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """x (N, C, …); weight, bias, running mean and variance (C,)."""
    dims = flow.of(args["input"])
    channels = dims[1] if len(dims) > 1 else dims[0]
    for key, role in (
        ("weight", "scale"),
        ("bias", "shift"),
        ("running_mean", "statistic"),
        ("running_var", "statistic"),
    ):
        own = args.get(key)
        if own is not None:
            flow.couple(channels, flow.of(own)[0], node)
            flow.role(own, 0, role)
    live = args.get("training") or args.get("running_mean") is None
    if args.get("use_input_stats", live):
        flow.pin(dims[2:] if "use_input_stats" in args else [*dims[:1], *dims[2:]], node, "takes statistics over it")
    return dims


@rule("group_norm")
def group_norm(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """x (N, C, …) in `num_groups` groups, each normalised as one: whole groups can go, single channels cannot."""
    dims, channels = flow.of(args["input"]), shape(args["input"])[1]
    groups = args["num_groups"]
    outer, inner = flow.regroup([dims[1]], [groups, channels // groups], node)
    flow.pin([inner], node, "normalises the channels of a group together")
    _affine(flow, node, args, [dims[1]])
    flow.sizes[node] = [(groups, outer)]
    return dims


@rule("layer_norm", "rms_norm")
def layer_norm(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """The last dimensions are normalised together, so that no unit of them can go without a change to the others."""
    dims = flow.of(args["input"])
    last = dims[len(dims) - len(args["normalized_shape"]) :]
    _affine(flow, node, args, last)
    flow.pin(last, node, "normalises it as a whole")
    return dims


def _affine(flow: Flow, node: Node, args: dict[str, Any], dims: list[Dim]) -> None:
    for key, role in (("weight", "scale"), ("bias", "shift")):
        own = args.get(key)
        if own is not None:
            for index, (dim, made) in enumerate(zip(flow.of(own), dims, strict=True)):
                flow.couple(made, dim, node)
                flow.role(own, index, role)
