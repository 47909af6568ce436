"""The `.terse` file: one small self-contained file that holds a compressed model and where it came from.

Its byte layout and every reason for which it is refused stand in `docs/FORMAT.md`.
"""

from tersenet.artifact.contents import Contents
from tersenet.artifact.document import read_bytes, to_bytes
from tersenet.artifact.ledger import Ledger, LedgerRow
from tersenet.artifact.storage import inspect, read, write

__all__ = ["Contents", "Ledger", "LedgerRow", "inspect", "read", "read_bytes", "to_bytes", "write"]
