"""Loops of forms that numba compiles, imported only where they run."""
