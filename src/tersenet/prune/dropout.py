"""Dropout rates for a network that has lost connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from tersenet.prune.masks import Masks

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class Dropout:
    """A dropout module, its rate before the stage, and the layer whose input it thins."""

    name: str
    module: _DropoutNd
    rate: float
    layer: str
    following: nn.Module | None


def dropouts(model: nn.Module) -> tuple[Dropout, ...]:
    """Every dropout module with the linear or convolution layer registered next after it (the last one: before it)."""
    named = list(model.named_modules())
    return tuple(
        Dropout(name, module, module.p, *_following(named, place))
        for place, (name, module) in enumerate(named)
        if isinstance(module, _DropoutNd)
    )


def rescaled(rate: float, connections: int, original: int) -> float:
    """D_r = D_o · √(C_r / C_o), for a layer that keeps C_r of C_o connections (Han et al. 2015, arXiv 1506.02626,
    eq. 1 and 2: C_i = N_i · N_{i−1} of a fully connected layer, here the entries of its weight that are not pruned)."""
    return float(rate * (connections / original) ** 0.5)


def rescale(layers: Iterable[Dropout], masks: Masks) -> None:
    """Set the rates for the connections that are left now, of those before the stage.

    Rates stay so after the stage, for the fine-tuning of later stages; where dropout is off, they mean nothing. A
    later stage that rescales starts from these rates and from the connections it finds.
    """
    for target in masks.targets:
        left, original = int(masks.forms[target.name].mask.sum()), int(masks.allowed[target.name].sum())
        for dropout in layers:
            if any(module is dropout.following for module, _ in target.owners):
                dropout.module.p = rescaled(dropout.rate, left, original)


def tell(layers: Sequence[Dropout], note: Callable[[str], None]) -> None:
    """Say which rate became which, as the layer that a dropout feeds is a guess from the order of registration."""
    if not layers:
        note("rescale_dropout: the model has no dropout module, so no rate was changed")
    for dropout in layers:
        if dropout.following is None:
            note(f"rescale_dropout: no layer belongs to '{dropout.name}', whose rate stays {dropout.rate:g}")
        else:
            change = f"from {dropout.rate:g} to {dropout.module.p:.3g}"
            note(f"rescale_dropout: '{dropout.name}' {change}, for '{dropout.layer}'")


def _following(named: list[tuple[str, nn.Module]], place: int) -> tuple[str, nn.Module | None]:
    after = [pair for pair in named[place + 1 :] if isinstance(pair[1], _LAYERS)]
    before = [pair for pair in named[:place] if isinstance(pair[1], _LAYERS)]
    return after[0] if after else before[-1] if before else ("", None)
