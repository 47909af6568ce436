"""Where a module is its input plus branches, and which parameters make those branches zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from tersenet.graph.trace import Trace, bound, operator, place

Range = tuple[float, float]
Ends = frozenset[str]
"""Parameters that make a value zero if they are zero."""

_SAME = {"clone", "contiguous", "to", "_to_copy", "detach", "alias", "lift_fresh_copy"}
_SAME |= {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}  # off in eval mode
_MOVES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}
_MOVES |= {"permute", "transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "movedim", "moveaxis"}
_PICKS = {"expand", "expand_as", "repeat", "repeat_interleave", "cat", "concat", "stack", "split", "split_with_sizes"}
_PICKS |= {"chunk", "tensor_split", "slice", "narrow", "select", "unbind", "getitem", "roll", "flip", "index_select"}
_PICKS |= {"constant_pad_nd", "mean", "sum"} | {f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg") for n in (1, 2)}
_THROUGH_ZERO = {"relu", "relu6", "gelu", "silu", "tanh", "hardswish", "leaky_relu", "elu", "mish", "neg", "abs"}
_THROUGH_ZERO |= {"square", "sqrt", "prelu", "softsign", "sin", "erf", "div", "true_divide"}
_AFFINE = {"linear", "conv1d", "conv2d", "conv3d", "convolution", "_convolution"}
_AFFINE |= {f"conv_transpose{n}d" for n in (1, 2, 3)}
_AFFINE |= {"batch_norm", "native_batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm"}
_PRODUCTS = {"mul", "mm", "bmm", "matmul", "__matmul__", "mv"}
_CLIPS: dict[str, Callable[[dict[str, Any]], Range]] = {
    "relu": lambda args: (0.0, float("inf")),
    "relu6": lambda args: (0.0, 6.0),
    "hardtanh": lambda args: (float(args["min_val"]), float(args["max_val"])),
}
_ANY: Range = (-float("inf"), float("inf"))


@dataclass(frozen=True)
class Way:
    """A value that is the module's input as soon as `ends` are zero; or, where something was done to it since the last
    sum, what that was."""

    ends: Ends = frozenset()
    blocked: str | None = None


def ways(trace: Trace, inside: Sequence[Node], source: Node, learned: Iterable[str], clip: Range) -> dict[Node, Way]:
    """Of the operators `inside` a module, in their order: those whose value its input `source` reaches by sums.

    learned: names of the parameters that may become zero. clip: between which numbers the elements of `source` lie.
    """
    found, zero = {source: Way()}, _Zero(trace, set(learned))
    for node in inside:
        if node.op == "call_function":
            zero.see(node)
            way = _way(node, found, zero, clip)
            if way is not None:
                found[node] = way
    return found


def _way(node: Node, found: Mapping[Node, Way], zero: _Zero, clip: Range) -> Way | None:
    name = operator(node)
    given = [found[value] for value in node.all_input_nodes if value in found]
    if not given:
        return None
    if name in ("add", "sub") and (way := _sum(node, name, found, zero)) is not None:
        return way
    way = max(given, key=lambda entry: len(entry.ends))
    if name in _SAME or name in _MOVES or way.blocked is not None:
        return way
    low, high = _CLIPS[name](bound(node)) if name in _CLIPS else (float("inf"), -float("inf"))
    if low <= clip[0] and clip[1] <= high:
        return way
    what = "changes what goes around the block" if name in _CLIPS else "stands between its input and its output"
    return Way(way.ends, f"{name} at {place(node)} {what}") if way.ends else None


def _sum(node: Node, name: str, found: Mapping[Node, Way], zero: _Zero) -> Way | None:
    """What goes around, plus a branch that can become zero."""
    one, other = node.args[0], node.args[1]
    for around, branch in ((one, other), (other, one)) if name == "add" else ((one, other),):
        if not isinstance(around, Node) or not isinstance(branch, Node) or around not in found:
            continue
        way, ends = found[around], zero.ends.get(branch)
        if way.blocked is None and ends is not None and branch not in zero.fixed:
            return Way(way.ends | ends)
    return None


class _Zero:
    """Which parameters make a value zero, operator by operator; nothing is known of other operators."""

    def __init__(self, trace: Trace, learned: set[str]) -> None:
        self.trace, self.learned = trace, learned
        self.ends: dict[Node, Ends] = {}
        self.fixed: set[Node] = set()  # made of parameters and constants alone
        for node in trace.nodes:
            name = trace.tensors.get(node.name)
            if name is not None or node.name in trace.constants:
                self.fixed.add(node)
            if name in learned:
                self.ends[node] = frozenset([str(name)])

    def see(self, node: Node) -> None:
        """Note `node`, whose arguments have been seen."""
        if all(value in self.fixed for value in node.all_input_nodes):
            self.fixed.add(node)
        ends = self._of(node)
        if ends is not None:
            self.ends[node] = ends

    def _of(self, node: Node) -> Ends | None:
        name = operator(node)
        given = node.all_input_nodes
        if node in self.fixed and (formed := self._formed(given)):
            return formed
        if name in _AFFINE:
            args = bound(node)
            return self._all(args.get(key) for key in ("weight", "bias")) if args.get("weight") is not None else None
        if name == "addmm":
            return self._all([node.args[0], self._factor(node.args[1:3])])
        if name in _PRODUCTS:
            factor = self._factor(given)
            return None if factor is None else self.ends[factor]
        if name == "scaled_dot_product_attention":
            return self._all([bound(node)["value"]])
        if name in ("add", "sub") and len(given) == 2:
            return self._all(given)
        if name in _THROUGH_ZERO or name in _CLIPS:
            return self._all(given[:1])
        return self._all(given) if given and name in _SAME | _MOVES | _PICKS else None

    def _formed(self, values: Iterable[Node]) -> Ends:
        """Parametrized weights that a weight is made of, in whatever way: these blocks are found, to be refused."""
        ends = frozenset[str]().union(*(self.ends.get(value, frozenset()) for value in values))
        return frozenset(name for name in ends if "parametrizations." in name)

    def _factor(self, values: Iterable[Any]) -> Node | None:
        """One factor that can be made zero, best one of parameters alone."""
        able = [value for value in values if isinstance(value, Node) and value in self.ends]
        return min(able, key=lambda value: value not in self.fixed, default=None)

    def _all(self, values: Iterable[Any]) -> Ends | None:
        found = [self.ends.get(value) for value in values if value is not None]
        return frozenset().union(*(ends for ends in found if ends)) if found and None not in found else None


def ranges(trace: Trace) -> dict[Node, Range]:
    """Between which numbers the elements of values lie, where operators bound them."""
    found: dict[Node, Range] = {}
    for node in trace.nodes:
        if node.op != "call_function":
            continue
        name, given = operator(node), [found.get(value, _ANY) for value in node.all_input_nodes]
        if name in _CLIPS:
            found[node] = _CLIPS[name](bound(node))
        elif given and (name in _SAME | _MOVES or name in _RANGE_KEPT):
            found[node] = min(low for low, _ in given), max(high for _, high in given)
        elif name in ("sigmoid", "softmax"):
            found[node] = 0.0, 1.0
    return found


_RANGE_KEPT = {"max_pool1d", "max_pool2d", "adaptive_avg_pool2d", "slice", "cat", "chunk", "split", "getitem"}
"""Besides those that move elements: what comes out lies between what goes in."""
