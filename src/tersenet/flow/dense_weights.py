"""The weights that a file was made from: a state dict, or what the folder of a run keeps of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tersenet.core.errors import ModelError
from tersenet.core.factory import reason

FORMS = "parametrizations."
"""Stands in the names of weights that have a form already."""


def dense_weights(place: Path, names: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, torch.Tensor], Path]:
    """Tensors of the names and shapes given, by name, and the file that they were found in.

    place: a state dict (.pt, .pth, .safetensors), a checkpoint of a run (.ckpt), or a run's folder; of its checkpoints,
        the first training that ended without any form, which is that of the dense network.
    Raises ModelError where none is there, cannot be read, or has not one tensor of such a name and shape.
    """
    for path in sorted(place.glob("checkpoints/*.ckpt"), key=_written) if place.is_dir() else [place]:
        state = _state(path)
        if place.is_dir() and any(FORMS in name for name in state):
            continue
        found = {name: state[name] for name, shape in names.items() if name in state and state[name].shape == shape}
        if found:
            return found, path
    if place.is_dir():
        raise ModelError(f"--dense {place}: keeps no checkpoint of the dense network; give its state dict")
    raise ModelError(f"--dense {place}: has no tensor of a name and shape in the file")


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelError(f"--dense {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if path.suffix == ".ckpt":
            state = state["model"]
        return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # whatever reading a foreign file raises
        raise ModelError(f"--dense {path}: cannot be read as a state dict: {reason(error)}") from error
