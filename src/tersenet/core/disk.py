"""Files that are replaced in one step: a kill or a full disk leaves the old one or the new one, never half of it."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from tersenet.core.errors import TersenetError


def replace_file(
    path: Path, data: bytes | Iterable[bytes | memoryview], kind: type[TersenetError] = TersenetError
) -> None:
    """Put `data`, whole or in parts, at `path`: beside it first, synced, then renamed over it. Raises `kind` if that
    fails; what stood at `path` then still does."""
    try:
        target = Path(os.path.realpath(path))  # of a link, what it points to
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        beside = target.with_name(f".{secrets.token_hex(6)}.part")
        try:
            _write_synced(beside, data)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except (OSError, ValueError) as error:
        raise kind(f"{path}: cannot be written: {why(error)}") from None


def _write_synced(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename last. Systems that cannot sync a folder (Windows, some network drives) are left alone."""
    try:
        place = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(place)


def why(error: OSError | ValueError) -> str:
    """The reason in words a user knows."""
    known = {
        errno.ENOENT: "no such file or folder",
        errno.EACCES: "no permission",
        errno.EPERM: "no permission",
        errno.ENOSPC: "no space left on the disk",
        errno.EDQUOT: "no space left in the disk quota",
        errno.EISDIR: "it is a folder",
        errno.EROFS: "the disk is read-only",
    }
    number = getattr(error, "errno", None)
    return known.get(number or 0) or getattr(error, "strerror", None) or str(error)
