"""`Record`: all measured figures of one run, as plain values. The report reads these and nothing else."""

from __future__ import annotations

from pydantic import Field

from tersenet.core.config import Config
from tersenet.core.profile import LayerCost


class Histogram(Config):
    """Counts of a tensor's entries over equal bins from `low` to `high`; zeros are counted apart."""

    low: float
    high: float
    counts: tuple[int, ...]
    zeros: int = 0


class TensorRow(Config):
    """One tensor of the file and where its bytes went."""

    name: str
    shape: tuple[int, ...]
    form: str = Field(description="dense, masked, shared, …")
    coders: dict[str, str] = Field({}, description="stream → coder that won")
    parameters: int
    nonzero: int
    distinct: int = Field(description="different values, zero included")
    rows: int | None = Field(None, description="filters, or rows of a matrix, with an entry other than zero")
    columns: int | None = Field(None, description="inputs at one place of the kernel, with an entry other than zero")
    bytes_values: int
    bytes_positions: int
    bytes_tables: int = Field(description="codebooks and frequency tables")
    bytes_header: int = Field(description="shape, coder names, lengths")
    entropy_bytes: float = Field(description="zeroth-order empirical entropy of the symbols, tables not counted")
    before: Histogram | None = Field(None, description="weights of the dense model")
    after: Histogram | None = Field(None, description="weights of the file read back")

    @property
    def bytes(self) -> int:
        return self.bytes_values + self.bytes_positions + self.bytes_tables + self.bytes_header


class Epoch(Config):
    """One line of the training curve."""

    phase: str = Field(description="'train', or the number and method of the stage that trained")
    epoch: float
    train_loss: float
    validation_loss: float | None = None
    validation_error: float | None = None
    lr: float


class StageRow(Config):
    """The model after one stage, on validation, and the file it would give if written then."""

    name: str = Field(description="'dense', or the method")
    validation_error: float | None = None
    validation_loss: float | None = None
    nonzero: int
    file_bytes: int
    seconds: float


class Figures(Config):
    """What the run comes to. Bytes are lengths of files on disk; errors are shares in [0, 1]."""

    dense_bytes: int = Field(description="fp32 state dict as .safetensors")
    dense_zstd_bytes: int = Field(description="the same through zstd -19")
    file_bytes: int
    ratio: float = Field(description="parameters of the dense model × 4 bytes, over file_bytes")
    parameters: int
    nonzero: int
    macs: int | None = Field(None, description="multiply-accumulates of one input, dense")
    macs_file: int | None = Field(None, description="the same of the file read back, products with zero counted too")
    macs_nonzero: int | None = Field(None, description="of these, with a weight other than zero: not a measure of time")
    validation_error_dense: float | None = None
    validation_error_file: float | None = None
    test_error_dense: float | None = None
    test_error_file: float | None = Field(None, description="of the file read back")
    test_loss_dense: float | None = None
    test_loss_file: float | None = None
    examples_test: int = 0
    train_seconds: float = Field(0.0, description="training the dense net")
    total_seconds: float = Field(0.0, description="all work on the run, before and after interruptions")


class Record(Config):
    """One run."""

    recipe: dict[str, object]
    recipe_hash: str
    file: str = Field(description="name of the .terse file")
    file_digest: str
    data: str = Field(description="what the data is called")
    data_digest: str
    seed: int
    machine: str
    versions: dict[str, str]
    figures: Figures
    bytes_file_header: int = Field(description="magic, version, recipe, digest: what belongs to no tensor")
    tensors: tuple[TensorRow, ...] = ()
    layers: tuple[LayerCost, ...] = Field((), description="what each costs for one input: dense, and read back")
    stages: tuple[StageRow, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    notes: tuple[str, ...] = ()
