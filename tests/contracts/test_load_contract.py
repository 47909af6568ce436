"""Whatever a file may name is known to `tersenet.load` in a process that has imported nothing else."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil
import tersenet.flow.load
from tersenet.core.change import CHANGES
from tersenet.coding.base import CODERS
from tersenet.forms.form import FORMS
from tersenet.models.zoo import MODELS

registries = {"changes": CHANGES, "coders": CODERS, "forms": FORMS, "models": MODELS}
before = {what: set(registry) for what, registry in registries.items()}
for module in pkgutil.walk_packages(tersenet.__path__, "tersenet."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for what, registry in registries.items():
    assert before[what], what
    for name in set(registry) - before[what]:
        print(what, name)
"""


def test_what_files_may_name_is_known_without_the_methods() -> None:
    # In this process other tests have imported the methods, and what only they bring would not be missed.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == ""
