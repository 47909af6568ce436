"""What a run is called."""

from __future__ import annotations

from collections.abc import Mapping

from tersenet.core.record import Record


def run_name(record: Record) -> str:
    """'lenet_300_100 on mnist'; a model that was given in Python goes by its file."""
    model = record.recipe.get("model")
    if isinstance(model, Mapping):
        model = model.get("name") or model.get("factory")
    return f"{model or record.file} on {record.data}" if record.data else str(model or record.file)
