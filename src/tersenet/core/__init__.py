"""The value types all rooms share."""
