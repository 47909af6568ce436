"""Loops of quantization that numba compiles, imported only where they run."""
