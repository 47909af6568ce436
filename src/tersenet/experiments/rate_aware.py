"""Training for the file on LeNet-300-100 and LeNet-5: error against bytes, with the records of the literature."""

from __future__ import annotations

from tersenet.experiments.table import TABLES, Published, Row, Table

RECORDS = {
    "lenet_300_100": {
        2e-6: Published("Deep Compression", 0.0158, 27_000, 40),
        4e-6: Published("Oktay et al. 2020", 0.019, 8_600, 124),
        1e-5: None,
    },
    "lenet5": {
        2e-6: None,
        5e-6: Published("best at 0.69 %", 0.0069, 3_030, 555),
        1.5e-5: Published("best at 0.96 %", 0.0096, 1_520, 1110),
    },
}
"""Net → price of a bit → what has been published near it."""

TABLES.register("rate_aware")(
    Table(
        title="Training for the file, MNIST",
        data="mnist",
        figure=True,
        remark="LeNet-5 is trained on images shifted by up to two pixels, LeNet-300-100 on the images as they are.",
        rows=tuple(
            Row(
                f"{net}_{price:g}",
                f"rate_aware/{net}.yaml",
                f"{price:g} of loss a bit.",
                (f"stages.0.price={price}",),
                published=paper,
                series=net,
                mark=f"{price:g}",
            )
            for net, papers in RECORDS.items()
            for price, paper in papers.items()
        ),
    )
)
