"""The folder of a run: what lies in it, and that only one run works in it at a time."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Self

import yaml

from tersenet.core.disk import replace_file, why
from tersenet.core.errors import RecipeError
from tersenet.core.recipe import Recipe
from tersenet.core.record import Record

MARK = ".tersenet-run"
"""Says that a folder is ours to write in, and is what a run locks."""

OURS = (
    *("model.terse", "record.json", "recipe.yaml", "report.html", "checkpoints"),
    *("sensitivity", "sensitivity.json", "sensitivity.csv", "sensitivity.html"),
)


class RunFolder:
    """`model.terse`, `record.json`, `recipe.yaml` and `checkpoints/`; the report goes there, too.

    Without `resume`, checkpoints of an earlier run in the folder are cleared. Raises RecipeError if the folder cannot
    be written, another run holds it, or something of the user's stands where a run would write.
    """

    def __init__(self, folder: Path, recipe: Recipe, resume: bool, first: bool = True) -> None:
        self.folder, self.recipe, self.resume, self.first = folder, recipe, resume, first
        self.file = folder / "model.terse"
        self.checkpoints = folder / "checkpoints"
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        if not self.first:
            return self
        self._refuse_foreign()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / MARK).open("w")
        except OSError as error:
            raise RecipeError(f"--out {self.folder}: cannot be written: {why(error)}") from None
        try:
            lock(self._lock)
        except BlockingIOError:
            self._lock.close()
            raise RecipeError(f"--out {self.folder}: another run is working in this folder") from None
        if not self.resume:
            for old in self.checkpoints.glob("*.ckpt"):
                old.unlink()
        replace_file(self.folder / "recipe.yaml", yaml.safe_dump(self.recipe.to_dict(), sort_keys=False).encode())
        return self

    def _refuse_foreign(self) -> None:
        if (self.folder / MARK).exists():
            return
        foreign = [name for name in OURS if (self.folder / name).exists()]
        if foreign:
            raise RecipeError(
                f"--out {self.folder}: '{foreign[0]}' in it was not written by a run and would be replaced; "
                "name another folder"
            )

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.close()  # the file stays: another run may be opening it this moment

    def save(self, record: Record) -> None:
        replace_file(self.folder / "record.json", record.model_dump_json(indent=1).encode())


def lock(file: IO[str]) -> None:
    """Raises BlockingIOError if another process holds it. A kill releases it. Windows has no such lock: none there."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
