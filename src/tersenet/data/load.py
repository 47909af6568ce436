"""`load_data`: from a specification to three sources."""

from __future__ import annotations

from pathlib import Path

from tersenet.core.errors import DataError
from tersenet.core.recipe import DataSpec
from tersenet.data.cache import Parts
from tersenet.data.decoded import to_splits
from tersenet.data.digits import load_digits
from tersenet.data.hub import decode_folder, decode_hub
from tersenet.data.source import Splits


def load_data(spec: DataSpec) -> Splits:
    """The data set that `spec` names.

    Raises DataError, one sentence, if it is missing or not what it should be.
    """
    parts, classes = _parts(str(spec.path), spec)
    return to_splits(parts, spec, str(spec.path), classes)


def _parts(path: str, spec: DataSpec) -> Parts:
    if path == "digits":
        return load_digits()
    folder = Path(path).expanduser()
    if folder.is_dir():
        return decode_folder(folder, spec)
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise DataError(f"data '{path}': there is no such folder")
    return decode_hub(path, spec)
