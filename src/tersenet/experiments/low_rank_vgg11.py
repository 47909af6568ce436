"""CP decomposition of VGG-11 on CIFAR-10, one layer at a time (Lebedev et al. 2015, arXiv 1412.6553)."""

from __future__ import annotations

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Row, Table

RECIPE = "low_rank/vgg11_cp.yaml"
LAYERS = (0, 4, 8, 11, 15, 18, 22, 25)
"""Places of the convolutions in `features`."""


def _costs(record: Record) -> str:
    """What the stage told of ranks, errors and MACs."""
    found = [note.partition(": ")[2] for note in record.notes if "features." in note]
    return "; ".join(found) or "–"


def _row(place: int, name: str, about: str, *overrides: str) -> Row:
    return Row(f"layer{place}_{name}", RECIPE, f"features.{place} {about}", overrides, seeds=(0,))


TABLES.register("low_rank_vgg11")(
    Table(
        title="CP decomposition of VGG-11, layer by layer, CIFAR-10 JPEG-recoded",
        data="cifar10",
        head="rank, error of the weight, cost",
        detail=_costs,
        remark=(
            "One layer at a time, all others as they are; not fine-tuned, but for the last row of all layers but the\n"
            "first (1 epoch). The time of each layer beside its factors: `python benchmarks/factorized_latency.py`."
        ),
        rows=(
            *(
                _row(
                    place,
                    f"cp{round(100 * share)}",
                    f"by CP, {share:.0%} of its parameters.",
                    f"stages.0.targets=[features.{place}]",
                    f"stages.0.parameters={share}",
                )
                for place in LAYERS
                for share in (0.5, 0.25)
            ),
            Row(
                "all_cp25_finetuned",
                RECIPE,
                "All layers but the first by CP, 25 % of the parameters, 1 epoch of training.",
                (
                    "stages.0.targets=[Conv2d]",
                    "stages.0.ignore=[features.0]",
                    "stages.0.finetune={epochs: 1, optimizer: sgd, lr: 0.005, l2: 5e-4, warmup: 0.1, clip_norm: 2}",
                ),
                seeds=(0,),
            ),
        ),
    )
)
