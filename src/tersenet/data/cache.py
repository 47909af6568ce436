"""Decoded splits kept on disk, so that images are decoded once per machine and not once per run.

The cache is a convenience: one that is damaged, foreign or not writable is passed over without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tersenet.data.decoded import Decoded
from tersenet.data.tensors import tensor_digest

VERSION = 1

Parts = tuple[dict[str, Decoded], int | None]


def cached(key: str, make: Callable[[], Parts]) -> Parts:
    """What `make()` gives, read from the cache if it is there under `key`, else made and put there."""
    path = directory() / f"{key}.safetensors"
    found = _read(path)
    if found is not None:
        return found
    made = make()
    with contextlib.suppress(OSError):
        _write(path, *made)
    return made


def directory() -> Path:
    """$XDG_CACHE_HOME/tersenet, by default ~/.cache/tersenet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "tersenet"


def folder_key(folder: Path, *settings: str | None) -> str:
    """Changes when a file below `folder` comes, goes, grows or is written to, and with `settings`."""
    digest = hashlib.blake2b(json.dumps([VERSION, str(folder.resolve()), settings]).encode(), digest_size=12)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            digest.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def text_key(*texts: str | None) -> str:
    return hashlib.blake2b(json.dumps([VERSION, texts]).encode(), digest_size=12).hexdigest()


def _write(path: Path, parts: Mapping[str, Decoded], classes: int | None) -> None:
    """Under a temporary name, then renamed: a reader finds the whole file or none."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for split, part in parts.items():
        tensors |= {f"{split}.{place}": tensor.contiguous() for place, tensor in enumerate(part.inputs)}
        if part.target is not None:
            tensors[f"{split}.target"] = part.target.contiguous()
    about = {"classes": json.dumps(classes), "digest": _digest(tensors), "splits": json.dumps(list(parts))}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=about)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, Exception):  # safetensors has errors of its own for a full disk
            raise OSError(str(error)) from error
        raise


def _read(path: Path) -> Parts | None:
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        if about["digest"] != _digest(tensors):
            return None
        parts = {split: _part(tensors, split) for split in json.loads(about["splits"])}
        return parts, json.loads(about["classes"])
    except Exception:  # whatever is wrong with it, the data can be decoded again
        return None


def _part(tensors: Mapping[str, torch.Tensor], split: str) -> Decoded:
    count = sum(name.startswith(f"{split}.") and not name.endswith(".target") for name in tensors)
    return Decoded(tuple(tensors[f"{split}.{place}"] for place in range(count)), tensors.get(f"{split}.target"))


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    return tensor_digest([tensors[name] for name in sorted(tensors)])
