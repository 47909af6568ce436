"""All figures of a run. Sizes are of files on disk, accuracy is of the file read back."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import torch
from torch import nn

from tersenet import artifact
from tersenet.core.recipe import Recipe, local_name
from tersenet.core.record import Figures, Record, StageRow, TensorRow
from tersenet.core.version import __version__
from tersenet.flow.context import Context
from tersenet.flow.pack import contents_of
from tersenet.flow.weights import counts, histogram, lines, nonzero, plain_weights
from tersenet.measure.profile import Network, beside, costs, profile
from tersenet.measure.size import dense_sizes


def stage_row(name: str, model: nn.Module, recipe: Recipe, context: Context) -> StageRow:
    """The model on validation, and the length of the file it would give if written now."""
    scores = context.evaluate(model)
    data, _ = artifact.to_bytes(contents_of(model, recipe, context.splits), recipe.code.coder)
    return StageRow(
        name=name,
        validation_error=scores.get("error"),
        validation_loss=scores["loss"],
        nonzero=nonzero(model),
        file_bytes=len(data),
        seconds=context.now() - context.begun,
    )


def record_of(
    recipe: Recipe,
    dense: nn.Module,
    back: nn.Module,
    context: Context,
    rows: list[StageRow],
    file: Path,
) -> Record:
    """Measure the dense model and the one read back, once each on test."""
    ledger = artifact.inspect(file)
    before, after = plain_weights(dense), plain_weights(back)
    inputs = [tensor[:1].to(context.fabric.device) for tensor in context.splits.validation.example().inputs]
    networks = profile(dense, *inputs), profile(back, *inputs)
    stored = {row.name: row.bytes for row in ledger.rows}
    return Record(
        recipe=recipe.to_dict(),
        recipe_hash=recipe.digest(),
        file=file.name,
        file_digest=hashlib.sha256(file.read_bytes()).hexdigest()[:16],
        data=local_name(context.splits.name),
        data_digest=context.splits.digest,
        seed=recipe.seed,
        machine=machine(context.fabric.device),
        versions={"tersenet": __version__, "torch": torch.__version__, "python": platform.python_version()},
        figures=figures(dense, back, networks, context, rows, file),
        bytes_file_header=ledger.header_bytes,
        tensors=tuple(tensor_row(row, before, after) for row in ledger.rows),
        layers=beside(networks[0], costs(networks[0]), networks[1], costs(networks[1], stored=stored)),
        stages=tuple(rows),
        epochs=tuple(context.epochs),
        notes=tuple(context.notes),
    )


def figures(
    dense: nn.Module,
    back: nn.Module,
    networks: tuple[Network, Network],
    context: Context,
    rows: list[StageRow],
    file: Path,
) -> Figures:
    bytes_dense, bytes_zstd = dense_sizes(dense)
    parameters = sum(parameter.numel() for parameter in dense.parameters())
    macs, left = (network.macs for network in networks)
    for operator, times in macs.unknown.items():
        context.note(f"operator {operator} ({times}×) is not known to the MAC counter and not counted")
    validation = context.evaluate(back)
    test, test_dense = (
        (context.evaluate(back, "test"), context.evaluate(dense, "test")) if context.splits.test else ({}, {})
    )
    size = file.stat().st_size
    return Figures(
        dense_bytes=bytes_dense,
        dense_zstd_bytes=bytes_zstd,
        file_bytes=size,
        ratio=4 * parameters / size,
        parameters=parameters,
        nonzero=rows[-1].nonzero,
        macs=macs.total,
        macs_file=left.total,
        macs_nonzero=left.nonzero,
        validation_error_dense=rows[0].validation_error,
        validation_error_file=validation.get("error"),
        test_error_dense=test_dense.get("error"),
        test_error_file=test.get("error"),
        test_loss_dense=test_dense.get("loss"),
        test_loss_file=test.get("loss"),
        examples_test=int(test.get("examples", 0)),
        train_seconds=rows[0].seconds,
        total_seconds=context.now(),
    )


def tensor_row(row: artifact.LedgerRow, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> TensorRow:
    kept, distinct = counts(after[row.name])
    rows, columns = lines(after[row.name])
    return TensorRow(
        name=row.name,
        shape=row.shape,
        form=row.form,
        coders=row.coders,
        parameters=after[row.name].numel(),
        nonzero=kept,
        distinct=distinct,
        rows=rows,
        columns=columns,
        bytes_values=row.values,
        bytes_positions=row.positions,
        bytes_tables=row.tables,
        bytes_header=row.header,
        entropy_bytes=row.entropy_bytes,
        before=histogram(before[row.name]) if row.name in before else None,
        after=histogram(after[row.name], like=before.get(row.name)),
    )


def machine(device: torch.device) -> str:
    """Processor, threads and, where one is used, the accelerator."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    threads = torch.get_num_threads()
    text = f"{name}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}"
    return f"{text}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else text
