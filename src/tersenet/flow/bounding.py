"""All bounds of one file: what its symbols, its distortion and its training data say about how small it could be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from tersenet import artifact
from tersenet.bounds.code_length import TensorLength
from tersenet.bounds.description_length import Prequential, TwoPart, two_part
from tersenet.bounds.pac_bayes import Certificate, certificate
from tersenet.flow.code_lengths import tensor_lengths
from tersenet.flow.dense_weights import dense_weights
from tersenet.flow.distortion import RateBound, rate_bound
from tersenet.flow.on_training_data import Measured, fisher_weights, loss_change, measure
from tersenet.flow.prequential import prequential as prequential_code
from tersenet.flow.progress import Progress
from tersenet.forms import decode


@dataclass(frozen=True)
class LossChange:
    """Mean training loss: what ½·Σ F·(w − ŵ)² predicts of its rise, and what it was with dense and stored weights."""

    predicted: float
    dense: float
    file: float


@dataclass(frozen=True)
class Bounds:
    """Of one file. What needs dense weights or data is None without them; notes say so, and what else is left out."""

    file: str
    total: int
    overhead: int
    lengths: tuple[TensorLength, ...]
    rates: RateBound | None = None
    loss: LossChange | None = None
    certificate: Certificate | None = None
    description: TwoPart | None = None
    prequential: Prequential | None = None
    notes: tuple[str, ...] = ()


def bound_file(
    path: Path,
    *,
    dense: Path | None = None,
    data: bool = False,
    recipe: Path | None = None,
    overrides: Iterable[str] = (),
    delta: float = 0.05,
    examples: int = 512,
    prequential: bool = False,
    progress: Progress | None = None,
) -> Bounds:
    """Every bound that can be computed for the file at `path`.

    dense: the weights it was made from (`dense_weights`); by default those that the file's own folder keeps.
    data: measure on the training data, which file or recipe name. delta: how often the certificate may fail.
    examples: how many the Fisher information is estimated on.
    prequential: train the network anew on growing parts of the training data.

    Raises TersenetError where one of these cannot be read or does not fit the file.
    """
    contents, ledger = artifact.read(path), artifact.inspect(path)
    lengths = tensor_lengths(path, contents, ledger)
    notes: list[str] = []
    measured = measure(path, contents, recipe, tuple(overrides)) if data else None
    before, found_in = _dense(path, dense, contents, notes)
    rates, loss = None, None
    if before:
        after = {name: decode(contents.tensors[name]) for name in before}
        fisher = None
        if measured is not None:
            fisher = fisher_weights(measured, before, examples, notes)
            loss = loss_change(measured, before, after, fisher) if fisher else None
        disk = {row.name: row.streams + row.others for row in lengths}
        rates = rate_bound(str(found_in), before, after, disk, fisher, notes)
    return Bounds(
        file=str(path),
        total=ledger.total,
        overhead=ledger.overhead,
        lengths=lengths,
        rates=rates,
        loss=None if loss is None else LossChange(*loss),
        certificate=_certificate(measured, ledger.total, delta),
        description=_description(measured, ledger.total),
        prequential=prequential_code(measured, progress) if measured is not None and prequential else None,
        notes=tuple(notes),
    )


def _dense(
    path: Path, dense: Path | None, contents: artifact.Contents, notes: list[str]
) -> tuple[dict[str, torch.Tensor], Path | None]:
    place = dense
    if place is None:
        if not any(path.parent.glob("checkpoints/*.ckpt")):
            notes.append("no rate-distortion bound: the dense weights are not at hand; name them with --dense")
            return {}, None
        place = path.parent
    shapes = {name: tuple(code.shape) for name, code in contents.tensors.items()}
    found, found_in = dense_weights(place, shapes)
    if missing := sorted(set(shapes) - set(found)):
        notes.append(f"no dense weights of this shape for {', '.join(missing[:3])}{' and more' * (len(missing) > 3)}")
    return found, found_in


def _certificate(measured: Measured | None, total: int, delta: float) -> Certificate | None:
    if measured is None or measured.error is None:
        return None
    return certificate(measured.error, 8 * total, measured.examples, delta)


def _description(measured: Measured | None, total: int) -> TwoPart | None:
    if measured is None or not measured.classes:
        return None
    return two_part(total, measured.loss, measured.examples, measured.classes)
