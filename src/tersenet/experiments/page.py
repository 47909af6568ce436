"""The Markdown page of a table: means and spread over the seeds, published figures beside, misses shown as misses."""

from __future__ import annotations

import statistics
from typing import Any

from tersenet.experiments.figure import LABELS
from tersenet.experiments.table import Published, Row, Table

HEADS = ("row", "seeds", "dense error", "error of the file", "bytes", "ratio", "weights kept", "MACs kept")


def page_of(name: str, table: Table, rows: list[dict[str, Any]]) -> str:
    machines = sorted({row["machine"] for row in rows})
    heads = [*HEADS, *([table.head] if table.detail else []), "seconds", "published"]
    head = [
        f"# {table.title}",
        "",
        f"Written by `tersenet reproduce {name} --data FOLDER`, where FOLDER holds `{table.data}/`. Each run is a line",
        f"of `results/{name}.csv`. Errors are test errors at the last epoch, of the file read back; mean ± standard",
        "deviation over the seeds. Bytes are the length of the `.terse` file, all in it. Ratio is parameters × 4 bytes",
        "over that. Validation decided every choice of hyper-parameters.",
        *([table.remark] if table.remark else []),
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    body = [_row(table, row, [each for each in rows if each["row"] == row.name]) for row in table.rows]
    shown = "Validation error" if table.across == "epochs" else "Error"
    drawn = ["", f"![{shown} against {LABELS[table.across]}]({name}.svg)"] if table.figure and rows else []
    about = [f"- **{row.name}**: {row.about} Recipe `recipes/{row.recipe}`{_with(row)}." for row in table.rows]
    return "\n".join([*head, *body, *drawn, "", *about, "", f"Machine: {'; '.join(machines) or '–'}.", ""])


def _row(table: Table, row: Row, runs: list[dict[str, Any]]) -> str:
    if not runs:
        blanks = ["–"] * (len(HEADS) - 1 + (table.detail is not None))
        return f"| {row.name} | 0 | {' | '.join(blanks)} | {published(row.published)} |"

    def values(key: str) -> list[float]:
        return [float(run[key]) for run in runs if run[key] is not None]

    def share(part: str, whole: str) -> str:
        return (
            f"{100 * statistics.fmean(values(part)) / statistics.fmean(values(whole)):.1f} %" if values(whole) else "–"
        )

    cells = [
        row.name,
        str(len(runs)),
        percent(values("test_error_dense")),
        percent(values("test_error_file")),
        f"{statistics.fmean(values('file_bytes')):,.0f}",
        f"{statistics.fmean(values('ratio')):.1f}×",
        share("nonzero", "parameters"),
        share("macs_nonzero", "macs"),
        *(["; ".join(dict.fromkeys(run["detail"] for run in runs))] if table.detail else []),
        f"{statistics.fmean(values('seconds')):.0f}",
        published(row.published),
    ]
    return f"| {' | '.join(cells)} |"


def percent(shares: list[float]) -> str:
    if not shares:
        return "–"
    spread = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{100 * statistics.fmean(shares):.2f}{spread} %"


def published(paper: Published | None) -> str:
    if paper is None:
        return "control"
    parts = [
        f"{100 * paper.error:.2f} %" if paper.error is not None else "",
        f"{paper.bytes:,} bytes" if paper.bytes else "",
        f"{paper.ratio:g}×" if paper.ratio else "",
        paper.detail or "",
    ]
    return f"{', '.join(part for part in parts if part)} ({paper.source})"


def _with(row: Row) -> str:
    return f" with `{' '.join(f'--set {item}' for item in row.overrides)}`" if row.overrides else ""
