"""Memory that is freed is handed out again without a fault for each of its pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from tersenet.cli.memory import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.ones(2**24)  # 64 MiB, beyond what glibc keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own option")
def test_large_blocks_are_kept():
    faults = {
        way: int(subprocess.run([sys.executable, "-c", SCRIPT, way], capture_output=True, check=True, text=True).stdout)
        for way in ("plain", "kept")
    }
    assert faults["kept"] < 0.3 * faults["plain"]  # a few, since small blocks may lie in the way


def test_another_system_is_left_alone(monkeypatch):
    from tersenet.cli import memory

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("it asked for a C library"))
    memory.keep_freed()
