"""One file per table of the literature, found by being here."""

import importlib
import pkgutil

from tersenet.experiments.table import TABLES

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["TABLES"]
