"""Which file becomes which: decided, and refused, before anything is written."""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechbrain_ext.errors import UserError

#: Ending of coded files.
CODED = ".sbx"
#: Stands for standard input and output.
STREAM = "-"
_MAX_TOLD = 10


@dataclass(frozen=True)
class Job:
    """A file to make.

    Attributes
    ----------
    source : Path
        To read.
    target : Path or None
        To write; None: standard output.
    name : str
        What a person calls the source.
    """

    source: Path
    target: Path | None
    name: str


def plan(
    who: str,
    paths: Sequence[str],
    *,
    suffix: str,
    search: Callable[[Path], Iterable[Path]],
    force: bool = False,
    skip: bool = False,
) -> tuple[list[Job], int]:
    """Find the files that a person means, and where each goes.

    One file goes to the last path, or into it if that is a folder; several, and what is
    found below a folder, go into it under their own names, with their subfolders.

    Arguments
    ---------
    who : str
        The command, for messages.
    paths : sequence of str
        Inputs, and the output.
    suffix : str
        Of outputs in a folder.
    search : callable
        Lists what is meant by a folder.
    force : bool
        Files that are there are written over.
    skip : bool
        Files that are there are left as they are, without their jobs.

    Returns
    -------
    (list of Job, int)
        And how many were skipped.

    Raises
    ------
    UserError
        If an input is missing, two outputs would be one file, an output would be an
        input, or is there.
    """
    *sources, output = paths
    if not sources:
        raise UserError(
            f"{who}: give what to read and, last, what to write: speechbrain-ext {who} "
            f"{shlex.quote(output)} OUT --model EXP"
        )
    missing = [s for s in sources if s != STREAM and not Path(s).exists()]
    if missing:
        raise UserError(f"{who}: no such file or folder: {_listed(missing)}")
    if STREAM in paths:
        several = len(sources) > 1 or Path(sources[0]).is_dir()
        if several or (sources == [STREAM] and Path(output).is_dir()):
            raise UserError(f"{who}: - stands for one file; give one IN and one OUT")
        if output == STREAM:
            return [Job(Path(sources[0]), None, sources[0])], 0
    found = _find(who, sources, search)
    to_folder = (
        len(sources) > 1
        or Path(sources[0]).is_dir()
        or output.endswith(os.sep)
        or Path(output).is_dir()
    )
    if to_folder:
        _check_folder(who, output, len(found))
        jobs = [
            Job(path, Path(output, inside.with_suffix(suffix)), str(path))
            for path, inside in found
        ]
    else:
        jobs = [Job(path, Path(output), str(path)) for path, _ in found]
    _refuse_collisions(who, jobs)
    _check_writable(who, jobs)
    there = [job for job in jobs if job.target.exists()]
    if skip:
        jobs = [job for job in jobs if not job.target.exists()]
        return jobs, len(there)
    if there and not force:
        raise _exists(who, there, len(jobs))
    return jobs, 0


def _find(who, sources, search) -> list[tuple[Path, Path]]:
    """Files, each with its path in an output folder."""
    found = []
    for source in map(Path, sources):
        if source.is_dir():
            below = list(search(source))
            if not below:
                raise UserError(f"{who}: {source}: nothing in it to {who}")
            found += [(path, path.relative_to(source)) for path in below]
        else:
            found.append((source, Path(source.name)))
    return found


def _check_folder(who: str, output: str, count: int) -> None:
    if Path(output).exists() and not Path(output).is_dir():
        raise UserError(
            f"{who}: {output} is a file, and {count} files can't become one; the last "
            "path is where they go\n  Next: give a folder as the last path"
        )
    if Path(output).suffix and not Path(output).is_dir() and output[-1] != os.sep:
        # A forgotten OUT takes the last IN for one, or a typing error makes folders.
        raise UserError(
            f"{who}: {output} looks like a file, and {count} files go into a folder\n"
            f"  Next: give a folder as the last path; if it is one: {output}{os.sep}"
        )


def _refuse_collisions(who: str, jobs: Sequence[Job]) -> None:
    by_target = defaultdict(list)
    for job in jobs:
        by_target[os.path.abspath(job.target)].append(job.name)
    double = {t: names for t, names in by_target.items() if len(names) > 1}
    if double:
        lines = [f"  {Path(t).name}: {' and '.join(n)}" for t, n in double.items()]
        raise UserError(
            f"{who}: {len(double)} outputs would each be made of several inputs; "
            "nothing was written\n" + _cut(lines) + "\n  Next: give them one by one, "
            "or the folder above them, whose subfolders are kept"
        )
    inputs = {os.path.realpath(job.source) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) in inputs:
            raise UserError(
                f"{who}: {job.target} is an input too; nothing was written\n  Next: "
                "give another OUT"
            )


def _check_writable(who: str, jobs: Sequence[Job]) -> None:
    """Look at the folders that are there, and will hold outputs or their folders."""
    for parent in sorted({job.target.absolute().parent for job in jobs}):
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(
                f"{who}: {parent} is no folder that can be written to; nothing was "
                "written\n  Next: give another OUT"
            )


def _exists(who: str, there: Sequence[Job], count: int) -> UserError:
    if count == 1:
        return UserError(
            f"{who}: {there[0].target} is there already\n  Next: give another OUT, or "
            "--force to write over it"
        )
    lines = [f"  {job.target}" for job in there]
    return UserError(
        f"{who}: {len(there)} of {count} outputs are there already; nothing was "
        "written\n" + _cut(lines) + "\n  Next: --skip_existing to make the others, "
        "--force to write over them"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_TOLD} more" if len(names) > _MAX_TOLD else ""
    return ", ".join(names[:_MAX_TOLD]) + more


def _cut(lines: Sequence[str]) -> str:
    more = [f"  and {len(lines) - _MAX_TOLD} more"] if len(lines) > _MAX_TOLD else []
    return "\n".join([*lines[:_MAX_TOLD], *more])
