"""Checkpoints that a kill cannot break: written beside, synced, renamed."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch

from tersenet.core.disk import replace_file


class Slot:
    """Place of one training's checkpoint. Each save replaces the one before."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def save(self, state: dict[str, Any]) -> None:
        if self.path is None:
            return
        data = io.BytesIO()
        torch.save(state, data)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, data.getvalue())

    def load(self) -> dict[str, Any] | None:
        """The state saved last, or None where there is none that can be read."""
        if self.path is None or not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged checkpoint costs its training again, nothing else
            return None
        return state


class CheckpointStore:
    """A folder of slots. With no folder, nothing is kept and nothing can be resumed."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def slot(self, key: str) -> Slot:
        return Slot(None if self.folder is None else self.folder / f"{key}.ckpt")

    def only_others(self, key: str) -> bool:
        """Whether there are checkpoints, but none under this key."""
        slot = self.slot(key).path
        return slot is not None and not slot.exists() and any(slot.parent.glob("*.ckpt"))

    def clear(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
