"""Training for the file on LeNet-300-100 and LeNet-5: error against bytes, with the records of the literature, and what
each ingredient is worth."""

from __future__ import annotations

from tersenet.experiments.table import TABLES, Published, Row, Table

RECORDS = {
    "lenet_300_100": (
        Published("Deep Compression", 0.0158, 27_000, 40),
        Published("soft weight sharing", 0.019, 16_700, 64),
        Published("Oktay et al. 2020", 0.019, 8_560, 124),
    ),
    "lenet5": (
        Published("Deep Compression", 0.0074, 44_000, 39),
        Published("Bayesian compression", 0.010, 2_300, 771),
        Published("Oktay et al. 2020", 0.010, 2_840, 606),
        Published("MIRACLE", 0.0069, 3_030, 555),
        Published("MIRACLE", 0.0096, 1_520, 1110),
    ),
}
"""Net → error, bytes and ratio as published (soft weight sharing: bytes by its ratio)."""

PRICES = {"lenet_300_100": (7e-6, 1.5e-5, 3e-5), "lenet5": (1e-5, 3e-5)}


def _table(net: str, remark: str) -> Table:
    return Table(
        title=f"Training for the file: {net}, MNIST",
        data="mnist",
        figure=True,
        remark=remark,
        records=RECORDS[net],
        rows=tuple(
            Row(
                f"price_{price:g}",
                f"rate_aware/{net}.yaml",
                f"{price:g} of loss a bit.",
                (f"stages.0.price={price}",),
                published=min(RECORDS[net], key=lambda record: record.bytes or 0) if price == PRICES[net][-1] else None,
                series="here",
                mark=f"{price:g}",
            )
            for price in PRICES[net]
        ),
    )


TABLES.register("rate_aware_300_100")(
    _table("lenet_300_100", "Training images are shifted by up to one pixel, for the dense net and its teacher too.")
)
TABLES.register("rate_aware_lenet5")(
    _table("lenet5", "Training images are shifted by up to two pixels, for the dense net and its teacher too.")
)


VGG16 = tuple(
    Published(source, error, round(60_000_000 / ratio), ratio)
    for source, error, ratio in (
        ("Bayesian compression", 0.086, 95),
        ("MIRACLE", 0.0657, 159),
        ("LilNetX", 0.074, 465),
        ("Oktay et al. 2020", 0.10, 590),
        ("LilNetX", 0.10, 800),
    )
)
"""Errors and ratios as published, on CIFAR-10 as it is; bytes by the ratio, of 60 MB."""

TABLES.register("rate_aware_vgg16")(
    Table(
        title="Training for the file: VGG-16, CIFAR-10 JPEG-recoded",
        data="cifar10",
        figure=True,
        records=VGG16,
        remark=(
            "A short schedule: 12 epochs dense, 16 with half the channels, 4 with bits in the loss. The first 28 are\n"
            "those of the table `deploy`, whose row `longer` is the dense net trained on; with one --out they are\n"
            "trained once, here on two threads but for the 16 epochs. CIFAR-10 is recoded as JPEG here, which costs a\n"
            "point or two."
        ),
        rows=(
            Row(
                "bytes_600k",
                "rate_aware/vgg16.yaml",
                "600,000 bytes asked for, a hundredth.",
                seeds=(0,),
                published=VGG16[1],
                series="here",
            ),
            Row(
                "bytes_150k",
                "rate_aware/vgg16.yaml",
                "150,000 bytes asked for.",
                ("stages.1.bytes=150000",),
                seeds=(0,),
                published=VGG16[2],
                series="here",
            ),
        ),
    )
)


def _without(name: str, about: str, *overrides: str) -> Row:
    return Row(name, "rate_aware/lenet_300_100.yaml", about, overrides, seeds=(0, 1, 2))


TABLES.register("rate_ablation")(
    Table(
        title="What each part of training for the file is worth: LeNet-300-100, MNIST",
        data="mnist",
        remark="All rows at one price of a bit, so that bytes and error both change; the first has everything.",
        rows=(
            _without("all", "Everything, as in recipes/rate_aware/lenet_300_100.yaml."),
            _without("no_order", "Hidden units left in their order.", "stages.0.order=false"),
            _without("no_removal", "Dead units left in place, too.", "stages.0.order=false", "stages.0.remove=false"),
            _without("plain_coder", "Coded by `auto` in place of `best`.", "code.coder=auto"),
            _without("with_recipe", "The file holds its recipe.", "code.recipe=true"),
            _without("no_teacher", "Not taught by the dense net.", "stages.0.finetune.teacher=null"),
            _without("real_biases", "Biases stay real, in float16.", "stages.0.biases=false"),
            _without("no_shifts", "Images as they are, in all trainings.", "data.augment={shift: 0}"),
            _without("shorter", "A third of the epochs.", "stages.0.finetune.epochs=10"),
            Row(
                "afterwards",
                "rate_aware/lenet_300_100.yaml",
                "Not trained for: `quantize.rdoq` after the dense training.",
                ("stages=[{method: quantize.rdoq, price: 1e-6}]",),
                seeds=(0,),
            ),
        ),
    )
)
