"""`tersenet plan RECIPE`: a dry run."""

from __future__ import annotations

from dataclasses import asdict

from tersenet.cli.options import Json, RecipePath, Set, print_json

NAME = "plan"


def command(recipe: RecipePath, set: Set = None, json: Json = False) -> None:
    """Which layers each stage matches, and the bytes and MACs to expect. Nothing is trained."""
    from tersenet.cli.printing import print_plan
    from tersenet.core.load import blaming, load_recipe
    from tersenet.flow.plan import plan
    from tersenet.flow.prepare import example_inputs, prepare_model, register_methods

    register_methods()
    plain = load_recipe(recipe, set or ())
    with blaming(recipe):
        planned = plan(plain, prepare_model(plain), example_inputs(plain))
    if json:
        print_json(asdict(planned))
    else:
        print_plan(planned)
