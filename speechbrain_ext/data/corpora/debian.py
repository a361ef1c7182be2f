"""Debian packages as a source of audio and programs, fetched without root.

``apt-get download`` checks each archive against the signed package lists; ``dpkg-deb``
unpacks it into a folder of ours. Nothing is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from speechbrain_ext.errors import UserError, WorkError
from speechbrain_ext.files import write_text

#: What fetching needs on the PATH.
PROGRAMS = ("apt-get", "dpkg-deb")

# Own lists are fetched again when they are older: sources forget old versions.
_MAX_LIST_AGE_SECONDS = 24 * 3600


def probed_beside(raw: Path) -> Path:
    """Where a first package is tried: ``raw`` shall hold what the stage data fetched.

    Otherwise a folder with one speaker would look as if that stage had run.
    """
    return raw.with_name("probed")


def fetch_packages(
    names: Sequence[str],
    folder: Path,
    *,
    dependencies: bool = False,
    begins: Callable[[str], None] | None = None,
) -> Path:
    """Download Debian packages and unpack them.

    Arguments
    ---------
    names : Sequence of str
        Package names.
    folder : Path
        Gets ``archives/*.deb``, ``root/`` with the unpacked files, and, where the
        system has no package lists, lists of our own. Packages that were unpacked
        there before are not fetched again.
    dependencies : bool
        Also fetch what the packages need and this system has not installed.
    begins : Callable, optional
        Called before anything is downloaded, with its size, such as ``"34 MB"``.

    Returns
    -------
    Path
        ``folder/root``.

    Raises
    ------
    UserError
        If this is not a Debian-like system, with what else could be done.
    WorkError
        If apt fails; its last lines are quoted.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise UserError(
                f"debian: {program} is not on this machine, and the packages "
                f"{' '.join(names)} come from Debian or Ubuntu; unpack them elsewhere "
                "and give the folder with --corpus folder --data_folder DIR"
            )
    folder = folder.resolve()
    marks, root, archives = folder / "unpacked", folder / "root", folder / "archives"
    for path in (marks, root, archives):
        path.mkdir(parents=True, exist_ok=True)
    request = marks / f"request-{'-'.join(sorted(names))}"
    if request.exists():
        return root
    apt = _apt_command(names, folder)
    wanted = list(names)
    if dependencies:
        plan = _run([*apt, "--simulate", "--no-install-recommends", "install", *names])
        wanted += re.findall(r"^Inst (\S+)", plan, flags=re.MULTILINE)
    missing = [name for name in dict.fromkeys(wanted) if not (marks / name).exists()]
    for name in missing:
        for old in archives.glob(f"{name}_*.deb"):
            old.unlink()
    if missing and begins is not None:
        begins(_size_of(apt, missing))
    if missing:
        _run([*apt, "download", *missing], cwd=archives)
    for name in missing:
        # apt names the file after the package, without an architecture suffix.
        archive = next(archives.glob(f"{name.partition(':')[0]}_*.deb"))
        _run(["dpkg-deb", "--extract", str(archive), str(root)])
        write_text(marks / name, archive.name + "\n")
    write_text(request, "\n".join(wanted) + "\n")
    return root


def _apt_command(names: Sequence[str], folder: Path) -> list[str]:
    """Return apt-get with options under which it knows the packages."""
    base = ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root"]
    base += ["-o", "Debug::NoLocking=true"]
    if _knows(base, names):
        return base
    # No lists, as in most containers: fetch our own, which needs no root.
    lists, cache = folder / "apt" / "lists", folder / "apt" / "cache"
    for path in (lists / "partial", cache / "archives" / "partial"):
        path.mkdir(parents=True, exist_ok=True)
    private = [*base, "-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
    updated = folder / "apt" / "updated"
    if not updated.exists() or (
        time.time() - updated.stat().st_mtime > _MAX_LIST_AGE_SECONDS
    ):
        _run([*private, "update"])
        write_text(updated, "")
    if not _knows(private, names):
        raise WorkError(
            f"debian: this system's package sources don't hold {' '.join(names)}; "
            "look at /etc/apt/sources.list"
        )
    return private


def _knows(apt: list[str], names: Sequence[str]) -> bool:
    command = [*apt, "--print-uris", "download", *names]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _size_of(apt: Sequence[str], names: Sequence[str]) -> str:
    """Return how much there is to download; apt prints: address, file, size."""
    text = _run([*apt, "--print-uris", "download", *names])
    sizes = re.findall(r"^'[^']*' \S+ (\d+)", text, flags=re.MULTILINE)
    return (
        f"{max(1, round(sum(map(int, sizes)) / 1e6))} MB" if sizes else "unknown size"
    )


def _run(command: list[str], cwd: Path | None = None) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )
    if result.returncode:
        last = "\n".join(result.stderr.strip().splitlines()[-5:])
        raise WorkError(f"debian: {' '.join(command)} failed:\n{last}")
    return result.stdout
