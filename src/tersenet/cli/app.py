"""The commands and what happens when something goes wrong: one sentence on stderr and an exit code."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from tersenet.cli import (
    bench,
    bound,
    compress,
    evaluate,
    export,
    inspect,
    methods,
    pack,
    plan,
    profile,
    report,
    reproduce,
    run,
    sensitivity,
    unpack,
)
from tersenet.core.errors import TersenetError

app = typer.Typer(
    help="Make trained PyTorch networks small and fast, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


GO_ON = "interrupted; the same command with --resume goes on from the last checkpoint"


class InterruptedByUserError(TersenetError):
    """Ctrl-C."""

    exit_code = 130


def stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """Ctrl-C as a sentence of ours; left alone, it would be swallowed on the way up."""

    @functools.wraps(command)
    def stopped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise InterruptedByUserError(GO_ON) from None

    return stopped


ROOMS = (compress, plan, sensitivity, inspect, bound, profile, evaluate, export, run, bench)
for room in (*ROOMS, methods, report, reproduce, pack, unpack):
    app.command(room.NAME)(stoppable(room.command))

USERS_OWN = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}
"""Trouble with files that is the user's to mend, not a bug."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 2 the user's input is wrong, 3 the gate failed, 130 interrupted, 1 a bug."""
    # Threads that wait must soon sleep: where other programs share the cores, spinning makes small nets many times
    # slower. Read when torch is first imported, which happens inside the commands.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with contextlib.suppress(ValueError):  # not in the main thread: somebody else's signals
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # told like Ctrl-C
    try:
        app(arguments, standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except TersenetError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in USERS_OWN:
            raise
        return complain(f"{error.filename or 'file'}: {error.strerror}", 2)
    return 0


def complain(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code
