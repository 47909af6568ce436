"""Take units out of a model for good, and prove that what is left computes what the masked model computed."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.graph.attributes import Attribute, ConflictError, from_calls, from_shapes
from tersenet.graph.axes import Axis, leaves
from tersenet.graph.channels import ChannelGraph, Group, as_inputs
from tersenet.graph.compare import distance, samples_of, shape_of, tensors_in, tolerance
from tersenet.graph.edits import note
from tersenet.graph.fold import Constants, constants
from tersenet.graph.shapes import mismatch
from tersenet.graph.slices import Choice, Kept, chosen, gone, kept, take, tensors_of
from tersenet.graph.trace import Inputs, frames, owner, undisturbed


@dataclass(frozen=True)
class Removal:
    """What was done.

    removed: group → units that went. refused: group → why they stayed. difference: largest deviation of an output
    from that of the masked model, relative to the largest output. change: the same for the masked model against the
    model before, so that one sees how much the comparison could show. dropped, worst: in how many layers a removed
    channel's constant could not be folded exactly and was masked too, and the largest such constant.
    """

    removed: dict[str, np.ndarray] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    attributes: tuple[Attribute, ...] = ()
    difference: float = 0.0
    change: float = 0.0
    folded: int = 0
    dropped: int = 0
    worst: float = 0.0


@dataclass(frozen=True)
class _Failure:
    reason: str
    guilty: tuple[Group, ...] = ()


def remove(
    model: nn.Module,
    graph: ChannelGraph,
    units: Mapping[str, Sequence[int]],
    *,
    inputs: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Removal:
    """Remove `units` (group → unit numbers) from `model`, in place.

    The masked model has the weights that make these channels zero; its outputs are compared with those of the smaller
    one on the example input of `graph`, on noise of its shape, and on `inputs` (real ones). Where they differ, or the
    model's own code cannot run with the new sizes, the groups at fault stay whole and are reported; `graph` remembers.
    Parameters stay the same objects, so an optimizer goes on with them; give it to have its state cut alike.

    Raises:
        ModelError: a group or unit that does not exist or cannot go.
    """
    choice = chosen(graph, units)
    refused: dict[str, str] = {}
    samples = samples_of(graph.inputs, None if inputs is None else as_inputs(inputs))
    with undisturbed(model):
        while choice:
            attempt = _Attempt(model, graph, choice, samples)
            failure = attempt.run()
            if failure is None:
                note(model, attempt.attributes)
                attempt.settle(optimizer)
                return attempt.report(refused)
            attempt.restore()
            while failure is not None and choice:  # as long as the code breaks, it need not be compared
                for group in _culprits(model, graph, choice, samples, failure):
                    refused[group.name] = failure.reason
                    graph.refuse(group, failure.reason)
                    choice = {other: u for other, u in choice.items() if other.name != group.name}
                failure = _Attempt(model, graph, choice, samples[:1]).probe()
    return Removal(refused=refused)


def try_out(model: nn.Module, graph: ChannelGraph, share: float = 0.5) -> Removal:
    """Remove `share` of the units of every group from a copy of `model`: what that refuses, `graph` then refuses."""
    units = {group.name: range(int(group.units * share)) for group in graph if group.prunable}
    return remove(copy.deepcopy(model), graph, units)


def _culprits(
    model: nn.Module, graph: ChannelGraph, choice: Choice, samples: list[Inputs], failure: _Failure
) -> tuple[Group, ...]:
    """Of the groups that meet where it failed, those that fail alone; all of them if none does."""
    if not failure.guilty:
        return _bisect(model, graph, choice, samples)
    if len(failure.guilty) == 1:
        return failure.guilty
    alone = [g for g in failure.guilty if _Attempt(model, graph, {g: choice[g]}, samples[:1]).probe() is not None]
    return tuple(alone) or failure.guilty


def _bisect(model: nn.Module, graph: ChannelGraph, choice: Choice, samples: list[Inputs]) -> tuple[Group, ...]:
    """Groups without which the removal works, found by halving."""
    groups = list(choice)
    if len(groups) == 1:
        return tuple(groups)
    halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    guilty: list[Group] = []
    for half in halves:
        part = {group: choice[group] for group in half}
        attempt = _Attempt(model, graph, part, samples)
        if attempt.run() is not None:
            attempt.restore()
            guilty += _bisect(model, graph, part, samples)
        else:
            attempt.restore()
    return tuple(guilty) or tuple(halves[1])  # fine alone, not together


class _Attempt:
    """One try: mask, compute, cut, compute, compare. `restore` takes all of it back."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, choice: Choice, samples: list[Inputs]) -> None:
        self.model, self.graph, self.choice, self.samples = model, graph, choice, samples
        self.tensors = tensors_of(model)
        self.before = {name: self.tensors[name].data for name in self._touched()}
        self.masked: set[str] = set()
        self.former: list[tuple[nn.Module, str, Any]] = []
        self.attributes: tuple[Attribute, ...] = ()
        self.kept: Kept = kept(choice, {name: tensor.shape for name, tensor in self.tensors.items()})
        self.constants = Constants((), {}, 0.0)
        self.difference = self.change = 0.0

    def run(self) -> _Failure | None:
        dense = self._outputs()
        self._mask()
        masked = self._outputs()
        self._cut()
        failure, small = self._small()
        if failure is not None:
            return failure
        self.change = max(map(distance, masked, dense))
        if any(
            len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True))
            for a, b in zip(small, masked, strict=True)
        ):
            return _Failure("an output of the model would change its shape")
        self.difference = max(map(distance, small, masked))
        if not self.difference <= tolerance(self.before):
            return _Failure(f"without it the model's output would differ by {self.difference:.2g} from the masked one")
        return None

    def probe(self) -> _Failure | None:
        """Whether the model's code runs with the new sizes at all; the model is restored."""
        self._cut()
        try:
            return self._small()[0]
        finally:
            self.restore()

    def _small(self) -> tuple[_Failure | None, list[list[torch.Tensor]]]:
        """What the model gives now that its tensors are cut, if its own code can run with that."""
        try:
            lost = self._adapt()
            outputs = self._outputs()
            wrong = mismatch(self.model, self.graph.flow, lost, self.graph.inputs)
        except ConflictError as error:
            return _Failure(str(error), self._near(*error.nodes)), []
        except Exception as error:  # the model's own code, run with sizes it may not be made for
            return self._blame(error), []
        return (None if wrong is None else _Failure(wrong[1], self._near(wrong[0]))), outputs

    def restore(self) -> None:
        for name, data in self.before.items():
            self.tensors[name].data = data
        for module, name, value in reversed(self.former):
            setattr(module, name, value)

    def settle(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Cut gradients and the optimizer's state like their parameters."""
        for name, places in self.kept.items():
            tensor, shape = self.tensors[name], self.before[name].shape
            if tensor.grad is not None and tensor.grad.shape == shape:
                gradient = take(tensor.grad, places)
                tensor.grad = None
                tensor.grad = gradient
            state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
            for key, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == shape:
                    state[key] = take(value, places)

    def report(self, refused: dict[str, str]) -> Removal:
        found = self.constants
        return Removal(
            {group.name: units for group, units in self.choice.items()},
            refused,
            self.attributes,
            self.difference,
            self.change,
            len(found.folds),
            len(found.dropped),
            found.worst,
        )

    def _touched(self) -> Iterator[str]:
        names = set(gone(self.choice))
        for reader in self.graph.flow.contractions:  # their biases and norms may take up constants
            if reader.weight in names:
                names.update(self._beside(reader.node))
        yield from names

    def _beside(self, node: torch.fx.Node) -> set[str]:
        named = self.graph.flow.trace.tensors
        around = [*node.all_input_nodes, *(value for user in node.users for value in user.all_input_nodes)]
        return {named[value.name] for value in around if value.name in named and named[value.name] in self.tensors}

    def _mask(self) -> None:
        """Zero what makes the chosen channels; where a constant is left that cannot be folded, what reads it too."""
        self._zero(gone(self.choice, "out", "direct"))
        contracted = {leaf for dim in self.graph.flow.products for leaf in leaves(dim)}
        self._zero(gone({g: u for g, u in self.choice.items() if g.axis.root() in contracted}, "out", "scale", "shift"))
        self.constants = constants(self.graph, self.model, self.choice, [s for s in self.samples if self._fits(s)])
        for (name, dim), elements in self.constants.dropped.items():
            self._zero({name: {dim: elements}})

    def _zero(self, places: Mapping[str, Mapping[int, np.ndarray]]) -> None:
        for name, dims in places.items():
            tensor = self.tensors[name]
            if not tensor.is_floating_point():
                continue
            if name not in self.masked:  # the original stays as it was, for `restore`
                tensor.data = tensor.data.clone()
                self.masked.add(name)
            for dim, elements in dims.items():
                tensor.data.index_fill_(dim, torch.from_numpy(elements).to(tensor.device), 0)

    def _cut(self) -> None:
        for fold in self.constants.folds:
            tensor = self.tensors[fold.target]
            tensor.data = tensor.data + fold.amount.to(tensor.dtype)
        for name, places in self.kept.items():
            tensor = self.tensors[name]
            tensor.data = take(tensor.data, places)

    def _adapt(self) -> dict[Axis, int]:
        """Set the integers of modules; how many units each axis has lost."""
        lost = {group.axis.root(): len(units) for group, units in self.choice.items()}
        done: list[Attribute] = []
        for step in (from_calls(self.model, self.graph.flow, lost), from_shapes(self.model)):
            for attribute in list(step):
                module = self.model.get_submodule(attribute.module)
                self.former.append((module, attribute.name, getattr(module, attribute.name)))
                setattr(module, attribute.name, attribute.value)
                done.append(attribute)
        self.attributes = tuple(done)
        return lost

    def _fits(self, sample: Inputs) -> bool:
        """Whether the exported graph takes it, whose batch size is that of the example."""
        shapes = [[shape_of(value) for value in tensors_in(inputs)] for inputs in (sample, self.graph.inputs)]
        return shapes[0] == shapes[1]

    def _outputs(self) -> list[list[torch.Tensor]]:
        return [tensors_in(self.model(*args, **kwargs)) for args, kwargs in self.samples]

    def _blame(self, error: Exception) -> _Failure:
        """The groups that meet where the model's code broke: a size is written into it there."""
        lines: list[tuple[str, int, str | None]] = []
        names = {id(module): name for name, module in self.model.named_modules()}
        for frame, line in traceback.walk_tb(error.__traceback__):
            own = frame.f_locals.get("self")
            lines.append((frame.f_code.co_filename, line, names.get(id(own)) if isinstance(own, nn.Module) else None))
        nodes = [node for node in self.graph.flow.trace.nodes if node.op == "call_function"]
        for file, line, module in reversed(lines):
            at = [n for n in nodes if any(f.file == file and f.line == line for f in frames(n))]
            if module is not None:
                at = [n for n in at if owner(n) == module or owner(n).startswith(f"{module}.")]
            guilty = self._near(*at)
            if guilty and "/torch/" not in file:
                where = f"{file.rsplit('/', 1)[-1]}:{line}"
                return _Failure(f"a size is written into {module or 'the model'} ({where}): {_first(error)}", guilty)
        return _Failure(f"the model's own code cannot run with the new size: {_first(error)}")

    def _near(self, *nodes: torch.fx.Node) -> tuple[Group, ...]:
        """Chosen groups with units in the values that go in or out of these operators."""
        axes = {group.axis.root(): group for group in self.choice}
        found: dict[str, Group] = {}
        for node in nodes:
            for value in (node, *node.all_input_nodes):
                for leaf in _leaves(self.graph.flow.dims.get(value)):
                    if leaf in axes:
                        found[axes[leaf].name] = axes[leaf]
        return tuple(found.values())


def _leaves(dims: Any) -> Iterator[Any]:
    for entry in dims if isinstance(dims, list) else []:
        if isinstance(entry, tuple):
            yield from leaves(entry)
        else:
            yield from _leaves(entry)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
