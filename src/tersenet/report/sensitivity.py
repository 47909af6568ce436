"""A sensitivity scan for people: console table, CSV, and a page with a plot of every layer."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from tersenet.core.disk import replace_file
from tersenet.core.sensitivity import LayerCurve, Sensitivity
from tersenet.report import text
from tersenet.report.axes import Axis, axis_for
from tersenet.report.page import environment
from tersenet.report.plain import line, show
from tersenet.report.plots import Line, Mark, Plot, path

TOGETHER = 8
"""Layers that one plot shows together, the largest; every layer has a plot of its own besides."""


@dataclass(frozen=True)
class View:
    """The page, ready for its template."""

    scan: Sensitivity
    title: str
    threshold: float
    chosen: tuple[tuple[LayerCurve, float], ...]
    block: str
    ratios: tuple[float, ...]
    together: Plot
    left_out: int
    plots: tuple[Plot, ...]


def write_sensitivity(scan: Sensitivity, threshold: float, folder: Path) -> dict[str, str]:
    """`sensitivity.json`, `.csv` and `.html` in `folder`; returns their paths. Raises TersenetError where they cannot
    be written."""
    contents = {"json": scan.model_dump_json(indent=1), "csv": as_csv(scan), "html": render(scan, threshold)}
    paths = {kind: folder / f"sensitivity.{kind}" for kind in contents}
    for kind, content in contents.items():
        replace_file(paths[kind], content.encode("utf-8", errors="replace"))
    return {kind: str(file) for kind, file in paths.items()}


def print_sensitivity(scan: Sensitivity, threshold: float, console: Console | None = None) -> None:
    """Error in percent of every layer at every ratio, and the ratios that `threshold` allows, to paste."""
    console = console or Console()
    dense, examples = text.percent(scan.dense_error), text.count(scan.examples)
    show(console, line(f"validation error in % with one layer pruned, by {scan.granularity}; no fine-tuning"))
    show(console, line(f"dense {dense} on {examples} examples; allowed up to {_allowed(scan, threshold)}"))
    show(console, "")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    for name in ("weights", *(f"{ratio:g}" for ratio in _ratios(scan)), "allowed"):
        table.add_column(name, justify="right", no_wrap=True)
    for curve in scan.layers:
        errors = [f"{100 * cell.error:.2f}" for cell in curve.cells]
        allowed = f"{curve.within(scan.limit(threshold)):g}"
        table.add_row(line(curve.layer), text.count(curve.parameters), *errors, allowed)
    show(console, table)
    show(console, "")
    for row in block(scan, threshold).splitlines():
        show(console, line(row), whole=True)


def block(scan: Sensitivity, threshold: float) -> str:
    """`sparsity: {layer: ratio}` as YAML, ready for a stage, after a comment on the layers that stay dense."""
    chosen = scan.ratios_within(threshold)
    dense = [curve.layer for curve in scan.layers if curve.layer not in chosen]
    comment = f"# stay dense: {', '.join(map(text.clean_line, dense))}\n" if dense else ""
    if not chosen:
        return f"# no layer can be pruned at any of these ratios with a loss of at most {text.percent(threshold)}\n"
    return comment + yaml.safe_dump({"sparsity": chosen}, default_flow_style=None, sort_keys=False, width=100)


def as_csv(scan: Sensitivity) -> str:
    """One line for each layer and ratio."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["layer", "weight", "parameters", "granularity", "ratio", "zeros", "error", "loss"])
    for curve in scan.layers:
        for cell in curve.cells:
            fixed = [curve.layer, curve.name, curve.parameters, scan.granularity]
            writer.writerow([*fixed, cell.ratio, cell.zeros, cell.error, cell.loss])
    return out.getvalue()


def render(scan: Sensitivity, threshold: float) -> str:
    """The HTML of the page; the same scan gives the same page."""
    largest = sorted(scan.layers, key=lambda curve: -curve.parameters)[:TOGETHER]
    shown = [curve for curve in scan.layers if curve in largest]
    limit = scan.limit(threshold)
    model = scan.recipe.get("model")
    name = (model.get("name") or model.get("factory")) if isinstance(model, dict) else model
    view = View(
        scan=scan,
        title=f"{name or 'a model'} on {scan.data}",
        threshold=threshold,
        chosen=tuple((curve, curve.within(limit)) for curve in scan.layers),
        block=block(scan, threshold),
        ratios=_ratios(scan),
        together=_plot(scan, shown, limit, "Largest layers" if len(shown) < len(scan.layers) else "All layers"),
        left_out=len(scan.layers) - len(shown),
        plots=tuple(_plot(scan, [curve], limit, curve.layer) for curve in scan.layers),
    )
    return environment().get_template("sensitivity.html").render(view=view)


def _ratios(scan: Sensitivity) -> tuple[float, ...]:
    return tuple(cell.ratio for cell in scan.layers[0].cells) if scan.layers else ()


def _allowed(scan: Sensitivity, threshold: float) -> str:
    return f"{text.percent(scan.limit(threshold))} (threshold {text.percent(threshold)})"


def _plot(scan: Sensitivity, curves: Sequence[LayerCurve], limit: float, caption: str) -> Plot:
    """Error against ratio, and the threshold as a level line. All plots share their axes."""
    ratios = _ratios(scan)
    x = axis_for((*ratios, 0.0), text.tick_decimal, zero=True)
    errors = [cell.error for curve in scan.layers for cell in curve.cells]
    y = axis_for((*errors, limit), text.tick_percent, zero=True)
    level = y.place(limit)
    lines = [_line(curve, number, x, y) for number, curve in enumerate(curves)]
    lines.append(Line(f"threshold, {text.percent(limit)}", "level", path([(0.0, level), (100.0, level)])))
    alt = "; ".join(
        f"{curve.layer}: {text.percent(curve.cells[0].error)} at {curve.cells[0].ratio:g}, "
        f"{text.percent(curve.cells[-1].error)} at {curve.cells[-1].ratio:g}"
        for curve in curves
    )
    return Plot(caption, f"Validation error: {alt}", x, y, "share pruned", "validation error", tuple(lines))


def _line(curve: LayerCurve, number: int, x: Axis, y: Axis) -> Line:
    places = [(x.place(cell.ratio), y.place(cell.error)) for cell in curve.cells]
    marks = tuple(
        Mark(*place, f"{curve.layer}, {cell.ratio:g} pruned: error {text.percent(cell.error)}")
        for place, cell in zip(places, curve.cells, strict=True)
    )
    return Line(curve.layer, f"layer{number}", path(places), marks)
