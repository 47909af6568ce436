"""tersenet: trained PyTorch networks made small and fast, with proof."""

__version__ = "0.1.0"
