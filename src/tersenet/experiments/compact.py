"""Width and resolution of MobileNet (Howard et al. 2017, arXiv 1704.04861, §3.3 and 3.4) on CIFAR-10."""

from __future__ import annotations

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Published, Row, Table

IMAGENET = {1.0: "29.4 %", 0.5: "36.3 %", 0.25: "49.4 %"}
"""α → error on ImageNet at 224×224, table 6."""
SIDES = (32, 24, 16)


def _cost(record: Record) -> str:
    """MACs and parameters."""
    return f"{(record.figures.macs or 0) / 1e6:.1f} M, {record.figures.parameters / 1e6:.2f} M"


def _row(width: float, side: int) -> Row:
    published = Published("table 6", detail=f"{IMAGENET[width]} on ImageNet") if side == 32 else None
    return Row(
        f"a{width:g}_r{side}",
        "compact/mobilenet_v1.yaml",
        f"α = {width:g}, images scaled to {side}×{side}.",
        overrides=(f"model.kwargs.width={width}", f"model.kwargs.resolution={side / 32}"),
        seeds=(0,),
        published=published,
        series=f"α = {width:g}",
        mark=str(side),
    )


TABLES.register("compact")(
    Table(
        figure=True,
        across="macs",
        title="MobileNet by width and resolution on CIFAR-10, JPEG-recoded",
        data="cifar10",
        head="MACs, parameters",
        detail=_cost,
        remark=(
            "Nothing is compressed: the nets are small by design, and the files hold 32-bit weights. 6 epochs.\n"
            "CIFAR-10 is recoded as JPEG here, which costs a point or two. Published errors are those of another data\n"
            "set and of a longer training, for the order alone. Times of these nets:\n"
            "[compact_latency.md](compact_latency.md)."
        ),
        rows=tuple(_row(width, side) for width in IMAGENET for side in SIDES),
    )
)
