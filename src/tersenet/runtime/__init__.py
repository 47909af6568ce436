"""Compressed models at work: kernels that compute with a weight as it is stored."""
