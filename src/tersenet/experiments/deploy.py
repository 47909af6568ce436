"""A VGG-16 made fast: half its channels and integers of eight bits, on CIFAR-10, with controls beside."""

from __future__ import annotations

from tersenet.core.record import Record
from tersenet.experiments.table import TABLES, Row, Table

LEAN = {0: 32, 3: 32, 7: 64, 10: 64, 14: 128, 17: 128, 20: 128, 24: 192, 27: 192, 30: 192, 34: 128, 37: 128, 40: 128}
"""Place of a convolution in `features` → channels that stay: half in the first three blocks, 3/8 and 1/4 in the next.
Late layers of this net have the most to spare on CIFAR-10 (Li et al. 2017, arXiv 1608.08710, §4.1)."""
FAST = {0: 32, 3: 32, 7: 64, 10: 64, 14: 96, 17: 96, 20: 96, 24: 128, 27: 128, 30: 128, 34: 128, 37: 128, 40: 128}
FASTEST = {0: 16, 3: 16, 7: 32, 10: 48, 14: 80, 17: 80, 20: 80, 24: 112, 27: 112, 30: 112, 34: 112, 37: 112, 40: 112}
THIN = {0: 16, 3: 16, 7: 32, 10: 48, 14: 64, 17: 64, 20: 64, 24: 128, 27: 128, 30: 128, 34: 128, 37: 128, 40: 128}
"""For a seventh, a thirteenth and a fourteenth of the multiplications. Multiples of 16, since so many sums fit into a
register of 512 bits; of THIN later layers read multiples of 64, as many numbers of 8 bits as it holds."""


def _channels(record: Record) -> str:
    """Filters of each convolution, first to last, and the share of the dense network's MACs that is left."""
    widths = "–".join(str(row.shape[0]) for row in record.tensors if len(row.shape) == 4)
    dense, left = record.figures.macs, record.figures.macs_file
    return f"{widths}, {left / dense:.1%} of the MACs" if dense and left else widths


def _row(name: str, recipe: str, about: str, *overrides: str) -> Row:
    return Row(name, f"deploy/{recipe}.yaml", about, overrides, seeds=(0,))


def _keep(widths: dict[int, int], stage: int = 0) -> str:
    """As an override of the stage."""
    return f"stages.{stage}.keep={{{', '.join(f'features.{place}: {width}' for place, width in widths.items())}}}"


TABLES.register("deploy")(
    Table(
        title="VGG-16 made fast, CIFAR-10 JPEG-recoded",
        data="cifar10",
        head="channels of the convolutions",
        detail=_channels,
        remark=(
            "All rows share one dense training of 12 epochs. What follows are 16 epochs with at most a quarter of the\n"
            "multiplications, or, in the row `longer`, with which the others are to be compared, 5 of the dense net,\n"
            "which take about as long. Rows with a teacher train twice, which takes as long as the 11 epochs of the\n"
            "dense net in `longest`. The dense training and `longest` ran on two threads, the rest on one. CIFAR-10\n"
            "is recoded as JPEG here, which costs a point or two. How fast the files are, and their errors in other\n"
            "runtimes: `docs/DEPLOY.md`."
        ),
        rows=(
            _row("longer", "vgg16_longer", "The dense net trained on; nothing is removed."),
            _row(
                "longest",
                "vgg16_longer",
                "The same for 11 epochs, which take about as long as the two trainings of the rows with a teacher.",
                "stages.0.training.epochs=11",
            ),
            _row("half", "vgg16_half", "Half the channels of each layer, by Taylor expansion."),
            _row(
                "half_random", "vgg16_half", "As many channels at random, trained as long.", "stages.0.criterion=random"
            ),
            _row("half_int8", "vgg16", "Half the channels, then 8 bits with calibrated ranges, not trained further."),
            _row("half_int8_learned", "vgg16_learned", "The same with steps learned in one more epoch."),
            _row(
                "lean_int8",
                "vgg16",
                "Half the channels of each layer gone, of late ones up to three quarters; then as half_int8.",
                "stages.0.ratio=null",
                _keep(LEAN),
            ),
            _row(
                "fast_int8",
                "vgg16",
                "Channels for a seventh of the multiplications; 20 epochs, which cost less; then as half_int8.",
                "stages.0.ratio=null",
                _keep(FAST),
                "stages.0.finetune.epochs=20",
            ),
            _row(
                "fastest_int8",
                "vgg16",
                "Channels for a thirteenth of the multiplications; 40 epochs, which cost as much; then as half_int8.",
                "stages.0.ratio=null",
                _keep(FASTEST),
                "stages.0.finetune.epochs=40",
            ),
            _row(
                "fastest_taught",
                "vgg16_taught",
                "As many, cut out of `half`, which teaches in the 40 epochs; then as half_int8.",
            ),
            _row(
                "thin_taught",
                "vgg16_taught",
                "The same with channels for a fourteenth of the multiplications.",
                _keep(THIN, 1),
            ),
        ),
    )
)
