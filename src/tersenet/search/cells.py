"""Measurements kept one by one, so that a kill costs no more than the one under way."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tersenet.core.disk import replace_file
from tersenet.core.sensitivity import Cell


class Cells:
    """A small file for each cell, named by all that determines it. Without `resume`, those of earlier scans go.

    first: whether this process writes.
    """

    def __init__(self, folder: Path, resume: bool, first: bool = True) -> None:
        self.folder, self.first = folder, first
        if first:
            folder.mkdir(parents=True, exist_ok=True)
        if first and not resume:
            for old in folder.glob("*.json"):
                old.unlink()

    def load(self, key: str) -> Cell | None:
        """None where it was not measured, or its file cannot be read: then it is measured again."""
        try:
            return Cell.model_validate_json((self.folder / f"{key}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def save(self, key: str, cell: Cell) -> None:
        if self.first:
            replace_file(self.folder / f"{key}.json", cell.model_dump_json().encode())
