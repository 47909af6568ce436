"""Half the channels out of every group that can be pruned, of many architectures; Torch-Pruning beside it.

    python benchmarks/channels.py [--only PATTERN] [--json FILE] [--no-comparison] [--seed 0] [--speed]

Models have random weights: the zoo's at the size of their papers, those of `transformers` in small configurations of
the same structure. Norm statistics, γ, β and biases are perturbed first, so that no constant is zero by chance.
`--speed` times graph and removal of ResNet-50, DenseNet-121 and ResNet-152 instead. The models of `transformers` and
the comparison need ``pip install -e '.[coverage]'``; without it the zoo alone is measured.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import re
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from architectures import models, perturb
from torch import nn
from torch.utils import _pytree as pytree

from tersenet.graph import ChannelGraph, remove
from tersenet.graph.axes import leaves
from tersenet.models import MODELS, input_shape

PATIENCE = 30  # seconds for one model in one tool


@dataclass
class Row:
    """What happened to one model. `difference` is relative to the largest output; seconds on this machine."""

    name: str
    family: str
    nodes: int = 0
    groups: int = 0
    fixed: int = 0
    removed: int = 0
    refused: int = 0
    kept: float = 1.0
    difference: float = 0.0
    change: float = 0.0
    folded: int = 0
    dropped: int = 0
    same_shape: bool = False
    graph_s: float = 0.0
    remove_s: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    error: str = ""
    plain: str = ""
    told: str = ""


def shapes(model: nn.Module, inputs: Any) -> list[torch.Size]:
    """Shapes of the model's outputs."""
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return [leaf.shape for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def cover(row: Row, model: nn.Module, inputs: Any) -> ChannelGraph:
    """Graph and removal of half the units of every group."""
    before, parameters = shapes(model, inputs), _parameters(model)
    start = time.perf_counter()
    graph = ChannelGraph(model, inputs)
    row.graph_s = time.perf_counter() - start
    row.nodes, row.groups = len(graph.flow.trace.nodes), len(graph.groups)
    row.unknown = {name: len(places) for name, places in graph.unknown.items()}
    units = {group.name: range(0, group.units - 1, 2) for group in graph if group.prunable}
    start = time.perf_counter()
    result = remove(model, graph, units)
    row.remove_s = time.perf_counter() - start
    row.removed, row.refused, row.fixed = len(result.removed), len(result.refused), row.groups - len(units)
    row.difference, row.change, row.folded, row.dropped = (
        *(result.difference, result.change),
        *(result.folded, result.dropped),
    )
    row.reasons = dict(Counter(_kind(group.reason) for group in graph if group.reason).most_common())
    row.kept = _parameters(model) / parameters
    row.same_shape = shapes(model, inputs) == before
    return graph


def _kind(reason: str) -> str:
    """A reason without the place, so that equal ones are counted together."""
    plain = re.sub(r" at .*?\(([\w.]+):\d+\)", "", reason)
    plain = re.sub(r"written into \S+ \(", "written into the code (", plain)
    return re.sub(r"differ by \S+", "differ", re.sub(r"\d+", "n", plain))[:110]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def output_layers(model: nn.Module, graph: ChannelGraph) -> list[nn.Module]:
    """The layers that make the channels of the model's outputs."""
    output = next(node for node in graph.flow.trace.nodes if node.op == "output")
    axes = {leaf for value in output.all_input_nodes for dim in graph.flow.dims[value] or () for leaf in leaves(dim)}
    names = {m.tensor for group in graph if group.axis.root() in axes for m in group.by_role("out", "scale")}
    return [model.get_submodule(name.rpartition(".")[0]) for name in sorted(names)]


def other(model: nn.Module, inputs: Any, ignored: list[nn.Module]) -> str:
    """Torch-Pruning at the same ratio: the share of parameters it leaves, or why it failed."""
    import torch_pruning

    model.eval()
    try:
        before, parameters = shapes(model, inputs), _parameters(model)
        pruner = torch_pruning.pruner.MagnitudePruner(
            model, inputs, torch_pruning.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=ignored
        )
        pruner.step()
    except Exception as error:
        return f"raises {type(error).__name__}: {_first(error)}"
    try:
        after = shapes(model, inputs)
    except Exception as error:
        return f"result does not run: {_first(error)}"
    if after != before:
        return f"output {list(before[0])} became {list(after[0])}"
    return f"{_parameters(model) / parameters:.0%}"


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:90]


class _TooLong(BaseException):
    """No Exception, so that no tool takes it for a failure of its own."""


def _alarm(*_: object) -> None:
    raise _TooLong


def patiently(work: Any, *arguments: Any) -> Any:
    """The result of `work`, or None if it takes more than PATIENCE seconds."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(PATIENCE)
    try:
        return work(*arguments)
    except _TooLong:
        return None
    finally:
        signal.alarm(0)


def measure(name: str, family: str, model: nn.Module, inputs: Any, comparison: bool) -> Row:
    """One row: ours, then Torch-Pruning on copies of the same model, without and with a hint."""
    row = Row(name, family)
    model.eval()
    perturb(model)
    fresh = copy.deepcopy(model)
    try:
        graph = patiently(cover, row, model, inputs)
        row.error = "" if graph else f"more than {PATIENCE} s"
    except Exception as error:
        graph, row.error = None, f"{type(error).__name__}: {_first(error)}"
        traceback.print_exc()
    if comparison:
        too_long = f"more than {PATIENCE} s"
        row.plain = patiently(other, copy.deepcopy(fresh), inputs, []) or too_long
        if graph is not None:
            row.told = patiently(other, fresh, inputs, output_layers(fresh, graph)) or too_long
    return row


HEAD = (
    "| model | family | groups | fixed | removed | refused | parameters left | difference | change | output shape | "
    "graph s | removal s | Torch-Pruning | Torch-Pruning, output layers named |\n" + "| --- " * 14 + "|"
)


def line(row: Row) -> str:
    """The row of the table."""
    if row.error:
        return f"| {row.name} | {row.family} | {row.error} {'| ' * 10}| {row.plain} | {row.told} |"
    return (
        f"| {row.name} | {row.family} | {row.groups} | {row.fixed} | {row.removed} | {row.refused} | {row.kept:.0%} | "
        f"{row.difference:.1e} | {row.change:.1e} | {'same' if row.same_shape else 'CHANGED'} | {row.graph_s:.2f} | "
        f"{row.remove_s:.2f} | {row.plain or '—'} | {row.told or '—'} |"
    )


def reasons(rows: list[Row]) -> Iterator[str]:
    """Why groups stay, over all models, and operators without a rule."""
    yield "\n| why a group stays | groups | models |\n| --- | --- | --- |"
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.reasons)
    for reason, count in total.most_common():
        yield f"| {reason.replace('|', '/')} | {count} | {sum(reason in row.reasons for row in rows)} |"
    unknown = {f"{name} ({row.name})" for row in rows for name in row.unknown}
    yield f"\nOperators without a rule: {', '.join(sorted(unknown)) or 'none'}."


def summary(rows: list[Row]) -> str:
    """Equal counts only where the masked model's output had moved, so that the comparison could show something."""
    fine = [r for r in rows if not r.error and r.same_shape and r.removed and r.difference < 0.1 * r.change]
    text = f"\n{len(rows)} models of {len({row.family for row in rows})} families; {len(fine)} made smaller and equal"
    for label, results in (("as it comes", [r.plain for r in rows]), ("output layers named", [r.told for r in rows])):
        done = sum(result.endswith("%") and result != "100%" for result in results)
        text += f"; Torch-Pruning {label}: {done}" if any(results) else ""
    return text + "."


def speed() -> Iterator[str]:
    """Graph and removal at 224², best of three."""
    yield "| model | operators | graph s | removal s | together | ms an operator |\n" + "| --- " * 6 + "|"
    for name in ("resnet50", "densenet121", "resnet152"):
        rows = []
        for _ in range(3):
            model, row = MODELS[name]().eval(), Row(name, "")
            cover(row, model, torch.randn(1, *input_shape(name)))
            rows.append(row)
        best = min(rows, key=lambda row: row.graph_s + row.remove_s)
        both = best.graph_s + best.remove_s
        yield (
            f"| {name} | {best.nodes} | {best.graph_s:.2f} | {best.remove_s:.2f} | {both:.2f} | "
            f"{1000 * both / best.nodes:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", help="models or families by shell patterns, comma between")
    parser.add_argument("--json", type=Path, help="write every figure to this file too")
    parser.add_argument("--no-comparison", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="time three large models instead")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.speed:
        for text in speed():
            print(text, flush=True)
        return
    comparison = not options.no_comparison and importlib.util.find_spec("torch_pruning") is not None
    rows = []
    print(HEAD)
    for name, family, model, inputs in models(options.only, options.seed):
        rows.append(measure(name, family, model, inputs, comparison))
        print(line(rows[-1]), flush=True)
    print("\n".join(reasons(rows)), summary(rows), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
