"""Measured time of each layer, by hooks around the modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

ENOUGH = 1.0
"""Seconds of passes after which no further one is begun, once there are a few."""


def layer_seconds(model: nn.Module, *inputs: Any, most: int = 30, least: int = 3) -> tuple[float, dict[str, float]]:
    """Seconds of one pass in eval mode, and of each module in it without the modules inside it; medians.

    For a model on the CPU. After one pass that is not counted, between `least` and `most` passes, a second's worth if
    that lies between. The time includes what Python takes to call the module, and about a microsecond for the hooks.
    """
    flags = {module: module.training for module in model.modules()}
    clock, handles = _Clock(), []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(clock.entering(name), prepend=True))
        handles.append(module.register_forward_hook(clock.leaving()))
    whole: list[float] = []
    parts: defaultdict[str, list[float]] = defaultdict(list)
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(), parametrize.cached():
            model(*inputs)
            while len(whole) < least or (len(whole) < most and sum(whole) < ENOUGH):
                clock.start()
                begun = perf_counter()
                model(*inputs)
                whole.append(perf_counter() - begun)
                for name, seconds in clock.seconds.items():
                    parts[name].append(seconds)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in flags.items():
            module.training = flag
    return median(whole), {name: median(times) for name, times in parts.items()}


class _Clock:
    """Whatever time passes belongs to the innermost module that is running."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.seconds: dict[str, float] = {}
        self.running: list[str] = []
        self.since = perf_counter()

    def tick(self) -> None:
        now = perf_counter()
        if self.running:
            self.seconds[self.running[-1]] = self.seconds.get(self.running[-1], 0.0) + now - self.since
        self.since = now

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, arguments: Any) -> None:
            self.tick()
            self.running.append(name)

        return enter

    def leaving(self) -> Callable[[nn.Module, Any, Any], None]:
        def leave(module: nn.Module, arguments: Any, result: Any) -> None:
            self.tick()
            self.running.pop()

        return leave
