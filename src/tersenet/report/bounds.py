"""Bounds on a console: every figure with what it assumes and what it does not speak of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tersenet.bounds.code_length import TensorLength, ideal_of
from tersenet.report import text
from tersenet.report.plain import line, show

if TYPE_CHECKING:
    from tersenet.bounds.description_length import Prequential, TwoPart
    from tersenet.bounds.pac_bayes import Certificate
    from tersenet.flow.bounding import Bounds, LossChange
    from tersenet.flow.distortion import RateBound

LENGTHS = (
    "ideal: the shorter of zeroth-order entropy + frequency table as written, and the adaptive code of Krichevsky and "
    "Trofimov.",
    "Assumes symbols coded one by one. A coder that sees contexts can be below it (< 1); says nothing of codebooks, "
    "scales and dense values, nor of other weights that would do as well.",
)
BITS = (
    "Bits per weight: symbols in log2 of their alphabet, tables in their own type; symbols at their zeroth-order "
    "entropy, tables as stored; all bytes of the tensor on disk.",
)
RATES = (
    "Shannon: Shannon's lower bound for the density the dense values seem drawn from (spacings), one scale a channel. "
    "Laplacian: the same for Laplacian channels, exact to 0.02 bits a weight.",
    "Assumes weights drawn independently, and known densities. Says nothing of other weights that do as well: training "
    "anew can go below it.",
)
CERTIFICATE = (
    "Assumes training examples drawn independently from what the network will meet, and a file format chosen without "
    "them. Says nothing of other data, and is far from tight: it holds for every file of this length.",
)
DESCRIPTION = (
    "Assumes that whoever reads the labels has the inputs and this program. Says how much the network has found in the "
    "labels for what it costs, not how well it does on others.",
)
PREQUENTIAL = (
    "Each block is coded by the network trained on the blocks before it, the first one uniformly; no weights are sent.",
    "Assumes that sender and receiver train alike. Says what this network and this training find in the labels, not "
    "what others would.",
)


def print_lengths(rows: Sequence[TensorLength], console: Console | None = None) -> None:
    """The section of `inspect`: symbols as written beside the ideal, and bits per weight in three ways."""
    console = console or Console()
    table = _table("tensor", "symbols", "ideal", "ratio", "alphabet", "entropy", "on disk")
    table.caption_justify = "left"
    for row in rows:
        table.add_row(line(row.name), *_length(row.streams, row.ideal), *_per_weight(row))
    table.add_row("all", *_length(sum(r.streams for r in rows), ideal_of(rows)), *_per_weight(*rows), style="bold")
    _section(console, "Bounds: bytes of symbols against the ideal, and bits per weight", table, (*LENGTHS, *BITS))


def print_bounds(bounds: Bounds, console: Console | None = None) -> None:
    """What `tersenet bound` prints."""
    console = console or Console()
    show(console, line(f"{bounds.file}: {text.size(bounds.total)}"), whole=True)
    show(console, "")
    _print_code(bounds.lengths, console)
    if bounds.rates is not None:
        _print_rates(bounds.rates, console)
    if bounds.loss is not None:
        _print_loss(bounds.loss, console)
    if bounds.certificate is not None:
        _print_certificate(bounds.certificate, console)
    if bounds.description is not None:
        _print_description(bounds.description, console)
    if bounds.prequential is not None:
        _print_prequential(bounds.prequential, console)
    for note in bounds.notes:
        show(console, line(f"note: {note}"))


def bounds_as_json(bounds: Bounds) -> dict[str, Any]:
    """All figures, with the few that follow from them."""
    found = asdict(bounds)
    found["lengths"] = lengths_as_json(bounds.lengths)
    if bounds.rates is not None:
        found["rates"]["could_save"] = could_save(bounds.rates)
    if bounds.description is not None:
        found["description"]["total"] = bounds.description.total
    if bounds.prequential is not None:
        found["prequential"]["bits"] = bounds.prequential.bits
    return found


def lengths_as_json(rows: Sequence[TensorLength]) -> list[dict[str, Any]]:
    return [{**asdict(row), "ideal": row.ideal, "ratio": text.divide(row.streams, row.ideal)} for row in rows]


def could_save(rates: RateBound) -> float:
    """Bytes that the best code for the better-fitting of the two sources could save at most."""
    return max(0.0, rates.written - min(rates.shannon, rates.laplace))


def _print_code(rows: Sequence[TensorLength], console: Console) -> None:
    table = _table("tensor", "symbols", "entropy + table", "adaptive", "written / ideal")
    for row in rows:
        if row.streams:
            written, _, ratio = _length(row.streams, row.ideal)
            table.add_row(line(row.name), written, _bytes(row.with_table), _bytes(row.adaptive), ratio)
    written, _, ratio = _length(sum(row.streams for row in rows), ideal_of(rows))
    tables, adaptive = sum(row.with_table for row in rows), sum(row.adaptive for row in rows)
    table.add_row("all", written, _bytes(tables), _bytes(adaptive), ratio, style="bold")
    _section(console, "Ideal code length, bytes", table, LENGTHS)


def _print_rates(rates: RateBound, console: Console) -> None:
    table = _table("tensor", "weights", "groups", "error", "written", "Shannon", "Laplacian")
    for row in rates.rows:
        least = _bytes(row.shannon), _bytes(row.laplace)
        sizes = text.count(row.weights), text.count(row.groups)
        table.add_row(line(row.name), *sizes, text.percent(row.moved), text.count(row.written), *least)
    least = _bytes(rates.shannon), _bytes(rates.laplace)
    table.add_row("all, error divided at best", "", "", "", text.count(rates.written), *least, style="bold")
    weighing = "weighted by Fisher information" if rates.weighted else "unweighted"
    more = [
        f"error: mean squared, over the variance of the dense weights; {weighing} in the sum. Dense: {rates.dense}",
        f"The best code for these weights at this error could save at most {_bytes(could_save(rates))} of "
        f"{text.size(rates.written)}.",
    ]
    if rates.weighted:
        more.append(f"At the bound, one byte more is worth {text.significant(rates.byte_worth)} of predicted loss.")
    _section(console, "Rate-distortion bound, bytes", table, (*more, *RATES))


def _print_loss(loss: LossChange, console: Console) -> None:
    rise = loss.file - loss.dense
    shown = (
        f"predicted {_signed(loss.predicted)}, measured {_signed(rise)} "
        f"(from {text.significant(loss.dense)} to {text.significant(loss.file)}, mean on the training data)"
    )
    explained = (
        "predicted: ½·Σ F·(w − ŵ)². Assumes small changes around a minimum and weights that act apart; where it is far "
        "from what is measured, do not trust the weights of the bound above.",
    )
    _section(console, "Change of the training loss", line(shown), explained)


def _print_certificate(found: Certificate, console: Console) -> None:
    error = f"training error {text.percent(found.train_error)} on {text.count(found.examples)} examples"
    if found.bound >= 1 - 1e-9:
        shown = f"none: {text.count(round(found.bits))} bits are too many for {text.count(found.examples)} examples"
    else:
        shown = f"error at most {text.percent(found.bound)} with probability {text.percent(1 - found.delta)}"
    simpler = f"Hoeffding's form: {text.percent(found.hoeffding)}"
    _section(console, "PAC-Bayes certificate", line(f"{shown} ({error}; {simpler})"), CERTIFICATE)


def _print_description(found: TwoPart, console: Console) -> None:
    parts = (
        f"file {_bytes(found.model / 8)} + labels by it {_bytes(found.labels / 8)} = {_bytes(found.total / 8)} bytes"
    )
    shown = f"{parts}; labels without a model: {_bytes(found.uniform / 8)} bytes"
    _section(console, "Two-part description length of the training labels", line(shown), DESCRIPTION)


def _print_prequential(found: Prequential, console: Console) -> None:
    table = _table("trained on", "labels coded", "bits a label", "bytes")
    uniform, seen = math.log2(found.classes), 0
    for size, each in zip(found.sizes, (uniform, *(loss / math.log(2) for loss in found.losses)), strict=True):
        table.add_row(text.count(seen), text.count(size), f"{each:.3f}", _bytes(size * each / 8))
        seen += size
    table.add_row("all", text.count(seen), f"{found.bits / seen:.3f}", _bytes(found.bits / 8), style="bold")
    more = f"Labels without a model: {_bytes(seen * uniform / 8)} bytes."
    _section(console, "Prequential code of the training labels", table, (more, *PREQUENTIAL))


def _section(console: Console, title: str, shown: Any, explained: Iterable[str]) -> None:
    show(console, line(title))
    show(console, shown)
    for sentence in explained:
        show(console, line(sentence))
    show(console, "")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _length(written: int, ideal: float) -> tuple[str, str, str]:
    ratio = text.divide(written, ideal)
    if ratio is None:
        return text.count(written), text.MISSING, text.MISSING
    return text.count(written), _bytes(ideal), f"{ratio:.3f}"


def _per_weight(*rows: TensorLength) -> tuple[str, str, str]:
    weights = sum(row.weights for row in rows)
    sums = (
        sum(row.plain for row in rows),
        sum(row.entropy + row.others for row in rows),
        sum(row.disk for row in rows),
    )
    plain, entropy, disk = (text.bits(text.divide(8 * size, weights)) for size in sums)
    return plain, entropy, disk


def _bytes(size: float) -> str:
    return text.count(round(size))


def _signed(change: float) -> str:
    return f"{'−' if change < 0 else '+'}{text.significant(abs(change))}"
