"""What a user did wrong is told in one message, without a traceback.

Exit codes of every command and script of this project: 0 done, 2 the command, the
configuration or the input it names is wrong, 1 the work itself failed, 130 interrupted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the person at the keyboard can mend; exit code 2.

    The message says who complains, which value is wrong, the rule, and the next
    command to type. Several faults belong in one message.
    """

    exit_code = 2


class WorkError(UserError):
    """The input was acceptable but the work could not be finished; exit code 1."""

    exit_code = 1


def without_controls(text: str) -> str:
    r"""Show characters that steer a terminal by their codes; lines and tabs stay.

    Example
    -------
    >>> without_controls("a\x1b[2Jb\n")
    'a\\x1b[2Jb\n'
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
        for c in text
    )


class NothingWritten(KeyboardInterrupt):
    """Ctrl-C in work that is written when it is whole, or not at all."""


def writes_at_the_end(work: Callable) -> Callable:
    """Let Ctrl-C say that nothing was written: there is nothing to go on from.

    Arguments
    ---------
    work : Callable
        What writes when it is whole, or not at all. A `KeyboardInterrupt` of it that
        has a text of its own keeps it.

    Example
    -------
    >>> @writes_at_the_end
    ... def work():
    ...     raise KeyboardInterrupt
    >>> exits_cleanly(work)()
    130
    """

    @functools.wraps(work)
    def wrapper(*args, **kwargs):
        try:
            return work(*args, **kwargs)
        except KeyboardInterrupt as stop:
            if str(stop):
                raise
            raise NothingWritten from None

    return wrapper


def exits_cleanly(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn the exceptions a user can cause into messages and exit codes.

    Arguments
    ---------
    main : Callable
        A script's entry point; its return value is the exit code (None means 0).

    Returns
    -------
    Callable
        The same entry point; `UserError` is printed on stderr and returned as its
        exit code, Ctrl-C is returned as 130. Any other exception is a bug of ours
        and keeps its traceback.

    Example
    -------
    >>> @exits_cleanly
    ... def main():
    ...     raise UserError("prepare: no such folder")
    >>> main()
    2
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(without_controls(str(error)), file=sys.stderr)
            return error.exit_code
        except NothingWritten:
            print("interrupted; nothing was written", file=sys.stderr)
            return 130
        except KeyboardInterrupt as stop:
            after = str(stop) or "goes on from here"  # who works may know better
            print(f"interrupted; the same command {after}", file=sys.stderr)
            return 130

    return wrapper
