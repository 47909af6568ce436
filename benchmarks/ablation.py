"""What each part of training for the file is worth, in bytes at equal error; written into docs/RATE.md.

    python benchmarks/ablation.py

Reads results/rate_aware_300_100.csv and results/rate_ablation.csv, which `tersenet reproduce` writes. The prices of the
first give the curve of the whole method, straight in the logarithm of bytes from one to the next and a little beyond; a
row of the second is compared with the bytes at which that curve has the row's error.
"""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "RATE.md"
BEGIN, END = "<!-- parts: written by benchmarks/ablation.py -->", "<!-- end of parts -->"
PARTS = {
    "no_order": "hidden units ordered",
    "no_removal": "dead units removed, the others ordered",
    "plain_coder": "the context coder, in place of `auto`",
    "with_recipe": "the recipe left out",
    "real_biases": "biases rounded and rated, in place of float16",
    "no_teacher": "the dense net as teacher",
    "no_shifts": "images shifted, for the dense net too",
    "shorter": "30 epochs in place of 10",
    "afterwards": "training for the file, in place of `quantize.rdoq` after the dense training",
}

FAR = 1.2
"""From this multiple of the curve's largest error on, the curve is not drawn out that far."""


def means(table: str) -> dict[str, tuple[float, float, float]]:
    """Row → mean bytes, mean error, and the standard error of that."""
    rows: dict[str, list[tuple[float, float]]] = {}
    with (ROOT / "results" / f"{table}.csv").open() as file:
        for line in csv.DictReader(file):
            rows.setdefault(line["row"], []).append((float(line["file_bytes"]), float(line["test_error_file"])))
    return {name: _summary(*zip(*found, strict=True)) for name, found in rows.items()}


def _summary(sizes: tuple[float, ...], errors: tuple[float, ...]) -> tuple[float, float, float]:
    spread = statistics.stdev(errors) / math.sqrt(len(errors)) if len(errors) > 1 else math.nan
    return statistics.mean(sizes), statistics.mean(errors), spread


def bytes_at(error: float, curve: list[tuple[float, float]]) -> float:
    """curve: (bytes, error), errors rising."""
    places = [(low, high) for low, high in itertools.pairwise(curve) if error <= high[1]]
    (size, first), (other, last) = places[0] if places else curve[-2:]
    return size * (other / size) ** ((error - first) / (last - first))


def lines() -> list[str]:
    curve = sorted((row[:2] for row in means("rate_aware_300_100").values()), key=lambda row: row[1])
    _, middle, _ = curve
    dearer = 1 - bytes_at(middle[1] + 0.001, curve) / middle[0]
    found = [f"0.1 points of error are about {dearer:.0%} of the bytes.", ""]
    found += ["| part | without it | error | the whole at this error | worth |", "| --- | --- | --- | --- | --- |"]
    for name, (size, error, spread) in means("rate_ablation").items():
        if name in PARTS:
            far = error > FAR * curve[-1][1]
            whole, least = (curve[-1][0], "less than ") if far else (bytes_at(error, curve), "")
            told = f"{100 * error:.2f} %" + ("" if math.isnan(spread) else f" ± {100 * spread:.2f}")
            worth = f"{'over ' if far else ''}{1 - whole / size:.0%}"
            found.append(f"| {PARTS[name]} | {size:,.0f} bytes | {told} | {least}{whole:,.0f} bytes | {worth} |")
    return found


def main() -> None:
    head, _, rest = PAGE.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    found = lines()
    PAGE.write_text("\n".join([f"{head}{BEGIN}", "", *found, "", f"{END}{tail}"]))
    print("\n".join(found))


if __name__ == "__main__":
    main()
