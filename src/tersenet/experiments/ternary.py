"""Ternary ResNet-20 on CIFAR-10 (Zhu et al. 2017, arXiv 1612.01064, table 1), with fixed values and binary beside."""

from __future__ import annotations

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Published, Row, Table

RECIPE = "ternary/resnet20.yaml"


def _sparsity(record: Record) -> str:
    """Share of zeros in the quantized weights."""
    zeros = sum(row.parameters - row.nonzero for row in record.tensors if row.form in ("ternary", "binary"))
    total = sum(row.parameters for row in record.tensors if row.form in ("ternary", "binary"))
    return f"{100 * zeros / total:.1f} %" if total else "–"


TABLES.register("ternary")(
    Table(
        title="Ternary ResNet-20 on CIFAR-10, JPEG-recoded",
        data="cifar10",
        head="zeros in quantized weights",
        detail=_sparsity,
        remark=(
            "CIFAR-10 is recoded as JPEG here, and the schedule short: 14 epochs dense, 6 ternary (the paper: 200).\n"
            "The gap to our own dense net, trained 6 epochs longer too (row longer), is what can be compared. First\n"
            "convolution and last layer stay real. Adam at 1e-3 and the 40 % were chosen on validation."
        ),
        rows=(
            Row(
                "ttq",
                RECIPE,
                "Both values trained, 40 % of the weights zero (TTQ).",
                seeds=(0,),
                published=Published("table 1", 0.0887),
            ),
            Row("ttq_005", RECIPE, "TTQ, zero below 0.05 of the largest.", ("stages.0.sparsity=null",), seeds=(0,)),
            Row(
                "twn",
                RECIPE,
                "±α, threshold 0.7 of the mean (TWN).",
                ("stages.0.values=fixed", "stages.0.sparsity=null"),
                seeds=(0,),
            ),
            Row(
                "binary",
                RECIPE,
                "±1 and batch norm (BinaryConnect).",
                (
                    "stages=[{method: quantize.binary, scale: none, bound: 1, ignore: [conv1, fc], finetune: "
                    "{epochs: 6, lr: 1e-3}}]",
                ),
                seeds=(0,),
            ),
            Row(
                "longer",
                RECIPE,
                "Real weights, trained as long.",
                ("stages=[]", "train.epochs=20"),
                seeds=(0,),
                published=Published("table 1", 0.0823),
            ),
        ),
    )
)
