"""`Training`: a budget and how to spend it, for the dense model and for every fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tersenet.core.config import Config


class Teacher(Config):
    """Distillation: the predictions of other models as targets beside the true ones."""

    files: tuple[str, ...] = Field((), description=".terse files, several as an ensemble; none: as `model` says")
    model: Literal["dense", "stage"] = Field(
        "dense", description="the model before stage 1, or as this stage got it, made smaller by those before"
    )
    temperature: float = Field(4.0, gt=0, description="by which all logits are divided")
    weight: float = Field(0.9, gt=0, le=1, description="of what is taught; that of the targets is the rest")

    @model_validator(mode="after")
    def _one_source(self) -> Teacher:
        if self.files and self.model != "dense":
            raise ValueError(f"give 'files' or 'model: {self.model}', not both")
        return self


class Training(Config):
    """A budget and how to spend it. Exactly one of `epochs` and `steps`."""

    epochs: int | None = Field(None, ge=0, description="passes over the training set")
    steps: int | None = Field(None, ge=0, description="or: optimizer steps")
    batch_size: int = Field(128, ge=1, description="examples a step, on each process where there are several")
    objective: str = Field("cross_entropy", description="what is minimised")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float = Field(1e-3, gt=0, description="learning rate at its highest")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = False
    l2: float = Field(0.0, ge=0, description="weight decay (for adam: added to the gradient; for adamw: decoupled)")
    l1: float = Field(0.0, ge=0, description="penalty l1·Σ|w| over the weights of two and more dimensions")
    schedule: Literal["constant", "cosine", "linear", "step"] = "cosine"
    milestones: tuple[float, ...] = Field((0.5, 0.75), description="shares of the budget where 'step' drops lr")
    gamma: float = Field(0.1, gt=0, le=1, description="by which 'step' multiplies it")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the budget over which the rate rises from zero")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    teacher: Teacher | None = Field(None, description="models to learn from, beside the targets")

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give the budget as exactly one of 'epochs' and 'steps'")
        if self.teacher is not None and self.objective in ("mse", "squared_hinge"):
            raise ValueError(
                f"'teacher' gives probabilities of classes, with which objective '{self.objective}' cannot go"
            )
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("'nesterov' needs optimizer 'sgd' with a momentum above 0")
        return self
