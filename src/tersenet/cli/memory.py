"""Memory of a process that computes networks on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Numbers of options in glibc's malloc.h."""


def keep_freed() -> None:
    """Have glibc keep large blocks that are freed, for the next layer, instead of giving each back to the system.

    Each would be handed out anew page by page, filled with zeros: for inference on large images that can take longer
    than the arithmetic. The peak of memory rises. What it is worth: `benchmarks/freed_memory.py`. Only glibc has it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(MMAP_MAX, 0)
            mallopt(TRIM_THRESHOLD, 2**31 - 1)
