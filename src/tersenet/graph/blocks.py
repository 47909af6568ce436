"""Blocks that a model can do without: modules that are the identity once their branches are zero; and their removal,
with proof."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from tersenet.core.errors import ModelError
from tersenet.core.registry import nearest
from tersenet.graph.channels import ChannelGraph, as_inputs
from tersenet.graph.compare import distance, samples_of, tensors_in, tolerance
from tersenet.graph.edits import Skip, put, take_out
from tersenet.graph.residual import Range, Way, ranges, ways
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import Inputs, Trace, undisturbed

_ANY: Range = (-float("inf"), float("inf"))


@dataclass(frozen=True)
class Block:
    """A module with one tensor in and one of the same shape out, which is the sum of the first and of branches.

    name: of the module. parameters: how many numbers it learns. ends: the parameters that make its branches zero, so
    that it is the identity. reason: why it cannot go; None if it can. values: 0 if it gives that
    tensor alone; n if a tuple of n, whose others are None.
    """

    name: str
    parameters: int
    ends: frozenset[str]
    reason: str | None
    values: int = 0


@dataclass(frozen=True)
class BlockRemoval:
    """What was done.

    removed: names of the blocks that went. refused: block → why it stayed. difference: largest deviation of an output
    from that of the model with the `ends` of the removed blocks at zero, relative to the largest output. change: the
    same for that model against the model before.
    """

    removed: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0
    change: float = 0.0


def blocks(model: nn.Module, graph: ChannelGraph, *, inputs: Any = None) -> tuple[Block, ...]:
    """The blocks of `model`, in the order in which it computes. The model is left as it is. Of nested ones the outer is
    listed, unless inner ones that can go hold most of its parameters, as those of a whole stage do.

    Each is tried on the example input of `graph`, on noise of its shape and on `inputs` (real ones): without it the
    model must give what it gives with the block's `ends` at zero. Modules that change the shape are not listed.
    """
    found = _candidates(model, graph)
    refused = {block.name: block.reason for block in found if block.reason is not None}
    with undisturbed(model):
        trial = _Trial(model, _samples(graph, inputs))
        while True:
            able = _units([block for block in found if block.name not in refused])
            failed = trial.accepted(able).refused
            if not failed:
                break
            refused |= failed
    others = _units([b for b in found if b.name in refused and not any(_related(b.name, a.name) for a in able)])
    listed = {block.name for block in (*able, *others)}
    return tuple(replace(block, reason=refused.get(block.name)) for block in found if block.name in listed)


def remove_blocks(model: nn.Module, graph: ChannelGraph, names: Sequence[str], *, inputs: Any = None) -> BlockRemoval:
    """Take the blocks `names` out of `model`, in place: each becomes a module that gives back its first argument.

    It is proven as for `blocks`, of all of them together; where it fails, block by block, and those that fail stay and
    are reported. Nothing else of the model changes. `graph` describes the model before: make a new one to go on.

    Raises:
        ModelError: a block that does not exist or cannot go.
    """
    known = {block.name: block for block in _candidates(model, graph)}
    for name in names:
        if name not in known:
            raise ModelError(f"blocks: there is no block '{name}'{nearest(name, known)}")
        if known[name].reason is not None:
            raise ModelError(f"blocks: '{name}' cannot go: {known[name].reason}")
    with undisturbed(model):
        done = _Trial(model, _samples(graph, inputs)).accepted([known[name] for name in dict.fromkeys(names)])
    for name in done.removed:
        take_out(model, name, known[name].values)
    return done


@contextmanager
def without(model: nn.Module, chosen: Sequence[Block]) -> Iterator[None]:
    """Inside, these blocks give back their first argument; afterwards the model is what it was."""
    former = [(model.get_submodule(block.name), Skip(block.values)) for block in chosen]
    try:
        for old, skip in former:
            put(model, old, skip.train(old.training))
        yield
    finally:
        for old, skip in reversed(former):
            put(model, skip, old)


@contextmanager
def zeroed(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Inside, these parameters are zero."""
    tensors = tensors_of(model)
    former = {id(tensors[name]): (tensors[name], tensors[name].data) for name in names}
    try:
        for tensor, data in former.values():
            tensor.data = torch.zeros_like(data)
        yield
    finally:
        for tensor, data in former.values():
            tensor.data = data


def _samples(graph: ChannelGraph, inputs: Any) -> list[Inputs]:
    return samples_of(graph.inputs, None if inputs is None else as_inputs(inputs))


class _Trial:
    """Compares the model without blocks with the model whose blocks' ends are zero."""

    def __init__(self, model: nn.Module, samples: list[Inputs]) -> None:
        self.model, self.samples = model, samples
        self.tolerance = tolerance(tensors_of(model))

    def accepted(self, chosen: Sequence[Block]) -> BlockRemoval:
        """Which of `chosen` can go together."""
        refused: dict[str, str] = {}
        reason, difference, change = self._compared(chosen) if chosen else (None, 0.0, 0.0)
        if reason is not None:
            together: list[Block] = []
            for block in chosen:
                reason, *_ = self._compared([*together, block])
                if reason is None:
                    together.append(block)
                else:
                    refused[block.name] = reason
            _, difference, change = self._compared(together) if together else (None, 0.0, 0.0)
            chosen = together
        return BlockRemoval(tuple(block.name for block in chosen), refused, difference, change)

    def _compared(self, chosen: Sequence[Block]) -> tuple[str | None, float, float]:
        """Why they cannot go, the deviation of the outputs without them, and that of the masked from the dense ones."""
        dense = self._outputs()
        with zeroed(self.model, [name for block in chosen for name in block.ends]):
            masked = self._outputs()
        try:
            with without(self.model, chosen):
                small = self._outputs()
        except Exception as error:  # the model's own code, which may ask more of a block than a tensor
            return f"the model's own code does not run without it: {_first(error)}", float("inf"), 0.0
        change = max(map(distance, masked, dense))
        if any(len(a) != len(b) for a, b in zip(small, masked, strict=True)):
            return "an output of the model would go missing without it", float("inf"), change
        difference = max(map(distance, small, masked))
        if not difference <= self.tolerance:
            return (
                f"without it the model's output would differ by {difference:.2g} from that with its branches at zero",
                difference,
                change,
            )
        return None, difference, change

    def _outputs(self) -> list[list[torch.Tensor]]:
        return [tensors_in(self.model(*args, **kwargs)) for args, kwargs in self.samples]


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _units(found: Sequence[Block]) -> list[Block]:
    """One of each that are nested: the inner ones if they hold most of the outer's parameters, else the outer."""
    outer = [block for block in found if not any(_within(block.name, other.name) for other in found)]
    chosen = []
    for block in outer:
        inner = _units([other for other in found if _within(other.name, block.name) and other.ends <= block.ends])
        held = sum(other.parameters for other in inner)
        shell = held == block.parameters if len(inner) == 1 else 2 * held > block.parameters
        chosen += inner if shell else [block]
    return chosen


def _candidates(model: nn.Module, graph: ChannelGraph) -> tuple[Block, ...]:
    """By the operators alone, in the order in which the model computes."""
    trace = graph.flow.trace
    called = _calls(trace)
    clips = ranges(trace)
    times = Counter(id(model.get_submodule(path)) for path, _ in called)
    found: dict[str, Block] = {}
    for path, inside in called:
        module = model.get_submodule(path)
        way = _around(model, module, trace, inside, clips)
        if way is not None:
            size = sum(parameter.numel() for parameter in module.parameters())
            reason = _obstacle(model, path, trace, set(inside), way, times[id(module)])
            found.setdefault(path, Block(path, size, way.ends, reason))
    given = _given(model, graph.inputs, found)
    return tuple(replace(block, values=given[name]) for name, block in found.items() if name in given)


def _given(model: nn.Module, inputs: Inputs, names: Iterable[str]) -> dict[str, int]:
    """`Block.values` of modules; those that give more than one tensor are left out."""
    found: dict[str, int] = {}

    def look(name: str, output: Any) -> None:
        values = output if type(output) is tuple else (output,)
        if isinstance(values[0], torch.Tensor) and all(value is None for value in values[1:]) and len(values) <= 16:
            found[name] = len(values) if type(output) is tuple else 0

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda module, given, output, name=name: look(name, output))
        for name in names
    ]
    try:
        with undisturbed(model):
            model(*inputs[0], **inputs[1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _within(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.")


def _related(name: str, other: str) -> bool:
    return _within(name, other) or _within(other, name)


def _calls(trace: Trace) -> list[tuple[str, list[Node]]]:
    """Path and operators of each call of each module, in order."""
    found: dict[str, tuple[str, list[Node]]] = {}
    for node in trace.nodes:
        if node.op == "call_function":
            for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
                found.setdefault(key, (re.sub(r"@\d+$", "", path), []))[1].append(node)
    return [(path, nodes) for path, nodes in found.values() if path]


def _around(
    model: nn.Module, module: nn.Module, trace: Trace, nodes: Sequence[Node], clips: Mapping[Node, Range]
) -> Way | None:
    """How the one output of a module's operators is its input plus branches, if it is."""
    inside = set(nodes)
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    own = {id(parameter) for parameter in module.parameters() if parameter.is_floating_point()}
    if len(outputs) != 1 or not isinstance(outputs[0].meta.get("val"), torch.Tensor) or not own:
        return None
    tensors = tensors_of(model)
    learned = [name for name in trace.tensors.values() if name in tensors and id(tensors[name]) in own]
    given = dict.fromkeys(value for node in nodes for value in node.all_input_nodes if value not in inside)
    for source in given:
        if source.name not in trace.tensors and _like(source, outputs[0]):
            way = ways(trace, nodes, source, learned, clips.get(source, _ANY)).get(outputs[0])
            if way is not None and way.ends:
                return way
    return None


def _like(one: Node, other: Node) -> bool:
    a, b = one.meta.get("val"), other.meta.get("val")
    both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return both and a.shape == b.shape and a.dtype == b.dtype  # type: ignore[union-attr]


def _obstacle(model: nn.Module, path: str, trace: Trace, inside: set[Node], way: Way, times: int) -> str | None:
    """Why a block cannot go, by the operators alone."""
    if way.blocked is not None:
        return way.blocked
    if times > 1:
        return f"the model calls it {times} times"
    formed = [name for name, _ in model.get_submodule(path).named_parameters() if "parametrizations." in name]
    if formed:
        return f"'{path}.{formed[0]}' has a form already; blocks are removed before weights are masked or quantized"
    tensors = tensors_of(model)
    ends = {id(tensors[name]) for name in way.ends}
    for node in trace.nodes:
        name = trace.tensors.get(node.name, "")
        if name in tensors and id(tensors[name]) in ends and any(user not in inside for user in node.users):
            return f"'{name}' is used outside of it too"
    return None
