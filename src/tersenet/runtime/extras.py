"""Libraries that are installed by extras."""

from __future__ import annotations

import importlib
from typing import Any

from tersenet.core.errors import ModelError


def needed(module: str, extra: str = "") -> Any:
    """The module; raises ModelError with the extra that installs it, where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ModelError(f"{module} is not installed; pip install 'tersenet[{extra or module}]'") from None
