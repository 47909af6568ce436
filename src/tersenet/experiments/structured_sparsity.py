"""Structured Sparsity Learning (Wen et al. 2016, arXiv 1608.03665) on LeNet and MNIST: tables 1 and 2."""

from __future__ import annotations

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Published, Row, Table

FILTERS = "structured_sparsity/lenet5_filters.yaml"
SHAPES = "structured_sparsity/lenet5_shapes.yaml"
CHANNELS = "structured_sparsity/lenet5_channels.yaml"


def _structure(record: Record) -> str:
    """Filters and columns (filter shapes) of both convolutions that are not zero."""
    first, second = (row for row in record.tensors if len(row.shape) == 4)
    return f"filters {first.rows}–{second.rows}, shapes {first.columns}–{second.columns}"


def _filters(name: str, first: float, second: float, paper: Published | None) -> Row:
    changed = f"stages.0.penalty={{filters: {{conv1: {first:g}, conv2: {second:g}}}, channels: {{conv2: {first:g}}}}}"
    return Row(name, FILTERS, "Group lasso on filters, and on the channels of conv2.", (changed,), published=paper)


def _shapes(name: str, first: float, second: float, paper: Published | None) -> Row:
    changed = f"stages.0.penalty={{shapes: {{conv1: {first:g}, conv2: {second:g}}}}}"
    return Row(name, SHAPES, "Group lasso on filter shapes.", (changed,), published=paper)


TABLES.register("structured_sparsity")(
    Table(
        title="Structured Sparsity Learning on MNIST",
        data="mnist",
        head="left of conv1–conv2",
        detail=_structure,
        remark=(
            "The published LeNet has 0.9 % error, 20–50 filters and 25–500 filter shapes. The last two rows are\n"
            "controls: as many filters as in table 1, LeNet 3, chosen otherwise and trained for as many epochs."
        ),
        rows=(
            _filters("filters_mild", 8e-3, 2.5e-2, Published("table 1, LeNet 2", 0.008, detail="filters 5–19")),
            _filters("filters_strong", 2e-2, 6e-2, Published("table 1, LeNet 3", 0.010, detail="filters 3–12")),
            _shapes("shapes_mild", 7e-3, 9e-3, Published("table 2, LeNet 4", 0.008, detail="shapes 21–41")),
            _shapes("shapes_strong", 1.5e-2, 8e-2, Published("table 2, LeNet 5", 0.010, detail="shapes 7–14")),
            Row("filters_l1", CHANNELS, "3 and 12 filters by their L1 norm, trained as long."),
            Row("filters_random", CHANNELS, "The same at random.", ("stages.0.criterion=random",)),
        ),
    )
)
