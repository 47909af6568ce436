"""Blocks that a model can do without: modules that are the identity once their branches are zero; and their removal,
with proof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.registry import nearest
from tersenet.graph.candidates import Block, candidates, related, units, within
from tersenet.graph.channels import ChannelGraph, as_inputs
from tersenet.graph.compare import distance, samples_of, tensors_in, tolerance
from tersenet.graph.edits import Skip, put, take_out
from tersenet.graph.slices import tensors_of
from tersenet.graph.trace import Inputs, repeatable, undisturbed

__all__ = ["Block", "BlockRemoval", "blocks", "remove_blocks", "without", "zeroed"]


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
    found = candidates(model, graph)
    refused = {block.name: block.reason for block in found if block.reason is not None}
    with undisturbed(model):
        trial = _Trial(model, _samples(graph, inputs))
        while True:
            able = units([block for block in found if block.name not in refused])
            failed = trial.accepted(able).refused
            if not failed:
                break
            refused |= failed
    others = units([b for b in found if b.name in refused and not any(related(b.name, a.name) for a in able)])
    listed = {block.name for block in (*able, *others)}
    return tuple(replace(block, reason=refused.get(block.name)) for block in found if block.name in listed)


def remove_blocks(model: nn.Module, graph: ChannelGraph, names: Sequence[str], *, inputs: Any = None) -> BlockRemoval:
    """Take the blocks `names` out of `model`, in place: each becomes a module that gives back its first argument.

    It is proven as for `blocks`, of all of them together; where it fails, block by block, and those that fail stay and
    are reported. Nothing else of the model changes. `graph` describes the model before: make a new one to go on. A
    whole stage goes too, by its name; what is in another of `names` goes with it.

    Raises:
        ModelError: a block that does not exist or cannot go.
    """
    known = {block.name: block for block in candidates(model, graph)}
    for name in names:
        if name not in known:
            raise ModelError(f"blocks: there is no block '{name}'{nearest(name, known)}")
        if known[name].reason is not None:
            raise ModelError(f"blocks: '{name}' cannot go: {known[name].reason}")
    chosen = [known[name] for name in dict.fromkeys(names) if not any(within(name, other) for other in names)]
    with undisturbed(model):
        done = _Trial(model, _samples(graph, inputs)).accepted(chosen)
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
        with repeatable(self.model):
            return [tensors_in(self.model(*args, **kwargs)) for args, kwargs in self.samples]


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
