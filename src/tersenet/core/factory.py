"""`package.module:function` from a recipe: found, called, and every way it can fail told in one sentence."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tersenet.core.errors import TersenetError
from tersenet.core.registry import nearest


def call_factory(factory: str, kwargs: Mapping[str, Any], error: type[TersenetError]) -> Any:
    """Import `package.module:function` (the current directory counts) and call it with `kwargs`.

    Raises `error` if the module or the function is missing, or if either raises.
    """
    function = find(factory, error)
    try:
        with _current_directory_importable():
            return function(**kwargs)
    except TersenetError:
        raise
    except Exception as failure:
        raise error(f"factory {factory} raised {reason(failure)}") from failure


def reason(failure: BaseException) -> str:
    """An exception as one line: `ValueError: first line of its message`."""
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0].strip()}" if lines else type(failure).__name__


def find(factory: str, error: type[TersenetError]) -> Callable[..., Any]:
    """The function that `package.module:function` names (the current directory counts); raises `error` if none."""
    module_name, _, attributes = factory.partition(":")
    try:
        with _current_directory_importable():
            found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as failure:
        missing = failure.name or module_name
        if missing == module_name or module_name.startswith(f"{missing}."):
            where = "neither installed nor in the current directory"
            raise error(f"factory {factory}: there is no module '{missing}', {where}") from failure
        raise error(f"factory {factory}: its module needs '{missing}', which is not installed") from failure
    except Exception as failure:
        raise error(f"factory {factory}: its module cannot be imported: {reason(failure)}") from failure
    for name in attributes.split("."):
        if not hasattr(found, name):
            known = [other for other in vars(found) if callable(getattr(found, other)) and not other.startswith("_")]
            raise error(f"factory {factory}: there is no '{name}' in it{nearest(name, known)}")
        found = getattr(found, name)
    if not callable(found):
        raise error(f"factory {factory}: it is a {type(found).__name__}, not a function")
    result: Callable[..., Any] = found
    return result


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """For a console script, unlike for `python -m`, the current directory is not on the path."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
