"""Whether a result is good enough, by the recipe's own words."""

from __future__ import annotations

from tersenet.core.errors import GateError
from tersenet.core.recipe import Gate
from tersenet.core.record import Record


def check_gate(gate: Gate, record: Record) -> None:
    """Raises GateError with every limit that is passed. Errors are those on validation: test only reports."""
    failed = list(failures(gate, record))
    if failed:
        raise GateError(f"gate not passed: {'; '.join(failed)} (the file is kept)")


def failures(gate: Gate, record: Record) -> list[str]:
    figures = record.figures
    error, dense = figures.validation_error_file, figures.validation_error_dense
    found = []
    if gate.max_bytes is not None and figures.file_bytes > gate.max_bytes:
        found.append(f"file of {figures.file_bytes:,} bytes, allowed {gate.max_bytes:,}")
    if gate.min_ratio is not None and figures.ratio < gate.min_ratio:
        found.append(f"ratio {figures.ratio:.1f}, wanted {gate.min_ratio:g}")
    for limit, value, what in (
        (gate.max_error, error, "validation error"),
        (gate.max_error_increase, None if error is None or dense is None else error - dense, "increase of error"),
    ):
        if limit is None:
            continue
        if value is None:
            found.append(f"{what} is limited, but this task has no classes to count errors on")
        elif value > limit:
            found.append(f"{what} {100 * value:.2f} %, allowed {100 * limit:g} %")
    return found
