"""Plans, methods and comparisons as text for a terminal, readable in 80 columns and in a pipe."""

from __future__ import annotations

import textwrap
from typing import Any

from tersenet.experiments.page import page_of
from tersenet.experiments.table import Table
from tersenet.flow.plan import Plan


def print_plan(plan: Plan) -> None:
    for number, (method, names) in enumerate(plan.stages, start=1):
        print(f"stage {number}  {method}: {len(names)} weights")
        print(textwrap.fill(", ".join(names), 78, initial_indent="  ", subsequent_indent="  "))
    width = max([len("tensor"), *(len(row.name) for row in plan.rows)])
    print(f"\n{'tensor':{width}}  {'form':8}  {'shape':>16}  {'bytes':>10}")
    for row in plan.rows:
        print(f"{row.name:{width}}  {row.form:8}  {'×'.join(map(str, row.shape)) or 'scalar':>16}  {row.bytes:>10,}")
    print(f"\nparameters       {plan.parameters:>12,}   of which not zero {plan.nonzero:,}")
    if plan.macs is not None:
        left = f"left {plan.macs_file:,}, with a weight other than zero {plan.macs_nonzero:,}"
        print(f"MACs             {plan.macs:>12,}   {left}")
    print(f"dense, 4 bytes   {plan.dense_bytes:>12,}")
    ratio = plan.dense_bytes / plan.predicted_bytes
    print(f"predicted file   {plan.predicted_bytes:>12,}   ratio {ratio:.1f}×")
    print("(predicted by coding Laplace noise in place of trained weights; nothing was trained)")
    for note in plan.notes:
        print(f"note: {note}")


def print_groups(found: dict[str, Any]) -> None:
    """Groups of channels that can go, with what they are made of, then those that cannot, with the reason."""
    rows = found["groups"]
    going = [row for row in rows if row["prunable"]]
    width = max([len("group"), *(len(row["name"]) for row in rows)])
    print(f"{'group':{width}}  {'units':>6}  {'width':>5}  made by → read by")
    for row in going:
        first, *more = textwrap.wrap(f"{_layers(row, 'out', 'direct')} → {_layers(row, 'in')}", 100)
        print(f"{row['name']:{width}}  {row['units']:>6}  {row['width']:>5}  {first}")
        for line in more:
            print(f"{'':{width}}  {'':6}  {'':5}  {line}")
    print(f"\n{len(going)} of {len(rows)} groups can lose units; the others stay whole:")
    for row in rows:
        if not row["prunable"]:
            print(f"{row['name']:{width}}  {row['units']:>6}  {row['width']:>5}  {row['reason']}")
    if going:
        print("\ntried on a copy: with half of every group removed, outputs are those of the masked model within")
        print(f"{found['difference']:.1e} of the largest")


def _layers(row: dict[str, Any], *roles: str) -> str:
    layers = [tensor.removesuffix(".weight") for tensor, _, role in row["members"] if role in roles]
    return ", ".join(layer for layer in dict.fromkeys(layers) if not layer.endswith(".bias")) or "nothing"


def _summary(method: dict[str, Any]) -> str:
    """The first sentence of its description."""
    paragraph = " ".join(method["about"].split("\n\n", 1)[0].split())
    return paragraph.split(". ", 1)[0].rstrip(".")


def print_methods(methods: list[dict[str, Any]], detailed: bool) -> None:
    for method in methods:
        if not detailed:
            print(
                textwrap.fill(_summary(method), 100, initial_indent=f"{method['name']:20} ", subsequent_indent=" " * 21)
            )
            continue
        print(f"{method['name']}  (settles {method['phase']})\n")
        print(textwrap.indent(method["about"], "  ") + "\n")
        for option in method["options"]:
            default = "required" if option["required"] else f"default {option['default']!r}"
            print(
                textwrap.fill(
                    f"{option['name']}: {option['type']}  ({default})",
                    98,
                    initial_indent="  ",
                    subsequent_indent="    ",
                )
            )
            if option["about"]:
                print(textwrap.fill(option["about"], 78, initial_indent="      ", subsequent_indent="      "))


def print_comparison(name: str, table: Table, rows: list[dict[str, Any]]) -> None:
    print(page_of(name, table, rows))
