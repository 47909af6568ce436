"""`Recipe`: everything that determines a result, in one frozen value. YAML and Python give the same one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, SerializeAsAny, model_validator

from tersenet.core.config import Config
from tersenet.core.errors import RecipeError
from tersenet.core.stage import Stage, parse_stage
from tersenet.core.training import Training


class ModelSpec(Config):
    """Which network. Exactly one of `name` (the zoo) and `factory` (`package.module:function`)."""

    name: str | None = Field(None, description="a model of the zoo")
    factory: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$", description="package.module:function")
    kwargs: dict[str, JsonValue] = Field({}, description="arguments for either")
    weights: str | None = Field(None, description="trained weights to start from (.pt or .safetensors state dict)")

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        if (self.name is None) == (self.factory is None):
            raise ValueError("give exactly one of 'name' (a model of the zoo) and 'factory' (package.module:function)")
        return self


class Augment(Config):
    """Random changes to training images, drawn anew for every image and epoch, on whole batches."""

    shift: int = Field(0, ge=0, description="move by up to this many pixels along each axis, zeros moved in")
    flip: bool = Field(False, description="mirror left to right with probability 1/2")
    rotate: float = Field(0.0, ge=0, le=180, description="turn by up to this many degrees")
    scale: float = Field(0.0, ge=0, lt=1, description="zoom by a factor in [1 − scale, 1 + scale]")


class DataSpec(Config):
    """Which data. Exactly one of `path` and `factory`."""

    path: str | None = Field(None, description="'digits', a datasets folder, an image folder, or a hub id")
    factory: str | None = Field(None, pattern=r"^[\w.]+:[\w.]+$", description="package.module:function")
    kwargs: dict[str, JsonValue] = Field({}, description="arguments for the factory")
    input: str | None = Field(None, description="column of the input; by default the only image column")
    label: str | None = Field(None, description="column of the label; by default the only class-label column")
    validation: float = Field(0.1, gt=0, description="held out of train, its last rows: a count if ≥ 1, else a share")
    normalize: bool = Field(True, description="subtract the training mean and divide by its deviation, per channel")
    augment: Augment = Augment()
    in_memory: bool = Field(True, description="decode the whole set once into tensors; false: a DataLoader per epoch")
    workers: int = Field(0, ge=0, description="processes that decode, where in_memory is false")

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if (self.path is None) == (self.factory is None):
            raise ValueError("give exactly one of 'path' (a folder, a hub id or 'digits') and 'factory'")
        return self


class CodeSpec(Config):
    """How tensors become bytes."""

    coder: Literal["auto", "best", "mix", "huffman", "ans", "range", "raw"] = Field(
        "auto",
        description="entropy coder for the symbols; auto takes the smallest for each tensor, best also tries slow ones",
    )
    small_tensors: Literal["float32", "float16"] = Field(
        "float16", description="precision of tensors that no stage touched (biases, norms)"
    )
    recipe: bool = Field(True, description="the file holds the recipe; else `evaluate` needs --recipe")


class Gate(Config):
    """What the file read back must reach, else exit code 3. Errors are shares in [0, 1] on validation."""

    max_error: float | None = Field(None, ge=0, le=1)
    max_error_increase: float | None = Field(None, ge=0, le=1, description="over the dense model")
    max_bytes: int | None = Field(None, ge=1)
    min_ratio: float | None = Field(None, gt=0, description="dense file over compressed file")


class Runtime(Config):
    """Where and how it is computed; part of the result, since precision and thread count change rounding."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1, description="processes (distributed data parallel); each takes batches of batch_size")
    nodes: int = Field(1, ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: int | None = Field(None, ge=1, description="CPU threads; default: what torch finds")


def _model(value: Any) -> Any:
    return ModelSpec(name=value) if isinstance(value, str) else value


def _data(value: Any) -> Any:
    return DataSpec(path=value) if isinstance(value, str) else value


def _stages(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"stages: must be a list of '- method: …', not {type(value).__name__}", ("stages",))
    return tuple(parse_stage(item, ("stages", index)) for index, item in enumerate(value))


def _first_training(training: Training | None) -> Training | None:
    if training is not None and training.teacher is not None and not training.teacher.files:
        raise ValueError("'teacher' needs 'files'; before its first training there is no model to learn from")
    return training


class Recipe(Config):
    """From a model and data to a file: train, then each stage in turn, then code and measure.

    `model` and `data` may be left out when Python objects are given to `tersenet.compress`; `train` may be left out
    when the model is already trained.
    """

    model: Annotated[ModelSpec | None, BeforeValidator(_model)] = None
    data: Annotated[DataSpec | None, BeforeValidator(_data)] = None
    train: Annotated[Training | None, AfterValidator(_first_training)] = None
    stages: Annotated[tuple[SerializeAsAny[Stage], ...], BeforeValidator(_stages)] = ()
    code: CodeSpec = CodeSpec()
    gate: Gate = Gate()
    runtime: Runtime = Runtime()
    seed: int = Field(0, ge=0)

    def to_dict(self) -> dict[str, Any]:
        plain = super().to_dict()
        if self.stages:
            plain["stages"] = [stage.to_dict() for stage in self.stages]
        return plain

    def portable(self) -> dict[str, Any]:
        """The same without what holds on this machine only: of a local data path, the last folder's name stays."""
        plain = self.to_dict()
        if "path" in plain.get("data", {}):
            plain["data"]["path"] = local_name(plain["data"]["path"])
        return plain

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with anything that is not a default, alike on every machine."""
        return canonical_digest(self.portable())


def local_name(path: str) -> str:
    """The last part of a path that exists here; anything else (a hub id, 'digits') as it is."""
    return Path(path).expanduser().resolve().name if Path(path).expanduser().exists() else path


def canonical_digest(value: Any) -> str:
    """SHA-256 of the JSON with sorted keys and no spaces, first twelve hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
