"""The one place where what a user can put right becomes a sentence and an exit code.

The exit code is 0 when all went well, 1 when an image could not be read, 2 when the request was wrong or the output
could not be written, and 130 when the user interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from vlm.errors import UserError, how_to_install


@contextmanager
def clear_errors(extra: str | None = None) -> Iterator[None]:
    """Leave with one sentence where a user erred; a defect of ours keeps its traceback.

    `extra` names the extra whose packages the command needs: where one is missing, the sentence says how to install it.
    """
    try:
        yield
    except UserError as error:
        from vlm.images import ImageError  # not before: it loads Pillow and NumPy

        fail(str(error), 1 if isinstance(error, ImageError) else 2)
    except ModuleNotFoundError as error:
        if extra is None or not error.name or error.name.startswith(("vlm", "training")):
            raise
        package, *_ = error.name.split(".")
        fail(f"this needs the package {package}; {how_to_install(extra)}")
    except BrokenPipeError:  # the reader has seen enough, as in `vlm caption photos | head`
        raise
    except OSError as error:
        place = error.filename or "cannot write the output"
        _leave_what_cannot_be_written()
        fail(f"{place}: {error.strerror or error}")
    except KeyboardInterrupt:
        fail("interrupted", 130)


def run_program(program: Callable[[], object]) -> None:
    """Run a command line to its end, and leave with an exit code.

    Where even its help, or what is still in a buffer at the end, cannot be written, a sentence says so.
    """
    try:
        with clear_errors():
            try:
                program()
            finally:
                if sys.stdout is not None:  # it is None where it is closed
                    sys.stdout.flush()
    except BrokenPipeError:  # as typer does where the reader leaves earlier
        _leave_what_cannot_be_written()
        sys.exit(1)
    except typer.Exit as end:
        sys.exit(end.exit_code)


def _leave_what_cannot_be_written() -> None:
    """Python flushes the output once more at its end, and would say a second time that it cannot."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one sentence to the error stream and leave."""
    typer.secho(f"error: {message}", err=True, fg="red")
    raise typer.Exit(code) from None
