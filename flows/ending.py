"""Mistakes and interruptions → one line and an exit status: 2 for a user's mistake, 130 for an interruption."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from discovery.errors import USER_ERRORS

INTERRUPTED = "interrupted: finished parts are kept; the same command goes on from there"


class Abandoned(KeyboardInterrupt):
    """An interruption while a thread, which cannot be stopped, is still making a part."""


@contextmanager
def polite() -> Iterator[None]:
    """Ends the command with one line instead of a traceback; errors that are ours keep theirs.

    Raises:
        typer.Exit: status 2 after a user's mistake, 130 after an interruption.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except USER_ERRORS as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as stop:
        typer.echo(INTERRUPTED, err=True)
        if isinstance(stop, Abandoned):
            _leave(130)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _leave(status: int) -> None:
    """Leaves without waiting for the thread: parts are renamed into place when whole, so none is torn."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
