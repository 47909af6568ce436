"""What a network costs layer by layer: a model of the zoo, that of a recipe, or that of a file beside its dense one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.errors import ModelError, RecipeError, TersenetError
from tersenet.core.factory import reason
from tersenet.core.load import blaming, load_recipe, with_overrides
from tersenet.core.profile import Profile, Roof, Side
from tersenet.core.recipe import Recipe
from tersenet.core.seeds import generator
from tersenet.flow.load import restore, zoo_model
from tersenet.flow.measuring import machine
from tersenet.flow.prepare import example_inputs, prepare_model, register_methods
from tersenet.forms.inputs import CHILD
from tersenet.graph.program import StoredModel
from tersenet.measure.profile import Network, beside, costs, profile
from tersenet.measure.roofline import measure_roof
from tersenet.measure.timing import layer_seconds
from tersenet.models.zoo import MODELS

WHOLE_NUMBERS = ("binary", "ternary", "uniform")
"""Forms whose weights are whole numbers times a scale."""


@dataclass(frozen=True)
class Subject:
    """What is profiled. dense: the network before compression; None where it is `model` or not known.

    stored: tensor → bytes in the file, of `file_bytes`; None where there is no file.
    """

    name: str
    model: nn.Module
    example: Callable[[], tuple[torch.Tensor, ...] | None]
    dense: nn.Module | None = None
    stored: Mapping[str, int] | None = None
    file_bytes: int = 0
    whole_numbers: frozenset[str] = field(default_factory=frozenset)


def profile_target(
    target: str,
    *,
    shapes: Sequence[str] = (),
    batch: int = 1,
    sram: int = 0,
    integer: bool = False,
    recipe: Path | None = None,
    overrides: Iterable[str] = (),
) -> Profile:
    """Profile what `target` names: a .terse file, a recipe (.yaml), or a model of the zoo.

    shapes: of one example for each input, '3x224x224' or '128:int64'; by default the model's own, or that of its data.
    batch: inputs in a pass. sram: bytes on chip, for the energy estimate. integer: take activations for quantized; else
        those are that the file rounds.
    recipe: builds the model of a file that cannot say how.

    Raises TersenetError where the target cannot be read or built, or cannot take such an input.
    """
    if batch < 1 or sram < 0:
        name, value = ("--batch", batch) if batch < 1 else ("--sram", sram)
        raise RecipeError(f"{name} {value}: must be at least {1 if batch < 1 else 0}")
    register_methods()
    subject = subject_of(target, recipe, tuple(overrides))
    inputs = inputs_of(subject, shapes, batch)
    dense, at_hand = None, _watched(subject, subject.model, inputs)
    if subject.dense is not None:
        dense = _watched(subject, subject.dense, inputs)
    roof = measure_roof()
    return _profile(subject, dense, at_hand, inputs, roof, sram=sram, integer=integer)


def subject_of(target: str, recipe_path: Path | None, overrides: tuple[str, ...]) -> Subject:
    """What `target` names; raises TersenetError where it cannot be read or built."""
    path = Path(target)
    if recipe_path is not None and path.suffix != ".terse":
        raise RecipeError(f"--recipe {recipe_path}: builds the model of a .terse file, which {target} is not")
    if path.suffix in (".yaml", ".yml"):
        recipe = load_recipe(path, overrides)
        with blaming(path):
            return Subject(path.name, prepare_model(recipe), partial(example_inputs, recipe))
    if path.suffix == ".terse" or (path.exists() and target not in MODELS):
        return _file(path, recipe_path, overrides)
    recipe = Recipe.parse(with_overrides({"model": {"name": target}}, overrides))
    return Subject(target, prepare_model(recipe), partial(example_inputs, recipe))


def _file(path: Path, recipe_path: Path | None, overrides: tuple[str, ...]) -> Subject:
    contents, ledger = artifact.read(path), artifact.inspect(path)
    dense: nn.Module | None
    if recipe_path is not None:
        recipe = load_recipe(recipe_path, overrides)
        model, dense = restore(contents, path, prepare_model(recipe)), prepare_model(recipe)
    else:
        model, dense = restore(contents, path), None if contents.graph else zoo_model(contents, path)
        recipe = _recipe_of(contents, overrides)
    stored = {row.name: row.bytes for row in ledger.rows}
    whole = frozenset(name for name, code in contents.tensors.items() if code.form in WHOLE_NUMBERS)
    return Subject(path.name, model, lambda: _example(recipe, model), dense, stored, ledger.total, whole)


def _example(recipe: Recipe, model: nn.Module) -> tuple[torch.Tensor, ...] | None:
    """Of the data, for tokens and masks are no noise; else as the file remembers it."""
    found = example_inputs(recipe)
    return model.example() if found is None and isinstance(model, StoredModel) else found


def _recipe_of(contents: artifact.Contents, overrides: tuple[str, ...]) -> Recipe:
    plain: dict[str, Any] = {"data": contents.recipe.get("data"), "model": contents.model}
    return Recipe.parse(with_overrides({key: value for key, value in plain.items() if value}, overrides))


def inputs_of(subject: Subject, shapes: Sequence[str], batch: int) -> tuple[torch.Tensor, ...]:
    """Noise, of `shapes` ('3x224x224') or else like the model's example; raises ModelError where there is neither."""
    if shapes:
        made = [_input(text, batch) for text in shapes]
        return tuple(made)
    example = subject.example()  # which may read data
    if example is None:
        raise ModelError(
            f"{subject.name}: nothing tells the shape of its input; give that of one example, say --input 3x32x32"
        )
    return tuple(_drawn(torch.Size((batch, *tensor.shape[1:])), tensor.dtype, tensor) for tensor in example)


def _input(text: str, batch: int) -> torch.Tensor:
    """'3x224x224' or '3,224,224', and '128:int64' for whole numbers."""
    found = re.fullmatch(r"(\d+(?:[x×,]\d+)*)(?::(\w+))?", text.replace(" ", ""))
    dtype = getattr(torch, (found[2] or "float32") if found else "", None)
    if not found or not isinstance(dtype, torch.dtype):
        raise ModelError(
            f"--input {text}: must be the shape of one example, without the batch, as 3x224x224; with a type, 128:int64"
        )
    shape = tuple(int(side) for side in re.split("[x×,]", found[1]))
    try:
        return _drawn(torch.Size((batch, *shape)), dtype)
    except (RuntimeError, OverflowError) as error:
        raise ModelError(f"--input {text}: no tensor of this shape can be made: {reason(error)}") from None


def _drawn(shape: torch.Size, dtype: torch.dtype, like: torch.Tensor | None = None) -> torch.Tensor:
    """Noise; what is no measurement (tokens, masks) as in the example, or zeros."""
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator(0, "profile"), dtype=torch.float32).to(dtype)
    return torch.zeros(shape, dtype=dtype) if like is None else like[:1].expand(shape).clone()


def _watched(subject: Subject, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Network:
    try:
        return profile(model, *inputs)
    except TersenetError:
        raise
    except Exception as error:  # whatever the model's own code makes of an input that it cannot take
        shapes = " and ".join(_spelled(tensor) for tensor in inputs)
        raise ModelError(f"{subject.name}: cannot take an input of {shapes}: {reason(error)}") from error


def _spelled(tensor: torch.Tensor) -> str:
    return f"{'×'.join(map(str, tensor.shape))} {str(tensor.dtype).removeprefix('torch.')}"


def _profile(
    subject: Subject,
    dense: Network | None,
    at_hand: Network,
    inputs: tuple[torch.Tensor, ...],
    roof: Roof,
    *,
    sram: int,
    integer: bool,
) -> Profile:
    whole, seconds = _seconds(subject.model, at_hand, inputs)
    first, first_whole, first_seconds = dense or at_hand, whole, seconds
    if subject.dense is not None:
        first_whole, first_seconds = _seconds(subject.dense, first, inputs)
    dense_costs = costs(first, sram, seconds=first_seconds)
    file_costs = None
    if subject.stored is not None:
        whole_numbers = subject.whole_numbers if integer else subject.whole_numbers & _rounded_inputs(subject.model)
        file_costs = costs(at_hand, sram, subject.stored, whole_numbers, seconds)
        dense_costs = {name: cost.model_copy(update={"nonzero": cost.macs}) for name, cost in dense_costs.items()}
    return Profile(
        model=subject.name,
        inputs=tuple(map(_spelled, inputs)),
        batch=len(inputs[0]),
        sram=sram,
        integer=integer,
        machine=machine(torch.device("cpu")),
        dense=Side(peak_bytes=first.peak, bytes=first.weight_bytes, seconds=first_whole),
        file=Side(peak_bytes=at_hand.peak, bytes=subject.file_bytes, seconds=whole) if file_costs is not None else None,
        roof=roof,
        layers=beside(first, dense_costs, at_hand if file_costs else None, file_costs),
        notes=tuple(_notes(at_hand)),
    )


def _rounded_inputs(model: nn.Module) -> frozenset[str]:
    """Weights of the layers whose input is rounded."""
    return frozenset(f"{name}.weight" for name, module in model.named_modules() if hasattr(module, CHILD))


def _seconds(model: nn.Module, network: Network, inputs: tuple[torch.Tensor, ...]) -> tuple[float, dict[str, float]]:
    """Of the whole pass and of each layer; where layers do not run as modules (stored operators), of the whole only."""
    whole, parts = layer_seconds(model, *inputs)
    return whole, parts if all(layer.name in parts for layer in network.layers) else {}


def _notes(network: Network) -> Iterable[str]:
    for operator, times in network.macs.unknown.items():
        where = ", ".join(
            dict.fromkeys(layer.name or "the model" for layer in network.layers if operator in layer.unknown)
        )
        yield (
            f"operator {operator} ({times}×, in {where}) is not known to the MAC counter: what it multiplies is not in "
            "any sum"
        )
    read = {place for layer in network.layers for place in layer.weights}
    idle = [w for place, w in enumerate(network.found.weights) if place not in read and w.parameter]
    if idle:
        named = ", ".join(weight.name for weight in idle[:3]) + (" and more" if len(idle) > 3 else "")
        yield f"{sum(weight.entries for weight in idle):,} parameters take no part in this pass: {named}"
