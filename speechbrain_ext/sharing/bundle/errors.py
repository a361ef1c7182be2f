"""What is wrong with a bundle."""

from __future__ import annotations

from speechbrain_ext.errors import UserError


class BundleError(UserError):
    """A bundle that is refused; nothing of it was run and nothing is left behind."""


def printable(text: object, length: int = 300) -> str:
    r"""Show text of a stranger without letting it steer the terminal.

    Example
    -------
    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    text = str(text)
    short = text if len(text) <= length else text[: length - 3] + "..."
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in short
    )
