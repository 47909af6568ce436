"""What deployment needs of a file: the model, its weights as stored, an input, and the network before compression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.code import Code
from tersenet.flow.prepare import register_methods
from tersenet.flow.profiling import inputs_of, subject_of


@dataclass(frozen=True)
class Deployable:
    """inputs: noise for a batch of the size given. dense: the same network with fresh float weights, or None where the
    file does not name it."""

    model: nn.Module
    codes: Mapping[str, Code]
    inputs: Callable[[int], tuple[torch.Tensor, ...]]
    dense: nn.Module | None


def deployable(file: Path, shapes: Sequence[str] = (), recipe: Path | None = None) -> Deployable:
    """shapes: of one example for each input, '3x224x224'; by default the model's own. recipe: builds the model of a
    file that cannot say how.

    Raises ArtifactError or ModelError where the file cannot be loaded or nothing tells its input.
    """
    register_methods()
    codes = dict(artifact.read(file).tensors)
    subject = subject_of(str(file), recipe, ())
    return Deployable(subject.model, codes, lambda batch: inputs_of(subject, shapes, batch), subject.dense)
