"""Error against bytes of every quantizer, on LeNet-5 and VGG-11: uniform grids from 8 to 2 bits, after training and
through it, with ternary, binary, shared, product-quantized and hashed weights beside."""

from __future__ import annotations

from tersenet.experiments.table import TABLES, Row, Table

BITS = (8, 6, 5, 4, 3, 2)


def _rows(recipe: str, epochs: int, groups: int, seeds: tuple[int, ...]) -> tuple[Row, ...]:
    spent = f"{epochs} epoch{'s' if epochs > 1 else ''}"
    tuned = f"finetune: {{epochs: {epochs}, lr: 3e-4}}"

    def uniform(bits: int, way: str, about: str, *overrides: str) -> Row:
        chosen = (f"stages.0.bits={bits}", *overrides)
        series = f"uniform, {way}"
        return Row(f"uniform{bits}_{way}", recipe, f"{bits} bits, {about}", chosen, seeds, None, series, str(bits))

    def other(name: str, about: str, stage: str) -> Row:
        return Row(name, recipe, about, (f"stages=[{{{stage}, {tuned}}}]",), seeds)

    plain = ("stages.0.finetune=null", "stages.0.learn_step=false")
    fitted = ("stages.0.rounding=adaptive", "stages.0.bias_correction=true")
    return (
        *(uniform(bits, "nearest", "rounded to nearest.", *plain) for bits in BITS),
        *(
            uniform(bits, "adaptive", "adaptive rounding and bias correction on 1024 training images.", *plain, *fitted)
            for bits in BITS
            if bits <= 5
        ),
        *(uniform(bits, "trained", f"steps learned, {spent}.") for bits in BITS),
        other(
            "mixed3_trained",
            f"3 bits a weight on average, from 2 to 8 by layer; {spent}.",
            "method: quantize.uniform, mixed: {average: 3}, learn_step: true",
        ),
        other("shared16", f"16 values a layer by k-means, {spent}.", "method: quantize.share, bits: 4"),
        other("shared4", f"4 values a layer by k-means, {spent}.", "method: quantize.share, bits: 2"),
        other("ternary_trained", f"TTQ, {spent}.", "method: quantize.ternary"),
        other("ternary_fixed", f"TWN, {spent}.", "method: quantize.ternary, values: fixed"),
        other("binary", f"±a for each filter (XNOR), {spent}.", "method: quantize.binary"),
        other(
            "product",
            f"Columns in {groups} pieces, 16 centroids for each, {spent}.",
            f"method: quantize.product, groups: {groups}, k: 16, codebook: float16",
        ),
        other("hashed", f"One value for 16 weights, {spent}.", "method: quantize.hash, share: 0.0625"),
    )


TABLES.register("bits_lenet5")(
    Table(
        title="Bits per weight, LeNet-5 on MNIST",
        data="mnist",
        remark="Adam at 3e-4 for every quantizer alike; nothing was chosen for one of them.",
        figure=True,
        rows=_rows("bits/lenet5.yaml", 3, 10, (0, 1, 2)),
    )
)
TABLES.register("bits_vgg11")(
    Table(
        title="Bits per weight, VGG-11 on CIFAR-10",
        data="cifar10",
        remark=(
            "CIFAR-10 recoded as JPEG. Adam at 3e-4 for every quantizer alike; nothing was chosen for one of them.\n"
            "One epoch of it costs about half a point by itself: compare the rows of 8 bits, with training and without."
        ),
        figure=True,
        rows=_rows("bits/vgg11.yaml", 1, 2, (0,)),
    )
)
