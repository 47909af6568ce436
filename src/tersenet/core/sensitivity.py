"""`Sensitivity`: how much each layer alone can lose, as plain values. `search` measures it and the report shows it."""

from __future__ import annotations

from pydantic import Field

from tersenet.core.config import Config


class Cell(Config):
    """The model with one layer pruned, on validation."""

    ratio: float = Field(description="share of the layer's entries, or filters, that was asked to be zero")
    zeros: int = Field(description="entries of the weight that are zero")
    error: float = Field(description="share in [0, 1]")
    loss: float


class LayerCurve(Config):
    """One layer at every ratio, all others dense."""

    layer: str = Field(description="what to call it in a recipe")
    name: str = Field(description="of the weight")
    shape: tuple[int, ...]
    parameters: int
    cells: tuple[Cell, ...]

    def within(self, limit: float) -> float:
        """The largest ratio at which the error is at most `limit`; 0 where there is none."""
        return max((cell.ratio for cell in self.cells if cell.error <= limit + 1e-12), default=0.0)


class Sensitivity(Config):
    """A scan. Nothing was trained after pruning."""

    recipe: dict[str, object]
    recipe_hash: str
    data: str
    data_digest: str
    seed: int
    granularity: str
    examples: int = Field(description="of validation")
    dense_error: float
    dense_loss: float
    parameters: int = Field(description="of the whole model")
    layers: tuple[LayerCurve, ...]

    def limit(self, threshold: float) -> float:
        """The error at which accuracy has fallen by `threshold`, a share in [0, 1]."""
        return self.dense_error + threshold

    def ratios_within(self, threshold: float) -> dict[str, float]:
        """Of each layer the largest ratio whose accuracy stays within `threshold` of the dense model's; layers that
        must stay dense are left out."""
        found = {curve.layer: curve.within(self.limit(threshold)) for curve in self.layers}
        return {layer: ratio for layer, ratio in found.items() if ratio > 0}
