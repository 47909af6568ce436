"""The command line. Each command is one file; torch and the like are imported inside the commands."""

from tersenet.cli.app import main

__all__ = ["main"]
