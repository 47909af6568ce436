"""`tersenet plan RECIPE`: a dry run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tersenet.cli.options import Json, RecipePath, Set, print_json

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME = "plan"


Groups = Annotated[bool, typer.Option("--groups", help="list the channels that hang together, and which can go")]


def command(recipe: RecipePath, set: Set = None, groups: Groups = False, json: Json = False) -> None:
    """Which layers each stage matches, and the bytes and MACs to expect. Nothing is trained."""
    from tersenet.cli.printing import print_groups, print_plan
    from tersenet.core.load import blaming, load_recipe
    from tersenet.flow.plan import plan
    from tersenet.flow.prepare import example_inputs, prepare_model, register_methods

    register_methods()
    plain = load_recipe(recipe, set or ())
    if groups:
        with blaming(recipe):
            found = _groups(prepare_model(plain), example_inputs(plain))
        print_json(found) if json else print_groups(found)
        return
    with blaming(recipe):
        planned = plan(plain, prepare_model(plain), example_inputs(plain))
    if json:
        print_json(asdict(planned))
    else:
        print_plan(planned)


def _groups(model: nn.Module, inputs: tuple[torch.Tensor, ...] | None) -> dict[str, Any]:
    """Every group of channels; half of each is removed from a copy, to see whether the model's own code bears it."""
    from tersenet.core.errors import ModelError
    from tersenet.graph import ChannelGraph, try_out

    if inputs is None:
        raise ModelError(
            "model: its channels are found by one example input, whose shape only the data tells; add data"
        )
    graph = ChannelGraph(model, inputs)
    trial = try_out(model, graph)
    rows = [
        {
            "name": group.name,
            "units": group.units,
            "width": group.width,
            "prunable": group.prunable,
            "reason": group.reason,
            "members": [[member.tensor, member.dim, member.role] for member in group.members],
        }
        for group in graph
    ]
    return {"groups": rows, "difference": trial.difference, "unknown": dict(graph.unknown)}
