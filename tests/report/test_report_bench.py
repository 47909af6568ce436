"""The page of times: what stands in bars, table and warnings, of made-up figures small enough to check by hand."""

from __future__ import annotations

import re
from typing import Any

from tersenet.report.bench import render_bench

EVIL = "<script>alert(1)</script>"


def row(model: str, batch: int, p50: float) -> dict[str, Any]:
    place = {"runtime": "onnx", "batch": batch, "threads": 1, "model": model, "calls": 9, "load": 12.0}
    place["memory"] = {"dense": 2**20 * (49 + batch), "compressed": 2**20 * (6 + batch)}[model]
    return {**place, "p50": p50, "p90": 2 * p50, "p99": 3 * p50, "throughput": 1e3 * batch / p50}


def found(**changes: Any) -> dict[str, Any]:
    rows = [row("compressed", 1, 2.0), row("dense", 1, 8.0), row("compressed", 64, 30.0), row("dense", 64, 20.0)]
    given = {"file": "m.terse", "file_bytes": 27013, "exported_bytes": {"dense onnx": 1000}, "rows": rows}
    given |= {"slower": ["compressed takes 1.50× the time"], "notes": ["fc1 computes in torch"]}
    return {**given, "machine": "a machine", **changes}


def test_bars_are_to_scale_within_a_case() -> None:
    page = render_bench([found()])
    widths = re.findall(r'<rect class="(k-\w+)"[^>]* width="([\d.]+)%"', page)
    assert widths == [("k-other", "100.0"), ("k-values", "25.0"), ("k-other", "66.67"), ("k-values", "100.0")]
    assert "4.00×" in page and '<span class="n warning">0.67×' in page and "1 of 2" in page
    assert "8.00\u00a0ms → </small>2.00\u00a0ms" in page


def test_everything_that_was_found_is_on_the_page() -> None:
    page = render_bench([found(file="a" + EVIL), found(file="b")])
    sentences = ("Compressed takes 1.50× the time", "fc1 computes in torch")
    memory = ("at most, in onnx, batch 1; dense takes 50.0 MiB", "7.0 MiB", "113.0 MiB")
    for words in (*sentences, "27,013", *memory, "2 files", "a machine"):
        assert words in page.replace("\u00a0", " ")
    assert "<script" not in page and page == render_bench([found(file="a" + EVIL), found(file="b")])


def test_without_a_dense_network_there_is_no_factor() -> None:
    page = render_bench([found(rows=[row("compressed", 1, 2.0)], slower=[], exported_bytes={}, notes=[])])
    assert page.count('<rect class="k-values" y=') == 1 and 'class="k-other"' not in page
    assert "there is no dense network" in page and 'warning">' not in page
    rows = [row("compressed", 1, 2.0) | {"memory": None}]
    assert "no runtime was asked that reads files" in render_bench([found(rows=rows)])
