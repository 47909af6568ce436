"""One file per table of the literature, found by being here."""

from tersenet.core.discover import import_files
from tersenet.experiments.table import TABLES

import_files(__name__)

__all__ = ["TABLES"]
