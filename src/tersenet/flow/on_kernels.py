"""A file's model on kernels: weights as they are stored, with which the layers compute."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tersenet import artifact
from tersenet.core.errors import ModelError
from tersenet.core.load import load_recipe
from tersenet.flow.load import zoo_model
from tersenet.flow.prepare import prepare_model, register_methods
from tersenet.forms import load_codes
from tersenet.graph.edits import apply
from tersenet.runtime.binary_net import compile_binary
from tersenet.runtime.layers import kernels_of, put


def on_kernels(file: Path, recipe: Path | None = None) -> tuple[nn.Module, tuple[str, ...]]:
    """(the model, sentences on layers that compute in torch). recipe: builds the model of a file that cannot say how.

    A network of signs throughout is computed as a whole (`runtime.binary_net`), others layer by layer. Raises
    ModelError where there is a kernel for no layer, ArtifactError where the file cannot be loaded.
    """
    register_methods()
    contents = artifact.read(file)
    if contents.graph and recipe is None:
        raise ModelError(f"{file}: holds operators and not layers, for which alone there are kernels; use --recipe")
    model = zoo_model(contents, file) if recipe is None else prepare_model(load_recipe(recipe))
    if contents.edits:
        apply(model, contents.edits, {name: code.shape for name, code in contents.tensors.items()})
    kernels, notes = kernels_of(model, contents.tensors, contents.aliases)
    if not kernels:
        why = notes[0] if notes else "it has no linear layer and no convolution"
        raise ModelError(f"{file}: no kernel computes with any of its layers ({why}); use another runtime")
    put(model, kernels)
    own = {f"{name}.weight" for name in kernels}
    load_codes(model, {name: code for name, code in contents.tensors.items() if name not in own}, contents.aliases)
    model.eval().requires_grad_(False)
    try:
        return compile_binary(model, contents.tensors).module(), ()
    except ModelError:  # another network
        return model, tuple(notes)
