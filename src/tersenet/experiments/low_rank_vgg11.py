"""CP decomposition of VGG-11 on CIFAR-10, one layer at a time (Lebedev et al. 2015, arXiv 1412.6553)."""

from __future__ import annotations

import re

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Row, Table

RECIPE = "low_rank/vgg11_cp.yaml"
LAYERS = (0, 4, 8, 11, 15, 18, 22, 25)
"""Places of the convolutions in `features`."""
TUNED = "{epochs: 1, optimizer: sgd, lr: 0.005, l2: 5e-4, warmup: 0.1, clip_norm: 2}"


def _costs(record: Record) -> str:
    """What the stage told of ranks, errors and MACs; of many layers only how far their weights are off."""
    found = [note.partition(": ")[2] for note in record.notes if "features." in note]
    if len(found) == 1:
        return found[0]
    errors = re.findall(r"relative ([\d.]+)", "; ".join(found))
    return f"{len(found)} layers, weights off by {min(errors)} to {max(errors)}, relative" if errors else "–"


def _row(place: int) -> Row:
    about = f"features.{place} by CP, 25 % of its parameters."
    return Row(f"layer{place}", RECIPE, about, (f"stages.0.targets=[features.{place}]",), seeds=(0,))


TABLES.register("low_rank_vgg11")(
    Table(
        title="Factors of VGG-11: CP layer by layer, and all layers at once; CIFAR-10 JPEG-recoded",
        data="cifar10",
        head="rank, error of the weight, cost",
        detail=_costs,
        remark=(
            "One layer at a time, all others as they are, not fine-tuned; then all but the first, after 1 epoch. The\n"
            "time of each layer beside its factors: `python benchmarks/factorized_latency.py`."
        ),
        rows=(
            *(_row(place) for place in LAYERS),
            Row(
                "all_cp25_finetuned",
                RECIPE,
                "All layers but the first by CP, 25 % of the parameters, 1 epoch of training.",
                (
                    "stages.0.targets=[Conv2d]",
                    "stages.0.ignore=[features.0]",
                    f"stages.0.finetune={TUNED}",
                ),
                seeds=(0,),
            ),
            *(
                Row(
                    f"all_depthwise{kernels}_finetuned",
                    RECIPE,
                    f"All layers but the first depthwise separable, {kernels} kernel{'s' * (kernels > 1)} for each "
                    "channel, 1 epoch of training.",
                    (
                        f"stages=[{{method: factorize.depthwise, rank: {kernels}, ignore: [features.0], "
                        f"finetune: {TUNED}}}]",
                    ),
                    seeds=(0,),
                )
                for kernels in (1, 2)
            ),
        ),
    )
)
