"""`load_data`: from a specification to three sources."""

from __future__ import annotations

from pathlib import Path

from tersenet.core.errors import DataError
from tersenet.core.factory import call_factory
from tersenet.core.recipe import DataSpec
from tersenet.data.cache import Parts
from tersenet.data.decoded import to_splits
from tersenet.data.digits import load_digits
from tersenet.data.folder import decode_image_folder, is_image_folder
from tersenet.data.given import as_splits
from tersenet.data.hub import decode_folder, decode_hub
from tersenet.data.source import Splits
from tersenet.data.streamed import stream_splits


def load_data(spec: DataSpec) -> Splits:
    """The data set that `spec` names: 'digits', a folder that `datasets` reads, an image folder, a hub id, a factory.

    Raises DataError, one sentence, if it is missing or not what it should be.
    """
    if spec.factory is not None:
        return as_splits(call_factory(spec.factory, spec.kwargs, DataError), spec, spec.factory)
    path = str(spec.path)
    _check_path(path)
    if not spec.in_memory and path != "digits":
        return stream_splits(path, spec)
    parts, classes = _parts(path, spec)
    return to_splits(parts, spec, path, classes)


def _parts(path: str, spec: DataSpec) -> Parts:
    folder = Path(path).expanduser()
    if path == "digits":
        return load_digits()
    if not folder.is_dir():
        return decode_hub(path, spec)
    return decode_image_folder(folder) if is_image_folder(folder) else decode_folder(folder, spec)


def _check_path(path: str) -> None:
    """What looks like a path is not asked for on the hub, whose ids are NAME or OWNER/NAME."""
    folder = Path(path).expanduser()
    if folder.is_file():
        raise DataError(f"data '{path}': is a file; give the folder it lies in")
    if folder.is_dir() and not any(folder.iterdir()):
        raise DataError(f"data '{path}': the folder is empty")
    if not folder.is_dir() and (folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1):
        raise DataError(f"data '{path}': there is no such folder")
