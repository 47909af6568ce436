"""Multiply-accumulates and parameters of the compact architectures: published beside counted.

    python benchmarks/compact_counts.py > docs/results/compact_counts.md

Nothing is computed with weights, so the page is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from tersenet.core.recipe import ModelSpec
from tersenet.measure.macs import count_macs
from tersenet.models import MODELS, input_shape, skeleton

UNITS = {"": 1.0, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Row:
    """One published line. Figures are written as published, '569 M', since their digits say how they were rounded.

    kwargs: of the zoo's model; its `image` is the size for which MACs are counted. macs: products, so half of what a
    source counts as two operations. classifier: whether the last layer is in the source's MACs. norms: whether biases
    and norms are in its parameters. note: why a figure differs, or is reached by cutting digits off.
    """

    network: str
    source: str
    model: str
    kwargs: dict[str, Any]
    macs: str | None = None
    parameters: str | None = None
    classifier: bool = True
    norms: bool = True
    note: str = ""


V1 = "Howard et al. 2017"
V2 = "code of Sandler et al. 2018"
SHUFFLE = "Zhang et al. 2018"
GHOST = "Han et al. 2020"
SQUEEZE = "code of Iandola et al. 2016"
POPULAR = f"{V1}, table 8"
FULL = "4866 is without the last layer, which the paper's other rows count; with it 4867.3 M"
CUT = "290.7 M, cut"
ONE_FIGURE = "one figure for all numbers of groups; counted {} for 1, 2, 3, 4, 8 groups"
COLUMN = (
    "6.8 is the sum of table 1 of Szegedy et al. 2015, where K is 1024, the first layer has 2.7K weights for 9.4K, and "
    "some modules have fewer than their filters; operations there sum to 1502 M, 34 of them for a first layer of 118"
)

ROWS = (
    Row("Conv MobileNet", f"{V1}, table 4", "mobilenet_v1", {"conv": True}, "4866 M", "29.3 M", False, note=FULL),
    Row("MobileNet", f"{V1}, tables 4, 6, 7, 8", "mobilenet_v1", {}, "569 M", "4.2 M"),
    Row("MobileNet, shallow", f"{V1}, table 5", "mobilenet_v1", {"shallow": True}, "307 M", "2.9 M"),
    Row("MobileNet, α = 0.75", f"{V1}, tables 5, 6", "mobilenet_v1", {"width": 0.75}, "325 M", "2.6 M"),
    Row("MobileNet, α = 0.5", f"{V1}, table 6", "mobilenet_v1", {"width": 0.5}, "149 M", "1.3 M"),
    Row("MobileNet, α = 0.25", f"{V1}, table 6", "mobilenet_v1", {"width": 0.25}, "41 M", "0.5 M"),
    Row("MobileNet, 192×192", f"{V1}, table 7", "mobilenet_v1", {"image": 192}, "418 M", "4.2 M"),
    Row("MobileNet, 160×160", f"{V1}, table 7", "mobilenet_v1", {"image": 160}, "290 M", "4.2 M", note=CUT),
    Row("MobileNet, 128×128", f"{V1}, table 7", "mobilenet_v1", {"image": 128}, "186 M", "4.2 M"),
    Row("MobileNetV2", "Sandler et al. 2018, table 4", "mobilenet_v2", {}, "300 M", "3.4 M", norms=False, note="cut"),
    Row(
        "MobileNetV2, 1.4",
        "Sandler et al. 2018, table 4",
        "mobilenet_v2",
        {"width": 1.4},
        "585 M",
        "6.9 M",
        norms=False,
        note="the authors' code has 582 and 6.06, as counted",
    ),
    *(
        Row(f"MobileNetV2, {width:g}", V2, "mobilenet_v2", {"width": width}, macs, parameters, norms=False, note=note)
        for width, macs, parameters, note in (
            (1.4, "582 M", "6.06 M", ""),
            (1.3, "509 M", "5.34 M", ""),
            (1.0, "300 M", "3.47 M", "300.8 M, cut"),
            (0.75, "209 M", "2.61 M", ""),
            (0.5, "97 M", "1.95 M", ""),
            (0.35, "59 M", "1.66 M", ""),
        )
    ),
    *(
        Row(f"MobileNetV2, {image}×{image}", V2, "mobilenet_v2", {"image": image}, macs, "3.47 M", norms=False)
        for image, macs in ((192, "221 M"), (160, "154 M"), (128, "99 M"), (96, "56 M"))
    ),
    Row(
        "SqueezeNet 1.0, 227×227",
        SQUEEZE,
        "squeezenet1_0",
        {"image": 227},
        "0.86 G",
        "1248424",
        note="1.72 GFLOPS there; its last convolution is padded by a pixel, to 15×15 positions for 13×13: 861.3 M",
    ),
    Row(
        "SqueezeNet 1.1, 227×227",
        SQUEEZE,
        "squeezenet1_1",
        {"image": 227},
        "0.36 G",
        "1235496",
        note="0.72 GFLOPS there; the layers stated there have 387.8 M products, for 224×224 349.2 M",
    ),
    Row("SqueezeNet 1.0", "torchvision", "squeezenet1_0", {}, "0.82 G", "1248424"),
    Row("SqueezeNet 1.1", "torchvision", "squeezenet1_1", {}, "0.35 G", "1235496"),
    *(
        Row(
            f"ShuffleNet 1×, g = {groups}",
            f"{SHUFFLE}, table 1",
            "shufflenet_v1",
            {"groups": groups},
            macs,
            None,
            False,
        )
        for groups, macs in ((1, "143 M"), (2, "140 M"), (3, "137 M"), (4, "133 M"), (8, "137 M"))
    ),
    Row(
        "ShuffleNet 0.5×, g = 3",
        f"{SHUFFLE}, table 2",
        "shufflenet_v1",
        {"groups": 3, "width": 0.5},
        "38 M",
        classifier=False,
        note=ONE_FIGURE.format("38.2, 38.2, 37.1, 36.9, 39.7"),
    ),
    Row(
        "ShuffleNet 0.25×, g = 3",
        f"{SHUFFLE}, table 2",
        "shufflenet_v1",
        {"groups": 3, "width": 0.25},
        "13 M",
        classifier=False,
        note=ONE_FIGURE.format("10.9, 11.3, 10.8, 12.1, 12.0") + "; how few channels are rounded is not stated",
    ),
    Row("ShuffleNet 2×, g = 3", f"{SHUFFLE}, table 5", "shufflenet_v1", {"groups": 3, "width": 2.0}, "524 M"),
    Row("Xception, 299×299", "Chollet 2017, table 3", "xception", {}, None, "22855952"),
    Row("Xception, 299×299", "timm", "xception", {}, "8.4 G", "22.9 M"),
    Row("GhostNet 0.5×", f"{GHOST}, table 7", "ghostnet", {"width": 0.5}, "42 M", "2.6 M"),
    Row("GhostNet 1.0×", f"{GHOST}, table 7", "ghostnet", {}, "141 M", "5.2 M"),
    Row("GhostNet 1.0×", f"code of {GHOST}", "ghostnet", {}, "142 M", "5.2 M", note="141.2 M; the paper has 141"),
    Row(
        "GhostNet 1.3×",
        f"{GHOST}, table 7",
        "ghostnet",
        {"width": 1.3},
        "226 M",
        "7.3 M",
        note="226 is without the last layer, which the paper's other rows count; 7.36 M, cut",
    ),
    Row("GoogLeNet", POPULAR, "googlenet", {}, "1550 M", "6.8 M", note=COLUMN),
    Row(
        "VGG-16",
        POPULAR,
        "vgg16",
        {},
        "15.3 G",
        "138 M",
        classifier=False,
        note="15300 M there; without the three linear layers",
    ),
)
SMALL = {  # model → which strides are 1, and what is left of 32×32
    "mobilenet_v1": ("the first", 2),
    "mobilenet_v2": ("the first two", 4),
    "squeezenet1_0": ("the first, whose kernel is 3×3", 4),
    "squeezenet1_1": ("the first", 4),
    "shufflenet_v1": ("the first, and no max pooling", 4),
    "xception": ("the first, and both first layers padded", 2),
    "ghostnet": ("the first", 2),
    "googlenet": ("the first, and no first pooling", 4),
}


@cache
def counts(model: str, **kwargs: Any) -> tuple[int, int, int, int]:
    """MACs, those of layers whose name begins with 'classifier', parameters, and those of more than one dimension."""
    with torch.device("meta"):
        net = skeleton(ModelSpec(name=model, kwargs=kwargs))
    channels, height, width = input_shape(model)
    image = torch.empty(1, channels, kwargs.get("image", height), kwargs.get("image", width), device="meta")
    macs = count_macs(net, image)
    last = sum(count for name, count in macs.layers.items() if name.startswith("classifier"))
    sizes = [parameter.shape for parameter in net.parameters()]
    return macs.total, last, *(sum(math.prod(s) for s in sizes if len(s) > least) for least in (0, 1))  # type: ignore[return-value]


def counted(row: Row) -> tuple[int, int]:
    """MACs and parameters of the row's model, as its source counts them."""
    macs, last, parameters, weights = counts(row.model, **row.kwargs)
    return macs if row.classifier else macs - last, parameters if row.norms else weights


def verdict(published: str, count: int) -> str:
    """'rounded' or 'cut' where `count` gives the published digits that way, else by how much it differs."""
    digits, unit = [*published.split(), ""][:2]
    step = UNITS[unit] * 10.0 ** -len(digits.partition(".")[2])
    units = round(float(digits) * UNITS[unit] / step)
    if math.floor(count / step + 0.5) == units:
        return "rounded"
    return "cut" if int(count / step) == units else f"{100 * (count / step / units - 1):+.1f} %"


def verdicts(row: Row) -> tuple[str | None, str | None]:
    """Of MACs and of parameters; None where the source says nothing."""
    pairs = zip((row.macs, row.parameters), counted(row), strict=True)
    macs, parameters = (verdict(published, count) if published else None for published, count in pairs)
    return macs, parameters


def page() -> Iterator[str]:
    yield "# Counts of compact architectures"
    yield ""
    yield "Written by `python benchmarks/compact_counts.py`. MACs are the products of one forward pass, as"
    yield "`measure/macs.py` counts them; parameters are all that is trained. *Rounded* and *cut*: the published digits"
    yield "come out, to the nearest or with further digits dropped. Sources that count two operations for a product are"
    yield "halved. ¹: MACs without the last layer, ²: parameters without biases and norms, as the source counts."
    yield ""
    yield "| network | source | MACs published | counted | | parameters published | counted | | remark |"
    yield "|" + " --- |" * 9
    for row in ROWS:
        macs, parameters = counted(row)
        cells = [row.network, row.source, row.macs or "–", f"{macs / 1e6:,.2f} M{'' if row.classifier else '¹'}"]
        cells += [verdicts(row)[0] or "–", _grouped(row.parameters), f"{parameters:,}{'' if row.norms else '²'}"]
        yield f"| {' | '.join([*cells, verdicts(row)[1] or '–', row.note])} |"
    yield from small()


def small() -> Iterator[str]:
    yield ""
    yield "## For 32×32 images"
    yield ""
    yield "With `image: 32` and ten classes, which is the form below 96 pixels: some strides are 1."
    yield ""
    yield "| model | strides of 1 instead of 2 | 32×32 ends as | MACs | parameters |"
    yield "|" + " --- |" * 5
    for model, (strides, side) in SMALL.items():
        macs, _, parameters, _ = counts(model, image=32, classes=10)
        yield f"| `{model}` | {strides} | {side}×{side} | {macs / 1e6:,.1f} M | {parameters:,} |"


def _grouped(published: str | None) -> str:
    return "–" if published is None else f"{int(published):,}" if published.isdigit() else published


if __name__ == "__main__":
    assert all(row.model in MODELS for row in ROWS)
    print("\n".join(page()))
