"""Deep Compression (Han, Mao and Dally 2016, table 1) and its pruning (Han et al. 2015, table 1) on MNIST."""

from __future__ import annotations

from tersenet.experiments.table import TABLES, Published, Row, Table

HAN_2016 = "Deep Compression, table 1"
HAN_2015 = "Han et al. 2015, table 1"

TABLES.register("deep_compression")(
    Table(
        title="Deep Compression on MNIST",
        data="mnist",
        rows=(
            Row(
                "lenet_300_100",
                "deep_compression/lenet_300_100.yaml",
                "Pruned, shared, entropy-coded.",
                published=Published(HAN_2016, 0.0158, 27_000, 40),
            ),
            Row(
                "lenet5",
                "deep_compression/lenet5.yaml",
                "Pruned, shared, entropy-coded.",
                published=Published(HAN_2016, 0.0074, 44_000, 39),
            ),
            Row(
                "lenet_300_100_pruned",
                "deep_compression/lenet_300_100_pruned.yaml",
                "Pruned only, 12 times fewer weights, kept in fp32.",
                published=Published(HAN_2015, 0.0159, ratio=12),
            ),
            Row(
                "lenet5_pruned",
                "deep_compression/lenet5_pruned.yaml",
                "Pruned only, 12 times fewer weights, kept in fp32.",
                published=Published(HAN_2015, 0.0077, ratio=12),
            ),
            Row(
                "lenet_300_100_random",
                "deep_compression/lenet_300_100.yaml",
                "The same with weights pruned at random.",
                overrides=("stages.0.criterion=random",),
            ),
            Row(
                "lenet5_random",
                "deep_compression/lenet5.yaml",
                "The same with weights pruned at random.",
                overrides=("stages.0.criterion=random",),
                seeds=(0,),
            ),
            Row(
                "lenet_300_100_smallest_kept",
                "deep_compression/lenet_300_100.yaml",
                "The same with the smallest weights kept.",
                overrides=("stages.0.criterion=smallest_kept",),
                seeds=(0,),
            ),
            Row(
                "lenet_300_100_longer",
                "deep_compression/lenet_300_100.yaml",
                "The dense net, trained as many epochs as the whole recipe takes; not compressed.",
                overrides=("train.epochs=43", "stages=[]"),
            ),
            Row(
                "lenet5_unshifted",
                "deep_compression/lenet5.yaml",
                "The same with training images as they are, as the papers have them.",
                overrides=("data.augment.shift=0",),
                seeds=(0,),
            ),
            Row(
                "lenet5_longer",
                "deep_compression/lenet5.yaml",
                "The dense net, trained as many epochs as the whole recipe takes; not compressed.",
                overrides=("train.epochs=34", "stages=[]"),
                seeds=(0,),
            ),
        ),
    )
)
