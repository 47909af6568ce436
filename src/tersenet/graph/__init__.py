"""Which channels of a model hang together, and their removal."""
