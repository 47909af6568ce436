"""Packages whose files register something: import all of them, so that a newcomer is found by being there."""

from __future__ import annotations

import importlib
import pkgutil


def import_files(package: str) -> None:
    """Import every file of `package`, say 'tersenet.prune'."""
    path = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
