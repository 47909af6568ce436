"""SVD of a 3×512 net on MNIST: error over the share of singular values that are kept, by weights and by outputs."""

from __future__ import annotations

import re
from statistics import fmean

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Published, Row, Table

WEIGHTS, OUTPUTS = "low_rank/mlp_weights.yaml", "low_rank/mlp.yaml"
TABLE = {50: (0.013, 98.1), 10: (0.039, 97.4), 5: (0.048, 95.6), 3: (0.054, 90.8)}
"""Percent of the singular values → mean error of the weights, accuracy in percent, as published."""


def _error(record: Record) -> str:
    """Mean of |W − Ŵ| over the entries of each layer right after it was factorised, mean of the layers."""
    found = [re.search(r"mean error ([^,]+),", note) for note in record.notes]
    return f"{fmean(float(each[1]) for each in found if each):.4f}"


def _rows(keep: int) -> tuple[Row, ...]:
    share, (error, accuracy) = f"stages.0.keep={keep / 100:g}", TABLE[keep]
    paper = Published(f"{keep} % of the singular values", round(1 - accuracy / 100, 4), detail=f"{error:.3f}")
    kept = f"{keep} % of the singular values"
    return (
        Row(f"keep{keep}", WEIGHTS, f"{kept}, nearest weights, not fine-tuned.", (share,), (0,), paper),
        Row(
            f"keep{keep}_outputs",
            OUTPUTS,
            f"{kept}, nearest outputs on the training data, not fine-tuned.",
            (share, "stages.0.finetune=null"),
            (0,),
        ),
        Row(f"keep{keep}_finetuned", OUTPUTS, f"{kept}, nearest outputs, fine-tuned for 3 epochs.", (share,), (0,)),
    )


TABLES.register("low_rank")(
    Table(
        title="Low rank on MNIST",
        data="mnist",
        head="mean error of the weights",
        detail=_error,
        remark="The three hidden layers are factorised. The published net has 1.9 % error; what its mean error of\n"
        "weights is a mean of is not said, here it is that of |W − Ŵ|, which goes with the size of the weights.",
        rows=tuple(row for keep in TABLE for row in _rows(keep)),
    )
)
