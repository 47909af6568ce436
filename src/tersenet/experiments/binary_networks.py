"""Binary weights and activations on MNIST beside the real-valued net, epoch by epoch, and with a narrow last layer."""

from __future__ import annotations

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Published, Row, Table

HALVED = "model.kwargs.hidden=[4096,4096,2048]"


def _curve(record: Record) -> str:
    """Validation error after each epoch, in percent."""
    return ", ".join(f"{100 * e.validation_error:.2f}" for e in record.epochs if e.validation_error is not None)


TABLES.register("binary_networks")(
    Table(
        title="Binary networks on MNIST",
        data="mnist",
        head="validation error by epoch, %",
        detail=_curve,
        figure=True,
        across="epochs",
        remark=(
            "3×4096 with batch norm, Adam and squared hinge loss. Binary nets are trained binary from the start, so\n"
            "that their dense error is that of an untrained net. 8 epochs, batches of 500."
        ),
        rows=(
            Row("real", "binary_networks/real.yaml", "Real weights, ReLU.", seeds=(0,)),
            Row("real_halved", "binary_networks/real.yaml", "Its last hidden layer halved.", (HALVED,), seeds=(0,)),
            Row(
                "bnn",
                "binary_networks/bnn.yaml",
                "Weights and activations ±1; the last layer's output is real.",
                seeds=(0,),
                published=Published("curve", detail="converges more slowly"),
            ),
            Row(
                "bnn_halved",
                "binary_networks/bnn.yaml",
                "Its last hidden layer halved.",
                (HALVED,),
                seeds=(0,),
                published=Published("text", detail="accuracy falls greatly"),
            ),
        ),
    )
)
