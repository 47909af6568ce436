"""What the user gets to read when something of theirs is wrong: one sentence and an exit code.

Raise one of these for a user's mistake, with a message that says what is wrong, where, and what would be right. Any
other exception that reaches the command line is a bug of ours and exits with 1.
"""

from __future__ import annotations


class TersenetError(Exception):
    """A user's mistake, told in one sentence."""

    exit_code = 2


class RecipeError(TersenetError):
    """The recipe is wrong. `path` leads to the wrong key until file and line have been added."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


class DataError(TersenetError):
    """The data set is missing, empty, or not what the model takes."""


class ModelError(TersenetError):
    """The model cannot be built or cannot be compressed as asked."""


class ArtifactError(TersenetError):
    """A `.terse` file cannot be read or written."""


class GateError(TersenetError):
    """The result is worse than the recipe's gate allows. The file is kept."""

    exit_code = 3
