"""BinaryConnect (Courbariaux et al. 2015, arXiv 1511.00363, table 2) on permutation-invariant MNIST."""

from __future__ import annotations

from tersenet.experiments.table import TABLES, Published, Row, Table

ERRORS = {"none": 0.0130, "deterministic": 0.0129, "stochastic": 0.0118}
ABOUT = {
    "none": "Real weights, no regularizer.",
    "deterministic": "Weights ±1 by their sign, in training and at test.",
    "stochastic": "Weights ±1 at random in training; the real weights at test, as in the paper.",
}

TABLES.register("binary_connect")(
    Table(
        title="BinaryConnect on permutation-invariant MNIST",
        data="mnist",
        remark=(
            "3×1024 with batch norm and squared hinge loss. Binary nets are trained binary from the start, so that\n"
            "their dense error is that of an untrained net. 40 epochs; the paper trains longer and takes the best on\n"
            "validation."
        ),
        rows=tuple(
            Row(name, f"binary_connect/{name}.yaml", ABOUT[name], published=Published("table 2", error))
            for name, error in ERRORS.items()
        ),
    )
)
