"""The tables' targets on the real data (make check-slow DATA=FOLDER, with FOLDER/mnist in it)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tersenet.core.load import load_recipe
from tersenet.flow.prepare import prepare, register_methods
from tersenet.flow.run import run

RECIPES = Path(__file__).parents[2] / "recipes/deep_compression"
DATA = os.environ.get("TERSENET_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="needs TERSENET_DATA, the folder that holds mnist/")
@pytest.mark.parametrize(("name", "error", "size"), [("lenet_300_100", 0.0160, 26_650), ("lenet5", 0.0080, 44_000)])
def test_deep_compression_is_reached(name: str, error: float, size: int, tmp_path: Path) -> None:
    """One seed, so the error gets the spread between seeds that the table of three shows (0.1 point) as slack."""
    register_methods()
    recipe = load_recipe(RECIPES / f"{name}.yaml", [f"data.path={DATA}/mnist"])
    model, splits = prepare(recipe)
    figures = run(recipe, model, splits, tmp_path).record.figures
    assert figures.file_bytes <= size
    assert figures.test_error_file is not None
    assert figures.test_error_file <= error + 0.001
