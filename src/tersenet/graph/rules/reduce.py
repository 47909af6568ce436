"""Operators that join elements: pooling over positions, reductions, softmax, look-ups by index."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from tersenet.graph.axes import Dim, fixed
from tersenet.graph.flow import Dims, Flow, constant, rule, shape


@rule(
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d")),
    *("upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d"),
)
def positions(flow: Flow, node: Node, args: dict[str, Any]) -> Any:
    """Pooling and resizing: the last dimensions, one, two or three, change; channels go through one by one."""
    value = node.args[0]
    dims = flow.of(value)
    spatial = next((int(digit) for digit in str(node.target) if digit in "123"), len(dims) - 2)
    flow.pin(dims[len(dims) - spatial :], node, "pools or resizes it")
    for other in node.all_input_nodes[1:]:
        flow.pin(flow.of(other), node, "takes positions from it")
    result = node.meta["val"]
    results = result if isinstance(result, list | tuple) else [result]
    made = [[*dims[: len(dims) - spatial], *constant(r.shape[len(dims) - spatial :])] for r in results]
    return made if isinstance(result, list | tuple) else made[0]


@rule(
    *("mean", "sum", "amax", "amin", "max", "min", "prod", "all", "any", "argmax", "argmin", "logsumexp", "median"),
    *("norm", "linalg_vector_norm", "std", "var", "std_mean", "var_mean", "count_nonzero", "aminmax", "nansum"),
)
def reduction(flow: Flow, node: Node, args: dict[str, Any]) -> Any:
    """Over some dimensions, or all: what is reduced must keep its size, the rest goes through."""
    if "other" in args and isinstance(args["other"], Node):  # max and min of two tensors
        from tersenet.graph.rules.pointwise import elementwise

        return elementwise(flow, node, args)
    dims = flow.of(node.args[0])
    chosen = args.get("dim")
    chosen = [chosen] if isinstance(chosen, int) else chosen
    gone = {index % len(dims) for index in chosen} if chosen else set(range(len(dims)))
    flow.pin([dims[index] for index in gone], node, "reduces over it")
    kept = [() if index in gone else dim for index, dim in enumerate(dims) if args.get("keepdim") or index not in gone]
    result = node.meta["val"]
    return [list(kept) for _ in result] if isinstance(result, list | tuple) else kept


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "renorm", "logcumsumexp")
def softmax(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    dims = flow.of(node.args[0])
    flow.pin([dims[args["dim"]]] if dims else [], node, "normalises over it")
    return dims


@rule("index")
def index(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """x[i, :, j]: indexed dimensions are found by number and must stay; the others go through."""
    dims, indices = flow.of(args["self"]), list(args["indices"])
    indices += [None] * (len(dims) - len(indices))
    used = [place for place, value in enumerate(indices) if value is not None]
    flow.pin([dims[place] for place in used], node, "takes elements by their number")
    for value in indices:
        if value is not None:
            flow.pin(flow.of(value), node, "takes elements by these numbers")
    rank = len(shape(node)) - (len(dims) - len(used))
    together = used == list(range(used[0], used[-1] + 1))
    first = used[0] if together else 0
    rest: list[Dim] = [dim for place, dim in enumerate(dims) if place not in used]
    return [*rest[:first], *constant(shape(node)[first : first + rank]), *rest[first:]]


@rule("index_select", "gather", "take_along_dim", "topk", "kthvalue", "index_add", "index_copy", "scatter")
def gather(flow: Flow, node: Node, args: dict[str, Any]) -> Any:
    """Elements of one dimension by number. `index_select` and `topk` leave the others alone."""
    dims = list(flow.of(args["self"]))
    name = str(node.target)
    chosen = args.get("dim")
    place = (-1 if chosen is None else int(chosen)) % max(len(dims), 1)
    simple = "index_select" in name or "topk" in name
    for value in node.all_input_nodes:
        flow.pin(
            [dims[place]] if simple and value is args["self"] else flow.of(value), node, "takes elements by number"
        )
    results = node.meta["val"] if isinstance(node.meta["val"], list | tuple) else [node.meta["val"]]
    made = [
        [fixed(s, "chosen elements") if i == place or not simple else dims[i] for i, s in enumerate(result.shape)]
        for result in results
    ]
    return made if isinstance(node.meta["val"], list | tuple) else made[0]


@rule("new_ones", "new_zeros", "new_full", "new_empty", "new_tensor")
def new(flow: Flow, node: Node, args: dict[str, Any]) -> Dims:
    """A constant that takes only type and device from its argument."""
    return constant(shape(node))


@rule("_assert_tensor_metadata", "_assert_async", "_assert_scalar")
def assertion(flow: Flow, node: Node, args: dict[str, Any]) -> Any:
    """Gives no tensor and demands nothing of sizes."""
    return None


@rule("diagonal", "one_hot", "meshgrid", "outer", "cdist", "affine_grid_generator")
def opaque(flow: Flow, node: Node, args: dict[str, Any]) -> Any:
    """Known, and known to need every size as it is."""
    for value in node.all_input_nodes:
        flow.pin(flow.of(value), node, "needs its size")
    result = node.meta["val"]
    return [constant(r.shape) for r in result] if isinstance(result, list | tuple) else constant(result.shape)
