"""What must not leave a machine: who works on it, where its files lie, its secrets.

`clean_results` and `clean_environment` take out what is known to hold such things;
`refuse_private` then looks at every member, and nothing is written if it finds any.
"""

from __future__ import annotations

import copy
import getpass
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechbrain_ext.checkout import project_root
from speechbrain_ext.errors import UserError
from speechbrain_ext.sharing.bundle.contents import texts_of
from speechbrain_ext.sharing.bundle.errors import printable

#: An absolute path, by its look: two parts, or one between quotes; ``~/x``; ``C:\x``.
PATH = re.compile(
    r"(?<![\w.>)\]}/~*+-])/(?!/)[A-Za-z_.][\w.@+~-]*/[\w.@+~-]+[\w./@+~-]*"
    r"|(?<=[\"'=])/[A-Za-z_][\w.@+-]*(?=[\"'\s]|$)"
    r"|file://\S+"
    r"|(?<![\w/])~[\w.-]*/\w[\w./-]*"
    r"|(?<![A-Za-z])[A-Za-z]:\\[\w.\\ -]+"
)
#: Paths that are the same everywhere and tell nothing.
_EVERYWHERE = re.compile(r"/(usr/bin/env|bin/(ba)?sh|dev/(null|stdin|stdout|stderr))\b")
_TOKENS = {
    "token of the Hugging Face Hub": re.compile(r"(?<![\w-])hf_[A-Za-z0-9]{10,}"),
    "API key": re.compile(r"(?<![\w-])sk-[A-Za-z0-9_-]{16,}"),
    "AWS key": re.compile(r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"),
    "GitHub token": re.compile(r"(?<!\w)(gh[pousr]_\w{20,}|github_pat_\w{20,})"),
    "GitLab or Slack token": re.compile(r"(?<!\w)(glpat-|xox[abprs]-)[\w-]{10,}"),
    "web token": re.compile(r"(?<!\w)eyJ[\w-]{8,}\.eyJ[\w-]{8,}\."),
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "address with a password": re.compile(r"\w+://[^/\s:@\"']+:[^/\s@\"']+@[\w.-]+"),
    "git remote": re.compile(r"(?<!\w)(git@[\w.-]+:|ssh://|git\+ssh://)[\w./~-]+"),
}
_SECRET_NAMES = re.compile(
    r"token|secret|passw|passphrase|credential|api_?key|access_?key|private|"
    r"(^|_)(key|auth|pat)$|_pwd$",
    re.I,
)
#: Shorter values of variables are words, numbers and switches.
_SHORTEST_SECRET = 8
#: Names that many machines share.
_NOBODY = frozenset(
    "root user users admin administrator ubuntu debian centos fedora nobody runner "
    "docker vagrant jovyan guest test home localhost localdomain local linux".split()
)
_SHORTEST_NAME = 3
_MAX_TOLD = 12


@dataclass(frozen=True)
class Machine:
    """What tells of this machine and of who works on it.

    Attributes
    ----------
    names : dict
        Word -> what it is; searched as whole words, in texts.
    literals : dict
        Text -> what it is; searched in every byte.
    """

    names: dict[str, str] = field(default_factory=dict)
    literals: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Machine:
        """Look at the machine that this runs on."""
        names, literals = {}, {}
        home = Path.home()
        users = [home.name, *(environment.get(n) for n in ("USER", "LOGNAME"))]
        try:
            users.append(getpass.getuser())
        except (KeyError, OSError):  # a number without a name
            pass
        host = socket.gethostname()
        for word, what in [
            *((user, "user name") for user in users),
            (host, "host name"),
            (host.partition(".")[0], "host name"),
        ]:
            known = (word or "").lower() in _NOBODY or len(word or "") < _SHORTEST_NAME
            if not known and not word.isdecimal():
                names[word] = what
        for folder, what in [
            (home, "home folder"),
            (Path.cwd(), "working folder"),
            (project_root(), "folder of the checkout"),
        ]:
            if len(folder.parts) > 1:
                literals[str(folder)] = what
        for url in _remotes():
            literals[url] = "git remote"
        for name, value in environment.items():
            if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST_SECRET:
                literals[value] = f"value of the environment variable {name}"
        return cls(names, literals)


def _remotes() -> Iterator[str]:
    command = ["git", "-C", str(project_root()), "config", "--get-regexp", "remote.*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in found.stdout.splitlines():
        key, _, value = line.partition(" ")
        if key.endswith(("url", "pushurl")) and len(value) >= _SHORTEST_SECRET:
            yield value


def find_private(
    members: Mapping[str, bytes],
    machine: Machine | None = None,
    *,
    keep: Iterable[str] = (),
) -> list[str]:
    """List what in members tells of a machine or a person; empty if nothing does.

    Arguments
    ---------
    members : Mapping
        Name -> bytes.
    machine : Machine or None
        Whose names and secrets are searched; None: those of no machine, only what
        looks like a path or token.
    keep : Iterable of str
        Names of users or hosts that are something else here, such as a speaker's.

    Returns
    -------
    list of str
        A line for each finding, secrets shortened.
    """
    machine = machine or Machine()
    names = {word: what for word, what in machine.names.items() if word not in keep}
    found = []
    for name, data in members.items():
        text = texts_of(data, name)
        hits = [
            *_literals(data, text, machine.literals),
            *_patterns(f"{name}\n{text}", names),
        ]
        found += [f"{printable(name)}: {hit}" for hit in dict.fromkeys(hits)]
    return found


def _literals(data: bytes, text: str, literals: Mapping[str, str]) -> Iterator[str]:
    for literal, what in literals.items():
        pattern = re.escape(literal)
        if literal.startswith("/"):
            # "/root" is not within "raw/root", which is a folder of somebody's data.
            pattern = rf"(?<![A-Za-z0-9._-]){pattern}(?![A-Za-z0-9_-])"
        if re.search(pattern.encode(), data) or re.search(pattern, text):
            yield f"{what} {_shortened(literal, what)}"


def _patterns(text: str, names: Mapping[str, str]) -> Iterator[str]:
    for match in PATH.finditer(text):
        if not _EVERYWHERE.fullmatch(match[0]):
            yield f"absolute path {printable(match[0])}"
    for what, pattern in _TOKENS.items():
        for match in pattern.finditer(text):
            yield f"{what} {_shortened(match[0], what)}"
    for word, what in names.items():
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", text):
            yield f"{what} '{printable(word)}' (if it is something else: --keep {word})"


def _shortened(secret: str, what: str) -> str:
    return printable(secret) if "folder" in what else f"{printable(secret[:4])}..."


def refuse_private(
    members: Mapping[str, bytes],
    machine: Machine | None = None,
    *,
    keep: Iterable[str] = (),
) -> None:
    """Raise if anything in members tells of this machine or of who works on it.

    Arguments
    ---------
    members, keep
        As for `find_private`.
    machine : Machine or None
        None: this one.

    Raises
    ------
    UserError
        Naming each finding and its member.
    """
    found = find_private(members, machine or Machine.here(), keep=tuple(keep))
    if not found:
        return
    shown = [f"  {line}" for line in found[:_MAX_TOLD]]
    if len(found) > _MAX_TOLD:
        shown.append(f"  and {len(found) - _MAX_TOLD} more")
    raise UserError(
        f"pack: would tell what stays on this machine ({len(found)} places); nothing "
        "was written\n" + "\n".join(shown) + "\n  Rule: no paths, names of users and "
        "hosts, tokens or values of secret variables\n  Next: take it out of the "
        "recipe or the experiment's files, or share the recipe alone: --no_result"
    )


def without_paths(text: str) -> str:
    """Put PATH where an absolute path stands.

    Example
    -------
    >>> without_paths("./run.sh --data_folder=/home/ann/wav --tag mine")
    './run.sh --data_folder=PATH --tag mine'
    """
    try:
        words = shlex.split(text)
    except ValueError:
        return PATH.sub("PATH", text)
    parts = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and option.startswith("-") and _is_path(value):
            word = f"{option}=PATH"
        elif _is_path(word):
            word = "PATH"
        parts.append(PATH.sub("PATH", word))
    return shlex.join(parts)


def _is_path(word: str) -> bool:
    return word.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", word) is not None


def clean_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Copy results without paths: of the command, of dumps, of files without score.

    The digest over the figures is made again where a file's path was part of it.
    """
    from speechbrain_ext.report.speaker.results import digest_of

    cleaned = copy.deepcopy(dict(results))
    cleaned["command"] = without_paths(str(cleaned["command"]))
    for entry in cleaned.get("left_out", ()):
        entry["dump"] = None
        for key in ("reason", "cause"):
            if isinstance(entry.get(key), str):
                entry[key] = PATH.sub("PATH", entry[key])
    if "nan_trials" in cleaned:
        for entry in cleaned["nan_trials"]["named"]:
            # The path from two folders above may begin with somebody's name.
            files = str(entry["file"]).split(", ")
            entry["file"] = ", ".join(file.rpartition("/")[2] for file in files)
        if "digest" in cleaned:
            cleaned["digest"] = digest_of(cleaned)
    return cleaned


#: What may explain a different figure; all else of ``env.json`` stays at home.
_ENVIRONMENT = ("versions", "git", "platform", "processor", "threads", "gpu")


def clean_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what may explain a different figure, and run options that are no paths."""
    kept = {key: environment.get(key) for key in _ENVIRONMENT}
    if isinstance(kept["git"], Mapping):
        kept["git"] = {key: kept["git"].get(key) for key in ("commit", "dirty")}
    options = environment.get("run_opts") or {}
    kept["run_opts"] = {
        key: value
        for key, value in sorted(options.items())
        if not (isinstance(value, str) and re.search(r"[/\\~]", value))
    }
    return kept
