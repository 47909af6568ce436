"""How images and the weights of convolutions lie in memory while a network trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tersenet.train.gradients import undisturbed


class Layout:
    """Channels last, in which convolutions train faster on CPU and GPU, where the model's own code bears it.

    A forward that says `x.view(-1, n)` after a convolution needs the usual layout; so one example is tried first.
    """

    def __init__(self, model: nn.Module, example: Callable[[], tuple[torch.Tensor, ...]]) -> None:
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        self.before = torch.preserve_format
        self.images = bool(convolutions)
        if not self.images:
            return
        plain = all(convolution.weight.is_contiguous() for convolution in convolutions)
        self.before = torch.contiguous_format if plain else torch.channels_last
        self._lay(model, torch.channels_last)
        if plain and not self._runs(model, example()):
            self._lay(model, torch.contiguous_format)
            self.images = False

    def inputs(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Images like the convolutions: a layout that one layer loses is slow in all that follow."""
        if not self.images:
            return inputs
        return tuple(x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs)

    def restore(self, model: nn.Module) -> None:
        self._lay(model, self.before)

    def _runs(self, model: nn.Module, example: tuple[torch.Tensor, ...]) -> bool:
        with undisturbed(model, ()), torch.no_grad():
            try:
                model(*self.inputs(example))
            except RuntimeError:  # what is wrong besides is told when training begins
                return False
        return True

    @staticmethod
    def _lay(model: nn.Module, layout: torch.memory_format) -> None:
        model.to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs
