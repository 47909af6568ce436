"""A model from its specification: seeded, checked, and filled with trained weights where the recipe names a file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tersenet.core.errors import ModelError
from tersenet.core.factory import call_factory, reason
from tersenet.core.recipe import ModelSpec
from tersenet.core.registry import nearest
from tersenet.core.seeds import derive
from tersenet.models.zoo import MODELS, ZooEntry


def build(spec: ModelSpec, seed: int) -> nn.Module:
    """The model of `spec` with weights drawn from `seed`; torch's global generator is left as it was.

    Raises ModelError if it cannot be built, is no `nn.Module`, or holds NaN or infinity; RecipeError if the zoo has
    no such name.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive(seed, "model"))
        model = _from_zoo(spec.name, spec.kwargs) if spec.name else _from_factory(str(spec.factory), spec.kwargs)
    if spec.weights:
        load_weights(model, spec.weights)
    check_finite(model)
    return model


def skeleton(spec: ModelSpec) -> nn.Module:
    """The zoo's model of `spec` as its builder leaves it; under `torch.device("meta")` that takes no memory."""
    return _from_zoo(str(spec.name), spec.kwargs)


def check_finite(model: nn.Module) -> None:
    """Raises ModelError naming the first parameter that holds NaN or infinity, buffer that holds NaN, or tensor that
    has no shape or no values yet. Infinity in a buffer is common: attention masks are made of it."""
    if not isinstance(model, nn.Module):
        hint = "; give an instance, not the class" if isinstance(model, type) else ""
        raise ModelError(
            f"model: must be a torch.nn.Module, not {getattr(model, '__name__', type(model).__name__)}{hint}"
        )
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if is_lazy(tensor):
            raise ModelError(f"model: '{name}' has no shape yet; run one batch through the model before it is given")
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            continue
        if tensor.is_meta:
            raise ModelError(f"model: '{name}' is on the meta device and has no values; build the model on a real one")
        wrong = ~tensor.isfinite() if name in parameters else tensor.isnan()
        if wrong.any():
            bad = int(wrong.sum())
            raise ModelError(f"model: '{name}' holds {bad} values that are NaN or infinite; train or load it again")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill `model` from a state dict in `.safetensors`, or in `.pt` read without running code from it.

    Raises ModelError if the file cannot be read, or naming the tensors in which it and the model differ.
    """
    state = _read_state(Path(path))
    own = model.state_dict()
    _same_names(own, state, path)
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            shapes = f"{list(tensor.shape)} in the file and {list(own[name].shape)} in the model"
            raise ModelError(f"weights {path}: '{name}' is {shapes}")
    model.load_state_dict(state)


def _from_zoo(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    entry = MODELS[name]
    _check_arguments(name, entry, kwargs)
    try:
        return entry(**kwargs)
    except Exception as error:
        raise ModelError(f"model {name}: cannot be built with {dict(kwargs)}: {reason(error)}") from error


def _check_arguments(name: str, entry: ZooEntry, kwargs: Mapping[str, Any]) -> None:
    known = inspect.signature(entry.builder).parameters
    for key in kwargs:
        if key not in known:
            raise ModelError(f"model {name}: unknown argument '{key}'{nearest(key, known)}")
        if problem := _misfit(kwargs[key], known[key].default):
            raise ModelError(f"model {name}: cannot be built with {dict(kwargs)}: {key} must be {problem}")


def _misfit(value: Any, default: Any) -> str | None:
    """What `value` should have been, going by the kind of the argument's default; None if it is that."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return None if whole and value >= 1 else "a whole number of at least 1"
    if isinstance(default, float):
        return None if isinstance(value, Real) and not isinstance(value, bool) else "a number"
    return None


def _from_factory(factory: str, kwargs: Mapping[str, Any]) -> nn.Module:
    model = call_factory(factory, kwargs, ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(f"factory {factory}: must return a torch.nn.Module, not {type(model).__name__}")
    return model


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelError(f"weights {path}: no such file")
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise ModelError(f"weights {path}: must be a state dict in .pt, .pth or .safetensors, not '{path.suffix}'")
    try:
        state = _load(path)
    except Exception as error:
        raise ModelError(f"weights {path}: cannot be read as a state dict: {reason(error)}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"weights {path}: must hold a state dict, names with tensors, as model.state_dict() gives it")
    return dict(state)


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _same_names(own: Mapping[str, Any], state: Mapping[str, Any], path: str | Path) -> None:
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    if missing:
        raise ModelError(f"weights {path}: {_some(missing)} of the model not in the file")
    if extra:
        raise ModelError(f"weights {path}: {_some(extra)} of the file not in the model")


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
