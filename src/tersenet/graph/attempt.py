"""One try at removing units: the masked model, the smaller model, and what they compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from tersenet.graph.attributes import Attribute, ConflictError, from_calls, from_shapes
from tersenet.graph.axes import Axis, leaves
from tersenet.graph.blame import Failure, blame, near
from tersenet.graph.channels import ChannelGraph
from tersenet.graph.compare import distance, shape_of, tensors_in, tolerance
from tersenet.graph.fold import Constants, constants
from tersenet.graph.shapes import mismatch
from tersenet.graph.slices import Choice, Kept, gone, kept, take, tensors_of
from tersenet.graph.trace import Inputs, repeatable


class Attempt:
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
        self.trains = graph.trains_apart and self._untrainable() is None

    def run(self) -> Failure | None:
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
            return Failure("an output of the model would change its shape")
        self.difference = max(map(distance, small, masked))
        if not self.difference <= tolerance(self.before):
            return Failure(f"without it the model's output would differ by {self.difference:.2g} from the masked one")
        return None

    def probe(self) -> Failure | None:
        """Whether the model's code runs with the new sizes at all; the model is restored."""
        self._cut()
        try:
            return self._small()[0]
        finally:
            self.restore()

    def _small(self) -> tuple[Failure | None, list[list[torch.Tensor]]]:
        """What the model gives now that its tensors are cut, if its own code can run with that."""
        try:
            lost = self._adapt()
            outputs = self._outputs()
            wrong = mismatch(self.model, self.graph.flow, lost, self.graph.inputs)
        except ConflictError as error:
            return Failure(str(error), near(self.graph, self.choice, *error.nodes)), []
        except Exception as error:  # the model's own code, run with sizes it may not be made for
            return blame(error, self.model, self.graph, self.choice), []
        if self.trains and (why := self._untrainable()) is not None:
            return Failure(f"in training the model's own code cannot run with the new size: {why}"), []
        return (None if wrong is None else Failure(wrong[1], near(self.graph, self.choice, wrong[0]))), outputs

    def restore(self) -> None:
        for name, data in self.before.items():
            self.tensors[name].data = data
        for module, name, value in reversed(self.former):
            setattr(module, name, value)

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
        done: set[tuple[str, int]] = set()
        while True:  # what is masked now may change constants further on
            self.constants = constants(self.graph, self.model, self.choice, [s for s in self.samples if self._fits(s)])
            for (name, dim), elements in self.constants.dropped.items():
                self._zero({name: {dim: elements}})
            if self.constants.dropped.keys() <= done:
                return
            done |= self.constants.dropped.keys()

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
        with repeatable(self.model):
            return [tensors_in(self.model(*args, **kwargs)) for args, kwargs in self.samples]

    def _untrainable(self) -> str | None:
        """What the model's code says in training, where it may call layers that the exported operators do not."""
        args, kwargs = self.samples[0]
        try:
            with repeatable(self.model):
                self.model.train()(*args, **kwargs)
        except Exception as error:  # the model's own code, as above
            return str(error).strip().partition("\n")[0] or type(error).__name__
        finally:
            self.model.eval()
        return None
