"""What `verify` found, line by line, and how it ends."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from speechbrain_ext.errors import UserError

OK, FAILED, NOTE = "ok", "FAILED", "note"
#: Names of checks that the ending speaks of.
DIGEST_CHECK, CARD_CHECK = "digest", "card"
CARD = "README.md"
MAX_TOLD = 5
#: Hexadecimal digits of a digest; and how many have to be given at least.
_DIGITS, _LEAST = 64, 16

_UNCHECKED = (
    "authorship unchecked: whoever makes all of it anew makes one that agrees with "
    "itself, too. Compare the digest with what its author published: --expect_digest"
)


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes
    ----------
    verdict : str
        `OK`, `FAILED`, or `NOTE` for what is worth knowing and no fault.
    name, text : str
        What was looked at, and what was found.
    """

    verdict: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<7} {self.name:<12} {self.text}"


@dataclass
class Verified:
    """What `verify` found.

    Attributes
    ----------
    checks : list of Check
        In order.
    digest : str or None
        Of what was looked at; None if it could not be read.
    expected : str or None
        The digest that the author published, or how it begins.
    kind : str
        What it should be.
    """

    checks: list[Check] = field(default_factory=list)
    digest: str | None = None
    expected: str | None = None
    kind: str = "bundle"

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.verdict != FAILED for check in self.checks)

    def lines(self) -> list[str]:
        """Return what the command prints."""
        return [*map(str, self.checks), self.ending()]

    def ending(self) -> str:
        """Say in a sentence what was found, and what was not looked at."""
        if self.digest is None:
            return (
                f"no {self.kind}: damaged, changed or something else; nothing further "
                "was checked"
            )
        known = {(check.name, check.verdict) for check in self.checks}
        if (DIGEST_CHECK, FAILED) in known:
            return (
                "not the author's file: its digest is not the one you gave; get it "
                "from the author again"
            )
        but = f", but not {CARD}" if (CARD_CHECK, NOTE) in known else ""
        if self.expected is None:
            if self.ok:
                return f"agrees with itself{but}; {_UNCHECKED}"
            return "NOT verified: it does not agree with itself, see FAILED"
        what = "is the digest" if self.expected == self.digest else "begins with what"
        if self.ok:
            return f"verified{but}, and it {what} you gave"
        return f"NOT verified: it {what} you gave, but see FAILED"

    def compare_digest(self) -> Check:
        """Hold the digest against the expected one."""
        if self.expected is None:
            return Check(NOTE, DIGEST_CHECK, f"{self.digest} (not compared)")
        if self.digest.startswith(self.expected):
            same = self.expected == self.digest
            told = "as expected" if same else f"begins with {self.expected} as expected"
            return Check(OK, DIGEST_CHECK, f"{self.digest}, {told}")
        text = f"{self.digest}, expected {self.expected}"
        return Check(FAILED, DIGEST_CHECK, text)


def expected_digest(text: str | None) -> str | None:
    """Read a digest as a person typed it: whole, or its first digits.

    Raises
    ------
    UserError
        If it is none, or too short to tell two files apart.

    Example
    -------
    >>> expected_digest("SHA256:00112233445566FF")
    '00112233445566ff'
    """
    if text is None:
        return None
    digest = text.strip().lower().removeprefix("sha256:").removesuffix("...")
    if not re.fullmatch(f"[0-9a-f]{{{_LEAST},{_DIGITS}}}", digest):
        raise UserError(
            f"verify: --expect_digest {text[:80]!r}: give at least {_LEAST} of the "
            f"{_DIGITS} characters (0-9, a-f) that the author published"
        )
    return digest


def all_or(problems: list[str], name: str, told: str) -> list[Check]:
    """One line that all is well, or a line for each problem."""
    if not problems:
        return [Check(OK, name, told)]
    checks = [Check(FAILED, name, problem) for problem in problems[:MAX_TOLD]]
    if len(problems) > MAX_TOLD:
        more = f"and {len(problems) - MAX_TOLD} more"
        checks.append(Check(FAILED, name, more))
    return checks
