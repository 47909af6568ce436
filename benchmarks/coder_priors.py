"""Where the numbers come from that the contexts of the coder `mix` begin with (`coding/context_model.py`): fits them.

    python benchmarks/coder_priors.py [--seeds 100 101] [--rounds 5] [--terse FILE …]

It is fitted to tensors drawn as in `context_coder.py`, those of up to 40,000 entries, with other seeds than its table
has; and to the weights of two small nets that are trained here on scikit-learn's digits, pruned to a tenth, and rounded
to 4 bits. --terse adds streams of compressed models. What is minimised is the sum of the logarithms of their sizes, so
that each tensor counts the same. It starts from ignorance (log-odds of 0, variances of ¼) and changes one number at a
time for as long as that helps, in ever smaller steps. Log-odds that the code has as 0 stay so: signs are symmetric, and
contexts that correct others have no opinion of their own at first.

Printed: each number in the code, as fitted, and how much larger the tensors fitted to become if the fitted one is
replaced by the code's, which tells how sharply they determine it; then the bytes of drawn tensors and nets of yet
another seed with none of it, the code's numbers, and the fitted ones.
Sizes are those that the coder writes: its outer loop is run by Python, so that it takes other numbers than those
compiled, and it is checked that with the same numbers it writes the same bytes.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import numpy as np
import torch
from context_coder import pruned, quantized, stored, symbols_of, tensors
from torch import nn

from tersenet.coding import context, context_kernel, context_model
from tersenet.coding.context_way import Grid, Way, grid_of
from tersenet.coding.logistic import LOGIT, VARIANCE, belief
from tersenet.core.code import Symbols
from tersenet.core.recipe import Augment, DataSpec, Runtime
from tersenet.core.training import Training
from tersenet.data import load_data
from tersenet.flow.context import fabric_for
from tersenet.train.loop import fit as fit_net

MOST = 40_000
CONSTANTS = (
    "FLAG", "COLUMN", "NEAR_BY", "IN_BLOCK", "COLUMN_BLOCK", "NEAR_BLOCKS", "NEAREST_SIGNS", "OTHER_SIGNS", "GROWING",
    "DIGIT", "UNKNOWN_DIGIT", "AROUND_SIZE",
)  # fmt: skip
SIZES = range(context_model.EXPECTED)
MIDDLE = 26
"""Level at which `BY_EXPECTED` and its like are stated."""

TABLES: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    "BY_EXPECTED": (("at 26", "slope"), lambda a, b, v: np.array([belief(a + b * (i - MIDDLE), v) for i in SIZES])),
    "BY_EXPECTED_BLOCK": (("slope",), lambda b, v: np.array([belief(b * (i - MIDDLE), v) for i in SIZES])),
    "BY_EXPECTED_SIZE": (
        ("slope",),
        lambda b, v: np.array([[belief(b * (i - 32 - 4 * k), v) for i in SIZES] for k in range(32)]),
    ),
    "IF_NONE_YET": (("of one left",), lambda a, v: np.array([belief(a / left, v) for left in range(1, 65)])),
}
Priors = dict[tuple[str, str], float]
"""(name in the code, what of it) → number."""


def of_the_code() -> Priors:
    found: Priors = {}
    for name in CONSTANTS:
        mean, variance = parts(getattr(context_model, name))
        if mean:
            found[name, "mean"] = mean
        found[name, "variance"] = variance
    for name, (labels, _) in TABLES.items():
        table = getattr(context_model, name)
        table = table[0] if table.ndim == 2 else table
        means = {
            "slope": (parts(table[-1])[0] - parts(table[0])[0]) / (len(table) - 1),
            "at 26": parts(table[min(MIDDLE, len(table) - 1)])[0],
            "of one left": parts(table[0])[0],
        }
        found |= {(name, label): means[label] for label in labels}
        found[name, "variance"] = parts(table[0])[1]
    return found


def parts(number: int) -> tuple[float, float]:
    """Log-odds and variance."""
    return (int(number) >> 32) / (1 << LOGIT), (int(number) & 0xFFFFFFFF) / (1 << VARIANCE)


def install(priors: Priors) -> None:
    for name in CONSTANTS:
        setattr(context_model, name, belief(priors.get((name, "mean"), 0.0), priors[name, "variance"]))
    for name, (labels, table) in TABLES.items():
        setattr(context_model, name, table(*(priors[name, label] for label in (*labels, "variance"))))


def ignorant(priors: Priors) -> Priors:
    return {key: 0.25 if key[1] == "variance" else 0.0 for key in priors}


@dataclass(frozen=True)
class Sample:
    """A tensor, and the way in which the coder has chosen to write it."""

    values: np.ndarray
    alphabet: int
    grid: Grid
    way: Way

    def size(self) -> int:
        return sum(map(len, context._streams(self.values, self.alphabet, self.grid, self.way)))


def sample(symbols: Symbols) -> Sample:
    grid = grid_of(symbols.shape, len(symbols.values))
    return Sample(symbols.values, symbols.alphabet, grid, context._choose(symbols, grid)[0])


def drawn(seed: int) -> list[Sample]:
    found = [tensor for tensor in tensors(seed).values() if tensor.size <= MOST]
    return [sample(symbols_of(tensor)) for tensor in (*found, *trained(seed))]


def trained(seed: int) -> list[np.ndarray]:
    """Weights of a fully connected and of a convolutional net for digits: pruned, and rounded without pruning."""
    torch.manual_seed(seed)
    flat, kernel = nn.Flatten, {"kernel_size": 3, "padding": 1}
    dense = nn.Sequential(flat(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    conv = nn.Sequential(
        nn.Conv2d(1, 16, **kernel), nn.ReLU(), nn.Conv2d(16, 32, **kernel), nn.ReLU(), nn.MaxPool2d(4),
        flat(), nn.Linear(128, 10),
    )  # fmt: skip
    splits, found = load_data(DataSpec(path="digits", augment=Augment(shift=1))), []
    for net in (dense, conv):
        plan = Training(epochs=15, batch_size=32, lr=3e-3)
        fit_net(net, splits.train, plan, fabric_for(Runtime(accelerator="cpu")), seed=seed)
        for weight in (each.detach().numpy() for each in net.parameters() if each.ndim > 1 and each.numel() > 1000):
            found += [pruned(weight, 0.1), quantized(weight / np.abs(weight).max() * 7, 4)]
    return found


def interpret(samples: list[Sample]) -> None:
    """From here on, the coder takes the numbers that are installed."""
    kernel: Any = context_kernel
    compiled = [each.size() for each in samples]
    kernel.new_beliefs, kernel.code_cells = context_model.new_beliefs.py_func, kernel.code_cells.py_func
    assert [each.size() for each in samples] == compiled, "run by Python, the coder writes other bytes"


def logarithms(samples: list[Sample], priors: Priors) -> float:
    install(priors)
    return sum(math.log(each.size()) for each in samples)


def fit(samples: list[Sample], start: Priors, rounds: int) -> Priors:
    found, best = dict(start), logarithms(samples, start)
    for number in range(rounds):
        for key in found:
            for way in (1, -1):
                before = best
                while (tried := moved(found, key, way, 0.5**number)) != found:
                    now = logarithms(samples, tried)
                    if now >= best:
                        break
                    found, best = tried, now
                if best < before:
                    break
        print(f"round {number + 1}: mean size {math.exp(best / len(samples)):.1f} bytes", flush=True)
    return found


def moved(priors: Priors, key: tuple[str, str], way: int, scale: float) -> Priors:
    value = priors[key]
    if key[1] == "variance":
        value = min(value * 2 ** (way * scale), 0.95)
    else:
        value += way * scale * (0.08 if key[1] == "slope" else 0.8)
    return priors | {key: value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[100, 101], help="of the tensors that are fitted to")
    parser.add_argument("--test", type=int, default=200, help="seed of the tensors that sizes are compared on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--terse", nargs="*", default=[], metavar="FILE", help="fit to these models too")
    options = parser.parse_args()
    samples = [each for seed in options.seeds for each in drawn(seed)]
    samples += [sample(symbols) for path in options.terse for _, symbols, _ in stored(path)]
    test = drawn(options.test)
    interpret(samples)
    code = of_the_code()
    install(code)
    nothing = ignorant(code)
    print(f"{len(samples)} tensors, seeds {options.seeds}")
    print(f"with the numbers in the code: mean size {math.exp(logarithms(samples, code) / len(samples)):.1f} bytes")
    print(f"with none: {math.exp(logarithms(samples, nothing) / len(samples)):.1f} bytes")
    found = fit(samples, nothing, options.rounds)
    best = logarithms(samples, found)
    print("\n| | | in the code | fitted | lost by the code's |\n| --- | --- | --- | --- | --- |")
    for (name, label), value in code.items():
        lost = math.exp((logarithms(samples, found | {(name, label): value}) - best) / len(samples)) - 1
        print(f"| {name} | {label} | {value:.3g} | {found[name, label]:.3g} | {100 * lost:.2f} % |")
    print(f"\n{len(test)} tensors, seed {options.test} | bytes | mean, relative to the code's")
    base = logarithms(test, code)
    for label, priors in (("none", nothing), ("in the code", code), ("fitted", found)):
        change = math.exp((logarithms(test, priors) - base) / len(test)) - 1
        print(f"{label} | {sum(each.size() for each in test):,} | {100 * change:+.2f} %")


if __name__ == "__main__":
    main()
