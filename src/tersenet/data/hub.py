"""Sets that Hugging Face `datasets` reads: a local folder in any layout it knows, or an id on the hub."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tersenet.core.errors import DataError
from tersenet.core.factory import reason
from tersenet.core.recipe import DataSpec
from tersenet.data.cache import Parts, cached, folder_key, text_key
from tersenet.data.columns import choose_columns, class_count, decode_columns
from tersenet.data.decoded import Decoded
from tersenet.data.images import image_mode
from tersenet.data.names import named_splits

if TYPE_CHECKING:
    import datasets


def decode_folder(folder: Path, spec: DataSpec) -> Parts:
    """Splits of a local folder that `datasets.load_dataset(folder)` reads; decoded once, then from the cache."""

    def make() -> Parts:
        # `datasets` writes a copy of what it reads: we keep decoded tensors instead, so that copy may go.
        with tempfile.TemporaryDirectory(prefix="tersenet-") as scratch:
            return decode_splits(read_folder(folder, scratch), spec, str(folder))

    return cached(folder_key(folder, "datasets", spec.input, spec.label), make)


def decode_hub(name: str, spec: DataSpec) -> Parts:
    """Splits of a set on the hub."""
    splits = read_hub(name)
    prints = [f"{split} {dataset._fingerprint}" for split, dataset in splits.items()]
    return cached(text_key("hub", name, *prints, spec.input, spec.label), lambda: decode_splits(splits, spec, name))


def read_folder(folder: Path, cache: str | None = None) -> dict[str, datasets.Dataset]:
    """Undecoded splits. `cache`: where `datasets` puts its memory-mapped copy; None: its usual place."""
    import datasets

    try:
        with _quiet():
            if (folder / "dataset_dict.json").is_file():
                return _splits(datasets.load_from_disk(str(folder)), str(folder))
            return _splits(datasets.load_dataset(str(folder), cache_dir=cache), str(folder))
    except DataError:
        raise
    except Exception as error:
        empty = re.search(r"""Instruction "(\w+)" corresponds to no data""", str(error))
        if empty:
            raise DataError(f"{folder}: {empty[1]} is empty") from error
        raise DataError(f"{folder}: datasets.load_dataset cannot read it: {reason(error)}") from error


def read_hub(name: str) -> dict[str, datasets.Dataset]:
    """Undecoded splits of `name` on the hub, downloaded by `datasets` into its own cache.

    Raises DataError, without minutes of retries, where the hub cannot be reached and its cache does not have the set.
    """
    import datasets

    online = _hub_reachable()
    try:
        with _quiet(), contextlib.nullcontext() if online else _offline():
            return _splits(datasets.load_dataset(name), name)
    except DataError:
        raise
    except Exception as error:
        if not online:
            raise DataError(
                f"data '{name}': there is no such folder, and the Hugging Face hub, where it may be a set's id, cannot "
                "be reached; give the path of a folder, or 'digits'"
            ) from error
        raise DataError(
            f"data '{name}': neither a folder nor a set that loads from the hub: {reason(error)}"
        ) from error


def _splits(found: datasets.DatasetDict | datasets.Dataset, where: str) -> dict[str, datasets.Dataset]:
    """The splits called train, validation (or a short form of it) and test; others are left alone."""
    import datasets

    if isinstance(found, datasets.Dataset):
        return {"train": found}
    return named_splits({str(name): dataset for name, dataset in found.items()}, where)


def decode_splits(splits: dict[str, datasets.Dataset], spec: DataSpec, where: str) -> Parts:
    columns = choose_columns(splits["train"], (spec.input, spec.label), where)
    parts: dict[str, Decoded] = {}
    for split, dataset in splits.items():  # train comes first
        choose_columns(dataset, columns, f"{where}: {split}")
        mode = image_mode(parts["train"].inputs[0]) if parts else None
        parts[split] = decode_columns(dataset, columns, f"{where}: {split}", mode)
    return parts, class_count(splits["train"], columns[1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no warnings of `datasets` on the user's screen."""
    import datasets

    bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _hub_reachable() -> bool:
    """Whether the hub's name resolves; behind a proxy that is not for us to find out."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """`datasets` in offline mode: its cache or nothing, at once."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
