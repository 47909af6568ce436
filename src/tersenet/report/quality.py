"""How good a model is: which measure a page leads with, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass

from tersenet.core.record import Figures
from tersenet.report.text import decimal, percent


@dataclass(frozen=True)
class Quality:
    """One measure on one split, of the dense model and of the file read back. None: not measured."""

    name: str
    dense: float | None
    file: float | None
    is_share: bool

    def spell(self, value: float | None) -> str:
        return percent(value) if self.is_share else decimal(value)


def qualities(figures: Figures) -> tuple[Quality, ...]:
    """Every measure of quality of the record, the most telling first."""
    return (
        Quality("test error", figures.test_error_dense, figures.test_error_file, True),
        Quality("test loss", figures.test_loss_dense, figures.test_loss_file, False),
        Quality("validation error", figures.validation_error_dense, figures.validation_error_file, True),
    )


def headline_quality(figures: Figures) -> Quality:
    """The first that was measured on the file; test error, unmeasured, where none was."""
    found = qualities(figures)
    return next((quality for quality in found if quality.file is not None), found[0])
