"""Recipes from YAML: errors name the file and the line; `a.b=c` overrides; relative data paths stay as written."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tersenet.core.disk import why
from tersenet.core.errors import RecipeError
from tersenet.core.recipe import Recipe


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file. Overrides are `key.key=value`, list places as numbers (`stages.0.sparsity=0.9`).

    Raises RecipeError with file, line and what would be right.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a recipe: {why(error)}") from None
    return parse_recipe(text, str(path), overrides)


def parse_recipe(text: str, source: str = "recipe", overrides: Iterable[str] = ()) -> Recipe:
    """The same from text; `source` is what errors call it."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        plain = yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{source}, line {line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply for a recipe") from None
    if not isinstance(plain, dict):
        raise RecipeError(f"{source}: a recipe is a mapping with 'model', 'data', 'train' and 'stages'")
    overridden = [override(plain, item) for item in overrides]
    try:
        return Recipe.parse(plain)
    except RecipeError as error:
        if any(error.path[: len(path)] == path for path in overridden):
            raise RecipeError(f"--set {error}") from None
        raise RecipeError(f"{source}, line {_line(root, error.path)}: {error}") from None


@contextmanager
def blaming(path: str | Path) -> Iterator[None]:
    """Errors about a recipe that show only when it meets its model get the file and the line as well."""
    try:
        yield
    except RecipeError as error:
        if not error.path:
            raise
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
        raise RecipeError(f"{path}, line {_line(root, error.path)}: {error}") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key_node.value}' twice", problem_mark=key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def with_overrides(plain: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of a plain recipe with each `a.b=c` written into it; raises RecipeError where one does not fit."""
    changed = copy.deepcopy(plain)
    for item in overrides:
        override(changed, item)
    return changed


def override(plain: dict[str, Any], item: str) -> tuple[str | int, ...]:
    """Write one `a.b=c` into the plain recipe; returns the path it wrote."""
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {item}: must look like key.key=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        value = text
    path: list[str | int] = []
    here: Any = plain
    parts = key.split(".")
    for part in parts[:-1]:
        step = _step(here, part, item)
        path.append(step)
        if isinstance(here, dict):
            if not isinstance(here.get(step), dict | list):
                here[step] = _shorthand(step, here.get(step), item)
            here = here[step]
        else:
            here = here[step]
    last = _step(here, parts[-1], item)
    here[last] = value
    return (*path, last)


def _shorthand(key: str | int, value: Any, item: str) -> dict[str, Any]:
    """`model: lenet5` is short for `model: {name: lenet5}`, `data: mnist` for `data: {path: mnist}`."""
    if value is None:
        return {}
    if key not in ("model", "data"):
        raise RecipeError(f"--set {item}: '{key}' is {value!r}, there is nothing below it to set")
    return {"name" if key == "model" else "path": value}


def _step(here: Any, part: str, item: str) -> str | int:
    if isinstance(here, list):
        if not part.isdigit() or int(part) >= len(here):
            raise RecipeError(f"--set {item}: '{part}' must be a place in the list, 0 to {len(here) - 1}")
        return int(part)
    if not isinstance(here, dict):
        raise RecipeError(f"--set {item}: there is nothing below '{part}' to set")
    return part


def _line(root: yaml.Node | None, path: tuple[str | int, ...]) -> int:
    """The line on which the deepest known part of `path` stands."""
    line = root.start_mark.line if root else 0
    node = root
    for key in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line
        else:
            break
    return line + 1
